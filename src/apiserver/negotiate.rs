//! Content negotiation: what the client accepts, and what it sends.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use naru_api::status::Status;

/// Types that answers come in.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// Which form of the objects is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    #[default]
    Object,
    /// A Table with printer columns.
    Table,
    /// Metadata alone.
    Metadata,
}

/// What was negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Form of the objects.
    pub(crate) form: Form,
    /// Encoding of the answer.
    pub(crate) encoding: Encoding,
}

struct Clause<'a> {
    media: &'a str,
    form: Option<&'a str>,
    group: &'a str,
    version: &'a str,
}

/// The clauses of an Accept header, best first.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<(f32, Clause<'_>)> = Vec::new();
    for clause in header.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if media.is_empty() {
            continue;
        }
        let mut quality = 1.0;
        let mut one = Clause { media, form: None, group: "", version: "" };
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", value)) => one.form = Some(value),
                Some(("g", value)) => one.group = value,
                Some(("v", value)) => one.version = value,
                Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                _ => {}
            }
        }
        if quality > 0.0 {
            found.push((quality, one));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, clause)| clause).collect()
}

fn header(headers: &HeaderMap, name: http::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// What to answer an object request with; 406 when nothing fits.
pub(crate) fn accepted(headers: &HeaderMap) -> Result<Accepted, Box<Status>> {
    let accept = header(headers, ACCEPT);
    if accept.is_empty() {
        return Ok(Accepted::default());
    }
    let clauses = clauses(&accept);
    let mut protobuf = None;
    for clause in &clauses {
        let form = match (clause.form, clause.group, clause.version) {
            (None, ..) => Form::Object,
            (Some("Table"), "meta.k8s.io", "v1" | "v1beta1") => Form::Table,
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), "meta.k8s.io", "v1" | "v1beta1") => {
                Form::Metadata
            }
            _ => continue,
        };
        match clause.media {
            "application/json" | "application/*" | "*/*" => {
                return Ok(Accepted { form, encoding: Encoding::Json });
            }
            "application/yaml" | "application/x-yaml" => {
                return Ok(Accepted { form, encoding: Encoding::Yaml });
            }
            "application/vnd.kubernetes.protobuf" => {
                protobuf.get_or_insert(Accepted { form, encoding: Encoding::Json });
            }
            _ => {}
        }
    }
    // Clients of protobuf read JSON too, by the answer's own type.
    protobuf.ok_or_else(|| Box::new(Status::not_acceptable(&OFFERED)))
}

/// Whether aggregated discovery is asked for before the legacy form.
pub(crate) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let accept = header(headers, ACCEPT);
    for clause in clauses(&accept) {
        match (clause.form, clause.group, clause.version) {
            (Some("APIGroupDiscoveryList"), "apidiscovery.k8s.io", "v2") if clause.media == "application/json" => {
                return true;
            }
            (None, ..) if matches!(clause.media, "application/json" | "*/*" | "application/*") => return false,
            _ => {}
        }
    }
    false
}

/// Whether gzip is accepted.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, ACCEPT_ENCODING)
        .split(',')
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

/// The media type of the body without parameters, empty when there is none.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The format of an object's body; 415 when it is none of ours.
pub(crate) fn body_format(headers: &HeaderMap) -> Result<BodyFormat, Box<Status>> {
    match content_type(headers).as_str() {
        // curl's default for -d is a form; it is refused as upstream refuses it.
        "" | "application/json" => Ok(BodyFormat::Json),
        "application/yaml" | "application/x-yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyFormat::Protobuf),
        _ => Err(Box::new(Status::unsupported_media_type(&OFFERED))),
    }
}

/// YAML of a JSON document: JSON is YAML, so what cannot be converted is passed as it is.
pub(crate) fn yaml(json: &Bytes) -> Option<Bytes> {
    Some(json.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn negotiate(accept: &str) -> Option<(Form, Encoding)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        accepted(&headers).ok().map(|a| (a.form, a.encoding))
    }

    #[test]
    fn accept_headers_of_known_clients() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(table), Some((Form::Table, Encoding::Json)));
        assert_eq!(
            negotiate("application/vnd.kubernetes.protobuf,application/json"),
            Some((Form::Object, Encoding::Json))
        );
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf"), Some((Form::Object, Encoding::Json)));
        assert_eq!(negotiate("*/*"), Some((Form::Object, Encoding::Json)));
        assert_eq!(negotiate("application/yaml"), Some((Form::Object, Encoding::Yaml)));
        assert_eq!(negotiate("application/json;q=0.1,application/yaml"), Some((Form::Object, Encoding::Yaml)));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate(metadata), Some((Form::Metadata, Encoding::Json)));
        assert_eq!(negotiate("text/html"), None);
        assert_eq!(negotiate("application/json;as=Unknown;g=x;v=v1"), None);
    }

    #[test]
    fn aggregated_discovery_is_by_preference() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wants_aggregated_discovery(&headers)
        };
        assert!(wants(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        ));
        assert!(!wants("application/json"));
    }
}
