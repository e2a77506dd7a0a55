//! Publishes pod statuses: newest wins, one request for each pod at a time, tried again until it is through.

use k8s_openapi::api::core::v1::PodStatus;
use naru_api::registry::PODS;
use naru_base::Shutdown;
use naru_client::{Client, Error, Next, PatchKind, WorkQueue, is_conflict, is_invalid, is_not_found, run_workers};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Requests at once.
const WORKERS: usize = 4;
/// How long cleaning up waits for the last status.
const BRIEFLY: std::time::Duration = std::time::Duration::from_secs(3);

#[derive(Debug)]
struct Entry {
    namespace: String,
    name: String,
    desired: Arc<Value>,
    version: u64,
    /// The version that the API server has.
    synced: watch::Sender<u64>,
    /// What was sent last, to leave out what has not changed and to remove what went away.
    sent: Arc<Value>,
}

/// The statuses of this node's pods, by uid.
#[derive(Debug, Clone)]
pub(crate) struct StatusSync {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    queue: WorkQueue<String>,
}

impl StatusSync {
    /// Starts the requests.
    pub(crate) fn start(client: &Client, shutdown: &Shutdown) -> Self {
        let sync = Self { entries: Arc::default(), queue: WorkQueue::new() };
        let (this, client) = (sync.clone(), client.clone());
        run_workers("pod status", &sync.queue, WORKERS, shutdown, move |uid: String| {
            let (this, client) = (this.clone(), client.clone());
            async move { this.send(&client, &uid).await.map(|()| Next::Done) }
        });
        sync
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what is to be published; `published` is what the API server has, as far as known.
    pub(crate) fn set(&self, namespace: &str, name: &str, uid: &str, status: &PodStatus, published: &PodStatus) {
        let encode = |status: &PodStatus| serde_json::to_value(status).unwrap_or(Value::Null);
        let desired = Arc::new(encode(status));
        {
            let mut entries = self.entries();
            let entry = entries.entry(uid.to_owned()).or_insert_with(|| Entry {
                namespace: namespace.into(),
                name: name.into(),
                desired: Arc::new(encode(published)),
                version: 0,
                synced: watch::Sender::new(0),
                sent: Arc::new(encode(published)),
            });
            if entry.desired == desired {
                return;
            }
            entry.desired = desired;
            entry.version += 1;
        }
        self.queue.add(uid.to_owned());
    }

    /// Waits until what was set last is published, or the pod is gone.
    pub(crate) async fn flushed(&self, uid: &str) {
        let Some((version, mut synced)) = self.entries().get(uid).map(|e| (e.version, e.synced.subscribe())) else {
            return;
        };
        // A closed channel means that the entry was forgotten: nothing to wait for.
        let _ = synced.wait_for(|done| *done >= version).await;
    }

    /// Like `flushed`, but does not wait for an API server that is away.
    pub(crate) async fn flushed_briefly(&self, uid: &str) {
        let _ = tokio::time::timeout(BRIEFLY, self.flushed(uid)).await;
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    async fn send(&self, client: &Client, uid: &str) -> Result<(), Error> {
        let (namespace, name, desired, sent, version) = match self.entries().get(uid) {
            Some(e) if *e.synced.borrow() < e.version => {
                (e.namespace.clone(), e.name.clone(), e.desired.clone(), e.sent.clone(), e.version)
            }
            _ => return Ok(()),
        };
        let patch = json!({"metadata": {"uid": uid}, "status": difference(&sent, &desired)});
        let answer: Result<IgnoredAny, Error> =
            client.patch(&PODS, Some(&namespace), &name, Some("status"), PatchKind::Strategic, &patch).await;
        match answer {
            Ok(_) => {}
            // Gone, or another pod of the same name: nobody is left to tell.
            Err(error)
                if is_not_found(&error)
                    || (is_conflict(&error) && error.to_string().to_lowercase().contains("uid")) => {}
            Err(error) if is_invalid(&error) => tracing::warn!(pod = name, %error, "status refused"),
            Err(error) => return Err(error),
        }
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.sent = desired;
            entry.synced.send_replace(version);
        }
        Ok(())
    }
}

/// What turns the status `old` into `new` as a strategic merge patch.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut out = serde_json::Map::new();
    for (key, value) in new {
        if old.get(key) != Some(value) {
            let mut value = value.clone();
            if key == "conditions" {
                out.insert("$setElementOrder/conditions".into(), order(&value));
                clear_conditions(old.get(key), &mut value);
                remove_conditions(old.get(key), &mut value);
            }
            if let ("podIPs" | "hostIPs", Value::Array(list), true) = (key.as_str(), &mut value, old.contains_key(key))
            {
                // Lists that merge by key would keep the old addresses.
                list.push(json!({"$patch": "replace"}));
            }
            out.insert(key.clone(), value);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    Value::Object(out)
}

/// The order in which conditions are to be listed.
fn order(conditions: &Value) -> Value {
    conditions.as_array().into_iter().flatten().map(|c| json!({"type": c["type"]})).collect()
}

/// Conditions merge by type, so a reason or message that went away has to be removed by name.
fn clear_conditions(old: Option<&Value>, new: &mut Value) {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for condition in new.as_array_mut().into_iter().flatten() {
        let Some(before) = old.iter().find(|c| c["type"] == condition["type"]) else { continue };
        for field in ["reason", "message"] {
            if before.get(field).is_some() && condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
}

/// A condition that is no more has to be taken out by name.
fn remove_conditions(old: Option<&Value>, new: &mut Value) {
    let Some(new) = new.as_array_mut() else { return };
    for before in old.and_then(Value::as_array).into_iter().flatten() {
        if !new.iter().any(|c| c["type"] == before["type"]) {
            new.push(json!({"type": before["type"], "$patch": "delete"}));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn patches_hold_what_changed() {
        let check = |old: Value, new: Value, expect: Value| assert_eq!(difference(&old, &new), expect);
        check(
            json!({"phase": "Pending", "hostIP": "1"}),
            json!({"phase": "Running", "hostIP": "1"}),
            json!({"phase": "Running"}),
        );
        check(json!({"reason": "x"}), json!({}), json!({"reason": null}));
        check(json!({}), json!({"podIPs": [{"ip": "a"}]}), json!({"podIPs": [{"ip": "a"}]}));
        check(
            json!({"podIPs": [{"ip": "a"}]}),
            json!({"podIPs": [{"ip": "b"}]}),
            json!({"podIPs": [{"ip": "b"}, {"$patch": "replace"}]}),
        );
        check(
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}],
                   "$setElementOrder/conditions": [{"type": "Ready"}]}),
        );
    }
}
