//! Managed fields: who a writer is, and what each write makes of who owns what.

use super::Call;
use crate::clock;
use crate::response::Failure;
use http::header::USER_AGENT;
use naru_api::apply::{self, BuiltIn, Ignored, Writer};
use naru_api::registry::Resource;
use naru_api::status::{FieldErrors, Status};
use serde_json::Value;

/// The longest name of a manager, in bytes.
const MAX_MANAGER: usize = 128;

/// The manager that a write counts for: the one that the request names, or the client's program.
pub(super) fn manager(call: &Call) -> String {
    if let Some(manager) = call.query.get("fieldManager").filter(|manager| !manager.is_empty()) {
        return manager.to_owned();
    }
    let agent = call.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    let program = agent.as_deref().and_then(|agent| agent.split('/').next()).unwrap_or_default();
    let mut name = String::with_capacity(program.len());
    for letter in program.chars().filter(|letter| is_printable(*letter)) {
        if name.len() + letter.len_utf8() > MAX_MANAGER {
            break;
        }
        name.push(letter);
    }
    name
}

fn is_printable(letter: char) -> bool {
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || letter == char::REPLACEMENT_CHARACTER)
}

/// What is wrong with the manager that the request names.
fn check_manager(call: &Call, errors: &mut FieldErrors) {
    let manager = call.query.get("fieldManager").unwrap_or_default();
    if manager.len() > MAX_MANAGER {
        errors.too_long("fieldManager", MAX_MANAGER);
    }
    for (at, letter) in manager.char_indices().filter(|(_, letter)| !is_printable(*letter)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        errors.invalid("fieldManager", manager, &why);
    }
}

/// Checks the options of a create (`CreateOptions`) or an update (`UpdateOptions`).
pub(super) fn check_options(call: &Call, kind: &str) -> Result<(), Failure> {
    if call.query.get("fieldManager").is_none() {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    check_manager(call, &mut errors);
    refuse(kind, errors)
}

/// Checks the options of a patch.
pub(super) fn check_patch_options(call: &Call, applies: bool) -> Result<(), Failure> {
    let mut errors = FieldErrors::default();
    if applies && call.query.get("fieldManager").unwrap_or_default().is_empty() {
        errors.required("fieldManager", "is required for apply patch");
    }
    if !applies && call.query.get("force").is_some() {
        errors.forbidden("force", "may not be specified for non-apply patch");
    }
    check_manager(call, &mut errors);
    refuse("PatchOptions", errors)
}

fn refuse(kind: &str, errors: FieldErrors) -> Result<(), Failure> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid("meta.k8s.io", kind, "", errors)))
}

/// Records a create, where there is no old object, or an update. Both objects are in the stored version.
pub(super) fn track(call: &Call, resource: &'static Resource, subresource: &str, old: Option<&Value>, new: &mut Value) {
    let (manager, api_version, now) = (manager(call), resource.api_version(), clock::now_rfc3339());
    let writer = Writer {
        manager: &manager,
        api_version: &api_version,
        subresource,
        now: &now,
        ignored: Ignored::of(resource, subresource),
    };
    apply::update(&BuiltIn(resource), old, new, &writer);
}

/// An object's managed fields, taken out of it.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Gives an object managed fields, or none.
pub(super) fn put(object: &mut Value, fields: Option<Value>) {
    let metadata = naru_api::meta::metadata_mut(object);
    match fields {
        Some(fields) => metadata.insert("managedFields".to_owned(), fields),
        None => metadata.remove("managedFields"),
    };
}

/// Whether two objects' managed fields differ, but in their time stamps alone.
pub(super) fn only_times_differ(new: &Value, old: &Value) -> bool {
    let (new, old) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    new != old && apply::same_but_times(new, old)
}
