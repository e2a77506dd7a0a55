//! The annotation of client-side apply, which `kubectl apply --server-side` takes over from.

use super::set::Set;
use super::structure::Structure;
use super::walk::{compare, field_set};
use crate::meta;
use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The places that client-side apply wrote last and nobody has changed since.
pub(super) fn places<S: Structure>(live: &Value, api_version: &str, place: S) -> Option<Set> {
    let text = meta::annotation(live, ANNOTATION).filter(|text| !text.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if meta::api_version(&last) != api_version {
        return None;
    }
    let mut set = field_set(&last, place);
    let difference = compare(Some(&last), live, place);
    set.subtract(&difference.changed);
    set.subtract(&difference.removed);
    Some(set)
}

/// Keeps an annotation that is there up to date with what is applied.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            meta::metadata_mut(&mut config).remove("annotations");
        }
    }
    let text = format!("{config}\n");
    let others: usize = meta::annotations(object)
        .filter(|(key, _)| *key != ANNOTATION)
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    if others + ANNOTATION.len() + text.len() > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}
