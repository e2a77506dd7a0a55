//! The objects of flow control: what must exist and what is suggested is written and kept as it should be,
//! FlowSchemas are told whether their level exists, and what the objects say is taken over.

use super::level::Spec;
use super::rules::{Rules, Schema, int, list, text};
use crate::cache::{CachedObject, Selection, WatchFrom, WatchRequest};
use crate::config::StartError;
use crate::pipeline::State;
use crate::{bootstrap, clock, objects};
use naru_api::codec;
use naru_api::facts;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_api::selector::{FieldSelector, LabelSelector};
use naru_base::Backoff;
use naru_store::{Durability, Expect, Write, WriteError};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Priority levels and flow schemas, one JSON object a line; kind, name and spec inside.
const TABLE: &str = include_str!("../bootstrap/flowcontrol.jsonl");
/// Says whether the server keeps an object's specification as it is suggested.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// The schema of whatever no other covers.
pub(super) const CATCH_ALL: &str = "catch-all";
/// Objects that nobody may change or delete for long.
const MANDATORY: [&str; 2] = ["exempt", CATCH_ALL];

fn wrong(reason: String) -> StartError {
    StartError::Config { what: "bootstrap flow control", reason }
}

/// A line of the table as an object with its defaults.
fn suggested(line: &str) -> Result<(&'static Resource, Value), StartError> {
    let mut object: Value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    let resource = registry::by_kind("flowcontrol.apiserver.k8s.io", "v1", meta::kind(&object))
        .ok_or_else(|| wrong(format!("unknown kind {:?}", meta::kind(&object))))?;
    let ty = facts::type_by_name(resource.type_name).ok_or_else(|| wrong(format!("no type {}", resource.type_name)))?;
    let name = object.as_object_mut().and_then(|fields| fields.remove("name")).unwrap_or_default();
    object["metadata"] = json!({ "name": name, "annotations": { AUTO_UPDATE: "true" } });
    codec::apply_constant_defaults(&mut object, ty);
    (resource.rules.default)(&mut object);
    Ok((resource, object))
}

fn tree(object: &CachedObject) -> Result<Value, StartError> {
    serde_json::from_slice(&object.json()).map_err(|error| StartError::Store(error.to_string()))
}

fn cached(state: &State, resource: &'static Resource) -> Vec<Value> {
    state.cache.objects(resource).iter().filter_map(|object| tree(object).ok()).collect()
}

/// What has to be written for the objects to be as they should.
pub(crate) fn writes(state: &State) -> Result<Vec<Write>, StartError> {
    let (mut writes, mut ours, mut schemas) = (Vec::new(), Vec::new(), Vec::new());
    let mut levels: Vec<String> =
        state.cache.objects(&registry::PRIORITY_LEVEL_CONFIGURATIONS).iter().map(|o| o.name().to_owned()).collect();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (resource, object) = suggested(line)?;
        let name = meta::name(&object).to_owned();
        ours.push((resource.kind, name.clone()));
        let found = state.cache.get(resource, None, &name);
        let now = match &found {
            None => Some(bootstrap::prepared(resource, object)?),
            Some(found) => corrected(tree(found)?, &object),
        };
        let is_schema = resource.kind == registry::FLOW_SCHEMAS.kind;
        match now {
            Some(now) if is_schema => {
                schemas.push((now, found.map_or(Expect::Absent, |f| Expect::Revision(f.revision()))))
            }
            Some(now) => {
                let expect = found.map_or(Expect::Absent, |found| Expect::Revision(found.revision()));
                writes.push(bootstrap::put(resource, &now, expect, objects::encode(now.clone())));
            }
            None => {}
        }
        if !is_schema {
            levels.push(name);
        }
    }
    writes.extend(retired(state, &ours));
    for (mut schema, expect) in schemas.iter().cloned() {
        tell_dangling(&mut schema, &levels);
        writes.push(bootstrap::put(&registry::FLOW_SCHEMAS, &schema, expect, objects::encode(schema.clone())));
    }
    for found in state.cache.objects(&registry::FLOW_SCHEMAS) {
        let mut schema = tree(&found)?;
        let rewritten = schemas.iter().any(|(other, _)| meta::name(other) == found.name());
        if !rewritten && tell_dangling(&mut schema, &levels) {
            let expect = Expect::Revision(found.revision());
            writes.push(bootstrap::put(&registry::FLOW_SCHEMAS, &schema, expect, objects::encode(schema.clone())));
        }
    }
    Ok(writes)
}

