//! Failures of pulls, in the words that Kubernetes users know.

use super::error::{ImageError, PullError, PullErrorKind};
use super::manifest::Descriptor;
use super::reference::Reference;
use reqwest::StatusCode;
use serde::Deserialize;

const MAX_REASON: usize = 1024;

/// Why a step of a pull failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: PullErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(kind: PullErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Puts the step that every pull starts with before the reason.
    pub(super) fn resolving(self, reference: &Reference) -> Self {
        let text = match self.kind {
            PullErrorKind::NotFound if !self.text.contains("no match for platform") => {
                format!("failed to resolve reference \"{reference}\": {reference}: {}", self.text)
            }
            _ => format!("failed to resolve reference \"{reference}\": {}", self.text),
        };
        Self { kind: self.kind, text }
    }

    pub(super) fn for_image(self, reference: &Reference) -> PullError {
        PullError {
            kind: self.kind,
            message: format!("failed to pull and unpack image \"{reference}\": {}", self.text),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::new(PullErrorKind::Unknown, error.to_string())
    }
}

/// What a registry answers instead of contents.
#[derive(Debug, Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Complaint>,
}

#[derive(Debug, Default, Deserialize)]
struct Complaint {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry does not let us, for this reason.
pub(super) fn denied(reason: &str) -> Failure {
    let text = format!("pull access denied, repository does not exist or may require authorization: {reason}");
    Failure::new(PullErrorKind::PermissionDenied, text)
}

/// What an answer other than success means.
pub(super) fn refusal(url: &str, status: StatusCode, body: &[u8]) -> Failure {
    let errors = serde_json::from_slice::<Envelope>(body).unwrap_or_default().errors;
    let reason = shorten(&errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join(", "));
    let says = |codes: &[&str]| errors.iter().any(|error| codes.contains(&error.code.as_str()));
    const GONE: &[&str] = &["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "NOT_FOUND", "BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"];
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN || says(&["DENIED", "UNAUTHORIZED"]) {
        return match reason.as_str() {
            "" => denied("authorization failed: no basic auth credentials"),
            reason => denied(&format!("server message: {reason}")),
        };
    }
    if status == StatusCode::NOT_FOUND || says(GONE) {
        let text = if reason.is_empty() { "not found".to_owned() } else { format!("not found ({reason})") };
        return Failure::new(PullErrorKind::NotFound, text);
    }
    if status == StatusCode::TOO_MANY_REQUESTS || says(&["TOOMANYREQUESTS"]) {
        let text = format!("unexpected status code 429 Too Many Requests: {reason}");
        return Failure::new(PullErrorKind::Unavailable, text);
    }
    let kind = if status.is_server_error() { PullErrorKind::Unavailable } else { PullErrorKind::Unknown };
    let reason = if reason.is_empty() { shorten(&String::from_utf8_lossy(body)) } else { reason };
    Failure::new(kind, format!("unexpected status from GET request to {url}: {}: {reason}", status.as_u16()))
}

/// A request that got no answer.
pub(super) fn unanswered(host: &str, error: &reqwest::Error) -> Failure {
    let url = error.url().map(ToString::to_string).unwrap_or_default();
    let text = format!("failed to do request: Get \"{url}\": {}", cause(host, error));
    Failure::new(PullErrorKind::Unavailable, text)
}

/// The innermost reason of a failed request, since the outer ones only say that sending failed.
fn cause(host: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(text) = innermost.downcast_ref::<rustls::Error>().and_then(|error| certificate(host, error)) {
            return text;
        }
        let io = innermost.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return format!("dial tcp {host}: connect: connection refused");
        }
        // What an I/O error wraps is not itself among its sources, only what comes after it.
        let wrapped = io.and_then(std::io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
        match wrapped.or_else(|| innermost.source()) {
            Some(source) => innermost = source,
            None => break,
        }
    }
    let text = innermost.to_string();
    if text.contains("no records found") || text.contains("no record found") {
        return format!("dial tcp: lookup {}: no such host", host.split(':').next().unwrap_or(host));
    }
    text
}

fn certificate(host: &str, error: &rustls::Error) -> Option<String> {
    use rustls::CertificateError as Wrong;
    let name = host.split(':').next().unwrap_or(host);
    Some(match error {
        rustls::Error::InvalidCertificate(Wrong::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(
            Wrong::Expired | Wrong::ExpiredContext { .. } | Wrong::NotValidYet | Wrong::NotValidYetContext { .. },
        ) => "tls: failed to verify certificate: x509: certificate has expired or is not yet valid".to_owned(),
        rustls::Error::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => {
            format!("tls: failed to verify certificate: x509: certificate is not valid for {name}")
        }
        rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".to_owned(),
        _ => return None,
    })
}

/// A download that broke off.
pub(super) fn broken(blob: &Descriptor, error: &reqwest::Error) -> Failure {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Failure::new(PullErrorKind::Unavailable, format!("failed to copy {}: {innermost}", blob.digest))
}

/// A registry may send pages; a message should stay one line of readable length.
pub(super) fn shorten(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_REASON).collect()
}
