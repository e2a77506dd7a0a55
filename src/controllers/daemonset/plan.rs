//! Which daemon pods are made and deleted next. Pure.

use super::HASH;
use super::nodes::{Fit, fit, target};
use crate::objects::seconds;
use crate::pods::is_available;
use naru_client::projections::{DaemonSetView, IntOrPercent, NodeAffinity, NodeView, PodView};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A DaemonSet with its nodes and pods.
#[derive(Debug)]
pub(super) struct Daemons<'a> {
    pub(super) set: &'a DaemonSetView,
    /// The newest revision's hash.
    pub(super) hash: &'a str,
    /// Hashes of older revisions with the same template: their pods need no renewal.
    twins: Vec<&'a str>,
    pub(super) nodes: BTreeMap<String, Fit>,
    /// By the node that they are meant for; on each those assigned first, then the oldest.
    pub(super) pods: BTreeMap<String, Vec<Arc<PodView>>>,
    pub(super) now: i64,
}

/// Pods to be made and deleted.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Names of nodes.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<PodView>>,
    /// Pods that have ended, with their nodes.
    pub(super) ended: Vec<(String, Arc<PodView>)>,
}

/// The newest and the older pod of a node, and whether there is at most one of each.
type Pair<'p> = Option<(Option<&'p Arc<PodView>>, Option<&'p Arc<PodView>>)>;