/// The stored object with the specification that it should have; `None` when it has it, or is its owner's.
fn corrected(mut stored: Value, wanted: &Value) -> Option<Value> {
    let name = meta::name(wanted);
    let annotation = stored["metadata"]["annotations"][AUTO_UPDATE].as_str().map(str::to_owned);
    // Without a word on it, an object that nobody has changed is the server's.
    let ours = match annotation.as_deref() {
        Some("true") => true,
        Some("false") => false,
        _ => int(&stored["metadata"]["generation"]) <= 1,
    };
    let mut spec = wanted["spec"].clone();
    if !ours && name == "exempt" && stored["spec"]["exempt"].is_object() {
        // The one part of a mandatory object that may be somebody's own.
        spec["exempt"] = stored["spec"]["exempt"].clone();
    }
    let right = stored["spec"] == spec || !(ours || MANDATORY.contains(&name));
    let word = if ours { "true" } else { "false" };
    if right && annotation.as_deref() == Some(word) {
        return None;
    }
    let generation = int(&stored["metadata"]["generation"]);
    let metadata = meta::metadata_mut(&mut stored);
    if let Some(annotations) = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut() {
        annotations.insert(AUTO_UPDATE.to_owned(), word.into());
    }
    if !right {
        metadata.insert("generation".to_owned(), (generation + 1).into());
        stored["spec"] = spec;
    }
    Some(stored)
}

/// Deletes what was kept by the server once and is suggested no more.
fn retired(state: &State, ours: &[(&'static str, String)]) -> Vec<Write> {
    let mut writes = Vec::new();
    for resource in [&registry::FLOW_SCHEMAS, &registry::PRIORITY_LEVEL_CONFIGURATIONS] {
        for object in state.cache.objects(resource) {
            let kept = ours.iter().any(|(kind, name)| *kind == resource.kind && name == object.name());
            let by_us = || tree(&object).is_ok_and(|tree| tree["metadata"]["annotations"][AUTO_UPDATE] == "true");
            if !kept && by_us() {
                let key = crate::cache::storage_key(resource, None, object.name()).into();
                let expect = Expect::Revision(object.revision());
                writes.push(Write { key, expect, value: None, durability: Durability::Sync });
            }
        }
    }
    writes
}

/// Sets the condition that says whether the schema's level exists. Returns whether it was another before.
fn tell_dangling(schema: &mut Value, levels: &[String]) -> bool {
    let level = text(&schema["spec"]["priorityLevelConfiguration"]["name"]).to_owned();
    let (status, reason, end) = match levels.contains(&level) {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    let joint = if status == "False" { "and" } else { "but" };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {joint} {end}");
    let mut conditions = list(&schema["status"]["conditions"]).to_vec();
    let at = conditions.iter().position(|condition| condition["type"] == "Dangling");
    let old = at.map(|at| conditions.remove(at)).unwrap_or_default();
    if old["status"] == status && old["reason"] == reason && old["message"] == message.as_str() {
        return false;
    }
    let since = match old["status"] == status {
        true => old["lastTransitionTime"].clone(),
        false => clock::now_rfc3339().into(),
    };
    conditions.push(json!({
        "type": "Dangling", "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    }));
    if !schema["status"].is_object() {
        schema["status"] = Value::Object(Map::new());
    }
    schema["status"]["conditions"] = conditions.into();
    true
}

/// Takes over what the objects say now.
fn configure(state: &State) {
    let levels = cached(state, &registry::PRIORITY_LEVEL_CONFIGURATIONS);
    let uid_of = |name: &str| levels.iter().find(|level| meta::name(level) == name).map(meta::uid);
    let schemas = cached(state, &registry::FLOW_SCHEMAS);
    // A schema whose level does not exist directs nothing anywhere.
    let schemas = schemas.iter().filter_map(|schema| {
        Some(Schema::of(schema, uid_of(text(&schema["spec"]["priorityLevelConfiguration"]["name"]))?))
    });
    state.flow_control.configure(Rules::new(schemas.collect()), levels.iter().map(Spec::of).collect());
}

/// Takes over the objects, and follows them until the shutdown.
pub(crate) fn follow(state: Arc<State>) {
    configure(&state);
    let shutdown = state.shutdown.clone();
    naru_base::spawn("flow-control", async move {
        shutdown.guard(run(&state)).await;
    });
}

async fn run(state: &State) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        if let Err(error) = changed(state).await {
            tracing::debug!(error, "watching the objects of flow control again");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Watches both kinds. Each change is taken over, and put right where it has to be.
async fn changed(state: &State) -> Result<(), String> {
    let everything = || WatchRequest {
        selection: Selection::new(None, LabelSelector::everything(), FieldSelector::everything()),
        from: WatchFrom::Present(0),
        bookmarks: false,
        mark_initial_end: false,
    };
    let mut schemas =
        state.cache.watch(&registry::FLOW_SCHEMAS, everything()).await.map_err(|error| error.to_string())?;
    let mut levels = state
        .cache
        .watch(&registry::PRIORITY_LEVEL_CONFIGURATIONS, everything())
        .await
        .map_err(|error| error.to_string())?;
    loop {
        while schemas.try_next().map_err(|e| e.to_string())?.is_some() {}
        while levels.try_next().map_err(|e| e.to_string())?.is_some() {}
        configure(state);
        for write in writes(state).map_err(|error| error.to_string())? {
            match state.store.write(write).await {
                // Whoever was faster causes another event.
                Ok(_) | Err(WriteError::Conflict { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        tokio::select! {
            event = schemas.next() => drop(event.map_err(|error| error.to_string())?),
            event = levels.next() => drop(event.map_err(|error| error.to_string())?),
        }
    }
}
