//! What ConfigMaps and Secrets have in common: keys, size, and the promise never to change.

use crate::checks::complain;
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, flag, text};
use serde_json::Value;

/// All values of one object together.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// Adds the errors of a map's keys.
pub(super) fn keys(data: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (key, _) in entries(data) {
        complain(names::config_key(key), key, path.key(key), errors);
    }
}

/// The size of a value of `data`, where it is base64, once decoded.
pub(super) fn decoded_len(value: &Value) -> usize {
    let encoded = text(value).trim_end_matches('=');
    encoded.len() * 3 / 4
}

/// An object that was made immutable stays so, and so do these fields.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(&old["immutable"]) {
        return;
    }
    if !flag(&new["immutable"]) {
        errors.forbidden("immutable", WHY);
    }
    for field in fields {
        let same = entries(&new[field]).eq(entries(&old[field]));
        if !same {
            errors.forbidden(field, WHY);
        }
    }
}
