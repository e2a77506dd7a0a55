//! Changes objects: the read-change-write loop that updates, patches and subresources share.

use super::body;
use super::{Call, create, managed, patch, render, type_of};
use crate::admission::{self, Attributes, Operation};
use crate::cache::CachedObject;
use crate::clock;
use crate::objects::{self, Put, Stored};
use crate::pipeline::State;
use crate::response::{Failure, Outcome};
use crate::services::{self, Reservation};
use bytes::Bytes;
use naru_api::apply::Ignored;
use naru_api::certificates::request;
use naru_api::codec;
use naru_api::core::persistent_volume;
use naru_api::core::service_account::MOUNTABLE_SECRETS;
use naru_api::meta;
use naru_api::registry::{self, Piece, Resource};
use naru_api::status::{FieldErrors, Status};
use naru_store::Expect;
use serde_json::Value;

/// How often a change without a precondition of its own is tried against a moving object.
const ATTEMPTS: usize = 10;

/// Which part of the object a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// The conditions of a request for a certificate.
    Approval,
    /// A namespace's `spec.finalizers`.
    Finalizers,
    /// A part with rules of its own.
    Piece(&'static Piece),
    /// Whatever the change makes of it: the server's own changes, such as a binding.
    Whole,
}

/// Makes the new object from the present one.
pub(crate) type Make<'a> = dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync + 'a;

/// A change to an object.
pub(crate) struct Change<'a> {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) part: Part,
    pub(crate) subresource: &'a str,
    pub(crate) dry_run: bool,
    /// Makes the new object from the present one (which has its resourceVersion). Called again when
    /// somebody else wrote in between.
    pub(crate) make: &'a Make<'a>,
}

/// What came out of a change.
pub(crate) struct Changed {
    /// The object as it is now.
    pub(crate) json: Bytes,
    /// The same as a tree.
    pub(crate) value: Value,
    /// Whether the kind's warnings are worth telling.
    pub(crate) advise: bool,
}

/// Whether an update is warned about: not of pods, which programs change all day, nor of what upstream says once,
/// and of workloads only where their spec has changed.
fn advises(resource: &Resource, new: &Value, old: &Value) -> bool {
    match (resource.storage().group, resource.plural) {
        ("", "pods") | ("networking.k8s.io", "ingresses") => false,
        ("", "serviceaccounts") => old["metadata"]["annotations"][MOUNTABLE_SECRETS].is_null(),
        ("apps" | "batch", _) | ("", "replicationcontrollers") => meta::generation(new) != meta::generation(old),
        _ => true,
    }
}

/// PUT of an object.
pub(super) async fn update(call: &Call, resource: &'static Resource) -> Outcome {
    put_part(call, resource, Part::Main).await
}

/// PUT of `/status`.
pub(super) async fn update_status(call: &Call, resource: &'static Resource) -> Outcome {
    put_part(call, resource, Part::Status).await
}

/// PUT of `/approval`.
pub(super) async fn update_approval(call: &Call, resource: &'static Resource) -> Outcome {
    put_part(call, resource, Part::Approval).await
}

/// PUT of a namespace's `/finalize`.
pub(super) async fn finalize(call: &Call, resource: &'static Resource) -> Outcome {
    put_part(call, resource, Part::Finalizers).await
}

/// PUT of a part with rules of its own.
pub(super) async fn update_piece(call: &Call, resource: &'static Resource, piece: &'static Piece) -> Outcome {
    put_part(call, resource, Part::Piece(piece)).await
}

