//! Content negotiation: what the client accepts, and what it sends.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use naru_api::status::Status;

/// Types that objects come in and go out as.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// Types that watches come in.
const STREAMED: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in Kubernetes' envelope.
    Protobuf,
}

/// In upstream's order of preference.
const ENCODINGS: [(Encoding, &str); 3] =
    [(Encoding::Json, "json"), (Encoding::Yaml, "yaml"), (Encoding::Protobuf, "vnd.kubernetes.protobuf")];

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
    /// Whether the form named is that of a list (`PartialObjectMetadataList`).
    pub(crate) list: bool,
    /// Whether the form is wanted in its older version, `meta.k8s.io/v1beta1`.
    pub(crate) beta: bool,
    /// Encoding of the answer.
    pub(crate) encoding: Encoding,
}

impl Accepted {
    /// `apiVersion` of the form.
    pub(crate) fn meta_version(&self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

/// One alternative of an Accept header.
struct Clause<'a> {
    media: &'a str,
    subtype: &'a str,
    form: Option<&'a str>,
    group: &'a str,
    version: &'a str,
    stream: Option<&'a str>,
    quality: f32,
}

impl Clause<'_> {
    fn matches(&self, subtype: &str) -> bool {
        match (self.media, self.subtype) {
            ("*", "*") | ("application", "*") => true,
            ("application", own) => own == subtype,
            _ => false,
        }
    }

    /// The encoding that it asks for, if it is one of ours.
    fn encoding(&self) -> Option<Encoding> {
        ENCODINGS.iter().find(|(_, subtype)| self.matches(subtype)).map(|(encoding, _)| *encoding)
    }

    /// Whether it comes before another: by quality, and then the more specific one.
    fn before(&self, other: &Clause<'_>) -> bool {
        self.quality > other.quality
            || (self.media != "*" && other.media == "*")
            || (self.subtype != "*" && other.subtype == "*")
    }
}

/// More alternatives than this are not looked at.
const MAX_CLAUSES: usize = 64;

/// The clauses of an Accept header, best first.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = Vec::new();
    for clause in header.split(',').take(MAX_CLAUSES) {
        let mut parts = clause.split(';').map(str::trim);
        let Some((media, subtype)) = parts.next().and_then(|range| range.split_once('/')) else { continue };
        let (group, version) = ("", "");
        let mut one = Clause { media, subtype, form: None, group, version, stream: None, quality: 1.0 };
        for parameter in parts {
            match parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("as", value)) => one.form = Some(value),
                Some(("g", value)) => one.group = value,
                Some(("v", value)) => one.version = value,
                Some(("stream", value)) => one.stream = Some(value),
                Some(("q", value)) => one.quality = value.parse().unwrap_or(1.0),
                _ => {}
            }
        }
        if one.quality > 0.0 {
            // Equal ones stay in the order given.
            let at = found.iter().rposition(|earlier| !one.before(earlier)).map_or(0, |at| at + 1);
            found.insert(at, one);
        }
    }
    found
}

