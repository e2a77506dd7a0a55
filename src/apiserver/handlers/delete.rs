//! Deletes objects: grace, finalizers, propagation, preconditions.

use super::delete_options::{Options, at_least_a_second};
use super::list_options::ListOptions;
use super::read::{cache_failure, selection};
use super::{Call, render};
use crate::admission::{self, Attributes, Operation};
use crate::cache::CachedObject;
use crate::clock;
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::{Failure, Outcome, Reply};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_api::status::Status;
use naru_store::Expect;
use serde_json::Value;

/// Grace of a pod that says nothing.
const POD_GRACE: i64 = 30;
const ATTEMPTS: usize = 10;
/// Deletes of a collection under way at once.
const DELETES_AT_ONCE: usize = 128;

/// What became of the object.
pub(super) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Bytes, Value),
    /// It is marked and stays until its grace is over or its finalizers are gone.
    Waiting(Bytes),
}

/// DELETE of an object.
pub(super) async fn delete(call: &Call, resource: &'static Resource) -> Outcome {
    let options = Options::of(call)?;
    options.warning(resource).into_iter().for_each(|warning| call.notes.warn(warning));
    let deleted = delete_one(call, resource, call.namespace(resource), &call.info.name, &options).await?;
    match deleted {
        Deleted::Waiting(json) => {
            let code = if options.cascades { 202 } else { 200 };
            render::object(call, resource, code, json)
        }
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
    options.warning(resource).into_iter().for_each(|warning| call.notes.warn(warning));
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

/// Deletes one object, or marks it.
pub(super) async fn delete_one(
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
        options.check_preconditions(resource, name, &old)?;
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
    let finalizers = options.finalizers(resource, &old);
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
