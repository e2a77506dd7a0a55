//! Identity providers: JSON Web Tokens of others, checked by the keys that the provider publishes.

mod claims;
mod distributed;
mod keys;
mod provider;
mod verifier;

pub(super) use keys::Key;
pub(super) use provider::JwtProvider;
