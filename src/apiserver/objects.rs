//! What the server itself does to an object's metadata around a write, and the writes.

use crate::cache::{self, CachedObject};
use crate::clock;
use crate::pipeline::State;
use crate::response::Failure;
use bytes::Bytes;
use naru_api::meta;
use naru_api::registry::{Churn, Resource};
use naru_api::status::Status;
use naru_store::{Durability, Expect, Write, WriteError};
use rand::RngCore;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Metadata fields that only the server writes.
const SERVER_FIELDS: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// A random (version 4) uuid.
pub(crate) fn new_uid() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.extend([digit(byte >> 4), digit(byte & 0x0f)]);
    }
    text
}

/// A name for an object that has only a `generateName`.
pub(crate) fn generated_name(base: &str) -> String {
    let mut random = [0_u8; meta::NAME_SUFFIX_LENGTH];
    rand::rng().fill_bytes(&mut random);
    meta::generated_name(base, random)
}

/// Metadata of a new object: what the client may not set goes, what the server sets comes.
pub(crate) fn stamp_new(object: &mut Value) {
    let metadata = meta::metadata_mut(object);
    for field in SERVER_FIELDS {
        metadata.remove(field);
    }
    metadata.remove("generation");
    metadata.insert("uid".to_owned(), new_uid().into());
    metadata.insert("creationTimestamp".to_owned(), clock::now_rfc3339().into());
}

/// Metadata of an update: what only the server writes is taken from the old object. A uid that is
/// given and differs is left for the precondition to find.
pub(crate) fn carry_over(object: &mut Value, old: &Value) {
    let old_metadata = meta::metadata(old).cloned().unwrap_or_default();
    let metadata = meta::metadata_mut(object);
    metadata.remove("selfLink");
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match old_metadata.get(field) {
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    if !metadata.contains_key("generateName")
        && let Some(value) = old_metadata.get("generateName")
    {
        metadata.insert("generateName".to_owned(), value.clone());
    }
}

/// An object as it came back from a write or from the cache.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// JSON with its resourceVersion; empty for a deletion.
    pub(crate) json: Bytes,
}

/// The tree of a cached object, with its resourceVersion.
pub(crate) fn tree(object: &CachedObject) -> Result<Value, Failure> {
    parsed(object, &object.json())
}

/// The same from the object's JSON, where that is at hand.
pub(crate) fn parsed(object: &CachedObject, json: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Box::new(Status::internal(format!("stored object {}: {error}", object.name()))))
}

/// The answer when an object is not in the cache: it is not there at all (404), or cannot be read (500).
pub(crate) fn absent(state: &State, resource: &Resource, namespace: Option<&str>, name: &str) -> Failure {
    Box::new(match state.cache.unreadable(resource, namespace, name) {
        Some(why) => Status::internal(why),
        None => Status::not_found(resource.group, resource.plural, name),
    })
}

/// What happened to a write.
#[derive(Debug)]
pub(crate) enum Put {
    /// Written.
    Done(Stored),
    /// Somebody else was faster; the cache has their state by now.
    Conflict,
}

/// The canonical bytes that are stored: without resourceVersion, which is the revision itself.
pub(crate) fn encode(object: Value) -> Bytes {
    cache::stored(object)
}

/// The same for an object that is still needed: it loses its resourceVersion, and no copy of it is made.
pub(crate) fn encoded(object: &mut Value) -> Bytes {
    cache::stored_of(object)
}

/// The largest object that is written: patches must not make one grow without end.
const MAX_OBJECT: usize = crate::server::MAX_BODY;

/// The bytes to be stored of an object. One that would be too large goes without its managed fields, unless it is
/// they that the write is about: who owns what is worth less than the write.
pub(crate) fn encode_within(object: &mut Value, about_owners: bool) -> Bytes {
    let bytes = encoded(object);
    if bytes.len() <= MAX_OBJECT || about_owners {
        return bytes;
    }
    meta::metadata_mut(object).remove("managedFields");
    encoded(object)
}

