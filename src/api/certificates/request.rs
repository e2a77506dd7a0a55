//! CertificateSigningRequest: a request for a certificate, its approval and the certificate.

use super::{pem, signer};
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, is_empty, list, some_text, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

const GVK: (&str, &str, &str) = ("certificates.k8s.io", "v1", "CertificateSigningRequest");

/// CertificateSigningRequests.
pub static CERTIFICATE_SIGNING_REQUESTS: Resource = Resource {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["csr"],
    categories: &[],
    type_name: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    churn: Churn::Durable,
    subresources: &[
        Subresource { name: "approval", gvk: GVK, verbs: verbs::GET_PATCH_UPDATE, action: Action::Approval },
        Subresource { name: "status", gvk: GVK, verbs: verbs::GET_PATCH_UPDATE, action: Action::Status },
    ],
    columns: &[
        Column::NAME,
        Column::new("Age", "string"),
        Column::new("SignerName", "string"),
        Column::new("Requestor", "string"),
        Column::new("RequestedDuration", "string"),
        Column::new("Condition", "string"),
    ],
    rules: Rules {
        name: crate::meta::names::path_segment,
        prepare_create,
        prepare_update,
        validate_create: validate,
        validate_update: |new, old, errors| {
            whole(new, Some(old), errors);
            changes(new, old, Part::Main, errors);
        },
        validate_status: |new, old, errors| {
            whole(new, Some(old), errors);
            changes(new, old, Part::Status, errors);
        },
        fields: |csr| vec![("spec.signerName", text(&csr["spec"]["signerName"]).to_owned())],
        row,
        ..Rules::NONE
    },
};

/// Who asks: written into the request by the server, never by the client.
#[derive(Debug, Clone, Copy)]
pub struct Requestor<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The user's uid, may be empty.
    pub uid: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// Further facts about the user.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

/// Writes who asks into a new request.
pub fn set_requestor(csr: &mut Value, requestor: Requestor<'_>) {
    let spec = tree::ensure(tree::object(csr), "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    for (field, value) in [("username", requestor.name), ("uid", requestor.uid)] {
        if !value.is_empty() {
            spec.insert(field.to_owned(), value.into());
        }
    }
    if !requestor.groups.is_empty() {
        spec.insert("groups".to_owned(), requestor.groups.into());
    }
    if !requestor.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(requestor.extra));
    }
}

/// Gives new conditions their times; a condition whose status stays keeps the time of its transition.
pub fn stamp_conditions(new: &mut Value, old: &Value, now: &str) {
    let Some(conditions) = new["status"]["conditions"].as_array_mut() else { return };
    for condition in conditions.iter_mut().filter(|condition| condition.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.into();
        }
        if condition["lastTransitionTime"].is_null() {
            let before = list(&old["status"]["conditions"]).iter().find(|before| {
                before["type"] == condition["type"]
                    && before["status"] == condition["status"]
                    && before["lastTransitionTime"].is_string()
            });
            condition["lastTransitionTime"] =
                before.map_or_else(|| now.into(), |before| before["lastTransitionTime"].clone());
        }
    }
}

/// The request after a change through `/approval`: of the status, only the conditions are new.
pub fn approved(old: &Value, new: &Value) -> Value {
    let mut merged = new.clone();
    merged["spec"] = old["spec"].clone();
    merged["status"] = if old["status"].is_object() { old["status"].clone() } else { json!({}) };
    match new["status"].get("conditions") {
        Some(conditions) => merged["status"]["conditions"] = conditions.clone(),
        None => drop(merged["status"].as_object_mut().and_then(|status| status.remove("conditions"))),
    }
    merged
}

/// Validates a change through `/approval`.
pub fn validate_approval(new: &Value, old: &Value, errors: &mut FieldErrors) {
    whole(new, Some(old), errors);
    changes(new, old, Part::Approval, errors);
}

/// The organizations in the request's subject; why it cannot be read.
pub fn organizations(csr: &Value) -> Result<Vec<String>, String> {
    let der = request_der(csr)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| format!("x509: {error}"))?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned).collect())
}

fn prepare_create(csr: &mut Value) {
    tree::object(csr).insert("status".to_owned(), json!({}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    let csr = tree::object(new);
    tree::keep_status(csr, old);
    csr.insert("spec".to_owned(), old["spec"].clone());
}

fn row(csr: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&csr["spec"], &csr["status"]);
    let has = |kind: &str| list(&status["conditions"]).iter().any(|condition| condition["type"] == kind);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if some_text(&status["certificate"]).is_some() {
        state.push_str(",Issued");
    }
    let duration = spec["expirationSeconds"].as_i64().map(table::duration);
    vec![
        table::name(csr),
        table::created(csr, now),
        table::or_none(text(&spec["signerName"])),
        text(&spec["username"]).into(),
        duration.unwrap_or_else(|| "<none>".to_owned()).into(),
        state.into(),
    ]
}

fn validate(csr: &Value, errors: &mut FieldErrors) {
    whole(csr, None, errors);
}

/// The last signer of the beta API.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SHORTEST_SECONDS: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Everything about a request. What an older server let in may stay as it is.
fn whole(csr: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&csr["spec"], Path::root("spec"));
    if let Err(why) = signed(csr) {
        errors.invalid(path.child("request"), text(&spec["request"]), &why);
    }
    let usages = path.child("usages");
    if is_empty(&spec["usages"]) {
        errors.required(usages, "usages must be provided");
    }
    let known = |csr: &Value| list(&csr["spec"]["usages"]).iter().all(|usage| USAGES.contains(&text(usage)));
    if old.is_none_or(known) {
        for (i, usage) in list(&spec["usages"]).iter().map(text).enumerate().filter(|(_, u)| !USAGES.contains(u)) {
            errors.not_supported(usages.index(i), usage, &USAGES);
        }
    }
    if old.is_none_or(|old| duplicates(list(&old["spec"]["usages"]).iter().map(text)).is_empty()) {
        for (i, usage) in duplicates(list(&spec["usages"]).iter().map(text)) {
            errors.duplicate(usages.index(i), usage);
        }
    }
    let (name, at) = (text(&spec["signerName"]), path.child("signerName"));
    if name == LEGACY_SIGNER && old.is_none_or(|old| old["spec"]["signerName"] != LEGACY_SIGNER) {
        errors.invalid(at, name, "the legacy signerName is not allowed via this API version");
    } else {
        signer::name(name, at, errors);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < SHORTEST_SECONDS) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(path.child("expirationSeconds"), seconds, why);
    }
    conditions(csr, old, errors);
    let certificate = &csr["status"]["certificate"];
    let kept = old.is_some_and(|old| {
        old["status"]["certificate"] == *certificate || check_certificates(&old["status"]["certificate"]).is_err()
    });
    if !kept && let Err(why) = check_certificates(certificate) {
        errors.invalid("status.certificate", "<certificate data>", &why);
    }
}

