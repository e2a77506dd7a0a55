//! Nodes with the pods on them, assumed ones included.

use crate::kinds::{Count, Kinds};
use crate::pod_info::PodInfo;
use crate::resources::Resources;
use crate::terms::Namespaces;
use naru_client::projections::NodeView;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The label of a node's own name.
pub(crate) const HOST: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// A node as the plugins see it.
#[derive(Debug, Default)]
pub(crate) struct NodeInfo {
    /// Missing while only its pods are known.
    pub(crate) node: Option<Arc<NodeView>>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) requested_nonzero: Resources,
    pub(crate) pods: HashMap<String, Arc<PodInfo>>,
    /// The same pods by kind.
    pub(crate) kinds: Vec<Count>,
    /// Two labels that most decisions ask all nodes for, beside each other in memory: to find them among a node's
    /// labels each time took more than the rest of a decision.
    host: Option<Arc<str>>,
    zone: Option<Arc<str>>,
}

impl NodeInfo {
    /// The value of one of the node's labels.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        match key {
            HOST => self.host.as_deref(),
            ZONE => self.zone.as_deref(),
            _ => self.node.as_ref()?.metadata.labels.get(key).map(String::as_str),
        }
    }

    fn add(&mut self, pod: Arc<PodInfo>, kind: u32) {
        self.requested.add(&pod.request);
        self.requested_nonzero.add(&pod.nonzero);
        let leaving = u32::from(pod.pod.metadata.is_deleting());
        match self.kinds.iter_mut().find(|count| count.kind == kind) {
            Some(count) => (count.pods, count.leaving) = (count.pods + 1, count.leaving + leaving),
            None => self.kinds.push(Count { kind, pods: 1, leaving }),
        }
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn remove(&mut self, uid: &str, kind: u32) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.requested.subtract(&pod.request);
        self.requested_nonzero.subtract(&pod.nonzero);
        if let Some(at) = self.kinds.iter().position(|count| count.kind == kind) {
            let count = &mut self.kinds[at];
            count.pods -= 1;
            count.leaving -= u32::from(pod.pod.metadata.is_deleting());
            if count.pods == 0 {
                self.kinds.swap_remove(at);
            }
        }
    }
}

#[derive(Debug)]
struct Place {
    node: String,
    assumed: bool,
    kind: u32,
}

