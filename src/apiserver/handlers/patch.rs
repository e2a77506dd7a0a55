//! PATCH: merge, strategic merge and JSON patches, as a change that is tried again when the object moves.

use super::body::{self, FieldValidation};
use super::update::{Change, Part, modify};
use super::{Call, create, render, type_of};
use crate::negotiate;
use crate::response::{Failure, Outcome};
use naru_api::codec;
use naru_api::facts::Type;
use naru_api::meta;
use naru_api::patch::{self, PatchError};
use naru_api::registry::{Piece, Resource};
use naru_api::status::{FieldErrors, Status};
use serde_json::Value;
use std::sync::Mutex;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// A parsed patch.
pub(super) enum Patch {
    Json(bytes::Bytes),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads the body by its content type. Apply is known by its type alone, and not served yet.
    pub(super) fn of(call: &Call) -> Result<Self, Failure> {
        let parse = || {
            let value = codec::parse_json(&call.body)
                .map_err(|error| Box::new(Status::bad_request(format!("error decoding patch: {error}"))))?;
            if value.is_object() {
                return Ok(value);
            }
            Err(Box::new(Status::bad_request("error decoding patch: a patch must be an object")))
        };
        match negotiate::content_type(&call.headers).as_str() {
            JSON_PATCH => Ok(Self::Json(call.body.clone())),
            MERGE_PATCH => Ok(Self::Merge(parse()?)),
            STRATEGIC_PATCH => Ok(Self::Strategic(parse()?)),
            _ => Err(Box::new(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH]))),
        }
    }

    /// The patched tree.
    pub(super) fn apply(&self, object: &Value, ty: &'static Type) -> Result<Value, PatchError> {
        let mut object = object.clone();
        match self {
            Self::Json(operations) => patch::json(&mut object, operations)?,
            Self::Merge(merge) => patch::merge(&mut object, merge),
            Self::Strategic(merge) => patch::strategic(&mut object, merge, ty)?,
        }
        Ok(object)
    }

    fn text(&self) -> String {
        match self {
            Self::Json(operations) => String::from_utf8_lossy(operations).into_owned(),
            Self::Merge(value) | Self::Strategic(value) => value.to_string(),
        }
    }
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
    let patch = Patch::of(call)?;
    let validation = FieldValidation::of(call)?;
    let ty = type_of(resource)?;
    let complaints = Mutex::new(Vec::new());
    let make = |old: &Value| {
        // The client's patch is about the version that it reads.
        let mut old = old.clone();
        resource.from_stored(&mut old);
        let patched = patch.apply(&old, ty).map_err(|error| patch_failure(&error))?;
        // A precondition counts only when the patch itself names a version.
        let mut patched = decode(resource, &patch, &patched, ty, validation, &complaints)?;
        check_identity(resource, &patched, &old)?;
        if meta::resource_version(&patched) == meta::resource_version(&old) {
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
    let warnings = create::answer_warnings(call, resource, &changed.value, complaints)?;
    Ok(render::object(call, resource, 200, changed.json)?.with_warnings(warnings))
}

/// Checks the patched tree against the type.
fn decode(
    resource: &Resource,
    patch: &Patch,
    patched: &Value,
    ty: &'static Type,
    validation: FieldValidation,
    complaints: &Mutex<Vec<String>>,
) -> Result<Value, Failure> {
    let decoded = codec::decode_value(patched, ty).map_err(|error| {
        Box::new(Status::bad_request(error.bad_request(Some((resource.kind, resource.version)), resource.kind, &[])))
    })?;
    if validation == FieldValidation::Strict {
        if let Some(error) = decoded.strict_error() {
            let mut errors = FieldErrors::default();
            errors.invalid("patch", patch.text().as_str(), &error);
            return Err(Box::new(Status::invalid("", "", "", errors)));
        }
    } else if validation == FieldValidation::Warn {
        *complaints.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = decoded.strict;
    }
    Ok(decoded.value)
}

/// A patch changes neither kind nor name.
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
    if meta::kind(new) != meta::kind(old) || meta::api_version(new) != meta::api_version(old) {
        return Err(Box::new(Status::bad_request(format!(
            "the API version or kind in the data ({}, {}) does not match the expected ({}, {})",
            meta::api_version(new),
            meta::kind(new),
            meta::api_version(old),
            meta::kind(old)
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
        // Without details: clients print the message only then.
        PatchError::DoesNotApply(text) => Status::failure(422, "Invalid", text),
    })
}
