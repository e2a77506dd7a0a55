//! Access modes and quantities of volumes and of claims to them.

use crate::checks::one_of;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::{list, text};
use serde_json::Value;

/// A class was named by an annotation before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// What is said about that annotation.
pub(super) const CLASS_DEPRECATED: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";
/// How a volume may be used.
pub(super) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

const SUPPORTED: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const SHORT: [(&str, &str); 4] =
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];

/// Adds what is wrong with a list of modes.
pub(super) fn check(modes: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let modes = list(modes);
    for mode in modes {
        one_of(mode, path, &SUPPORTED, errors);
    }
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    if alone && modes.iter().any(|m| m != "ReadWriteOncePod" && SUPPORTED.contains(&text(m))) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,RWX`.
pub(super) fn short(modes: &Value) -> String {
    let has = |mode: &str| list(modes).iter().any(|m| m == mode);
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The class, by annotation or field.
pub(super) fn class(object: &Value) -> &str {
    match object["metadata"]["annotations"][CLASS_ANNOTATION].as_str() {
        Some(class) => class,
        None => text(&object["spec"]["storageClassName"]),
    }
}

/// The quantity in its canonical form; what is absent is 0.
pub(super) fn quantity(value: &Value) -> String {
    Quantity::parse(text(value)).unwrap_or(Quantity::ZERO).to_string()
}

/// The quantity must be above zero.
pub(super) fn positive(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Ok(amount) = Quantity::parse(text(value))
        && (amount.is_negative() || amount.is_zero())
    {
        errors.invalid(path, amount.to_string().as_str(), "must be greater than zero");
    }
}

/// The quantity may not be negative.
pub(super) fn basic(value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if let Ok(amount) = Quantity::parse(text(value))
        && amount.is_negative()
    {
        errors.invalid(path, amount.value(), "must be a valid resource quantity");
    }
}

/// Advice about a number of bytes that is not whole.
pub(super) fn fraction(value: &Value, path: Path<'_>) -> Option<String> {
    let amount = Quantity::parse(text(value)).ok().filter(|q| !q.is_integer())?;
    Some(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"))
}