impl<'a> Daemons<'a> {
    pub(super) fn new(
        set: &'a DaemonSetView,
        hash: &'a str,
        nodes: Vec<Arc<NodeView>>,
        pods: &[Arc<PodView>],
        now: i64,
    ) -> Self {
        let placement = &set.spec.template.spec;
        let affinity = NodeAffinity::of(placement.affinity.as_deref());
        let nodes = nodes.iter().map(|node| (node.metadata.name.clone(), fit(placement, &affinity, node))).collect();
        let mut by_node: BTreeMap<String, Vec<Arc<PodView>>> = BTreeMap::new();
        for pod in pods {
            if let Some(node) = target(pod) {
                by_node.entry(node).or_default().push(pod.clone());
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by_cached_key(|pod| {
                let meta = &pod.metadata;
                (pod.spec.node_name.is_empty(), seconds(&meta.creation_timestamp), meta.name.clone())
            });
        }
        Self { set, hash, twins: Vec::new(), nodes, pods: by_node, now }
    }

    pub(super) fn with_twins(self, twins: Vec<&'a str>) -> Self {
        Self { twins, ..self }
    }

    pub(super) fn pods_on(&self, node: &str) -> &[Arc<PodView>] {
        self.pods.get(node).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_updated(&self, pod: &PodView) -> bool {
        let hash = pod.metadata.labels.get(HASH).map(String::as_str);
        hash.is_some_and(|hash| hash == self.hash || self.twins.contains(&hash))
    }

    pub(super) fn is_available(&self, pod: &PodView) -> bool {
        is_available(pod, self.set.spec.min_ready_seconds, self.now)
    }

    /// Nodes that shall run a pod.
    fn wanted(&self) -> i32 {
        let count = self.nodes.values().filter(|fit| **fit == Fit::Wanted).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Surge and unavailability. If both came to nothing no rollout could ever move.
    fn limits(&self) -> (usize, usize) {
        let rolling = &self.set.spec.update_strategy.rolling_update;
        let of = |limit: &Option<IntOrPercent>, default: i32| {
            let count = limit.as_ref().map_or(default, |limit| limit.of(self.wanted(), true));
            usize::try_from(count).unwrap_or_default()
        };
        match (of(&rolling.max_surge, 0), of(&rolling.max_unavailable, 1)) {
            (0, 0) => (0, 1),
            limits => limits,
        }
    }

    fn allows_surge(&self) -> bool {
        let rolling = self.set.spec.update_strategy.rolling_update.max_surge.as_ref();
        self.set.spec.update_strategy.kind == "RollingUpdate" && rolling.is_some_and(|surge| surge.of(100, true) > 0)
    }

    /// Gives each node that shall run a pod one, and takes away what is too much.
    pub(super) fn manage(&self) -> Work {
        let mut work = Work::default();
        for (node, fit) in &self.nodes {
            let pods = self.pods_on(node);
            let live = pods.iter().filter(|pod| !pod.metadata.is_deleting());
            match fit {
                Fit::Wanted if pods.is_empty() => work.create.push(node.clone()),
                Fit::Unfit => work.delete.extend(live.cloned()),
                Fit::Wanted | Fit::Kept => {
                    let (ended, running): (Vec<_>, Vec<_>) = live.cloned().partition(|pod| pod.is_finished());
                    work.ended.extend(ended.into_iter().map(|pod| (node.clone(), pod)));
                    if !self.allows_surge() {
                        work.delete.extend(running.into_iter().skip(1));
                    } else if running.is_empty() && *fit == Fit::Wanted {
                        work.create.push(node.clone());
                    } else {
                        self.prune(&running, &mut work);
                    }
                }
            }
        }
        // The pod garbage collector knows pods by the node that they run on.
        let lost = self.pods.iter().filter(|(node, _)| !self.nodes.contains_key(*node)).flat_map(|(_, pods)| pods);
        let lost = lost.filter(|pod| pod.spec.node_name.is_empty() && !pod.metadata.is_deleting());
        work.delete.extend(lost.cloned());
        work
    }

    /// Of several pods on a node, the oldest new one and the oldest old one may live together while the
    /// old one works and the new one does not yet.
    fn prune(&self, running: &[Arc<PodView>], work: &mut Work) {
        if running.len() < 2 {
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.iter().partition(|pod| self.is_updated(pod));
        work.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.is_ready() || self.is_available(new))
        {
            work.delete.push((*old).clone());
        }
    }

    fn pair(&self, node: &str) -> Pair<'_> {
        let live = self.pods_on(node).iter().filter(|pod| !pod.metadata.is_deleting());
        let (new, old): (Vec<_>, Vec<_>) = live.partition(|pod| self.is_updated(pod));
        (new.len() < 2 && old.len() < 2).then(|| (new.first().copied(), old.first().copied()))
    }

    /// All nodes that are looked at in a rollout: those that want a pod, and those that have one.
    fn rolled(&self) -> impl Iterator<Item = &String> {
        let wanted = self.nodes.iter().filter(|(_, fit)| **fit == Fit::Wanted).map(|(node, _)| node);
        let others = self.pods.keys().filter(|node| self.nodes.get(*node) != Some(&Fit::Wanted));
        wanted.chain(others)
    }

    /// Goes on with a rollout.
    pub(super) fn roll(&self) -> Work {
        let (surge, unavailable) = self.limits();
        if surge == 0 { self.roll_by_deletion(unavailable) } else { self.roll_by_surge(surge) }
    }

    /// Old pods make room for new ones while few nodes are without one that is available. Old ones that
    /// do not work go in any case, and count.
    fn roll_by_deletion(&self, limit: usize) -> Work {
        let (mut unavailable, mut sick, mut candidates) = (0, Vec::new(), Vec::new());
        for node in self.rolled() {
            match self.pair(node) {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old.clone()),
                Some((None, Some(old))) => {
                    sick.push(old.clone());
                    unavailable += 1;
                }
                // Others are `manage`'s to be put right.
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            }
        }
        candidates.truncate(limit.saturating_sub(unavailable));
        sick.extend(candidates);
        Work { delete: sick, ..Work::default() }
    }

    /// New pods come beside old ones, on few nodes at a time.
    fn roll_by_surge(&self, limit: usize) -> Work {
        let (mut surged, mut candidates) = (0, Vec::new());
        let mut work = Work::default();
        for node in self.rolled() {
            match self.pair(node) {
                None => surged += 1,
                Some((_, None)) => {}
                Some((None, Some(_))) if self.nodes.get(node) != Some(&Fit::Wanted) => {}
                Some((None, Some(old))) if self.is_available(old) => candidates.push(node.clone()),
                Some((None, Some(_))) => work.create.push(node.clone()),
                Some((Some(new), Some(old))) => {
                    if !self.is_available(old) || self.is_available(new) {
                        work.delete.push(old.clone());
                    } else {
                        surged += 1;
                    }
                }
            }
        }
        candidates.truncate(limit.saturating_sub(surged));
        work.create.extend(candidates);
        work
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `n1:new` is a pod that is available; `!` unready, `x` deleting, `f` failed, `s` not assigned yet.
    pub(in super::super) fn pods(list: &[&str]) -> Vec<Arc<PodView>> {
        let pod = |(index, text): (usize, &&str)| {
            let (node, rest) = text.split_once(':').unwrap();
            let hash = rest.trim_end_matches(['!', 'x', 'f', 's']);
            let has = |mark: char| rest[hash.len()..].contains(mark);
            let ready = if has('!') || has('f') || has('s') { "False" } else { "True" };
            let mut value = json!({
                "metadata": {"name": format!("{node}-{hash}-{index}"), "labels": {HASH: hash},
                    "creationTimestamp": format!("2026-01-01T00:00:{index:02}Z")},
                "spec": {"nodeName": node},
                "status": {"phase": if has('f') { "Failed" } else { "Running" }, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            if has('x') {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            if has('s') {
                value["spec"] = json!({"affinity": {"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}}});
            }
            Arc::new(serde_json::from_value(value).unwrap())
        };
        list.iter().enumerate().map(pod).collect()
    }

    pub(in super::super) fn set(unavailable: Value, surge: Value) -> DaemonSetView {
        serde_json::from_value(json!({"metadata": {"name": "d", "generation": 2}, "spec": {"updateStrategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}}}))
        .unwrap()
    }

    /// Nodes n1 to n4; `kept` is tainted, `unfit` too, for running pods as well.
    pub(in super::super) fn nodes() -> Vec<Arc<NodeView>> {
        let node = |name: &&str| {
            let effect = match *name {
                "kept" => "NoSchedule",
                "unfit" => "NoExecute",
                _ => "PreferNoSchedule",
            };
            let value = json!({"metadata": {"name": name}, "spec": {"taints": [{"key": "t", "effect": effect}]}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        ["n1", "n2", "n3", "n4", "kept", "unfit"].iter().map(node).collect()
    }

    fn told(work: &Work) -> Vec<String> {
        let created = work.create.iter().map(|node| format!("+{node}"));
        let ended = work.ended.iter().map(|(node, _)| format!("?{node}"));
        let deleted = work.delete.iter().map(|pod| {
            let name = pod.metadata.name.rsplit_once('-').unwrap().0;
            format!("-{name}")
        });
        created.chain(ended).chain(deleted).collect()
    }

    #[test]
    fn each_node_gets_one_pod() {
        let check = |surge: i32, present: &[&str], expected: &[&str]| {
            let set = set(json!(i32::from(surge == 0)), json!(surge));
            let daemons = Daemons::new(&set, "new", nodes(), &pods(present), i64::MAX / 2);
            assert_eq!(told(&daemons.manage()), expected, "{present:?}");
        };
        check(0, &[], &["+n1", "+n2", "+n3", "+n4"]);
        let all = ["n2:new", "n3:new", "n4:new"];
        let with = |more: &[&'static str]| [more, &all].concat();
        check(0, &with(&["n1:news"]), &[]);
        check(0, &with(&["n1:newx"]), &[]);
        check(0, &with(&["n1:newf"]), &["?n1"]);
        check(0, &with(&["n1:old", "n1:new"]), &["-n1-new"]);
        check(0, &with(&["n1:new", "kept:new", "unfit:new"]), &["-unfit-new"]);
        check(0, &with(&["n1:new", "gone:news", "lost:new"]), &["-gone-new"]);
        // With surge an old pod stays until the new one is available.
        check(1, &with(&["n1:newx"]), &["+n1"]);
        check(1, &with(&["n1:old", "n1:new!"]), &[]);
        check(1, &with(&["n1:old", "n1:new"]), &["-n1-old"]);
        check(1, &with(&["n1:old!", "n1:new!"]), &["-n1-old"]);
        check(1, &with(&["n1:old", "n1:new!", "n1:new!"]), &["-n1-new"]);
    }

    #[test]
    fn a_rollout_stays_within_its_limits() {
        let check = |unavailable: Value, surge: Value, present: &[&str], expected: &[&str]| {
            let set = set(unavailable, surge);
            let daemons = Daemons::new(&set, "new", nodes(), &pods(present), i64::MAX / 2);
            assert_eq!(told(&daemons.roll()), expected, "{present:?}");
        };
        let old = ["n1:old", "n2:old", "n3:old", "n4:old"];
        check(json!(1), json!(0), &old, &["-n1-old"]);
        check(json!("50%"), json!(0), &old, &["-n1-old", "-n2-old"]);
        check(json!("30%"), json!(0), &old, &["-n1-old", "-n2-old"]);
        check(json!(1), json!(0), &["n1:oldx", "n2:old", "n3:old", "n4:old"], &[]);
        {
            let set = set(json!(1), json!(0));
            let daemons = Daemons::new(&set, "new", nodes(), &pods(&old), i64::MAX / 2);
            assert!(told(&daemons.with_twins(vec!["old"]).roll()).is_empty(), "the same template by another name");
        }
        check(json!(1), json!(0), &["n1:new!", "n2:old", "n3:old", "n4:old"], &[]);
        check(json!(1), json!(0), &["n1:new", "n2:old", "n3:old", "n4:old"], &["-n2-old"]);
        // What does not work goes first and counts.
        check(json!(1), json!(0), &["n1:old", "n2:old", "n3:old!", "n4:old"], &["-n3-old"]);
        check(json!(0), json!(1), &old, &["+n1"]);
        check(json!(0), json!(1), &["n1:old", "n1:new!", "n2:old", "n3:old", "n4:old"], &[]);
        check(json!(0), json!(1), &["n1:old", "n1:new", "n2:old", "n3:old", "n4:old"], &["+n2", "-n1-old"]);
        check(json!(0), json!("50%"), &["n1:new", "n2:old!", "n3:old", "n4:old"], &["+n2", "+n3", "+n4"]);
        check(json!(0), json!(0), &old, &["-n1-old"]);
    }
}
