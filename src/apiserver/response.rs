//! Answers: what handlers return, and how it becomes HTTP.

use crate::negotiate::Encoding;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use naru_api::codec::{self, EncodeError};
use naru_api::status::Status;
use naru_client::transport::{EventType, WatchEvent, WatchStream};
use std::convert::Infallible;
use std::io::Write;

/// Any error that ends a body early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an HTTP answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
/// A failed request's answer.
pub(crate) type Failure = Box<Status>;
/// What a handler returns.
pub(crate) type Outcome = Result<Reply, Failure>;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Answers at least this large are compressed for clients that accept it.
const GZIP_FROM: usize = 128 * 1024;

/// A successful answer, before it is known what carries it.
pub(crate) enum Reply {
    /// A complete body.
    Bytes(Complete),
    /// A watch.
    Watch(WatchStream),
    /// An HTTP answer of a proxied backend, as it is.
    Http(Box<Response<Body>>),
}

/// A complete body with its type.
pub(crate) struct Complete {
    /// HTTP status code.
    pub(crate) code: u16,
    /// `Content-Type`.
    pub(crate) content_type: &'static str,
    /// The body.
    pub(crate) body: Bytes,
    /// Whether the body is an object of the API, as JSON, which goes out as the client accepts it.
    pub(crate) object: bool,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Complete {
    fn new(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let (warnings, headers) = (Vec::new(), Vec::new());
        Self { code, content_type, body: body.into(), object: false, warnings, headers }
    }
}

impl Reply {
    /// An object of the API as JSON, to be sent as whatever was negotiated.
    pub(crate) fn json(code: u16, body: impl Into<Bytes>) -> Self {
        Self::Bytes(Complete { object: true, ..Complete::new(code, JSON, body) })
    }

    /// Plain text.
    pub(crate) fn text(body: impl Into<Bytes>) -> Self {
        Self::typed(200, "text/plain; charset=utf-8", body)
    }

    /// Any content.
    pub(crate) fn typed(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::Bytes(Complete::new(code, content_type, body))
    }

    /// The same answer with warnings for the client.
    pub(crate) fn with_warnings(mut self, texts: Vec<String>) -> Self {
        if let Self::Bytes(bytes) = &mut self {
            bytes.warnings.extend(texts);
        }
        self
    }

    /// The same answer with a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Self::Bytes(bytes) = &mut self {
            bytes.headers.push((name, value));
        }
        self
    }
}

/// How the client wants its answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Presentation {
    /// Whether gzip is accepted.
    pub(crate) gzip: bool,
    /// Whether JSON is to be indented.
    pub(crate) pretty: bool,
    /// How objects are written.
    pub(crate) encoding: Encoding,
}

/// A complete body.
pub(crate) fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What a request is told that found no seat.
pub(crate) const TOO_MANY_REQUESTS: &str = "Too many requests, please try again later.";

/// The answer to HEAD: what GET would have, but for the body, which HTTP/2 does not leave out by itself.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        parts.headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
    Response::from_parts(parts, full(Bytes::new()))
}

/// 429, as plain text.
pub(crate) fn too_many_requests(retry_after_seconds: u32) -> Response<Body> {
    let mut response = Response::new(full(format!("{TOO_MANY_REQUESTS}\n")));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    response
}

/// The HTTP form of an outcome.
pub(crate) fn into_http(outcome: Outcome, presentation: Presentation) -> Response<Body> {
    match outcome {
        Ok(Reply::Bytes(bytes)) => bytes_response(bytes, presentation),
        Ok(Reply::Watch(events)) => watch_response(events, presentation.encoding),
        Ok(Reply::Http(response)) => *response,
        Err(status) => status_response(&status, presentation),
    }
}