async fn put_part(call: &Call, resource: &'static Resource, part: Part) -> Outcome {
    managed::check_options(call, "UpdateOptions")?;
    let body::Object { mut value, warnings } = body::decode_stored(call, resource)?;
    let name = call.info.name.as_str();
    let given = meta::name(&value);
    if given.is_empty() {
        return Err(Box::new(Status::bad_request("name must be provided")));
    }
    if given != name {
        return Err(Box::new(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))));
    }
    create::place(call, resource, &mut value)?;
    create::drop_repeated_owners(call, &mut value, "");
    let namespace = call.namespace(resource);
    let dry_run = call.dry_run()?;
    if part == Part::Main && may_create(resource) && call.state.cache.get(resource, namespace, name).is_none() {
        let uid = meta::uid(&value);
        if !uid.is_empty() || !meta::resource_version(&value).is_empty() {
            return Err(Box::new(Status::conflict(
                resource.group,
                resource.plural,
                name,
                &format!(
                    "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: ",
                    crate::cache::storage_key(resource, namespace, name)
                ),
            )));
        }
        let created = create::insert(call, resource, value, dry_run).await?;
        let warnings = create::answer_warnings(call, resource, Some(&created.value), warnings)?;
        return Ok(render::object(call, resource, 201, created.json)?.with_warnings(warnings));
    }
    let make = |_: &Value| Ok(value.clone());
    let change = Change { resource, namespace, name, part, subresource: &call.info.subresource, dry_run, make: &make };
    let changed = modify(call, change).await?;
    let warnings = create::answer_warnings(call, resource, changed.advise.then_some(&changed.value), warnings)?;
    Ok(render::object(call, resource, 200, changed.json)?.with_warnings(warnings))
}

