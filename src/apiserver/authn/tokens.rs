//! Static bearer tokens, given by the configuration.

use super::User;
use crate::config::StaticToken;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// Looks tokens up by their digest, so that comparing leaks nothing through timing.
#[derive(Debug, Default)]
pub(crate) struct StaticTokens(HashMap<[u8; 32], Arc<User>>);

impl StaticTokens {
    /// Indexes the configured tokens.
    pub(crate) fn new(tokens: &[StaticToken]) -> Self {
        let index = tokens.iter().map(|token| {
            let mut user = User::authenticated(&token.user, token.groups.iter().cloned());
            user.uid.clone_from(&token.uid);
            (Sha256::digest(&token.token).into(), Arc::new(user))
        });
        Self(index.collect())
    }

    /// The token's user.
    pub(crate) fn user(&self, token: &str) -> Option<Arc<User>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&digest).cloned()
    }
}
