//! What the pods of each node use: kept from the cache's changes, so that a kubelet's request costs one look-up.

use crate::cache::{Cache, CachedObject};
use naru_api::core::pod::references;
use naru_api::meta;
use naru_api::registry;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kind of object that pods use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Used {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// The index. It follows the cache when it is asked.
#[derive(Debug, Default)]
pub(super) struct NodeIndex {
    /// Leaf lock, but for the cache's own; never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The change of pods that is in here last; `None` before the first look.
    revision: Option<i64>,
    /// By the pod's key.
    pods: HashMap<Arc<str>, Pod>,
    /// By node: what is used there, and by how many pods.
    nodes: HashMap<Box<str>, HashMap<Box<str>, usize>>,
}

#[derive(Debug)]
struct Pod {
    node: Box<str>,
    /// What it uses, each once.
    entries: Vec<Box<str>>,
}

/// What something used is found by.
fn entry(used: Used, namespace: &str, name: &str) -> Box<str> {
    let kind = match used {
        Used::Secret => 's',
        Used::ConfigMap => 'c',
        Used::Claim => 'v',
        Used::ResourceClaim => 'r',
        Used::ServiceAccount => 'a',
    };
    format!("{kind}/{namespace}/{name}").into()
}

impl NodeIndex {
    /// Whether a pod on the node uses it; mirror pods give no access.
    pub(super) fn uses(&self, cache: &Cache, node: &str, used: Used, namespace: &str, name: &str) -> bool {
        let state = self.current(cache);
        state.nodes.get(node).is_some_and(|there| there.contains_key(&entry(used, namespace, name)))
    }

    fn current(&self, cache: &Cache) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = state.revision.and_then(|revision| cache.changes_after(&registry::PODS, revision));
        let (revision, changes) = changes.unwrap_or_else(|| {
            *state = State::default();
            // What changes meanwhile is looked at again the next time.
            let revision = cache.last_change(&registry::PODS);
            let present = cache.objects(&registry::PODS);
            (revision, present.into_iter().map(|pod| (pod.key().clone(), Some(pod))).collect())
        });
        for (key, pod) in changes {
            state.put(key, pod.as_deref());
        }
        state.revision = Some(revision);
        state
    }
}

impl State {
    /// The pod as it is now; `None`: it is gone.
    fn put(&mut self, key: Arc<str>, pod: Option<&CachedObject>) {
        if let Some(old) = self.pods.remove(&key) {
            self.forget(&old.node, &old.entries);
        }
        let Some(pod) = pod else { return };
        let Some(node) = pod.field("spec.nodeName").filter(|node| !node.is_empty()) else { return };
        let Ok(tree) = crate::objects::tree(pod) else { return };
        if meta::annotation(&tree, "kubernetes.io/config.mirror").is_some() {
            return;
        }
        let entries = entries(&tree, pod.namespace().unwrap_or_default());
        let there = self.nodes.entry(node.into()).or_default();
        for entry in &entries {
            *there.entry(entry.clone()).or_default() += 1;
        }
        self.pods.insert(key, Pod { node: node.into(), entries });
    }

    fn forget(&mut self, node: &str, entries: &[Box<str>]) {
        let Some(there) = self.nodes.get_mut(node) else { return };
        for entry in entries {
            match there.get_mut(entry) {
                Some(pods) if *pods > 1 => *pods -= 1,
                _ => drop(there.remove(entry)),
            }
        }
        if there.is_empty() {
            self.nodes.remove(node);
        }
    }
}

/// Everything that a pod uses, each once.
fn entries(pod: &Value, namespace: &str) -> Vec<Box<str>> {
    let of = |used: Used| move |name: &str| entry(used, namespace, name);
    let mut all: Vec<Box<str>> = references::secrets(pod).map(of(Used::Secret)).collect();
    all.extend(references::config_maps(pod).map(of(Used::ConfigMap)));
    all.extend(claims(pod).iter().map(|name| entry(Used::Claim, namespace, name)));
    all.extend(resource_claims(pod).map(of(Used::ResourceClaim)));
    all.extend(pod["spec"]["serviceAccountName"].as_str().map(of(Used::ServiceAccount)));
    all.sort();
    all.dedup();
    all
}

/// Claims by name, and those of ephemeral volumes, which are named after pod and volume.
fn claims(pod: &Value) -> Vec<String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claim = |volume: &Value| {
        if volume["ephemeral"].is_object() {
            return Some(format!("{}-{}", meta::name(pod), volume["name"].as_str()?));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    };
    volumes.filter_map(claim).collect()
}

fn resource_claims(pod: &Value) -> impl Iterator<Item = &str> {
    let by_spec = pod["spec"]["resourceClaims"].as_array().into_iter().flatten();
    let by_status = pod["status"]["resourceClaimStatuses"].as_array().into_iter().flatten();
    let extended = pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"].as_str();
    by_spec.chain(by_status).filter_map(|claim| claim["resourceClaimName"].as_str()).chain(extended)
}
