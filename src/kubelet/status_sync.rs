//! Publishes pod statuses: newest wins, one request for each pod at a time, tried again until it is through.

use crate::pod::start::identity;
use crate::static_pods;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use naru_api::registry::PODS;
use naru_base::Shutdown;
use naru_client::{Client, Error, Next, PatchKind, WorkQueue, is_conflict, is_invalid, is_not_found, run_workers};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Requests at once.
const WORKERS: usize = 4;
/// How long cleaning up waits for the last status.
const BRIEFLY: std::time::Duration = std::time::Duration::from_secs(3);

/// How long after somebody else has said that a pod is not ready its node says again that it is. Sooner would be a
/// quarrel with a control plane that has not heard of the node yet.
const SAY_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// An answer, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMeta {
    resource_version: String,
}

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
    /// The revision that this came to.
    written: u64,
    /// The pod is a static one: its mirror is told, as long as there is one.
    is_static: bool,
}

/// The object that stands for a static pod.
#[derive(Debug)]
struct Mirror {
    uid: String,
    status: Arc<Value>,
}

/// The statuses of this node's pods, by uid.
#[derive(Debug, Clone)]
pub(crate) struct StatusSync {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// By the static pods' uids. Locked after `entries`.
    mirrors: Arc<Mutex<HashMap<String, Mirror>>>,
    queue: WorkQueue<String>,
}

impl StatusSync {
    /// Starts the requests.
    pub(crate) fn start(client: &Client, shutdown: &Shutdown) -> Self {
        let sync = Self { entries: Arc::default(), mirrors: Arc::default(), queue: WorkQueue::new() };
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

    fn mirrors(&self) -> MutexGuard<'_, HashMap<String, Mirror>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what is to be published of `pod`, whose own status is what the API server has as far as known.
    pub(crate) fn set(&self, pod: &Pod, status: &PodStatus) {
        let (namespace, name, uid) = identity(pod);
        let desired = Arc::new(encode(status));
        {
            let mut entries = self.entries();
            let entry = entries.entry(uid.clone()).or_insert_with(|| {
                let is_static = static_pods::is_static(pod);
                let published = match self.mirrors().get(&uid).filter(|_| is_static) {
                    Some(mirror) => mirror.status.clone(),
                    None => Arc::new(pod.status.as_ref().map_or_else(|| encode(&PodStatus::default()), encode)),
                };
                let (version, synced, written) = (0, watch::Sender::new(0), 0);
                Entry {
                    namespace,
                    name,
                    desired: published.clone(),
                    version,
                    synced,
                    sent: published,
                    written,
                    is_static,
                }
            });
            if entry.desired == desired {
                return;
            }
            entry.desired = desired;
            entry.version += 1;
        }
        self.queue.add(uid);
    }

    /// Looks at what others see of a pod: the control plane says that those of a silent node are not ready, and leaves it to
    /// the node to say that they are after all.
    pub(crate) fn seen(&self, pod: &Pod) {
        let (Some(uid), Some(status)) = (&pod.metadata.uid, &pod.status) else { return };
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uid).filter(|e| !e.is_static && *e.synced.borrow() == e.version) else {
            return;
        };
        let observed = encode(status);
        let newer = revision(pod.metadata.resource_version.as_deref()) > entry.written;
        if newer && is_ready(&entry.desired) && !is_ready(&observed) {
            entry.sent = Arc::new(observed);
            entry.version += 1;
            self.queue.add_after(uid.clone(), SAY_AGAIN);
        }
    }

