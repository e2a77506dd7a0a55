//! PATCH: apply, merge, strategic merge and JSON patches, as a change that is tried again when the object moves.

use super::body::{self, FieldValidation};
use super::update::{Change, Part, modify};
use super::{Call, apply, create, managed, render, type_of};
use crate::negotiate;
use crate::response::{Failure, Outcome};
use naru_api::apply::GoValue;
use naru_api::codec::{self, DecodeError};
use naru_api::facts::Type;
use naru_api::meta;
use naru_api::patch::{self, PatchError};
use naru_api::registry::{Piece, Resource};
use naru_api::status::{FieldErrors, Status, StatusDetails};
use serde_json::{Map, Value};
use std::sync::Mutex;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// All that upstream says of a JSON patch that does not fit the object.
const DOES_NOT_APPLY: &str = "the server rejected our request due to an error in our request";

/// A parsed patch.
#[derive(Debug)]
pub(super) enum Patch {
    Json(bytes::Bytes),
    Merge(Value),
    Strategic(Value),
    /// A configuration to apply.
    Apply(Value),
}

/// A patch and what strict reading objects to in it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) patch: Patch,
    pub(super) strict: Vec<String>,
}

/// Whether the request applies a configuration. That is told by its type alone.
pub(super) fn is_apply(call: &Call) -> bool {
    call.info.verb == "patch" && negotiate::content_type(&call.headers) == APPLY_PATCH
}

impl Patch {
    /// Reads the body by its content type, and checks the request's options.
    pub(super) fn of(call: &Call) -> Result<Parsed, Failure> {
        let media = negotiate::content_type(&call.headers);
        if ![JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH].contains(&media.as_str()) {
            let accepted = [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH];
            return Err(Box::new(Status::unsupported_media_type(&accepted)));
        }
        managed::check_patch_options(call, media == APPLY_PATCH)?;
        let text = |error: DecodeError| match error {
            DecodeError::Syntax(text) => text,
            other => other.to_string(),
        };
        let decoding = |why: String| Box::new(Status::bad_request(format!("error decoding patch: {why}")));
        match media.as_str() {
            JSON_PATCH => {
                let read = codec::parse_json_strict(&call.body).map_err(|error| decoding(text(error)))?;
                let checked = FieldValidation::of(call)? != FieldValidation::Ignore;
                a_list_of_operations(&read.value, checked).map_err(|why| Box::new(Status::bad_request(why)))?;
                let mut strict = read.strict;
                strict.extend(unknown_in_operations(&read.value));
                strict.iter_mut().for_each(|complaint| *complaint = format!("json patch {complaint}"));
                Ok(Parsed { patch: Self::Json(call.body.clone()), strict })
            }
            APPLY_PATCH => {
                let (value, strict) = apply::read(&call.body).map_err(|error| decoding(text(error)))?;
                Ok(Parsed { patch: Self::Apply(an_object(value).map_err(decoding)?), strict })
            }
            MERGE_PATCH => {
                let read = codec::parse_json_strict(&call.body).map_err(|error| decoding(text(error)))?;
                Ok(Parsed { patch: Self::Merge(an_object(read.value).map_err(decoding)?), strict: read.strict })
            }
            _ => {
                let plain = |why: String| Box::new(Status::bad_request(why));
                let read = codec::parse_json_strict(&call.body).map_err(|error| plain(text(error)))?;
                Ok(Parsed { patch: Self::Strategic(an_object(read.value).map_err(plain)?), strict: read.strict })
            }
        }
    }

    /// Patches the tree; on error it may be half changed.
    pub(super) fn change(&self, object: &mut Value, ty: &'static Type) -> Result<(), PatchError> {
        match self {
            Self::Json(operations) => patch::json(object, operations),
            Self::Merge(merge) => {
                patch::merge(object, merge);
                Ok(())
            }
            Self::Strategic(merge) => patch::strategic(object, merge, ty),
            Self::Apply(_) => Err(PatchError::Malformed("an apply is no patch of a tree".to_owned())),
        }
    }

    /// What errors about the result show: the patch of a strategic merge, else the patched object.
    fn shown(&self, patched: &Value) -> String {
        match self {
            Self::Strategic(merge) => GoValue(merge).to_string(),
            _ => patched.to_string(),
        }
    }