/// Kinds that a PUT creates when they are missing.
fn may_create(resource: &Resource) -> bool {
    matches!(
        (resource.storage().group, resource.plural),
        ("", "endpoints" | "events" | "services")
            | ("coordination.k8s.io", "leases")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Runs a change until it is written, found to change nothing, or refused.
pub(crate) async fn modify(call: &Call, change: Change<'_>) -> Result<Changed, Failure> {
    let state: &State = &call.state;
    let Change { resource, namespace, name, .. } = change;
    for _ in 0..ATTEMPTS {
        let current = state
            .cache
            .get(resource, namespace, name)
            .ok_or_else(|| objects::absent(state, resource, namespace, name))?;
        let changed = attempt(call, &change, &current).await;
        admission::settle(state, namespace, &call.notes, matches!(changed, Ok(Some(_)))).await;
        match changed? {
            Some(changed) => return Ok(changed),
            None => tracing::debug!(resource = resource.plural, name, "somebody else wrote first, trying again"),
        }
    }
    Err(Box::new(Status::modified(resource.group, resource.plural, name)))
}

async fn attempt(call: &Call, change: &Change<'_>, current: &CachedObject) -> Result<Option<Changed>, Failure> {
    let state: &State = &call.state;
    let Change { resource, namespace, name, .. } = *change;
    let present = current.json();
    let old = objects::parsed(current, &present)?;
    let mut new = (change.make)(&old)?;
    check_preconditions(resource, name, &new, &old, call.info.verb == "update")?;
    let pinned = !meta::resource_version(&new).is_empty();
    let mut reservation = prepare(call, change, &mut new, &old).await?;
    if managed::only_times_differ(&new, &old) && is_same_but_owners(&new, &old) {
        return Ok(Some(Changed { json: present, advise: advises(resource, &old, &old), value: old }));
    }
    let bytes = objects::encode_within(&mut new, patch::is_apply(call));
    if objects::with_revision(&bytes, current.revision()) == present {
        return Ok(Some(Changed { json: present, advise: advises(resource, &old, &old), value: old }));
    }
    if change.dry_run {
        return Ok(Some(Changed {
            json: objects::with_revision(&bytes, current.revision()),
            advise: advises(resource, &new, &old),
            value: new,
        }));
    }
    if is_finished(resource, &new) {
        return finish_deletion(state, change, current, &old, new, bytes).await;
    }
    let durability = objects::durability_of_update(resource, &new, &old);
    let expect = Expect::Revision(current.revision());
    if let Some(reservation) = &mut reservation {
        reservation.write(state, &new).await?;
    }
    let put = objects::put(state, resource, namespace, name, expect, bytes, durability).await;
    if let Some(reservation) = reservation {
        let written = reservation.settle(state, &put).await;
        if written {
            services::release(state, &old, Some(&new)).await;
        }
    }
    match put? {
        Put::Done(Stored { json }) => Ok(Some(Changed { json, advise: advises(resource, &new, &old), value: new })),
        Put::Conflict if pinned => Err(Box::new(Status::modified(resource.group, resource.plural, name))),
        Put::Conflict => Ok(None),
    }
}

/// Whether the objects differ in nothing but versions and managed fields.
fn is_same_but_owners(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let same = |name: &str, a: &Value, b: Option<&Value>| match (name, a, b) {
        ("metadata", Value::Object(a), Some(Value::Object(b))) => {
            let counts = |(name, _): &(&String, &Value)| *name != "managedFields" && *name != "resourceVersion";
            a.iter().filter(counts).eq(b.iter().filter(counts))
        }
        (_, a, b) => Some(a) == b,
    };
    new.len() == old.len() && new.iter().all(|(name, value)| same(name, value, old.get(name)))
}

/// The resourceVersion and uid that the client gave must be the object's. Some kinds want one in every replacement.
fn check_preconditions(
    resource: &Resource,
    name: &str,
    new: &Value,
    old: &Value,
    replaces: bool,
) -> Result<(), Failure> {
    let (given, present) = (meta::uid(new), meta::uid(old));
    if !given.is_empty() && given != present {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {present}");
        return Err(Box::new(Status::conflict(resource.group, resource.plural, name, &why)));
    }
    let given = meta::resource_version(new);
    if given.is_empty() || given == "0" {
        if resource.plural == "leases" && replaces {
            let mut errors = FieldErrors::default();
            errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(Box::new(Status::invalid(resource.storage().group, resource.kind, name, errors)));
        }
        return Ok(());
    }
    if given == meta::resource_version(old) {
        return Ok(());
    }
    if given.parse::<u64>().is_err() {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", given, "must be an unsigned integer");
        return Err(Box::new(Status::invalid(resource.storage().group, resource.kind, name, errors)));
    }
    Err(Box::new(Status::modified(resource.group, resource.plural, name)))
}

/// Everything between the client's object and the bytes: what belongs to other parts is taken from
/// the old object, then defaults, admission, the kind's rules.
///
/// Answers with what a Service had to be given.
async fn prepare<'a>(
    call: &'a Call,
    change: &Change<'_>,
    new: &mut Value,
    old: &Value,
) -> Result<Option<Reservation<'a>>, Failure> {
    let Change { resource, namespace, name, .. } = *change;
    let rules = &resource.rules;
    let ty = type_of(resource.storage())?;
    // Who owns what after an apply is known already.
    let owners = patch::is_apply(call).then(|| managed::take(new));
    match change.part {
        Part::Main | Part::Whole => objects::carry_over(new, old),
        Part::Approval => *new = request::approved(old, &with_status_of(resource, old, new)),
        Part::Status => {
            *new = with_status_of(resource, old, new);
            (rules.prepare_status)(new, old);
        }
        Part::Piece(piece) => (piece.prepare)(new, old),
        Part::Finalizers => {
            let mut merged = old.clone();
            merged["spec"]["finalizers"] = new["spec"]["finalizers"].clone();
            if !merged["spec"]["finalizers"].is_array() {
                merged["spec"]["finalizers"] = Value::Array(Vec::new());
            }
            *new = merged;
        }
    }
    if change.part == Part::Main {
        (rules.prepare_update)(new, old);
    }
    if std::ptr::eq(resource, &registry::CERTIFICATE_SIGNING_REQUESTS) && change.part != Part::Main {
        request::stamp_conditions(new, old, &clock::now_rfc3339());
    }
    if std::ptr::eq(resource, &registry::PERSISTENT_VOLUMES) && change.part == Part::Status {
        persistent_volume::stamp_phase(new, old, &clock::now_rfc3339());
    }
    codec::apply_constant_defaults(new, ty);
    (rules.default)(new);
    match owners {
        Some(owners) => managed::put(new, owners),
        // Upstream records neither a binding nor what else the server itself decides.
        None if change.part == Part::Whole => {}
        None => managed::track(call, resource, change.subresource, Some(old), new),
    }
    let attributes = Attributes {
        operation: Operation::Update,
        resource,
        subresource: change.subresource,
        namespace,
        name,
        user: &call.user,
        old: Some(old),
        dry_run: change.dry_run,
        notes: &call.notes,
    };
    admission::admit(&call.state, &attributes, new).await?;
    create::drop_repeated_owners(call, new, create::AFTER_ADMISSION);
    if let Part::Piece(piece) = change.part {
        // What the piece keeps of the old object, its owners are not among.
        let owners = managed::take(new);
        (piece.prepare)(new, old);
        managed::put(new, owners);
        (rules.prepare_update)(new, old);
    }
    if change.part == Part::Main {
        // Defaults may have completed what the generation is told by.
        (rules.prepare_update)(new, old);
    }
    let reservation = match change.part {
        Part::Main => services::reserve(&call.state, resource, new, Some(old), change.dry_run)?,
        _ => None,
    };
    let mut errors = FieldErrors::default();
    naru_api::meta::validate::metadata_update(new, old, &mut errors);
    // Labels and the like can be changed through every part.
    naru_api::meta::validate::metadata(resource, new, &mut errors);
    match change.part {
        Part::Main | Part::Whole => {
            (rules.validate)(new, &mut errors);
            if change.part == Part::Main {
                (rules.validate_update)(new, old, &mut errors);
            }
        }
        Part::Status => (rules.validate_status)(new, old, &mut errors),
        Part::Approval => request::validate_approval(new, old, &mut errors),
        Part::Piece(piece) => {
            (rules.validate)(new, &mut errors);
            (piece.validate)(new, old, &mut errors);
        }
        Part::Finalizers => {}
    }
    if !errors.is_empty() {
        return Err(Box::new(Status::invalid(resource.storage().group, resource.kind, name, errors)));
    }
    if matches!(change.part, Part::Main | Part::Whole) {
        (rules.canonicalize)(new);
    }
    admission::validate(&call.state, &attributes, new).await?;
    Ok(reservation)
}