/// All nodes, and where each pod is.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    places: HashMap<String, Place>,
    /// Labels of the namespaces.
    pub(crate) namespaces: Namespaces,
    /// What the Services of each namespace select, by their names.
    services: HashMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    /// Pods for which room has been made, by uid, with the node.
    nominated: HashMap<String, (String, Arc<PodInfo>)>,
    /// What affinity and spread can know the placed pods by.
    pub(crate) kinds: Kinds,
    /// How many nodes hold an image, by each of its names.
    images: HashMap<String, usize>,
    /// How many nodes exist.
    known: usize,
    /// The names of zones, which many nodes share.
    zones: HashSet<Arc<str>>,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: Arc<NodeView>) {
        let label = |key: &str| node.metadata.labels.get(key).map(String::as_str);
        let (host, zone) = (label(HOST).map(Arc::from), label(ZONE).map(|zone| shared(&mut self.zones, zone)));
        let info = self.nodes.entry(node.metadata.name.clone()).or_default();
        (info.host, info.zone) = (host, zone);
        info.allocatable = Resources::of(&node.status.allocatable);
        let old = info.node.replace(node.clone());
        self.known += usize::from(old.is_none());
        if old.as_ref().is_none_or(|old| old.status.images != node.status.images) {
            self.count_images(old.as_deref(), Some(&node));
        }
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        let old = info.node.take();
        (info.host, info.zone) = (None, None);
        self.known -= usize::from(old.is_some());
        if info.pods.is_empty() {
            self.nodes.remove(name);
        }
        self.count_images(old.as_deref(), None);
    }

    fn count_images(&mut self, old: Option<&NodeView>, new: Option<&NodeView>) {
        fn names(node: Option<&NodeView>) -> impl Iterator<Item = &String> {
            node.into_iter().flat_map(|node| &node.status.images).flat_map(|image| &image.names)
        }
        for name in names(old) {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
        for name in names(new) {
            *self.images.entry(name.clone()).or_default() += 1;
        }
    }

    /// Notes what a Service selects; `None` if it selects nothing, or is gone.
    pub(crate) fn set_service(&mut self, namespace: &str, name: &str, selector: Option<BTreeMap<String, String>>) {
        if let Some(selector) = selector {
            self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), selector);
        } else if let Some(services) = self.services.get_mut(namespace) {
            services.remove(name);
            if services.is_empty() {
                self.services.remove(namespace);
            }
        }
    }

    /// The labels that the Services of a pod select, all together.
    pub(crate) fn selected_by_services(&self, pod: &PodInfo) -> BTreeMap<&str, &str> {
        let labels = &pod.pod.metadata.labels;
        let services = self.services.get(&pod.pod.metadata.namespace).into_iter().flat_map(BTreeMap::values);
        let selects =
            |selector: &&BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        services.filter(selects).flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// The share of the nodes that hold an image.
    pub(crate) fn spread_of_image(&self, name: &str) -> f64 {
        let holders = self.images.get(name).copied().unwrap_or_default();
        holders as f64 / self.known.max(1) as f64
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|info| info.node.is_some())
    }

    /// How many nodes exist.
    pub(crate) fn node_count(&self) -> usize {
        self.known
    }

    /// The nodes that exist, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &NodeInfo)> {
        self.nodes.iter().filter(|(_, info)| info.node.is_some()).map(|(name, info)| (name.as_str(), info))
    }

    /// The nodes that exist, with what the API says about them.
    pub(crate) fn known_nodes(&self) -> impl Iterator<Item = (&NodeInfo, &NodeView)> {
        self.nodes.values().filter_map(|info| info.node.as_deref().map(|node| (info, node)))
    }

    /// How many pods and nodes there are, and how many of the pods are assumed only.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let assumed = self.places.values().filter(|place| place.assumed).count();
        (self.places.len(), self.known, assumed)
    }

    /// Puts a pod on its node for as long as its binding takes.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.put(pod, node, true);
    }

    /// Takes in a pod that is bound.
    pub(crate) fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let node = pod.pod.spec.node_name.clone();
        self.put(pod, &node, false);
    }

    fn put(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        self.remove_pod(pod.uid());
        let kind = self.kinds.add(&pod);
        let place = Place { node: node.to_owned(), assumed, kind };
        self.places.insert(pod.uid().to_owned(), place);
        self.nodes.entry(node.to_owned()).or_default().add(pod, kind);
    }

    /// Keeps the room on a node for a pod that waits for it; an empty name ends that.
    pub(crate) fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        if node.is_empty() {
            self.nominated.remove(pod.uid());
        } else {
            self.nominated.insert(pod.uid().to_owned(), (node.to_owned(), pod));
        }
    }

    /// Where room has been made for a pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// Puts the pods for which room is kept, and which are not less important than `pod`, where that room is.
    /// What it returns is to be given to `clear_room`.
    pub(crate) fn keep_room(&mut self, pod: &PodInfo) -> Vec<String> {
        let kept: Vec<_> =
            self.nominated.values().filter(|(_, other)| self.comes_before(other, pod)).cloned().collect();
        for (node, other) in &kept {
            self.assume(other.clone(), node);
        }
        kept.iter().map(|(_, other)| other.uid().to_owned()).collect()
    }

    /// Whether room is kept for a pod that waits, and that is not less important than another.
    fn comes_before(&self, nominated: &PodInfo, pod: &PodInfo) -> bool {
        let waits = nominated.uid() != pod.uid() && !self.places.contains_key(nominated.uid());
        waits && nominated.priority() >= pod.priority()
    }

    /// Whether `keep_room` would put any pod anywhere.
    pub(crate) fn has_room_to_keep(&self, pod: &PodInfo) -> bool {
        self.nominated.values().any(|(_, other)| self.comes_before(other, pod))
    }

    /// Ends what `keep_room` did.
    pub(crate) fn clear_room(&mut self, kept: &[String]) {
        for uid in kept {
            self.forget(uid);
        }
    }

    /// Less important pods that room on a node is kept for.
    pub(crate) fn lesser_nominees(&self, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
        let lesser = self.nominated.values().filter(|(at, other)| at == node && other.priority() < pod.priority());
        lesser.map(|(_, other)| other.clone()).collect()
    }

    /// A placed pod and its node.
    pub(crate) fn placed(&self, uid: &str) -> Option<(&Arc<PodInfo>, &str)> {
        let place = self.places.get(uid)?;
        Some((self.nodes.get(&place.node)?.pods.get(uid)?, &place.node))
    }

    /// Drops the nomination of a pod that is placed or gone.
    pub(crate) fn end_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Takes back an assumption whose binding failed, unless the pod has turned up as bound.
    pub(crate) fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.places.get(uid).is_some_and(|place| place.assumed)
    }

    /// Removes a pod and says which node it was on.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> Option<String> {
        let place = self.places.remove(uid)?;
        self.kinds.remove(place.kind);
        if let Some(info) = self.nodes.get_mut(&place.node) {
            info.remove(uid, place.kind);
            if info.pods.is_empty() && info.node.is_none() {
                self.nodes.remove(&place.node);
            }
        }
        Some(place.node)
    }
}

/// The one copy of a zone's name. With a new one, those that no node has any more go.
fn shared(zones: &mut HashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = zones.get(name) {
        return known.clone();
    }
    zones.retain(|zone| Arc::strong_count(zone) > 1);
    let new: Arc<str> = name.into();
    zones.insert(new.clone());
    new
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::testing::{asking, bound, node};

    #[test]
    fn assumed_pods_count_until_forgotten_or_confirmed_once() {
        let mut cache = Cache::default();
        cache.set_node(node("n", "2", "4Gi"));
        let pod = asking("a", "500m", "1Gi");
        cache.assume(pod.clone(), "n");
        assert_eq!(cache.node("n").unwrap().requested.cpu, 500);
        cache.set_pod(bound(&pod, "n"));
        assert_eq!(cache.node("n").unwrap().requested.cpu, 500, "confirmed, not counted twice");
        cache.forget(pod.uid());
        assert_eq!(cache.node("n").unwrap().requested.cpu, 500, "a confirmed pod is not forgotten");
        assert_eq!(cache.remove_pod(pod.uid()).as_deref(), Some("n"));
        assert_eq!(cache.node("n").unwrap().requested, Resources::default());
    }

    #[test]
    fn pods_may_come_before_their_node_and_stay_after_it() {
        let mut cache = Cache::default();
        let pod = bound(&asking("a", "1", "1Gi"), "n");
        cache.set_pod(pod.clone());
        assert!(cache.node("n").is_none());
        cache.set_node(node("n", "2", "4Gi"));
        assert_eq!(cache.node("n").unwrap().requested.cpu, 1000);
        cache.remove_node("n");
        cache.remove_pod(pod.uid());
        assert_eq!(cache.nodes().count(), 0);
    }
}
