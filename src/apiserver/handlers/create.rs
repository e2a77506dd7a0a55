//! Creates objects.

use super::body::{self, FieldValidation};
use super::{Call, managed, patch, render};
use crate::admission::{self, Attributes, Operation};
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::{Failure, Outcome};
use crate::services::{self, Reservation};
use bytes::Bytes;
use naru_api::certificates::request::{self, Requestor};
use naru_api::codec;
use naru_api::core::pod::app_armor;
use naru_api::meta;
use naru_api::registry::Resource;
use naru_api::status::{FieldErrors, Status};
use naru_store::Expect;
use serde_json::Value;

/// How many names are tried for a `generateName`.
const NAME_ATTEMPTS: usize = 8;

/// POST to a collection.
pub(super) async fn create(call: &Call, resource: &'static Resource) -> Outcome {
    managed::check_options(call, "CreateOptions")?;
    let body::Object { value, warnings } = body::decode_stored(call, resource)?;
    let created = insert(call, resource, value, call.dry_run()?).await?;
    let warnings = answer_warnings(call, resource, Some(&created.value), warnings)?;
    Ok(render::object(call, resource, 201, created.json)?.with_warnings(warnings))
}

/// The decoder's warnings and the kind's own about the object, if it is to be looked at.
pub(super) fn answer_warnings(
    call: &Call,
    resource: &Resource,
    object: Option<&Value>,
    mut warnings: Vec<String>,
) -> Result<Vec<String>, Failure> {
    if FieldValidation::of(call)? == FieldValidation::Ignore {
        warnings.clear();
    }
    warnings.extend(object.map(|object| (resource.rules.warnings)(object)).unwrap_or_default());
    Ok(warnings)
}

/// A created object.
pub(super) struct Created {
    pub(super) value: Value,
    pub(super) json: Bytes,
}

/// Everything between a decoded body and the stored object.
pub(super) async fn insert(
    call: &Call,
    resource: &'static Resource,
    mut object: Value,
    dry_run: bool,
) -> Result<Created, Failure> {
    place(call, resource, &mut object)?;
    drop_repeated_owners(call, &mut object, "");
    if !meta::resource_version(&object).is_empty() {
        return Err(Box::new(Status::bad_request("resourceVersion should not be set on objects to be created")));
    }
    let base = meta::generate_name(&object).to_owned();
    let generated = meta::name(&object).is_empty() && !base.is_empty();
    if !generated {
        let name = meta::name(&object).to_owned();
        let taken = || Box::new(Status::already_exists(resource.group, resource.plural, &name));
        return insert_named(call, resource, object, dry_run).await?.ok_or_else(taken);
    }
    for _ in 0..NAME_ATTEMPTS {
        let mut candidate = object.clone();
        meta::set(&mut candidate, "name", &objects::generated_name(&base));
        if let Some(created) = insert_named(call, resource, candidate, dry_run).await? {
            return Ok(created);
        }
    }
    Err(Box::new(Status::generate_name_conflict(resource.group, resource.plural, &base)))
}

/// Checks and sets the namespace, by path and body.
pub(super) fn place(call: &Call, resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    let given = meta::namespace(object).to_owned();
    match call.namespace(resource) {
        Some(namespace) if given.is_empty() || given == namespace => meta::set(object, "namespace", namespace),
        Some(_) => {
            return Err(Box::new(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            )));
        }
        None => meta::set(object, "namespace", ""),
    }
    Ok(())
}

/// An object names each owner once. Who sends one twice is told so.
pub(super) fn drop_repeated_owners(call: &Call, object: &mut Value, when: &str) {
    let repeated = meta::drop_repeated_owners(object);
    if !repeated.is_empty() {
        call.notes.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        ));
    }
}

/// What `drop_repeated_owners` says of what admission made.
pub(super) const AFTER_ADMISSION: &str = " after mutating admission happens";

/// A request for a certificate names the user who made it.
fn set_requestor(call: &Call, resource: &Resource, object: &mut Value) {
    if std::ptr::eq(resource, &naru_api::registry::CERTIFICATE_SIGNING_REQUESTS) {
        let user = &call.user;
        let requestor = Requestor { name: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra };
        request::set_requestor(object, requestor);
    }
}

/// One attempt under one name; `None` when it is taken.
async fn insert_named(
    call: &Call,
    resource: &'static Resource,
    mut object: Value,
    dry_run: bool,
) -> Result<Option<Created>, Failure> {
    let state: &State = &call.state;
    let namespace = call.namespace(resource);
    let name = meta::name(&object).to_owned();
    let attributes = Attributes {
        operation: Operation::Create,
        resource,
        subresource: "",
        namespace,
        name: &name,
        user: &call.user,
        old: None,
        dry_run,
        notes: &call.notes,
    };
    let ty = super::type_of(resource.storage())?;
    objects::stamp_new(&mut object);
    codec::apply_constant_defaults(&mut object, ty);
    (resource.rules.default)(&mut object);
    if !patch::is_apply(call) {
        managed::track(call, resource, "", None, &mut object);
    }
    admission::admit(state, &attributes, &mut object).await?;
    drop_repeated_owners(call, &mut object, AFTER_ADMISSION);
    // What admission added has defaults of its own.
    codec::apply_constant_defaults(&mut object, ty);
    (resource.rules.default)(&mut object);
    if std::ptr::eq(resource, &naru_api::registry::PODS) {
        app_armor::complete(&mut object).into_iter().for_each(|warning| call.notes.warn(warning));
    }
    (resource.rules.prepare_create)(&mut object);
    set_requestor(call, resource, &mut object);
    let reservation = services::reserve(state, resource, &mut object, None, dry_run)?;
    let mut errors = FieldErrors::default();
    naru_api::meta::validate::metadata(resource, &object, &mut errors);
    (resource.rules.validate)(&object, &mut errors);
    (resource.rules.validate_create)(&object, &mut errors);
    if !errors.is_empty() {
        return Err(Box::new(Status::invalid(resource.storage().group, resource.kind, &name, errors)));
    }
    (resource.rules.canonicalize)(&mut object);
    // Before admission, which charges quotas for what it lets through.
    if state.cache.get(resource, namespace, &name).is_some() {
        return Ok(None);
    }
    admission::validate(state, &attributes, &object).await?;
    let written = write(state, resource, namespace, &name, object, reservation, dry_run).await;
    admission::settle(state, namespace, &call.notes, matches!(written, Ok(Some(_)))).await;
    written
}

/// Writes what has been admitted; `None` when the name is taken.
async fn write(
    state: &State,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: &str,
    mut object: Value,
    mut reservation: Option<Reservation<'_>>,
    dry_run: bool,
) -> Result<Option<Created>, Failure> {
    let bytes = objects::encode_within(&mut object, false);
    if dry_run {
        return Ok(Some(Created { value: object, json: bytes }));
    }
    let durability = objects::durability_of_create(resource);
    if let Some(reservation) = &mut reservation {
        reservation.write(state, &object).await?;
    }
    let put = objects::put(state, resource, namespace, name, Expect::Absent, bytes, durability).await;
    if let Some(reservation) = reservation {
        reservation.settle(state, &put).await;
    }
    match put? {
        Put::Done(stored) => Ok(Some(Created { value: object, json: stored.json })),
        Put::Conflict => Ok(None),
    }
}
