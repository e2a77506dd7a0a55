//! ResourceQuotas: counts what the objects of a namespace use.
//!
//! Admission charges what it lets through; this controller sees to it that a quota's status is filled at
//! all, and that what has gone counts no more. Kinds are watched only while some quota limits them.

use crate::Context;
use crate::objects::{now, seconds};
use naru_api::quantity::Quantity;
use naru_api::quota::{self, Amounts};
use naru_api::registry::{self, RESOURCES, Resource};
use naru_client::{Change, Client, Error, Informer, Informers, ListParams, Next, ObjectKey, WorkQueue, is_not_found};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 2;
/// All is counted again after this time.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// What a quota has been charged may take so long to show up as an object. Less is written only when no
/// charge has been made for that time, or when it has been due for long.
const SETTLED: Duration = Duration::from_secs(1);
const OVERDUE: Duration = Duration::from_secs(10);

/// Fields that say what an object counts for, and which quotas count it.
const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "allocateLoadBalancerNodePorts",
    "devices",
    "overhead",
    "ports",
    "priorityClassName",
    "resources",
    "storageClassName",
    "type",
    "volumeAttributesClassName",
];
const STATUS: &[&str] = &["allocatedResources", "currentVolumeAttributesClassName", "modifyVolumeStatus", "phase"];
const METADATA: &[&str] = &["name", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// An object, cut down to what counts.
#[derive(Debug, Default)]
struct Counted {
    object: Value,
    /// What it uses while its grace lasts.
    amounts: OnceLock<Amounts>,
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let full = Value::deserialize(deserializer)?;
        Ok(Self { object: cut(&full), amounts: OnceLock::new() })
    }
}

fn cut(full: &Value) -> Value {
    let keep = |part: &Value, fields: &[&str]| -> Map<String, Value> {
        let present = fields.iter().filter_map(|field| Some(((*field).to_owned(), part.get(*field)?.clone())));
        present.collect()
    };
    let mut metadata = keep(&full["metadata"], METADATA);
    let annotation = &full["metadata"]["annotations"][CLASS_ANNOTATION];
    if annotation.is_string() {
        metadata.insert("annotations".to_owned(), json!({CLASS_ANNOTATION: annotation}));
    }
    let mut spec = keep(&full["spec"], SPEC);
    for list in ["containers", "initContainers"] {
        if let Some(containers) = full["spec"][list].as_array() {
            let cut = containers.iter().map(|container| keep(container, &["resources", "restartPolicy"]));
            spec.insert(list.to_owned(), cut.map(Value::Object).collect());
        }
    }
    json!({"metadata": metadata, "spec": spec, "status": keep(&full["status"], STATUS)})
}

impl Counted {
    fn amounts(&self, resource: &Resource) -> &Amounts {
        self.amounts.get_or_init(|| quota::usage(resource, &self.object, i64::MIN))
    }

    /// Whether it is a pod that should be gone by now.
    fn is_overdue(&self, now: i64) -> bool {
        let metadata = &self.object["metadata"];
        let grace = metadata["deletionGracePeriodSeconds"].as_i64();
        metadata["deletionTimestamp"].as_str().zip(grace).is_some_and(|(at, grace)| now > seconds(at) + grace)
    }

