//! Discovery and OpenAPI: rendered when first asked for, and kept as bytes with their hash.

use crate::clock;
use crate::handlers::metrics_api::DISCOVERED;
use crate::negotiate::Encoding;
use crate::response::{Reply, gzip};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, LOCATION, VARY};
use naru_api::codec;
use naru_api::documents::{discovery, openapi};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::fmt::Write;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

/// The version that clients compare with their own.
pub(crate) const GIT_VERSION: &str = "v1.36.0+naru1";

const AGGREGATED_PROTOBUF: &str =
    "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const HTML: &str = "text/html; charset=utf-8";
/// How long what never changes may be kept.
const YEAR: i64 = 365 * 24 * 60 * 60;

/// The rendered documents.
#[derive(Debug)]
pub(crate) struct Documents {
    /// Where legacy discovery says that the server is, `address:port`.
    server: String,
    /// By path, aggregated discovery and protobuf under their own; bounded by the number of documents. Leaf lock.
    rendered: Mutex<HashMap<String, Document>>,
}

#[derive(Debug, Clone)]
struct Document {
    body: Bytes,
    content_type: &'static str,
    etag: String,
}

impl Documents {
    /// Nothing is rendered yet.
    pub(crate) fn new(server: String) -> Self {
        Self { server, rendered: Mutex::default() }
    }

    /// The document at a path; `None` when there is none. `encoding` is that of an aggregated document:
    /// the plain ones are objects, which go out as the client accepts them.
    pub(crate) fn answer(
        &self,
        path: &str,
        encoding: Encoding,
        aggregated: bool,
        known: Option<&str>,
    ) -> Option<Reply> {
        let aggregated = aggregated && matches!(path, "/api" | "/apis");
        let document = self.document(path, aggregated)?;
        let etag = HeaderValue::from_str(&document.etag).ok()?;
        let unchanged = known.is_some_and(|known| known.contains(&document.etag));
        let reply = if unchanged {
            Reply::typed(304, document.content_type, Bytes::new())
        } else if aggregated && encoding == Encoding::Protobuf {
            Reply::typed(200, AGGREGATED_PROTOBUF, codec::encode_protobuf(&document.body).ok()?)
        } else if aggregated || path.starts_with("/openapi/") {
            Reply::typed(200, document.content_type, document.body)
        } else {
            Reply::json(200, document.body)
        };
        let reply = reply.with_header(ETAG, etag).with_header(VARY, HeaderValue::from_static("Accept"));
        Some(if aggregated { reply.with_header(CACHE_CONTROL, HeaderValue::from_static("public")) } else { reply })
    }

    /// OpenAPI version 2.
    pub(crate) fn openapi_v2(&self, asked: &Asked<'_>) -> Option<Reply> {
        let key = if asked.protobuf { "/openapi/v2?protobuf" } else { "/openapi/v2" };
        let document = self.document(key, false)?;
        let reply = document.compressed(asked)?;
        Some(reply.with_header(VARY, HeaderValue::from_static("Accept")))
    }

    fn document(&self, path: &str, aggregated: bool) -> Option<Document> {
        let key = if aggregated { format!("{path}?aggregated") } else { path.to_owned() };
        let cached = self.rendered.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if cached.is_some() {
            return cached;
        }
        let document = self.render(path, aggregated)?;
        self.rendered.lock().unwrap_or_else(PoisonError::into_inner).insert(key, document.clone());
        Some(document)
    }

    fn render(&self, path: &str, aggregated: bool) -> Option<Document> {
        const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let json = "application/json";
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (value, content_type) = match parts.as_slice() {
            ["api"] if aggregated => (discovery::aggregated(&DISCOVERED, true), AGGREGATED),
            ["apis"] if aggregated => (discovery::aggregated(&DISCOVERED, false), AGGREGATED),
            ["api"] => (discovery::api_versions(&self.server), json),
            ["apis"] => (discovery::api_group_list(&DISCOVERED), json),
            ["api", version] => (discovery::api_resource_list(&DISCOVERED, "", version)?, json),
            ["apis", group] => (discovery::api_group(&DISCOVERED, group)?, json),
            ["apis", group, version] => (discovery::api_resource_list(&DISCOVERED, group, version)?, json),
            ["openapi", "v2"] => return render_v2(false),
            ["openapi", "v2?protobuf"] => return render_v2(true),
            ["openapi", "v3"] => (openapi::v3_index(&DISCOVERED, |path| self.hash(path)), json),
            ["openapi", "v3", rest @ ..] => {
                let body = openapi::v3_at(&DISCOVERED, &rest.join("/"), GIT_VERSION)?.to_string();
                let etag = format!("\"{}\"", hex(&Sha512::digest(&body)));
                return Some(Document { body: gzip(body.as_bytes()).ok()?, content_type: openapi::CONTENT_TYPE, etag });
            }
            _ => return None,
        };
        let body: Bytes = value.to_string().into();
        let etag = format!("\"{}\"", hex(&Sha512::digest(&body)));
        Some(Document { body, content_type, etag })
    }

