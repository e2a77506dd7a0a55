//! Claims of devices that a pod makes.

use super::MIRROR;
use crate::checks::complain;
use crate::meta::names;
use crate::status::{FieldErrors, Path, Shown};
use crate::tree::{list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The pod's list of claims.
pub(super) fn claims(claims: &Value, metadata: Option<&Value>, path: Path<'_>, errors: &mut FieldErrors) {
    let mirror = metadata.is_some_and(|m| m["annotations"][MIRROR].is_string());
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, claim) in list(claims).iter().enumerate() {
        if mirror {
            errors.forbidden("", "static pods do not support resource claims");
            continue;
        }
        let at = path.index(i);
        let name = text(&claim["name"]);
        if name.is_empty() {
            errors.required(at.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(at.child("name"), name);
        } else {
            complain(names::dns_label(name), name, at.child("name"), errors);
        }
        source(claim, at, errors);
    }
}

fn source(claim: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (direct, template) = (&claim["resourceClaimName"], &claim["resourceClaimTemplateName"]);
    // Upstream shows the claim under the names of its fields in Go.
    let shown = || {
        Shown(format!(
            r#"{{"Name":{},"ResourceClaimName":{direct},"ResourceClaimTemplateName":{template}}}"#,
            json!(text(&claim["name"]))
        ))
    };
    match (direct.as_str(), template.as_str()) {
        (Some(_), Some(_)) => {
            let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.invalid(path, shown(), why);
        }
        (None, None) => {
            let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid(path, shown(), why);
        }
        _ => {}
    }
    for field in ["resourceClaimName", "resourceClaimTemplateName"] {
        if let Some(name) = claim[field].as_str() {
            complain(names::dns_subdomain(name), name, path.child(field), errors);
        }
    }
}