/// The old object with the new status. The metadata that clients may write goes along, as far as the kind lets it.
fn with_status_of(resource: &Resource, old: &Value, new: &Value) -> Value {
    let ignored = Ignored::of(resource, "status");
    let mut merged = old.clone();
    match new.get("status") {
        Some(status) => merged["status"] = status.clone(),
        None => {
            if let Some(object) = merged.as_object_mut() {
                object.remove("status");
            }
        }
    }
    let given = meta::metadata(new).cloned().unwrap_or_default();
    let metadata = meta::metadata_mut(&mut merged);
    for field in ["annotations", "labels", "finalizers", "ownerReferences"] {
        if ignored.covers(&["metadata", field]) {
            continue;
        }
        match given.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    merged
}

/// Whether the object was only waiting for this change to go away.
fn is_finished(resource: &Resource, new: &Value) -> bool {
    meta::deletion_timestamp(new).is_some()
        && meta::deletion_grace_period_seconds(new).unwrap_or(0) == 0
        && meta::finalizers(new).next().is_none()
        && (resource.plural != "namespaces" || new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty))
}

/// The last finalizer went: the object goes too.
async fn finish_deletion(
    state: &State,
    change: &Change<'_>,
    current: &CachedObject,
    old: &Value,
    new: Value,
    bytes: Bytes,
) -> Result<Option<Changed>, Failure> {
    let Change { resource, namespace, name, .. } = *change;
    match objects::remove(state, resource, namespace, name, current.revision()).await? {
        Put::Done(_) => {
            if std::ptr::eq(resource, &registry::SERVICES) {
                services::release(state, old, None).await;
            }
            Ok(Some(Changed {
                json: objects::with_revision(&bytes, current.revision()),
                advise: advises(resource, &new, old),
                value: new,
            }))
        }
        Put::Conflict => Ok(None),
    }
}