/// Writes an object's bytes and waits until the cache shows it.
pub(crate) async fn put(
    state: &State,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: &str,
    expect: Expect,
    value: Bytes,
    durability: Durability,
) -> Result<Put, Failure> {
    if value.len() > MAX_OBJECT {
        return Err(Box::new(Status::failure(500, "", "etcdserver: request is too large")));
    }
    let key: Arc<str> = cache::storage_key(resource, namespace, name).into();
    let operation = if expect == Expect::Absent { "create" } else { "update" };
    let write = Write { key, expect, value: Some(value.clone()), durability };
    match stored(state, resource, operation, write).await {
        Ok(revision) => {
            shown(state, revision).await?;
            // The cache's own bytes, unless somebody has written again meanwhile.
            let json = match state.cache.get(resource, namespace, name) {
                Some(object) if object.revision() == revision => object.json(),
                _ => with_revision(&value, revision),
            };
            Ok(Put::Done(Stored { json }))
        }
        Err(error) => conflict(state, error).await,
    }
}

/// Deletes an object's record; the answer carries the object as it was.
pub(crate) async fn remove(
    state: &State,
    resource: &'static Resource,
    namespace: Option<&str>,
    name: &str,
    revision: i64,
) -> Result<Put, Failure> {
    let key: Arc<str> = cache::storage_key(resource, namespace, name).into();
    let durability = if resource.churn == Churn::Lazy { Durability::Lazy } else { Durability::Sync };
    let write = Write { key, expect: Expect::Revision(revision), value: None, durability };
    match stored(state, resource, "delete", write).await {
        Ok(revision) => {
            shown(state, revision).await?;
            Ok(Put::Done(Stored { json: Bytes::new() }))
        }
        Err(error) => conflict(state, error).await,
    }
}

/// Writes, and counts how long it took.
async fn stored(
    state: &State,
    resource: &'static Resource,
    operation: &'static str,
    write: Write,
) -> Result<i64, WriteError> {
    let started = Instant::now();
    let result = state.store.write(write).await;
    state.metrics.stored(operation, resource.group, resource.plural, started.elapsed());
    result
}

/// Waits until the cache shows a revision.
async fn shown(state: &State, revision: i64) -> Result<(), Failure> {
    state.cache.wait_for(revision).await.map_err(|error| Box::new(Status::service_unavailable(error.to_string())))
}

async fn conflict(state: &State, error: WriteError) -> Result<Put, Failure> {
    match error {
        WriteError::Conflict { current } => {
            // The next attempt must see what was in the way.
            match current {
                Some(record) => shown(state, record.mod_revision).await?,
                None => shown(state, state.store.revision()).await?,
            }
            Ok(Put::Conflict)
        }
        WriteError::Closed => Err(Box::new(Status::service_unavailable("the server is shutting down"))),
        // As upstream answers when its store has no space: 500 without a reason of its own.
        WriteError::Full => Err(Box::new(Status::failure(
            500,
            "",
            format!("{error}: delete what is not needed, or give the server's data directory more room"),
        ))),
        WriteError::TooLarge { .. } => Err(Box::new(Status::failure(
            500,
            "",
            format!("{error}: delete what is not needed, or start the server with a larger --quota-backend-bytes"),
        ))),
        WriteError::ReadOnly => Err(Box::new(Status::failure(
            500,
            "",
            format!("{error}: make the file system of the server's data directory writable again"),
        ))),
        WriteError::Io(_) => Err(Box::new(Status::internal(error))),
    }
}

/// Stored bytes as they are answered.
pub(crate) fn with_revision(stored: &[u8], revision: i64) -> Bytes {
    cache::splice(stored, revision)
}

/// How soon a create must be on disk.
pub(crate) fn durability_of_create(resource: &Resource) -> Durability {
    if resource.churn == Churn::Lazy { Durability::Lazy } else { Durability::Sync }
}

/// How soon an update must be on disk: renewals of a lease by its holder may come late.
pub(crate) fn durability_of_update(resource: &Resource, new: &Value, old: &Value) -> Durability {
    match resource.churn {
        Churn::Durable => Durability::Sync,
        Churn::Lazy => Durability::Lazy,
        Churn::LazyRenewals => {
            let same_holder = new["spec"]["holderIdentity"] == old["spec"]["holderIdentity"]
                && new["spec"]["leaseTransitions"] == old["spec"]["leaseTransitions"]
                && new["spec"]["acquireTime"] == old["spec"]["acquireTime"];
            if same_holder { Durability::Lazy } else { Durability::Sync }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert_ne!(uid, new_uid());
    }
}