    /// Whether it could read or change managed fields. Others are spared the work of carrying them along.
    fn is_about_managed_fields(&self) -> bool {
        match self {
            Self::Json(operations) => {
                let text = String::from_utf8_lossy(operations);
                ["managedFields", "\"/metadata\"", "\"\"", "\\"].iter().any(|piece| text.contains(piece))
            }
            Self::Merge(patch) | Self::Strategic(patch) => patch["metadata"].get("managedFields").is_some(),
            Self::Apply(_) => true,
        }
    }
}

fn an_object(value: Value) -> Result<Value, String> {
    match &value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        other => {
            Err(format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go_kind(other)))
        }
    }
}

/// How errors about JSON call a value.
pub(super) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    }
}

/// What a JSON patch is in Go, which errors name: one type where strict reading looks first, another else.
fn a_list_of_operations(patch: &Value, checked: bool) -> Result<(), String> {
    let ty = if checked { "[]handlers.jsonPatchOp" } else { "jsonpatch.Patch" };
    let prefix = if checked { "error decoding patch: " } else { "" };
    let Value::Array(operations) = patch else {
        if patch.is_null() {
            return Ok(());
        }
        return Err(format!("{prefix}json: cannot unmarshal {} into Go value of type {ty}", go_kind(patch)));
    };
    for operation in operations.iter().filter(|operation| !operation.is_null()) {
        let Value::Object(operation) = operation else {
            let ty = if checked { "handlers.jsonPatchOp" } else { "jsonpatch.Operation" };
            return Err(format!("{prefix}json: cannot unmarshal {} into Go value of type {ty}", go_kind(operation)));
        };
        let named = ["op", "path", "from"].map(|field| Some((field, operation.get(field)?)));
        let wrong = |(_, value): &(&str, &Value)| checked && !value.is_string() && !value.is_null();
        if let Some((field, value)) = named.into_iter().flatten().find(wrong) {
            let (kind, at) = (go_kind(value), format!("jsonPatchOp.{field}"));
            return Err(format!("{prefix}json: cannot unmarshal {kind} into Go struct field {at} of type string"));
        }
    }
    Ok(())
}

/// Fields that operations of a JSON patch do not have.
fn unknown_in_operations(operations: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for (at, operation) in operations.as_array().into_iter().flatten().enumerate() {
        for key in operation.as_object().into_iter().flatten().map(|(key, _)| key) {
            if !["op", "path", "from", "value"].contains(&key.as_str()) && unknown.len() < 100 {
                unknown.push(format!("unknown field \"[{at}].{key}\""));
            }
        }
    }
    unknown
}

/// PATCH of an object.
pub(super) async fn patch(call: &Call, resource: &'static Resource) -> Outcome {
    patch_part(call, resource, Part::Main).await
}

/// PATCH of `/status`.
pub(super) async fn patch_status(call: &Call, resource: &'static Resource) -> Outcome {
    patch_part(call, resource, Part::Status).await
}

/// PATCH of `/approval`.
pub(super) async fn patch_approval(call: &Call, resource: &'static Resource) -> Outcome {
    patch_part(call, resource, Part::Approval).await
}

/// PATCH of a part with rules of its own.
pub(super) async fn patch_piece(call: &Call, resource: &'static Resource, piece: &'static Piece) -> Outcome {
    patch_part(call, resource, Part::Piece(piece)).await
}

