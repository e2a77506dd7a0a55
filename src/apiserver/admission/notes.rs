//! What admission says beside yes and no: warnings for the client, annotations for the audit log.

use naru_api::quota::Amounts;
use std::sync::{Mutex, PoisonError};

/// Warnings kept for one request; more are dropped.
const MAX_WARNINGS: usize = 100;

/// The notes of one request.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Leaf locks, never held across an await.
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Vec<(&'static str, String)>>,
    charges: Mutex<Vec<(String, Amounts)>>,
}

impl Notes {
    /// Warns the client, once for each text.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Annotates the request's audit event; the last text for a key stays.
    pub(crate) fn audit(&self, key: &'static str, text: impl Into<String>) {
        let mut annotations = self.annotations.lock().unwrap_or_else(PoisonError::into_inner);
        annotations.retain(|(known, _)| *known != key);
        annotations.push((key, text.into()));
    }

    /// The warnings so far.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The annotations so far.
    pub(crate) fn annotations(&self) -> Vec<(&'static str, String)> {
        self.annotations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What quotas have been charged for the write that follows.
    pub(super) fn charged(&self, charges: Vec<(String, Amounts)>) {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner).extend(charges);
    }

    /// The charges, which are somebody else's from now on.
    pub(super) fn take_charges(&self) -> Vec<(String, Amounts)> {
        std::mem::take(&mut *self.charges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