fn duplicates<'a>(items: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
    let mut seen = BTreeSet::new();
    items.enumerate().filter(|(_, item)| !seen.insert(*item)).collect()
}

fn kinds(csr: &Value) -> impl Iterator<Item = &str> {
    list(&csr["status"]["conditions"]).iter().map(|condition| text(&condition["type"]))
}

fn conditions(csr: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let status = Path::root("status");
    let path = status.child("conditions");
    let nameless_before = old.is_some_and(|old| kinds(old).any(str::is_empty));
    let twice_before = old.is_some_and(|old| !duplicates(kinds(old)).is_empty());
    let both_before = old.is_some_and(|old| ["Approved", "Denied"].iter().all(|kind| kinds(old).any(|k| k == *kind)));
    let (mut seen, mut decided): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for (i, condition) in list(&csr["status"]["conditions"]).iter().enumerate() {
        let (kind, at) = (text(&condition["type"]), path.index(i));
        if kind.is_empty() && !nameless_before {
            errors.required(at.child("type"), "");
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        match text(&condition["status"]) {
            "" => errors.required(at.child("status"), ""),
            other if !allowed.contains(&other) => errors.not_supported(at.child("status"), other, allowed),
            _ => {}
        }
        if matches!(kind, "Approved" | "Denied") && !both_before {
            decided.insert(kind);
            if decided.len() > 1 {
                errors.invalid(at.child("type"), kind, "Approved and Denied conditions are mutually exclusive");
            }
        }
        if !seen.insert(kind) && !twice_before {
            errors.duplicate(at.child("type"), kind);
        }
    }
}

/// What a change is made through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Main,
    Status,
    Approval,
}

/// What may change through which part.
fn changes(new: &Value, old: &Value, part: Part, errors: &mut FieldErrors) {
    let path = "status.conditions";
    let of = |csr: &Value, kind: &str| -> Vec<Value> {
        list(&csr["status"]["conditions"]).iter().filter(|condition| condition["type"] == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            errors.forbidden(path, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| part != Part::Approval) {
        let (after, before) = (of(new, kind), of(old, kind));
        if after.len() > before.len() {
            errors.forbidden(path, &format!("updates may not add a condition of type {kind:?}"));
        } else if after.len() == before.len() && after != before {
            let (after, before) = (Value::from(after), Value::from(before));
            let why = format!("updates may not modify a condition of type {kind:?}\n- {before}\n+ {after}");
            errors.forbidden(path, &why);
        }
    }
    let (after, before) = (text(&new["status"]["certificate"]), text(&old["status"]["certificate"]));
    if after != before {
        if part != Part::Status {
            errors.forbidden("status.certificate", "updates may not set certificate content");
        } else if !before.is_empty() {
            errors.forbidden("status.certificate", "updates may not modify existing certificate content");
        }
    }
}

/// The text behind a base64 field.
fn decoded(value: &Value) -> String {
    String::from_utf8_lossy(&STANDARD.decode(text(value)).unwrap_or_default()).into_owned()
}

pub(super) fn request_der(csr: &Value) -> Result<Vec<u8>, String> {
    let text = decoded(&csr["spec"]["request"]);
    match pem::first(&text) {
        Some((block, _)) if block.label == "CERTIFICATE REQUEST" => Ok(block.der),
        _ => Err("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    }
}

/// Whether the request can be read and is signed by its own key.
fn signed(csr: &Value) -> Result<(), String> {
    let der = request_der(csr)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|error| format!("x509: {error}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request.verify_signature().map_err(|error| format!("x509: {error}"))
}

/// Whether an issued certificate is one: whole blocks of certificates and nothing else.
fn check_certificates(value: &Value) -> Result<(), String> {
    if text(value).is_empty() {
        return Ok(());
    }
    let text = decoded(value);
    let mut rest = text.as_str();
    let mut blocks = 0;
    while let Some((block, after)) = pem::first(rest) {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if block.der.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        X509Certificate::from_der(&block.der).map_err(|error| format!("x509: {error}"))?;
        blocks += 1;
        rest = after;
    }
    if blocks == 0 {
        return Err("must contain one or more CERTIFICATE PEM blocks".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
