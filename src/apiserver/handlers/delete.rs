//! Deletes objects: grace, finalizers, propagation, preconditions.

use super::body::{self, Expected};
use super::list_options::ListOptions;
use super::read::{cache_failure, number, selection};
use super::{Call, render};
use crate::admission::{self, Attributes, Operation};
use crate::cache::CachedObject;
use crate::clock;
use crate::negotiate;
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::{Failure, Outcome, Reply};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use naru_api::facts;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_api::status::{FieldErrors, Status};
use naru_store::Expect;
use serde_json::Value;

const TYPE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// Grace of a pod that says nothing.
const POD_GRACE: i64 = 30;
const ATTEMPTS: usize = 10;
/// Deletes of a collection under way at once.
const DELETES_AT_ONCE: usize = 128;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Option<Propagation>,
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What became of the object.
enum Deleted {
    /// It is gone; this was its last state.
    Gone(Bytes, Value),
    /// It is marked and stays until its grace is over or its finalizers are gone.
    Waiting(Bytes),
}

impl Options {
    /// From the body, or from the query when there is none.
    fn of(call: &Call) -> Result<Self, Failure> {
        let body = if call.body.is_empty() {
            Value::Null
        } else {
            let ty = facts::type_by_name(TYPE).ok_or_else(|| Box::new(Status::internal("no type DeleteOptions")))?;
            decode_options(call, ty)?
        };
        let text = |field: &str| body[field].as_str().or_else(|| call.query.get(field)).filter(|s| !s.is_empty());
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(grace) => Some(grace),
            None => number(call, "gracePeriodSeconds")?,
        };
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| call.query.get("orphanDependents").map(|_| call.query.flag("orphanDependents")));
        let mut errors = FieldErrors::default();
        let propagation = match text("propagationPolicy") {
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.not_supported("propagationPolicy", other, &["Background", "Foreground", "Orphan", "nil"]);
                None
            }
        };
        if orphan.is_some() && text("propagationPolicy").is_some() {
            errors.invalid(
                "propagationPolicy",
                text("propagationPolicy").unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        if !errors.is_empty() {
            return Err(Box::new(Status::invalid("meta.k8s.io", "DeleteOptions", "", errors)));
        }
        let body_dry = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = super::dry_run(body_dry.chain(call.query.all("dryRun")))?;
        let preconditions = &body["preconditions"];
        Ok(Self {
            grace: grace.map(at_least_a_second),
            uid: preconditions["uid"].as_str().map(str::to_owned),
            resource_version: preconditions["resourceVersion"].as_str().map(str::to_owned),
            propagation,
            dry_run,
        })
    }
}

/// DeleteOptions come as `v1`, as the group's own version, or as `meta.k8s.io/v1`.
fn decode_options(call: &Call, ty: &'static facts::Type) -> Result<Value, Failure> {
    let decoded = body::decode_as(negotiate::body_format(&call.headers)?, &call.body, ty);
    let decoded = decoded.map_err(|error| {
        Box::new(Status::bad_request(error.bad_request(Some(("DeleteOptions", "v1")), "DeleteOptions", &call.body)))
    })?;
    let kind = meta::kind(&decoded.value);
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(Box::new(Status::bad_request(format!("the object is a {kind}, not DeleteOptions"))));
    }
    Ok(decoded.value)
}

/// DELETE of an object.
pub(super) async fn delete(call: &Call, resource: &'static Resource) -> Outcome {
    let options = Options::of(call)?;
    let deleted = delete_one(call, resource, call.namespace(resource), &call.info.name, &options).await?;
    match deleted {
        Deleted::Waiting(json) => render::object(call, resource, 200, json),
        Deleted::Gone(json, _) if resource.returns_deleted() => render::object(call, resource, 200, json),
        Deleted::Gone(_, value) => {
            let name = call.info.name.as_str();
            render::status(&Status::success(resource.group, resource.plural, name, meta::uid(&value)))
        }
    }
}

/// DELETE of a collection.
pub(super) async fn delete_collection(call: &Call, resource: &'static Resource) -> Outcome {
    let options = Options::of(call)?;
    let selection = selection(call, resource)?;
    let list = ListOptions::of(call)?;
    let listing = call
        .state
        .cache
        .list(resource, &selection, list.limit(), list.list_at()?)
        .await
        .map_err(|error| cache_failure(&error))?;
    // Each waits for its own commit, and commits are grouped.
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    let mut rest = listing.objects.iter();
    loop {
        while running.len() < DELETES_AT_ONCE
            && let Some(object) = rest.next()
        {
            running.push(Box::pin(delete_one(call, resource, object.namespace(), object.name(), &options)));
        }
        match running.next().await {
            None => break,
            // Somebody else may have deleted it.
            Some(Err(status)) if status.code != 404 => drop(failure.get_or_insert(status)),
            Some(_) => {}
        }
    }
    match failure {
        Some(status) => Err(status),
        None => Ok(Reply::json(200, render::encode(resource, &listing)?)),
    }
}

