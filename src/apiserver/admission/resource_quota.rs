//! ResourceQuota: what a request costs is charged to the quotas of its namespace before it is written.

use super::{Attributes, Operation, Pending, Plugin};
use crate::cache::CachedObject;
use crate::clock;
use crate::objects::{self, Put};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::quota::{self, Amounts, Request};
use naru_api::registry::RESOURCE_QUOTAS;
use naru_api::status::Status;
use naru_store::{Durability, Expect};
use serde_json::Value;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::Mutex;

pub(super) static PLUGIN: Plugin = Plugin::new("ResourceQuota").validate_async(validate);

/// How often a charge is tried against quotas that others (the controller, another server) write too.
const ATTEMPTS: usize = 20;
/// Namespaces that share a lock wait for each other; no more.
const LOCKS: usize = 64;

/// Requests of one namespace are charged one after the other: they would only be in each other's way.
#[derive(Debug)]
pub(crate) struct QuotaLocks(Vec<Mutex<()>>);

impl Default for QuotaLocks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

impl QuotaLocks {
    /// What a charge in the namespace holds.
    pub(crate) fn of(&self, namespace: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        &self.0[(hasher.finish() % LOCKS as u64) as usize]
    }
}

fn validate<'a>(state: &'a State, attributes: &'a Attributes<'a>, object: &'a Value) -> Pending<'a> {
    Box::pin(async move {
        let operation = match attributes.operation {
            Operation::Create => quota::Operation::Create,
            Operation::Update => quota::Operation::Update,
            Operation::Delete | Operation::Connect => return Ok(()),
        };
        let Some(namespace) = attributes.namespace else { return Ok(()) };
        let request = Request {
            operation,
            resource: attributes.resource,
            subresource: attributes.subresource,
            object,
            old: attributes.old,
            now: clock::now_seconds(),
        };
        if !request.is_counted() || quotas(state, namespace).is_empty() {
            return Ok(());
        }
        let _turn = state.quota_locks.of(namespace).lock().await;
        charge(state, attributes, namespace, &request).await
    })
}

fn quotas(state: &State, namespace: &str) -> Vec<Arc<CachedObject>> {
    let mut quotas = state.cache.objects(&RESOURCE_QUOTAS);
    quotas.retain(|quota| quota.namespace() == Some(namespace));
    quotas
}

/// Charges every quota once. When one refuses, those that have been charged get it back.
async fn charge(
    state: &State,
    attributes: &Attributes<'_>,
    namespace: &str,
    request: &Request<'_>,
) -> Result<(), Failure> {
    let mut charged: Vec<(String, Amounts)> = Vec::new();
    for _ in 0..ATTEMPTS {
        let done: BTreeSet<&str> = charged.iter().map(|(name, _)| name.as_str()).collect();
        let mut found = quotas(state, namespace);
        found.retain(|quota| !done.contains(quota.name()));
        let trees: Vec<Value> = found.iter().map(|quota| objects::tree(quota)).collect::<Result<_, _>>()?;
        let charges = match quota::charge(request, &trees) {
            Ok(charges) => charges,
            Err(refusal) => {
                give_back(state, namespace, charged).await;
                return Err(attributes.forbidden(&refusal.to_string()));
            }
        };
        if attributes.dry_run || charges.is_empty() {
            attributes.notes.charged(charged);
            return Ok(());
        }
        let mut moved = false;
        for one in &charges {
            let (current, tree) = (&found[one.quota], &trees[one.quota]);
            match put(state, namespace, current, one.apply(tree)).await? {
                true => charged.push((current.name().to_owned(), one.amounts.clone())),
                false => moved = true,
            }
        }
        if !moved {
            attributes.notes.charged(charged);
            return Ok(());
        }
    }
    give_back(state, namespace, charged).await;
    let (group, plural) = (attributes.resource.group, attributes.resource.plural);
    Err(Box::new(Status::server_timeout(group, plural, "create", 1)))
}

/// Writes a quota, if it is still as it was read.
async fn put(state: &State, namespace: &str, current: &CachedObject, quota: Value) -> Result<bool, Failure> {
    let expect = Expect::Revision(current.revision());
    let bytes = objects::encode(quota);
    let name = current.name();
    let put = objects::put(state, &RESOURCE_QUOTAS, Some(namespace), name, expect, bytes, Durability::Sync).await?;
    Ok(matches!(put, Put::Done(_)))
}

/// What cannot be given back is counted again by the quota controller.
pub(super) async fn give_back(state: &State, namespace: &str, charged: Vec<(String, Amounts)>) {
    for (name, amounts) in charged {
        for _ in 0..ATTEMPTS {
            let Some(current) = state.cache.get(&RESOURCE_QUOTAS, Some(namespace), &name) else { break };
            let Ok(tree) = objects::tree(&current) else { break };
            match put(state, namespace, &current, quota::refund(&tree, &amounts)).await {
                Ok(false) => {}
                Ok(true) | Err(_) => break,
            }
        }
    }
}
