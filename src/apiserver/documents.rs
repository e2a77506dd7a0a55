//! Discovery and OpenAPI.

use crate::response::Reply;

/// The rendered documents.
#[derive(Debug, Default)]
pub(crate) struct Documents;

impl Documents {
    /// The document at a path; `None` when there is none.
    pub(crate) fn answer(&self, _path: &str, _aggregated: bool, _known: Option<&str>) -> Option<Reply> {
        None
    }
}