/// POST of `/eviction`: a delete with the eviction's options. Budgets come with their kind.
pub(super) async fn evict(call: &Call) -> Outcome {
    let ty = facts::type_by_name("io.k8s.api.policy.v1.Eviction")
        .ok_or_else(|| Box::new(Status::internal("no type Eviction")))?;
    let expected = Expected { group: "policy", version: "v1", kind: "Eviction", ty };
    let eviction = body::decode(call, expected)?.value;
    let wanted = &eviction["deleteOptions"];
    let options = Options {
        grace: wanted["gracePeriodSeconds"].as_i64(),
        uid: wanted["preconditions"]["uid"].as_str().map(str::to_owned),
        resource_version: wanted["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
        propagation: None,
        dry_run: call.dry_run()?,
    };
    let resource = &registry::PODS;
    delete_one(call, resource, call.namespace(resource), &call.info.name, &options).await?;
    Ok(Reply::json(201, r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#))
}

async fn delete_one(
    call: &Call,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: &str,
    options: &Options,
) -> Result<Deleted, Failure> {
    let state: &State = &call.state;
    for _ in 0..ATTEMPTS {
        let current = state
            .cache
            .get(resource, namespace, name)
            .ok_or_else(|| objects::absent(state, resource, namespace, name))?;
        let old = objects::tree(&current)?;
        check_preconditions(resource, name, &old, options)?;
        let attributes = Attributes {
            operation: Operation::Delete,
            resource,
            subresource: &call.info.subresource,
            namespace,
            name,
            user: &call.user,
            old: Some(&old),
            dry_run: options.dry_run,
            notes: &call.notes,
        };
        admission::admit(state, &attributes, &mut Value::Null).await?;
        admission::validate(state, &attributes, &Value::Null).await?;
        if let Some(deleted) = attempt(state, resource, namespace, &current, old, options).await? {
            return Ok(deleted);
        }
    }
    Err(Box::new(Status::modified(resource.group, resource.plural, name)))
}

fn check_preconditions(resource: &Resource, name: &str, old: &Value, options: &Options) -> Result<(), Failure> {
    let conflict = |why: String| Err(Box::new(Status::conflict(resource.group, resource.plural, name, &why)));
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta::uid(old)) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(old)
        ));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != meta::resource_version(old))
    {
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
            meta::resource_version(old)
        ));
    }
    Ok(())
}

/// One try; `None` when somebody else wrote first.
async fn attempt(
    state: &State,
    resource: &'static Resource,
    namespace: Option<&str>,
    current: &CachedObject,
    old: Value,
    options: &Options,
) -> Result<Option<Deleted>, Failure> {
    let name = current.name();
    let mut new = old.clone();
    let grace = grace(resource, &old, options);
    let finalizers = finalizers(&old, options.propagation);
    meta::set_finalizers(&mut new, &finalizers);
    let waits = grace > 0
        || !finalizers.is_empty()
        || (resource.plural == "namespaces" && old["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
    if !waits {
        if options.dry_run {
            return Ok(Some(Deleted::Gone(current.json(), old)));
        }
        return match objects::remove(state, resource, namespace, name, current.revision()).await? {
            Put::Done(_) => {
                if std::ptr::eq(resource, &registry::SERVICES) {
                    crate::services::release(state, &old, None).await;
                }
                Ok(Some(Deleted::Gone(current.json(), old)))
            }
            Put::Conflict => Ok(None),
        };
    }
    mark(resource, &mut new, &old, grace);
    let bytes = objects::encode(new.clone());
    let unchanged = objects::with_revision(&bytes, current.revision()) == current.json();
    if options.dry_run || unchanged {
        return Ok(Some(Deleted::Waiting(objects::with_revision(&bytes, current.revision()))));
    }
    let durability = objects::durability_of_create(resource);
    let expect = Expect::Revision(current.revision());
    match objects::put(state, resource, namespace, name, expect, bytes, durability).await? {
        Put::Done(stored) => Ok(Some(Deleted::Waiting(stored.json))),
        Put::Conflict => Ok(None),
    }
}

/// A negative grace is one of a second.
fn at_least_a_second(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

/// How long the object may still live. Only pods get time: a node has to stop them.
fn grace(resource: &Resource, old: &Value, options: &Options) -> i64 {
    if !std::ptr::eq(resource, &registry::PODS) {
        return 0;
    }
    let phase = old["status"]["phase"].as_str().unwrap_or_default();
    let unscheduled = old["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    // Nothing runs that would need the time.
    if unscheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let wanted = options
        .grace
        .or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64().map(at_least_a_second))
        .unwrap_or(POD_GRACE);
    // A second delete can shorten the grace, never lengthen it.
    match meta::deletion_grace_period_seconds(old) {
        Some(running) if meta::deletion_timestamp(old).is_some() && options.grace.is_none() => running,
        Some(running) if meta::deletion_timestamp(old).is_some() => wanted.min(running),
        _ => wanted,
    }
}

/// The finalizers after the propagation policy has had its say.
fn finalizers(old: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let present: Vec<&str> = meta::finalizers(old).collect();
    let wanted = match propagation {
        None => return present.into_iter().map(str::to_owned).collect(),
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
    };
    let mut kept: Vec<String> =
        present.into_iter().filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND)).map(str::to_owned).collect();
    kept.extend(wanted.map(str::to_owned));
    kept
}

/// Sets the deletion's time and grace.
fn mark(resource: &Resource, new: &mut Value, old: &Value, grace: i64) {
    let now = clock::now_seconds();
    let previous_grace = meta::deletion_grace_period_seconds(old).unwrap_or(0);
    let timestamp = match meta::deletion_timestamp(old).and_then(clock::parse_rfc3339) {
        // The end moves with the grace.
        Some(end) if grace == previous_grace => end,
        Some(end) => end - previous_grace + grace,
        None => now + grace,
    };
    meta::set(new, "deletionTimestamp", &clock::rfc3339(timestamp));
    let generation = meta::generation(old);
    let metadata = meta::metadata_mut(new);
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if generation > 0 && meta::deletion_timestamp(old).is_none() {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if resource.plural == "namespaces" {
        metadata.remove("deletionGracePeriodSeconds");
        new["status"]["phase"] = "Terminating".into();
    }
}