    /// What the index tells clients to cache by. Hashing the resources' table would do, but would have
    /// to be kept in step with the renderer; the rendered document cannot be out of step.
    fn hash(&self, path: &str) -> String {
        let document = self.document(&format!("/openapi/v3/{path}"), false);
        document.map(|document| document.etag.trim_matches('"').to_owned()).unwrap_or_default()
    }

    /// A document of OpenAPI version 3. The hash of the index is part of its address, so that an answer to the
    /// right one never changes; one to a wrong one says where the right one is.
    pub(crate) fn openapi_v3(&self, path: &str, hash: Option<&str>, asked: &Asked<'_>) -> Option<Reply> {
        let document = self.document(path, false)?;
        let own = document.etag.trim_matches('"');
        let wrong = hash.is_some_and(|hash| !hash.is_empty() && hash != own);
        let mut reply = if wrong {
            let target = HeaderValue::from_str(&format!("{path}?hash={own}")).ok()?;
            let etag = HeaderValue::from_str(&document.etag).ok()?;
            Reply::typed(301, HTML, Bytes::new()).with_header(LOCATION, target).with_header(ETAG, etag)
        } else if asked.protobuf {
            // Hardly ever asked for: made from the JSON each time.
            let value = serde_json::from_slice(&unpacked(&document.body)?).ok()?;
            let body = gzip(&openapi::encode_v3(&value)).ok()?;
            Document { body, content_type: V3_PROTOBUF, etag: document.etag.clone() }.compressed(asked)?
        } else {
            document.compressed(asked)?
        };
        if hash.is_some_and(|hash| hash == own) {
            let expires = HeaderValue::from_str(&clock::http_date(clock::now_seconds() + YEAR)).ok()?;
            reply = reply
                .with_header(CACHE_CONTROL, HeaderValue::from_static("public, immutable"))
                .with_header(EXPIRES, expires);
        }
        Some(reply.with_header(VARY, HeaderValue::from_static("Accept")))
    }
}

/// What the client wants of an OpenAPI document.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The protobuf form.
    pub(crate) protobuf: bool,
    /// Whether gzip is accepted.
    pub(crate) gzip: bool,
    /// The hashes that it knows.
    pub(crate) known: Option<&'a str>,
}

impl Document {
    /// The answer with a body that is kept compressed, as OpenAPI's are: nearly all clients take it so.
    fn compressed(&self, asked: &Asked<'_>) -> Option<Reply> {
        let reply = if asked.known.is_some_and(|known| known.contains(&self.etag)) {
            Reply::typed(304, self.content_type, Bytes::new())
        } else if asked.gzip {
            Reply::typed(200, self.content_type, self.body.clone())
                .with_header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
                .with_header(VARY, HeaderValue::from_static("Accept-Encoding"))
        } else {
            Reply::typed(200, self.content_type, unpacked(&self.body)?)
        };
        Some(reply.with_header(ETAG, HeaderValue::from_str(&self.etag).ok()?))
    }
}

fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(body).read_to_end(&mut out).ok()?;
    Some(out)
}

fn render_v2(protobuf: bool) -> Option<Document> {
    let document = openapi::v2(&DISCOVERED, GIT_VERSION);
    let (body, content_type) = if protobuf {
        (openapi::encode_v2(&document), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    } else {
        (document.to_string().into_bytes(), openapi::CONTENT_TYPE)
    };
    let etag = format!("\"{}\"", hex(&Sha512::digest(&body)));
    Some(Document { body: gzip(&body).ok()?, content_type, etag })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}