fn status_response(status: &Status, presentation: Presentation) -> Response<Body> {
    let body = serde_json::to_vec(status).unwrap_or_default();
    // What says that nothing acceptable can be given is not acceptable either.
    let object = status.code != 406;
    let mut reply = Complete { object, ..Complete::new(status.code, JSON, body) };
    if let Some(seconds) = status.details.as_ref().and_then(|details| details.retry_after_seconds) {
        reply.headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
    }
    if status.code == 401 {
        // RFC 9110 asks for it; clients such as curl read it.
        reply.headers.push((http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }
    bytes_response(reply, presentation)
}

fn bytes_response(mut reply: Complete, presentation: Presentation) -> Response<Body> {
    if reply.object
        && let Err(status) = encode(&mut reply, presentation.encoding)
    {
        return status_response(&status, presentation);
    }
    let mut body = reply.body;
    if presentation.pretty && reply.object && reply.content_type == JSON {
        body = indent(&body).into();
    }
    let mut response = Response::builder()
        .status(StatusCode::from_u16(reply.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(CONTENT_TYPE, reply.content_type);
    if !reply.headers.iter().any(|(name, _)| name == CACHE_CONTROL) {
        response = response.header(CACHE_CONTROL, "no-cache, private");
    }
    let encoded = reply.headers.iter().any(|(name, _)| name == CONTENT_ENCODING);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    for text in reply.warnings {
        if let Ok(value) = HeaderValue::from_str(&warning(&text)) {
            response = response.header(WARNING, value);
        }
    }
    if presentation.gzip
        && !encoded
        && body.len() >= GZIP_FROM
        && let Ok(compressed) = gzip(&body)
    {
        body = compressed;
        response = response.header(CONTENT_ENCODING, "gzip").header(VARY, "Accept-Encoding");
    }
    response.body(full(body)).unwrap_or_else(|_| Response::new(full("")))
}

/// Writes an object as the client wants it.
fn encode(reply: &mut Complete, encoding: Encoding) -> Result<(), Box<Status>> {
    match encoding {
        Encoding::Json => {}
        Encoding::Yaml => {
            let value = serde_json::from_slice(&reply.body).map_err(|error| Box::new(Status::internal(error)))?;
            reply.body = codec::to_yaml(&value).into();
            reply.content_type = "application/yaml";
        }
        Encoding::Protobuf => {
            let body = codec::encode_protobuf(&reply.body).map_err(|error| {
                Box::new(match error {
                    EncodeError::NoMessage(_) => Status::failure(406, "NotAcceptable", error.to_string()),
                    EncodeError::Malformed(_) => Status::internal(error),
                })
            })?;
            reply.body = body.into();
            reply.content_type = PROTOBUF;
        }
    }
    Ok(())
}

/// `299 - "text"`, with what a header cannot carry left out.
fn warning(text: &str) -> String {
    let clean: String = text
        .chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c => vec![c],
        })
        .collect();
    format!("299 - \"{clean}\"")
}

/// The compressed form of a body.
pub(crate) fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 6), Compression::fast());
    encoder.write_all(body)?;
    Ok(encoder.finish()?.into())
}

fn watch_response(events: WatchStream, encoding: Encoding) -> Response<Body> {
    // What is ready goes out together: the initial events travel with the answer's first bytes.
    let frames = events.ready_chunks(64).map(move |events| {
        let mut out = BytesMut::new();
        for event in events {
            match event {
                Ok(event) => encode_event(&event, encoding, &mut out)?,
                Err(error) => return Err(BodyError::from(error.to_string())),
            }
        }
        Ok(Frame::data(out.freeze()))
    });
    let content_type = match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => JSON,
    };
    Response::builder()
        .header(CONTENT_TYPE, content_type)
        .header(CACHE_CONTROL, "no-cache, private")
        .body(StreamBody::new(frames).boxed_unsync())
        .unwrap_or_else(|_| Response::new(full("")))
}

/// Appends an event as it is sent.
pub(crate) fn encode_event(event: &WatchEvent, encoding: Encoding, out: &mut BytesMut) -> Result<(), EncodeError> {
    let kind = match event.kind {
        EventType::Added => "ADDED",
        EventType::Modified => "MODIFIED",
        EventType::Deleted => "DELETED",
        EventType::Bookmark => "BOOKMARK",
        EventType::Error => "ERROR",
    };
    if encoding == Encoding::Protobuf {
        out.put_slice(&codec::encode_watch_frame(kind, &codec::encode_protobuf(&event.object)?));
        return Ok(());
    }
    out.reserve(kind.len() + event.object.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(&event.object);
    out.put_slice(b"}\n");
    Ok(())
}

/// JSON with two spaces of indentation, keys in their order.
fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + depth * 2, b' ');
    };
    for (at, &byte) in json.iter().enumerate() {
        if in_string {
            out.push(byte);
            (in_string, escaped) = match byte {
                b'\\' if !escaped => (true, true),
                b'"' if !escaped => (false, false),
                _ => (true, false),
            };
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(json.get(at + 1), Some(b'}' | b']')) {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(at.checked_sub(1).and_then(|p| json.get(p)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_without_touching_strings() {
        let pretty = indent(br#"{"a":[],"b":{"c":"x,{\"y\"}:"},"d":[1,2]}"#);
        let expect =
            "{\n  \"a\": [],\n  \"b\": {\n    \"c\": \"x,{\\\"y\\\"}:\"\n  },\n  \"d\": [\n    1,\n    2\n  ]\n}\n";
        assert_eq!(String::from_utf8_lossy(&pretty), expect);
    }

    #[test]
    fn warnings_are_quoted() {
        assert_eq!(warning("unknown field \"spec.x\"\n"), r#"299 - "unknown field \"spec.x\"""#);
    }
}