    /// Says which object stands for a static pod, with the status that it has.
    pub(crate) fn set_mirror(&self, uid: &str, mirror: Option<(&str, &PodStatus)>) {
        let mut entries = self.entries();
        let mut mirrors = self.mirrors();
        let Some((mirror_uid, status)) = mirror else {
            mirrors.remove(uid);
            return;
        };
        if mirrors.get(uid).is_some_and(|known| known.uid == mirror_uid) {
            return;
        }
        let status = Arc::new(encode(status));
        mirrors.insert(uid.to_owned(), Mirror { uid: mirror_uid.to_owned(), status: status.clone() });
        if let Some(entry) = entries.get_mut(uid) {
            entry.sent = status;
            entry.version += 1;
            self.queue.add(uid.to_owned());
        }
    }

    /// Waits until what was set last is published, or the pod is gone.
    pub(crate) async fn flushed(&self, uid: &str) {
        let waiting = {
            let entries = self.entries();
            // Without a mirror nobody is to be told.
            let entry = entries.get(uid).filter(|e| !e.is_static || self.mirrors().contains_key(uid));
            entry.map(|e| (e.version, e.synced.subscribe()))
        };
        let Some((version, mut synced)) = waiting else { return };
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
        self.mirrors().remove(uid);
    }

    async fn send(&self, client: &Client, uid: &str) -> Result<(), Error> {
        let (namespace, name, desired, sent, version, is_static) = match self.entries().get(uid) {
            Some(e) if *e.synced.borrow() < e.version => {
                (e.namespace.clone(), e.name.clone(), e.desired.clone(), e.sent.clone(), e.version, e.is_static)
            }
            _ => return Ok(()),
        };
        let object = if is_static { self.mirrors().get(uid).map(|m| m.uid.clone()) } else { Some(uid.to_owned()) };
        // Sent once there is a mirror.
        let Some(object) = object else { return Ok(()) };
        let patch = json!({"metadata": {"uid": object}, "status": difference(&sent, &desired)});
        let answer: Result<Written, Error> =
            client.patch(&PODS, Some(&namespace), &name, Some("status"), PatchKind::Strategic, &patch).await;
        let mut written = 0;
        match answer {
            Ok(answer) => written = revision(Some(&answer.metadata.resource_version)),
            // Gone, or another pod of the same name: nobody is left to tell.
            Err(error)
                if is_not_found(&error)
                    || (is_conflict(&error) && error.to_string().to_lowercase().contains("uid")) => {}
            Err(error) if is_invalid(&error) => tracing::warn!(pod = name, %error, "status refused"),
            Err(error) => return Err(error),
        }
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.sent = desired;
            entry.written = entry.written.max(written);
            entry.synced.send_replace(version);
        }
        Ok(())
    }
}

fn revision(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Whether a status says that the pod is ready.
fn is_ready(status: &Value) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn encode(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap_or(Value::Null)
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
    fn what_others_say_of_a_ready_pod_is_put_right() {
        let sync = StatusSync { entries: Arc::default(), mirrors: Arc::default(), queue: WorkQueue::new() };
        let pod = |revision: &str, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": revision},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let waits = || sync.entries().get("u").is_some_and(|entry| *entry.synced.borrow() < entry.version);
        let published = |revision| {
            let mut entries = sync.entries();
            let entry = entries.get_mut("u").unwrap();
            entry.sent = entry.desired.clone();
            entry.written = revision;
            entry.synced.send_replace(entry.version);
        };
        sync.seen(&pod("3", "False"));
        sync.set(&pod("3", "False"), &pod("4", "True").status.unwrap());
        published(4);
        sync.seen(&pod("3", "False"));
        sync.seen(&pod("5", "True"));
        assert!(!waits(), "what was before does not count, nor what says the same");
        sync.seen(&pod("6", "False"));
        assert!(waits());
        let sent = sync.entries()["u"].sent.clone();
        let patch = difference(&sent, &encode(&pod("6", "True").status.unwrap()));
        assert_eq!(patch["conditions"][0]["status"], "True");
        published(7);
        sync.set(&pod("7", "True"), &pod("7", "False").status.unwrap());
        published(8);
        sync.seen(&pod("9", "False"));
        assert!(!waits(), "an unready pod is not ready");
    }

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
