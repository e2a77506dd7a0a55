//! What carries a request to the API server: HTTPS, or a call inside the process.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use naru_api::status::Status;

/// One API request, independent of what carries it.
#[derive(Debug, Clone)]
pub struct Request {
    /// HTTP method.
    pub method: http::Method,
    /// Path and query, such as `/api/v1/pods?watch=1`.
    pub uri: String,
    /// `Content-Type` of the body; ignored when the body is empty.
    pub content_type: &'static str,
    /// Body, JSON unless `content_type` says otherwise.
    pub body: Bytes,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server answered with a Status.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// The server could not be reached, or the connection broke.
    #[error("api server: {0}")]
    Connection(String),
    /// The answer could not be understood.
    #[error("decode {what}: {source}")]
    Decode {
        /// What was being decoded.
        what: String,
        /// Why it failed.
        source: serde_json::Error,
    },
}

/// The `type` of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// The object appeared.
    Added,
    /// The object changed.
    Modified,
    /// The object went away; the event carries its last state.
    Deleted,
    /// Only the resourceVersion has moved on.
    Bookmark,
    /// The watch failed; the object is a Status.
    Error,
}

/// One watch event with its object still encoded (JSON). In-process the bytes are the server's own, shared.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventType,
    /// The object, as JSON.
    pub object: Bytes,
}

/// A stream of watch events; it ends when the server ends the watch.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, Error>>;

/// Carries requests to an API server as one user.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and returns the body of a 2xx answer; any other is `Error::Status`.
    async fn send(&self, request: Request) -> Result<Bytes, Error>;

    /// Starts a watch; `request.uri` has `watch=true`.
    async fn watch(&self, request: Request) -> Result<WatchStream, Error>;
}

/// The Status of a failed request; one is made up for answers that carry none.
pub fn failure_of(code: u16, body: &[u8]) -> Status {
    serde_json::from_slice(body).ok().filter(|status: &Status| status.code != 0).unwrap_or_else(|| Status {
        kind: "Status".into(),
        api_version: "v1".into(),
        metadata: serde_json::Map::new(),
        status: "Failure".into(),
        message: match String::from_utf8_lossy(&body[..body.len().min(1024)]).trim() {
            "" => format!("the server answered {code}"),
            text => text.to_owned(),
        },
        reason: if code == 404 { "NotFound".to_owned() } else { String::new() },
        details: None,
        code,
    })
}