async fn patch_part(call: &Call, resource: &'static Resource, part: Part) -> Outcome {
    let Parsed { patch, strict } = Patch::of(call)?;
    if let Patch::Apply(config) = patch {
        return apply::apply(call, resource, part, config, strict).await;
    }
    let validation = FieldValidation::of(call)?;
    let ty = type_of(resource)?;
    let complaints = Mutex::new(Vec::new());
    let whole = patch.is_about_managed_fields();
    let make = |old: &Value| {
        // The client's patch is about the version that it reads.
        let mut patched = old.clone();
        if !whole {
            managed::take(&mut patched);
        }
        resource.from_stored(&mut patched);
        patch.change(&mut patched, ty).map_err(|error| patch_failure(&error))?;
        let kept = take_unchanged(resource, &mut patched, old);
        let decoded = decode(resource, &patch, &patched, ty, validation, (&strict, &complaints));
        if decoded.is_err()
            && let Some(fields) = patched.as_object_mut()
        {
            // What is wrong is told of the whole object.
            fields.extend(kept.clone());
            decode(resource, &patch, &patched, ty, validation, (&strict, &complaints))?;
        }
        let mut patched = decoded?;
        if let Some(fields) = patched.as_object_mut() {
            fields.extend(kept);
        }
        check_identity(resource, &patched, old)?;
        // A precondition counts only when the patch itself names a version.
        if meta::resource_version(&patched) == meta::resource_version(old) {
            meta::set(&mut patched, "resourceVersion", "");
        }
        body::to_stored(resource, &mut patched)?;
        Ok(patched)
    };
    let change = Change {
        resource,
        namespace: call.namespace(resource),
        name: &call.info.name,
        part,
        subresource: &call.info.subresource,
        dry_run: call.dry_run()?,
        make: &make,
    };
    let changed = modify(call, change).await?;
    let complaints = std::mem::take(&mut *complaints.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let warnings = create::answer_warnings(call, resource, changed.advise.then_some(&changed.value), complaints)?;
    Ok(render::object(call, resource, 200, changed.json)?.with_warnings(warnings))
}

/// Takes out what the patch has left as it was: it has been checked when it was stored.
fn take_unchanged(resource: &Resource, patched: &mut Value, old: &Value) -> Map<String, Value> {
    // Another version of the object is not what was stored.
    let (Some(fields), true) = (patched.as_object_mut(), resource.is_storage()) else { return Map::new() };
    let same = |name: &str, value: &Value| !matches!(name, "kind" | "apiVersion") && old.get(name) == Some(value);
    let (kept, changed): (Map<String, Value>, Map<String, Value>) =
        std::mem::take(fields).into_iter().partition(|(name, value)| same(name, value));
    *fields = changed;
    kept
}

/// Checks the patched tree against the type. What strict decoding objects to, in the patch and in the tree, is
/// an error or is left in `complaints`, as the client wants it.
fn decode(
    resource: &Resource,
    patch: &Patch,
    patched: &Value,
    ty: &'static Type,
    validation: FieldValidation,
    (strict, complaints): (&[String], &Mutex<Vec<String>>),
) -> Result<Value, Failure> {
    let refused = |why: &str| {
        let mut errors = FieldErrors::default();
        errors.invalid("patch", patch.shown(patched).as_str(), why);
        Box::new(Status::invalid("", "", "", errors))
    };
    let decoded = codec::decode_value(patched, ty).map_err(|error| match &error {
        DecodeError::Type(why) => refused(why),
        _ => Box::new(Status::bad_request(error.bad_request(
            Some((resource.kind, resource.version)),
            resource.kind,
            &[],
        ))),
    })?;
    let found: Vec<String> = strict.iter().chain(&decoded.strict).cloned().collect();
    match validation {
        FieldValidation::Strict if !found.is_empty() => {
            return Err(refused(&format!("strict decoding error: {}", found.join(", "))));
        }
        FieldValidation::Warn => *complaints.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found,
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    Ok(decoded.value)
}

/// A patch changes neither kind nor name. The new object is in the request's version.
fn check_identity(resource: &Resource, new: &Value, old: &Value) -> Result<(), Failure> {
    let mut errors = FieldErrors::default();
    if meta::name(new) != meta::name(old) {
        errors.invalid("metadata.name", meta::name(new), "field is immutable");
    }
    if meta::namespace(new) != meta::namespace(old) {
        return Err(Box::new(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )));
    }
    let version = resource.api_version();
    if meta::kind(new) != resource.kind || meta::api_version(new) != version {
        return Err(Box::new(Status::bad_request(format!(
            "the API version or kind in the data ({}, {}) does not match the expected ({version}, {})",
            meta::api_version(new),
            meta::kind(new),
            resource.kind
        ))));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid(resource.group, resource.kind, meta::name(old), errors)))
}

/// A patch that cannot be applied: 422 when the object does not fit it, 400 when it is none.
pub(super) fn patch_failure(error: &PatchError) -> Failure {
    Box::new(match error {
        PatchError::Malformed(text) => Status::bad_request(text),
        PatchError::TooLarge(text) => Status::failure(413, "RequestEntityTooLarge", text),
        PatchError::DoesNotApply(text) => {
            tracing::debug!(text, "a patch does not apply");
            let mut status = Status::failure(422, "Invalid", DOES_NOT_APPLY);
            status.details = Some(StatusDetails::default());
            status
        }
        PatchError::Failed(text) => Status::failure(500, "", text),
    })
}
