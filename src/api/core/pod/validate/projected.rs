//! Projected volumes: several sources in one directory.

use super::volume::{downward, file_path, items, mode};
use crate::checks::{complain, required};
use crate::meta::{names, validate};
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_CERTIFICATE_SECONDS: i64 = 3600;
const MAX_CERTIFICATE_SECONDS: i64 = 7_862_400;
/// Certificates of the cluster's own signers live a day at most.
const MAX_OWN_CERTIFICATE_SECONDS: i64 = 86_400;
const KINDS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// The sources of a projected volume.
pub(super) fn sources<'a>(source: &'a Value, path: Path<'_>, errors: &mut FieldErrors) {
    mode(&source["defaultMode"], path.child("defaultMode"), errors);
    let at = path.child("sources");
    let mut seen: BTreeSet<&'a str> = BTreeSet::new();
    for (i, part) in list(&source["sources"]).iter().enumerate() {
        let item = at.index(i);
        let set: Vec<&str> = KINDS.into_iter().filter(|kind| part[*kind].is_object()).collect();
        for kind in &set {
            projection(kind, &part[*kind], &mut seen, path, item.child(kind), errors);
        }
        if set.len() > 1 {
            errors.forbidden(item, "may not specify more than 1 volume type per source");
        }
    }
}

/// `volume` is the whole volume's path, under which upstream reports collisions.
fn projection<'a>(
    kind: &str,
    part: &'a Value,
    seen: &mut BTreeSet<&'a str>,
    volume: Path<'_>,
    path: Path<'_>,
    errors: &mut FieldErrors,
) {
    let mut taken = |target: &'a str, shown: &str, errors: &mut FieldErrors| {
        if !target.is_empty() && !seen.insert(target) {
            errors.invalid(volume, shown, "conflicting duplicate paths");
        }
    };
    match kind {
        "secret" | "configMap" => {
            required(&part["name"], path.child("name"), errors);
            items(part, path, errors);
            for item in list(&part["items"]) {
                taken(text(&item["path"]), text(&part["name"]), errors);
            }
        }
        "downwardAPI" => {
            downward(part, path, errors);
            for item in list(&part["items"]) {
                taken(text(&item["path"]), text(&item["path"]), errors);
            }
        }
        "serviceAccountToken" => token(part, volume, path, errors),
        "clusterTrustBundle" => {
            trust_bundle(part, path, errors);
            taken(text(&part["path"]), text(&part["path"]), errors);
        }
        _ => {
            certificate(part, path, errors);
            let mut any = false;
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                let Some(target) = some_text(&part[field]) else { continue };
                any = true;
                file_path(&part[field], path.child(field), errors);
                taken(target, target, errors);
            }
            if !any {
                let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.required(path, why);
            }
        }
    }
}

fn token(part: &Value, volume: Path<'_>, path: Path<'_>, errors: &mut FieldErrors) {
    let (seconds, at) = (int(&part["expirationSeconds"]), path.child("expirationSeconds"));
    if seconds < MIN_TOKEN_SECONDS {
        errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > MAX_TOKEN_SECONDS {
        errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    // Upstream leaves the source out of this path.
    if required(&part["path"], volume.child("path"), errors) {
        file_path(&part["path"], volume.child("path"), errors);
    }
}

fn trust_bundle(part: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    match (part["name"].as_str(), part["signerName"].as_str()) {
        (Some(_), Some(_)) => errors.invalid(path, part, "only one of name and signerName may be used"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(path.child("name"), "must be a valid object name");
            }
            for wrong in names::dns_subdomain(name.rsplit(':').next().unwrap_or(name)) {
                let why = format!("not a valid clustertrustbundlename: {wrong}");
                errors.invalid(path.child("name"), name, &why);
            }
            if part["labelSelector"].is_object() {
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(path.child("labelSelector"), &part["labelSelector"], why);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(path.child("signerName"), "must be a valid signer name");
            }
            signer_name(signer, path.child("signerName"), errors);
            validate::label_selector(&part["labelSelector"], &path.child("labelSelector"), errors);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    required(&part["path"], path.child("path"), errors);
    file_path(&part["path"], path.child("path"), errors);
}

/// `domain/path`, both of DNS names.
fn signer_name(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, why);
    };
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    complain(names::dns_subdomain(domain), domain, path, errors);
    complain(names::dns_subdomain(rest), rest, path, errors);
}

fn certificate(part: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let signer = text(&part["signerName"]);
    signer_name(signer, path.child("signerName"), errors);
    let notes = path.child("userAnnotations");
    for (key, _) in entries(&part["userAnnotations"]) {
        complain(names::qualified_name(&key.to_lowercase()), key, notes, errors);
    }
    if !KEY_TYPES.contains(&text(&part["keyType"])) {
        errors.not_supported(path.child("keyType"), text(&part["keyType"]), &KEY_TYPES);
    }
    let Some(seconds) = part["maxExpirationSeconds"].as_i64() else { return };
    let at = path.child("maxExpirationSeconds");
    if seconds < MIN_CERTIFICATE_SECONDS {
        errors.invalid(at, seconds, "if provided, maxExpirationSeconds must be >= 3600");
    }
    let own = signer.split('/').next().is_some_and(|d| d == "kubernetes.io" || d.ends_with(".kubernetes.io"));
    let max = if own { MAX_OWN_CERTIFICATE_SECONDS } else { MAX_CERTIFICATE_SECONDS };
    if seconds > max {
        errors.invalid(at, seconds, &format!("if provided, maxExpirationSeconds must be <= {max}"));
    }
}

/// A pod without a service account has no tokens of one.
pub(super) fn no_tokens(volumes: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, volume) in list(volumes).iter().enumerate() {
        let item = path.index(i);
        let at = item.child("projected");
        let at = at.child("sources");
        for (n, source) in list(&volume["projected"]["sources"]).iter().enumerate() {
            if source["serviceAccountToken"].is_object() {
                let why = "must not be specified when serviceAccountName is not set";
                errors.forbidden(at.index(n).child("serviceAccountToken"), why);
            }
        }
    }
}
