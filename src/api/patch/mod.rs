//! Patches on trees: JSON merge patch, strategic merge patch and JSON patch.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// Why a patch does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no patch (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (422).
    #[error("{0}")]
    DoesNotApply(String),
    /// The patch asks for too much (413).
    #[error("{0}")]
    TooLarge(String),
    /// The patch contradicts itself or the type (500, as upstream has it).
    #[error("{0}")]
    Failed(String),
}
