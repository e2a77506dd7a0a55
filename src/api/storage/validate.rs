//! What the kinds of storage have in common.

use crate::checks::{complain, required};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, text};
use serde_json::Value;

/// All parameters, or all metadata of an attachment, together.
pub(super) const MAX_BYTES: usize = 256 * 1024;
const MAX_PARAMETERS: usize = 512;
const MAX_DRIVER: usize = 63;

/// The bytes of all keys and values.
pub(super) fn size(map: &Value) -> usize {
    entries(map).map(|(k, v)| k.len() + text(v).len()).sum()
}

/// Who makes volumes: a qualified name in any case.
pub(super) fn provisioner(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if required(value, path, errors) {
        let name = text(value).to_lowercase();
        complain(names::qualified_name(&name), &name, path, errors);
    }
}

/// Parameters that mean something to the provisioner alone.
pub(super) fn parameters(parameters: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if entries(parameters).count() > MAX_PARAMETERS {
        errors.too_long(path, MAX_PARAMETERS);
        return;
    }
    if parameters.get("").is_some() {
        errors.invalid(path, "", "field can not be empty.");
    }
    if size(parameters) > MAX_BYTES {
        errors.too_long(path, MAX_BYTES);
    }
}

/// The name of a CSI driver.
pub(crate) fn driver_name(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(value);
    required(value, path, errors);
    if name.len() > MAX_DRIVER {
        errors.too_long(path, MAX_DRIVER);
    }
    complain(names::dns_subdomain(&name.to_lowercase()), name, path, errors);
}
