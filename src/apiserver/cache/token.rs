//! The `continue` parameter of lists: opaque to clients, a revision and a place for us.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The revision that the list is of; `None` continues with the present, inconsistently.
    pub(crate) revision: Option<i64>,
    /// The last key that was answered, below the resource's prefix.
    pub(crate) after: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// A `continue` parameter that was not made here (400).
#[derive(Debug, thiserror::Error)]
#[error("continue key is not valid: {0}")]
pub(crate) struct InvalidContinue(&'static str);

impl Continue {
    /// The parameter's text.
    pub(crate) fn encode(&self) -> String {
        let token =
            Token { v: "meta.k8s.io/v1".to_owned(), rv: self.revision.unwrap_or(-1), start: self.after.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads the parameter.
    pub(crate) fn decode(text: &str) -> Result<Self, InvalidContinue> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| InvalidContinue("not base64"))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| InvalidContinue("not a token"))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(InvalidContinue("unknown version"));
        }
        if token.rv == 0 || token.rv < -1 {
            return Err(InvalidContinue("incorrect encoded start resourceVersion"));
        }
        if token.start.is_empty() {
            return Err(InvalidContinue("no place to start from"));
        }
        Ok(Self { revision: (token.rv > 0).then_some(token.rv), after: token.start })
    }
}
