//! Identity providers: JSON Web Tokens of others, checked by the keys that the provider publishes.

mod claims;
mod keys;
mod provider;

pub(super) use keys::Key;
pub(super) use provider::JwtProvider;
