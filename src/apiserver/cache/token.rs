//! The `continue` parameter of lists: opaque to clients, a revision and a place for us.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naru_api::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The revision that the list is of; `None` continues with the present, inconsistently.
    pub(crate) revision: Option<i64>,
    /// The last key that was answered, below the resource's prefix.
    pub(crate) after: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// A `continue` parameter that was not made here (400).
#[derive(Debug, thiserror::Error)]
#[error("continue key is not valid: {0}")]
pub(crate) struct InvalidContinue(String);

/// Bytes of the parameter, unpadded as they were given.
fn bytes(text: &str) -> Result<Vec<u8>, InvalidContinue> {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    URL_SAFE_NO_PAD.decode(text).map_err(|error| {
        let at = match error {
            InvalidByte(at, _) | InvalidLastSymbol(at, _) => at,
            InvalidLength(_) | InvalidPadding => text.find('=').unwrap_or(text.len()),
        };
        InvalidContinue(format!("illegal base64 data at input byte {at}"))
    })
}

/// Whether a place stays where it is when dots and doubled slashes in it are followed.
fn is_clean(place: &str) -> bool {
    let place = place.strip_prefix('/').unwrap_or(place);
    !place.split('/').any(|part| matches!(part, "" | "." | ".."))
}

impl Continue {
    /// The parameter's text.
    pub(crate) fn encode(&self) -> String {
        let token =
            Token { v: "meta.k8s.io/v1".to_owned(), rv: self.revision.unwrap_or(-1), start: self.after.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads the parameter.
    pub(crate) fn decode(text: &str) -> Result<Self, InvalidContinue> {
        let invalid = |why: &str| InvalidContinue(why.to_owned());
        let bytes = bytes(text)?;
        codec::parse_json_strict(&bytes).map_err(|error| match error {
            DecodeError::Syntax(text) => InvalidContinue(text),
            other => InvalidContinue(other.to_string()),
        })?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| InvalidContinue(e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(invalid(&format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 || token.rv < -1 {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
        }
        if !is_clean(&token.start) {
            return Err(InvalidContinue(token.start));
        }
        Ok(Self { revision: (token.rv > 0).then_some(token.rv), after: token.start })
    }
}