fn header(headers: &HeaderMap, name: http::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// What to answer an object request with; 406 when nothing fits.
pub(crate) fn accepted(headers: &HeaderMap) -> Result<Accepted, Box<Status>> {
    accepted_among(headers, true)
}

/// The same of what has no table: reviews, tokens, bindings, evictions.
pub(crate) fn accepted_without_table(headers: &HeaderMap) -> Result<Accepted, Box<Status>> {
    accepted_among(headers, false)
}

fn accepted_among(headers: &HeaderMap, tables: bool) -> Result<Accepted, Box<Status>> {
    let accept = header(headers, ACCEPT);
    if accept.is_empty() {
        return Ok(Accepted::default());
    }
    for clause in clauses(&accept) {
        if clause.stream.is_some_and(|stream| stream != "watch") {
            continue;
        }
        let (form, list) = match (clause.form, clause.group, clause.version) {
            (None, ..) => (Form::Object, false),
            (Some("Table"), "meta.k8s.io", "v1" | "v1beta1") if tables => (Form::Table, false),
            (Some("PartialObjectMetadata"), "meta.k8s.io", "v1" | "v1beta1") => (Form::Metadata, false),
            (Some("PartialObjectMetadataList"), "meta.k8s.io", "v1" | "v1beta1") => (Form::Metadata, true),
            _ => continue,
        };
        // A table has no form in protobuf.
        let encoding = clause.encoding().filter(|encoding| (form, *encoding) != (Form::Table, Encoding::Protobuf));
        if let Some(encoding) = encoding {
            let beta = form != Form::Object && clause.version == "v1beta1";
            return Ok(Accepted { form, list, beta, encoding });
        }
    }
    Err(Box::new(Status::not_acceptable(&OFFERED)))
}

/// What to answer a watch with: YAML has no streams.
pub(crate) fn accepted_stream(headers: &HeaderMap) -> Result<Accepted, Box<Status>> {
    // What no answer at all could be written in is told apart from what has no streams.
    let accepted = accepted(headers)?;
    if accepted.encoding == Encoding::Yaml {
        return Err(Box::new(Status::not_acceptable(&STREAMED)));
    }
    Ok(accepted)
}

/// The encoding of an answer that has one form alone, such as a Status: JSON where nothing fits.
pub(crate) fn encoding(headers: &HeaderMap) -> Encoding {
    clauses(&header(headers, ACCEPT)).iter().find_map(Clause::encoding).unwrap_or_default()
}

/// How discovery is asked for: the encoding, and whether aggregated, where that is there (`has_aggregated`);
/// 406 when nothing fits.
pub(crate) fn discovery(headers: &HeaderMap, has_aggregated: bool) -> Result<(Encoding, bool), Box<Status>> {
    let accept = header(headers, ACCEPT);
    if accept.is_empty() {
        return Ok((Encoding::Json, false));
    }
    let found = clauses(&accept).iter().find_map(|clause| {
        let aggregated = match (clause.form, clause.group, clause.version) {
            (None, ..) => false,
            (Some("APIGroupDiscoveryList"), "apidiscovery.k8s.io", "v2") if has_aggregated => true,
            _ => return None,
        };
        Some((clause.encoding()?, aggregated))
    });
    found.ok_or_else(|| Box::new(Status::not_acceptable(&OFFERED)))
}

/// Whether an OpenAPI document is asked for as protobuf; 406 when in nothing that there is.
pub(crate) fn openapi(headers: &HeaderMap, version: &str) -> Result<bool, Box<Status>> {
    let protobuf = ["@", "."].map(|sign| format!("com.github.proto-openapi.spec.{version}{sign}v1.0+protobuf"));
    let accept = header(headers, ACCEPT);
    if accept.is_empty() {
        return Ok(false);
    }
    clauses(&accept)
        .iter()
        .find_map(|clause| match clause {
            clause if clause.matches("json") => Some(false),
            clause if protobuf.iter().any(|subtype| clause.matches(subtype)) => Some(true),
            _ => None,
        })
        .ok_or_else(|| {
            let offered = protobuf.map(|subtype| format!("application/{subtype}"));
            Box::new(Status::not_acceptable(&["application/json", &offered[0], &offered[1]]))
        })
}

/// Whether gzip is accepted.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, ACCEPT_ENCODING)
        .split(',')
        // With parameters it does not count, as upstream has it: `gzip;q=0` says no.
        .any(|coding| coding.trim() == "gzip")
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
        "application/yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyFormat::Protobuf),
        _ => Err(Box::new(Status::unsupported_media_type(&OFFERED))),
    }
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
        let both = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(negotiate(both), Some((Form::Object, Encoding::Protobuf)));
        assert_eq!(negotiate("*/*"), Some((Form::Object, Encoding::Json)));
        assert_eq!(negotiate("application/*"), Some((Form::Object, Encoding::Json)));
        assert_eq!(negotiate("application/yaml"), Some((Form::Object, Encoding::Yaml)));
        assert_eq!(negotiate("application/json;q=0.1,application/yaml"), Some((Form::Object, Encoding::Yaml)));
        assert_eq!(negotiate("*/*, application/yaml"), Some((Form::Object, Encoding::Yaml)));
        assert_eq!(negotiate("text/html,application/xml;q=0.9,*/*;q=0.8"), Some((Form::Object, Encoding::Json)));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate(metadata), Some((Form::Metadata, Encoding::Json)));
        assert_eq!(negotiate("application/json;stream=watch"), Some((Form::Object, Encoding::Json)));
        assert_eq!(negotiate("text/html"), None);
        assert_eq!(negotiate("application/x-yaml"), None);
        assert_eq!(negotiate("application/json;as=Unknown;g=x;v=v1"), None);
    }

    fn headers(accept: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        headers
    }

    #[test]
    fn answers_are_compressed_for_those_who_ask_for_nothing_else_of_it() {
        let asks = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, accept.parse().unwrap());
            accepts_gzip(&headers)
        };
        assert!(asks("gzip") && asks("deflate, gzip") && asks("gzip, identity"));
        assert!(!asks("gzip;q=0") && !asks("*") && !asks("br, zstd"));
    }

    #[test]
    fn watches_are_not_written_in_yaml() {
        let status = accepted_stream(&headers("application/yaml")).unwrap_err();
        assert_eq!(
            status.message,
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
        let status = accepted_stream(&headers("text/html")).unwrap_err();
        assert!(
            status.message.ends_with("application/yaml, application/vnd.kubernetes.protobuf"),
            "{}",
            status.message
        );
        let stream = accepted_stream(&headers("application/vnd.kubernetes.protobuf;stream=watch")).unwrap();
        assert_eq!(stream.encoding, Encoding::Protobuf);
    }

    #[test]
    fn aggregated_discovery_is_by_preference() {
        let asks = |accept: &str| discovery(&headers(accept), true).ok();
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(discovery(&headers(aggregated), false).unwrap_err().code, 406);
        assert_eq!(asks("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"), None);
        assert_eq!(
            asks(
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
            ),
            Some((Encoding::Json, true))
        );
        assert_eq!(
            asks("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"),
            Some((Encoding::Json, false))
        );
        assert_eq!(asks("application/vnd.kubernetes.protobuf"), Some((Encoding::Protobuf, false)));
        assert_eq!(asks("application/json"), Some((Encoding::Json, false)));
        assert_eq!(asks("text/html"), None);
    }
}