    fn same(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

/// When a quota was last written by anybody, and since when less is due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    written: Instant,
    due: Option<Instant>,
}

struct Quotas {
    client: Client,
    informers: Informers,
    quotas: Informer<Value>,
    /// Leaf locks, never held across an await.
    counted: Mutex<BTreeMap<(&'static str, &'static str), Informer<Counted>>>,
    paces: Mutex<HashMap<ObjectKey, Pace>>,
    queue: WorkQueue<ObjectKey>,
}

pub(crate) fn start(context: &Context) {
    let quotas: Informer<Value> = context.informers.start(&registry::RESOURCE_QUOTAS, ListParams::all());
    let controller = Arc::new(Quotas {
        client: context.client.clone(),
        informers: context.informers.clone(),
        quotas: quotas.clone(),
        counted: Mutex::default(),
        paces: Mutex::default(),
        queue: WorkQueue::new(),
    });
    let taker = controller.clone();
    quotas.subscribe(move |change| taker.quota_changed(change));
    let queue = controller.queue.clone();
    context.run(&queue, WORKERS, async move { quotas.synced().await }, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Quotas {
    fn quota_changed(&self, change: &Change<Value>) {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        match &change.new {
            Some(_) => {
                let written = Instant::now();
                paces.entry(change.key.clone()).or_insert(Pace { written, due: None }).written = written;
            }
            None => drop(paces.remove(&change.key)),
        }
        drop(paces);
        let spec = |quota: &Option<Arc<Value>>| quota.as_ref().map(|quota| quota["spec"].clone());
        if change.old.is_some() && spec(&change.old) == spec(&change.new) {
            // A charge, as a rule. What it was for may have failed.
            self.queue.add_after(change.key.clone(), SETTLED);
        } else {
            self.queue.add(change.key.clone());
        }
    }

    /// New objects have been charged already, as a rule.
    fn object_changed(&self, change: &Change<Counted>) {
        let quotas = match (&change.old, &change.new) {
            (Some(old), Some(new)) if old.same(new) => return,
            _ => self.quotas.by_namespace(&change.key.namespace),
        };
        for quota in quotas {
            let key = ObjectKey::new(&change.key.namespace, quota["metadata"]["name"].as_str().unwrap_or_default());
            match &change.old {
                Some(_) => self.queue.add(key),
                None => self.queue.add_after(key, SETTLED),
            }
        }
    }

    /// The cache of a kind that some quota limits.
    fn counted(self: &Arc<Self>, resource: &'static Resource) -> Informer<Counted> {
        let key = (resource.group, resource.plural);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counted.get(&key) {
            return known.clone();
        }
        let informer: Informer<Counted> = self.informers.start(resource, ListParams::all());
        let taker = self.clone();
        informer.subscribe(move |change| taker.object_changed(change));
        counted.insert(key, informer.clone());
        informer
    }

    async fn reconcile(self: &Arc<Self>, key: &ObjectKey) -> Result<Next, Error> {
        let Some(quota) = self.quotas.get_key(key) else { return Ok(Next::Done) };
        if !quota["metadata"]["deletionTimestamp"].is_null() {
            return Ok(Next::Done);
        }
        let hard: Vec<&str> =
            quota["spec"]["hard"].as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
        let mut limited = limited(&hard);
        limited.sort_unstable_by_key(|resource| (resource.group, resource.plural));
        let mut kinds = Vec::new();
        for resource in limited {
            let objects = self.counted(resource);
            objects.synced().await;
            kinds.push((resource, objects.by_namespace(&key.namespace)));
        }
        let used = count(&quota, &hard, &kinds, now());
        let (status, wait) = self.pace(key, &quota, &used);
        if let Some(status) = status {
            let mut quota = (*quota).clone();
            quota["status"] = status;
            let (resource, name) = (&registry::RESOURCE_QUOTAS, &key.name);
            match self.client.update_status::<Value>(resource, key.namespace(), name, &quota).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(Next::After(wait))
    }

    /// The status to be written, if any, and when to look again.
    fn pace(&self, key: &ObjectKey, quota: &Value, used: &Amounts) -> (Option<Value>, Duration) {
        let (hard, shown) = (&quota["spec"]["hard"], &quota["status"]["used"]);
        let before = quota::parse(shown);
        let wanted = |amounts: &Amounts| json!({"hard": hard, "used": written(amounts)});
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let pace = paces.entry(key.clone()).or_insert(Pace { written: now, due: None });
        if quota["status"]["hard"] != *hard || before.keys().ne(used.keys()) {
            pace.due = None;
            return (Some(wanted(used)), RESYNC);
        }
        let less = used.iter().any(|(name, amount)| before.get(name).is_some_and(|before| amount < before));
        let more = used.iter().any(|(name, amount)| before.get(name).is_some_and(|before| amount > before));
        if !less {
            pace.due = None;
            return (more.then(|| wanted(used)), RESYNC);
        }
        let due = *pace.due.get_or_insert(now);
        let calm_at = (pace.written + SETTLED).min(due + OVERDUE);
        if now >= calm_at {
            pace.due = None;
            return (Some(wanted(used)), RESYNC);
        }
        let most = |(name, amount): (&String, &_)| {
            let amount = before.get(name).map_or(*amount, |before| (*before).max(*amount));
            (name.clone(), amount)
        };
        (more.then(|| wanted(&used.iter().map(most).collect())), calm_at - now)
    }
}

/// Kinds whose objects use what is limited.
fn limited(hard: &[&str]) -> Vec<&'static Resource> {
    let counts = |resource: &&&Resource| resource.is_storage() && quota::matching(resource, hard).next().is_some();
    RESOURCES.iter().filter(counts).copied().collect()
}

fn written(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

/// What the objects use of what is limited; what nobody uses is used by nobody.
fn count(quota: &Value, hard: &[&str], kinds: &[(&'static Resource, Vec<Arc<Counted>>)], now: i64) -> Amounts {
    let mut used = Amounts::new();
    // Which objects count is decided by what the status is going to say.
    let mut quota = quota.clone();
    quota["status"]["hard"] = quota["spec"]["hard"].clone();
    for (resource, objects) in kinds {
        let names: Vec<&str> = quota::matching(resource, hard).collect();
        for name in &names {
            used.entry((*name).to_owned()).or_insert(Quantity::ZERO);
        }
        for object in objects.iter().filter(|object| quota::matches(&quota, resource, &object.object)) {
            let late = object.is_overdue(now).then(|| quota::usage(resource, &object.object, now));
            let amounts = late.as_ref().unwrap_or_else(|| object.amounts(resource));
            for name in &names {
                if let (Some(sum), Some(amount)) = (used.get_mut(*name), amounts.get(*name)) {
                    *sum = *sum + *amount;
                }
            }
        }
    }
    used
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn counted(objects: Value) -> Vec<Arc<Counted>> {
        let objects = objects.as_array().unwrap().iter();
        objects.map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap())).collect()
    }

    fn check(hard: Value, more: Value, kinds: &[(&'static Resource, Value)], expected: Value) {
        let mut quota = json!({"spec": {"hard": hard}});
        for (field, value) in more.as_object().unwrap() {
            quota["spec"][field] = value.clone();
        }
        let names: Vec<&str> = hard.as_object().unwrap().keys().map(String::as_str).collect();
        let kinds: Vec<_> = kinds.iter().map(|(resource, objects)| (*resource, counted(objects.clone()))).collect();
        assert_eq!(written(&count(&quota, &names, &kinds, 1000)), expected);
    }

    #[test]
    fn objects_are_counted_by_what_they_use() {
        let pod = |cpu: &str, phase: &str| {
            json!({"metadata": {"name": "p", "managedFields": [1]}, "status": {"phase": phase},
                "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let pods = json!([pod("500m", "Running"), pod("1", "Pending"), pod("4", "Succeeded")]);
        let hard = json!({"pods": "5", "requests.cpu": "2", "limits.memory": "1Gi", "count/pods": "9"});
        let used = json!({"pods": "2", "requests.cpu": "1500m", "limits.memory": "0", "count/pods": "3"});
        check(hard, json!({}), &[(&registry::PODS, pods.clone())], used);
        let best_effort = json!({"scopes": ["BestEffort"]});
        check(json!({"pods": "5"}), best_effort, &[(&registry::PODS, pods)], json!({"pods": "0"}));
        let services = json!([
            {"spec": {"type": "NodePort", "ports": [{"nodePort": 30000}, {"nodePort": 30001}]}}, {"spec": {}}]);
        let hard = json!({"services": "5", "services.nodeports": "2", "configmaps": "3"});
        let kinds = [(&registry::SERVICES, services), (&registry::CONFIG_MAPS, json!([{"data": {"a": "b"}}]))];
        check(hard, json!({}), &kinds, json!({"services": "2", "services.nodeports": "2", "configmaps": "1"}));
    }

    #[test]
    fn a_pod_whose_grace_is_over_counts_as_an_object_only() {
        let pod = json!([{"metadata": {"deletionTimestamp": "1970-01-01T00:10:00Z", "deletionGracePeriodSeconds": 30},
            "spec": {"containers": [{}]}}]);
        let used = json!({"pods": "0", "count/pods": "1"});
        check(json!({"pods": "1", "count/pods": "1"}), json!({}), &[(&registry::PODS, pod)], used);
    }

    #[test]
    fn only_kinds_that_are_limited_are_watched() {
        let names = |hard: &[&str]| {
            let mut names: Vec<_> = limited(hard).iter().map(|resource| resource.plural).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&["requests.cpu", "count/deployments.apps"]), ["deployments", "pods"]);
        assert_eq!(
            names(&["persistentvolumeclaims", "services.loadbalancers"]),
            ["persistentvolumeclaims", "services"]
        );
    }
}
