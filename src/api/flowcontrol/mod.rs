//! flowcontrol.apiserver.k8s.io/v1: which requests wait for which.

pub mod flow_schema;
pub mod priority_level;

use crate::status::{FieldErrors, Path};
use crate::tree::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// The conditions of a status: each type once, none without one.
fn conditions(object: &Value, errors: &mut FieldErrors) {
    let status = Path::root("status");
    let path = status.child("conditions");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, condition) in list(&object["status"]["conditions"]).iter().enumerate() {
        let at = path.index(i);
        let kind = text(&condition["type"]);
        if !seen.insert(kind) {
            errors.duplicate(at.child("type"), kind);
        }
        if kind.is_empty() {
            errors.required(at.child("type"), "must not be empty");
        }
    }
}
