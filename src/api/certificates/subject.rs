//! Whom a request wants a certificate for, and which requests nodes may make.

use super::pem;
use super::request::request_der;
use crate::tree::{list, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::BTreeSet;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates of clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Certificates of nodes towards the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Certificates of nodes' own servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What requests without a signer got once.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The subject of a request and its other names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// How many DNS names, addresses, e-mail addresses and URIs there are.
    pub dns: usize,
    /// See `dns`.
    pub ips: usize,
    /// See `dns`.
    pub emails: usize,
    /// See `dns`.
    pub uris: usize,
}

impl Subject {
    /// Reads it from a CertificateSigningRequest; why it cannot be read.
    pub fn of(csr: &Value) -> Result<Self, String> {
        let der = request_der(csr)?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| format!("x509: {error}"))?;
        let name = &request.certification_request_info.subject;
        let mut subject = Self {
            common_name: name.iter_common_name().last().and_then(|part| part.as_str().ok()).unwrap_or_default().into(),
            organizations: name.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => subject.dns += 1,
                    GeneralName::IPAddress(_) => subject.ips += 1,
                    GeneralName::RFC822Name(_) => subject.emails += 1,
                    GeneralName::URI(_) => subject.uris += 1,
                    _ => {}
                }
            }
        }
        Ok(subject)
    }
}

fn usages(csr: &Value) -> BTreeSet<&str> {
    list(&csr["spec"]["usages"]).iter().map(text).collect()
}

/// Usages as a node needs them, in upstream's words; a key that cannot encipher may leave that out.
fn check_usages(csr: &Value, wanted: [&str; 3]) -> Result<(), String> {
    let usages = usages(csr);
    let all = BTreeSet::from(wanted);
    let mut without = all.clone();
    without.remove("key encipherment");
    if usages == all || usages == without {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", all.into_iter().collect::<Vec<_>>().join(" ")))
}

fn check_node(subject: &Subject) -> Result<(), String> {
    if subject.common_name.starts_with("system:node:") {
        return Ok(());
    }
    Err("subject common name does not begin with system:node: prefix".to_owned())
}

fn first(checks: &[(bool, &str)]) -> Result<(), String> {
    checks.iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

const NOT_NODES: &str = "subject organization is not system:nodes";
const NO_EMAIL: &str = "Email subjectAltNames are not allowed";
const NO_URI: &str = "URI subjectAltNames are not allowed";

/// Whether a node may have this as its client certificate.
pub fn check_kubelet_client(csr: &Value, subject: &Subject) -> Result<(), String> {
    first(&[
        (subject.organizations != ["system:nodes"], NOT_NODES),
        (subject.dns > 0, "DNS subjectAltNames are not allowed"),
        (subject.emails > 0, NO_EMAIL),
        (subject.ips > 0, "IP subjectAltNames are not allowed"),
        (subject.uris > 0, NO_URI),
    ])?;
    check_node(subject)?;
    check_usages(csr, ["client auth", "digital signature", "key encipherment"])
}

/// Whether a node may have this as its server's certificate.
pub fn check_kubelet_serving(csr: &Value, subject: &Subject) -> Result<(), String> {
    first(&[
        (subject.organizations != ["system:nodes"], NOT_NODES),
        (subject.dns + subject.ips == 0, "DNS or IP subjectAltName is required"),
        (subject.emails > 0, NO_EMAIL),
        (subject.uris > 0, NO_URI),
    ])?;
    check_usages(csr, ["digital signature", "key encipherment", "server auth"])?;
    check_node(subject)
}

/// Whether the usages are those of a client of the API server.
pub fn check_client(csr: &Value) -> Result<(), String> {
    let usages = list(&csr["spec"]["usages"]).iter().map(text);
    let mut others = usages.filter(|usage| !matches!(*usage, "client auth" | "digital signature" | "key encipherment"));
    if let Some(other) = others.next() {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    first(&[(!self::usages(csr).contains("client auth"), "missing required usage for client certificate: client auth")])
}

/// When the certificate that was issued ends, in seconds since the epoch.
pub fn expiry(csr: &Value) -> Option<i64> {
    let bytes = STANDARD.decode(text(&csr["status"]["certificate"])).ok()?;
    let (block, _) = pem::first(std::str::from_utf8(&bytes).ok()?)?;
    let (_, certificate) = X509Certificate::from_der(&block.der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_may_ask_for_certificates_of_their_own() {
        let csr = |usages: &[&str]| json!({"spec": {"usages": usages}});
        let node = Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        };
        let client = csr(&["client auth", "digital signature"]);
        assert_eq!(check_kubelet_client(&client, &node), Ok(()));
        let named = Subject { dns: 1, ..node.clone() };
        let serving = csr(&["server auth", "digital signature", "key encipherment"]);
        assert_eq!(check_kubelet_serving(&serving, &named), Ok(()));
        let said = |outcome: Result<(), String>, expected: &str| assert_eq!(outcome, Err(expected.to_owned()));
        said(check_kubelet_client(&client, &named), "DNS subjectAltNames are not allowed");
        said(check_kubelet_serving(&serving, &node), "DNS or IP subjectAltName is required");
        said(
            check_kubelet_client(&serving, &node),
            "usages did not match [client auth digital signature key encipherment]",
        );
        let other = Subject { common_name: "jane".to_owned(), ..node.clone() };
        said(check_kubelet_client(&client, &other), "subject common name does not begin with system:node: prefix");
        said(check_kubelet_client(&client, &Subject::default()), "subject organization is not system:nodes");
        assert_eq!(check_client(&client), Ok(()));
        said(check_client(&csr(&["client auth", "any"])), "invalid usage for client certificate: any");
        said(check_client(&csr(&["digital signature"])), "missing required usage for client certificate: client auth");
    }
}
