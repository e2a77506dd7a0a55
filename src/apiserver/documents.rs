//! Discovery and OpenAPI: rendered when first asked for, and kept as bytes with their hash.

use crate::negotiate::Encoding;
use crate::response::{Reply, gzip};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, VARY};
use naru_api::codec;
use naru_api::documents::{discovery, openapi, served};
use naru_api::registry::RESOURCES;
use serde_json::Value;
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::fmt::Write;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

/// The version that clients compare with their own.
pub(crate) const GIT_VERSION: &str = "v1.36.0+naru1";

const AGGREGATED_PROTOBUF: &str =
    "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

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

    /// OpenAPI version 2. It is a few megabytes, so that it is kept compressed; nearly all clients take it so.
    pub(crate) fn openapi_v2(&self, protobuf: bool, accepts_gzip: bool, known: Option<&str>) -> Option<Reply> {
        let key = if protobuf { "/openapi/v2?protobuf" } else { "/openapi/v2" };
        let cached = self.rendered.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let document = match cached {
            Some(document) => document,
            None => {
                let document = render_v2(protobuf)?;
                let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
                rendered.insert(key.to_owned(), document.clone());
                document
            }
        };
        let etag = HeaderValue::from_str(&document.etag).ok()?;
        let reply = if known.is_some_and(|known| known.contains(&document.etag)) {
            Reply::typed(304, document.content_type, Bytes::new())
        } else if accepts_gzip {
            Reply::typed(200, document.content_type, document.body)
                .with_header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
                .with_header(VARY, HeaderValue::from_static("Accept-Encoding"))
        } else {
            let mut body = Vec::new();
            GzDecoder::new(document.body.as_ref()).read_to_end(&mut body).ok()?;
            Reply::typed(200, document.content_type, body)
        };
        Some(reply.with_header(ETAG, etag).with_header(VARY, HeaderValue::from_static("Accept")))
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
            ["api"] if aggregated => (discovery::aggregated(RESOURCES, true), AGGREGATED),
            ["apis"] if aggregated => (discovery::aggregated(RESOURCES, false), AGGREGATED),
            ["api"] => (discovery::api_versions(&self.server), json),
            ["apis"] => (discovery::api_group_list(RESOURCES), json),
            ["api", version] => (discovery::api_resource_list(RESOURCES, "", version)?, json),
            ["apis", group] => (discovery::api_group(RESOURCES, group)?, json),
            ["apis", group, version] => (discovery::api_resource_list(RESOURCES, group, version)?, json),
            ["openapi", "v3"] => (openapi::v3_index(RESOURCES, |group, version| self.hash(group, version)), json),
            ["openapi", "v3", "api", version] => (openapi(("", version))?, openapi::CONTENT_TYPE),
            ["openapi", "v3", "apis", group, version] => (openapi((group, version))?, openapi::CONTENT_TYPE),
            _ => return None,
        };
        let body: Bytes = value.to_string().into();
        let etag = format!("\"{}\"", hex(&Sha512::digest(&body)));
        Some(Document { body, content_type, etag })
    }

    /// What the index tells clients to cache by. Hashing the resources' table would do, but would have
    /// to be kept in step with the renderer; the rendered document cannot be out of step.
    fn hash(&self, group: &str, version: &str) -> String {
        let path = match group {
            "" => format!("/openapi/v3/api/{version}"),
            group => format!("/openapi/v3/apis/{group}/{version}"),
        };
        self.document(&path, false).map(|document| document.etag.trim_matches('"').to_owned()).unwrap_or_default()
    }
}

fn render_v2(protobuf: bool) -> Option<Document> {
    let document = openapi::v2(RESOURCES, GIT_VERSION);
    let (body, content_type) = if protobuf {
        (openapi::encode_v2(&document), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    } else {
        (document.to_string().into_bytes(), openapi::CONTENT_TYPE)
    };
    let etag = format!("\"{}\"", hex(&Sha512::digest(&body)));
    Some(Document { body: gzip(&body).ok()?, content_type, etag })
}

fn openapi((group, version): (&str, &str)) -> Option<Value> {
    served(RESOURCES).contains(&(group, version)).then_some(())?;
    openapi::v3(RESOURCES, group, version, GIT_VERSION)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}
