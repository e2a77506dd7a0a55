//! How fast nodes that are not ready may lose their pods: zone by zone, and not at all where it looks as if
//! the network were at fault rather than the nodes. Pure.

use super::taints::{self, NOT_READY, UNREACHABLE};
use naru_client::projections::{NodeView, condition};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The time between two nodes of a zone (`--node-eviction-rate`), and where much of it is not ready
/// (`--secondary-node-eviction-rate`).
const PAUSE: Duration = Duration::from_secs(10);
const LONG_PAUSE: Duration = Duration::from_secs(100);
/// Zones of at most so many nodes evict nobody while much of them is not ready (`--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// This part of a zone is much (`--unhealthy-zone-threshold`), if it is more than two nodes.
const MUCH_PERCENT: usize = 55;
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Nodes with this label say nothing about their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// What the controller remembers of the zones.
#[derive(Debug, Default)]
pub(super) struct Zones {
    /// When a zone's last node was given up.
    last: HashMap<String, Instant>,
    /// Nodes that have been given up and are not ready since.
    given_up: HashSet<String>,
    all_down: bool,
    /// Zones that there were at the last look.
    known: BTreeSet<String>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes, each with the taint that evicts, or without.
    pub(super) taints: Vec<(Arc<NodeView>, Option<&'static str>)>,
    /// When the next node may be given up.
    pub(super) wait: Option<Duration>,
    /// Some node is ready again after none was: all of them get time to report.
    pub(super) revived: bool,
    /// All zones, and those that have gone.
    pub(super) zones: BTreeMap<String, Health>,
}

/// How many nodes of a zone are ready, and how many are not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) ready: usize,
    pub(super) not_ready: usize,
}

impl Health {
    /// In percent; a zone without nodes is well.
    pub(super) fn percent(self) -> f64 {
        match self.ready + self.not_ready {
            0 => 100.0,
            size => (100 * self.ready) as f64 / size as f64,
        }
    }

    fn is_down(self) -> bool {
        self.ready == 0 && self.not_ready > 0
    }

    /// The time between two nodes of the zone; nothing if none may be given up.
    fn pause(self) -> Option<Duration> {
        let size = self.ready + self.not_ready;
        let much = self.not_ready > 2 && self.not_ready * 100 >= size * MUCH_PERCENT;
        match (self.is_down(), much) {
            (false, true) => (size > LARGE).then_some(LONG_PAUSE),
            _ => Some(PAUSE),
        }
    }
}

/// The zone that a node is in, within its region, as metrics name it.
pub(super) fn of(node: &NodeView) -> String {
    let label = |name: &str| node.metadata.labels.get(name).map_or("", String::as_str);
    match (label(REGION_LABEL), label(ZONE_LABEL)) {
        ("", "") => String::new(),
        (region, zone) => format!("{region}:\0:{zone}"),
    }
}

pub(super) fn is_excluded(node: &NodeView) -> bool {
    node.metadata.labels.contains_key(EXCLUDED)
}

/// The status of the Ready condition; empty before the node has reported.
pub(super) fn readiness(node: &NodeView) -> &str {
    condition(&node.status.conditions, "Ready").map_or("", |ready| ready.status.as_str())
}

impl Zones {
    /// Looks at all nodes.
    pub(super) fn plan(&mut self, nodes: &[Arc<NodeView>], now: Instant) -> Plan {
        let mut zones: BTreeMap<String, Health> = BTreeMap::new();
        for node in nodes {
            let health = zones.entry(of(node)).or_default();
            match readiness(node) {
                _ if is_excluded(node) => {}
                "True" => health.ready += 1,
                _ => health.not_ready += 1,
            }
        }
        self.last.retain(|zone, _| zones.contains_key(zone));
        let mut told = zones.clone();
        for gone in std::mem::replace(&mut self.known, zones.keys().cloned().collect()) {
            told.entry(gone).or_default();
        }
        let somebody = zones.values().any(|zone| zone.ready > 0);
        let nobody = !somebody && zones.values().any(|zone| zone.is_down());
        let was_down = std::mem::replace(&mut self.all_down, nobody);
        if self.all_down {
            // Nobody is ready: more likely it is us who hear nothing.
            self.given_up.clear();
            let evicting = nodes.iter().filter(|node| taints::evicts(node));
            return Plan {
                taints: evicting.map(|node| (node.clone(), None)).collect(),
                zones: told,
                ..Plan::default()
            };
        }
        let mut plan = Plan { revived: was_down, zones: told, ..Plan::default() };
        self.given_up.retain(|name| nodes.iter().any(|node| node.metadata.name == *name && is_unready(node)));
        let mut unready: Vec<_> = nodes.iter().filter(|node| is_unready(node)).collect();
        unready.sort_by_key(|node| (since(node), node.metadata.name.clone()));
        for node in unready {
            let taint = if readiness(node) == "False" { NOT_READY } else { UNREACHABLE };
            if taints::evicts(node) || self.given_up.contains(&node.metadata.name) {
                self.given_up.insert(node.metadata.name.clone());
                plan.taints.push((node.clone(), Some(taint)));
                continue;
            }
            let zone = of(node);
            let Some(pause) = zones.get(&zone).copied().unwrap_or_default().pause() else { continue };
            let left =
                self.last.get(&zone).map_or(Duration::ZERO, |last| (*last + pause).saturating_duration_since(now));
            if left.is_zero() {
                self.last.insert(zone, now);
                self.given_up.insert(node.metadata.name.clone());
                plan.taints.push((node.clone(), Some(taint)));
            } else {
                plan.wait = Some(plan.wait.map_or(left, |wait| wait.min(left)));
            }
        }
        let recovered = nodes.iter().filter(|node| readiness(node) == "True" && taints::evicts(node));
        plan.taints.extend(recovered.map(|node| (node.clone(), None)));
        plan
    }
}

fn is_unready(node: &NodeView) -> bool {
    !matches!(readiness(node), "" | "True")
}

fn since(node: &NodeView) -> String {
    condition(&node.status.conditions, "Ready").map_or_else(String::new, |ready| ready.last_transition_time.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    /// `a:True`: a node in zone a; `~` marks one that pods are evicted from, `-` one that is excluded.
    fn nodes(list: &[&str]) -> Vec<Arc<NodeView>> {
        let node = |(index, text): (usize, &&str)| {
            let (zone, status) = text.trim_end_matches(['~', '-']).split_once(':').unwrap();
            let mut node = json!({
                "metadata": {"name": format!("{zone}{index}"), "labels": {ZONE_LABEL: zone}},
                "status": {"conditions": [{"type": "Ready", "status": status,
                    "lastTransitionTime": format!("2026-01-01T00:00:{index:02}Z")}]},
            });
            if text.contains('~') {
                node["spec"] = json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}]});
            }
            if text.contains('-') {
                node["metadata"]["labels"][EXCLUDED] = "".into();
            }
            Arc::new(serde_json::from_value(node).unwrap())
        };
        list.iter().enumerate().map(node).collect()
    }

    fn told(plan: &Plan) -> Vec<String> {
        let short = |taint: Option<&'static str>| taint.map_or("none", |key| key.rsplit('/').next().unwrap());
        plan.taints.iter().map(|(node, taint)| format!("{} {}", node.metadata.name, short(*taint))).collect()
    }

    fn seconds(wait: Option<Duration>) -> Option<u64> {
        wait.map(|wait| wait.as_secs())
    }

    #[test]
    fn one_node_of_a_zone_is_given_up_every_ten_seconds() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let all = nodes(&["a:True", "a:True", "a:Unknown", "a:False", "b:True", "b:Unknown"]);
        let plan = zones.plan(&all, start);
        assert_eq!(told(&plan), ["a2 unreachable", "b5 unreachable"]);
        assert_eq!(seconds(plan.wait), Some(10));
        let plan = zones.plan(&all, after(4));
        assert_eq!(told(&plan), ["a2 unreachable", "b5 unreachable"], "until the cache shows it");
        assert_eq!(seconds(plan.wait), Some(6));
        let plan = zones.plan(&all, after(10));
        assert_eq!(told(&plan), ["a2 unreachable", "a3 not-ready", "b5 unreachable"]);
        assert_eq!(plan.wait, None);
        // What comes back and fails anew waits for its turn like the others.
        zones.plan(&nodes(&["a:True", "a:True", "a:True", "a:False", "b:True", "b:Unknown"]), after(11));
        let plan = zones.plan(&all, after(12));
        assert_eq!(told(&plan), ["a3 not-ready", "b5 unreachable"]);
        assert_eq!(seconds(plan.wait), Some(8));
    }

    #[test]
    fn taints_are_swapped_and_taken_away_at_once() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let all = nodes(&["a:True", "a:False~", "a:Unknown~", "a:True~", "a:True"]);
        assert_eq!(told(&zones.plan(&all, start)), ["a1 not-ready", "a2 unreachable", "a3 none"]);
    }

    #[test]
    fn a_small_zone_in_trouble_waits_and_a_large_one_goes_slowly() {
        let start = Instant::now();
        let plan = |ready: usize, unready: usize, later: u64| {
            let list: Vec<_> =
                std::iter::repeat_n("a:True", ready).chain(std::iter::repeat_n("a:Unknown", unready)).collect();
            let (mut zones, all) = (Zones::default(), nodes(&list));
            zones.plan(&all, start);
            let plan = zones.plan(&all, start + Duration::from_secs(later));
            (plan.taints.len(), seconds(plan.wait))
        };
        assert_eq!(plan(2, 2, 10), (2, None), "two are never much");
        assert_eq!(plan(5, 5, 10), (2, Some(10)), "half is not much");
        assert_eq!(plan(4, 6, 10), (0, None));
        assert_eq!(plan(20, 30, 10), (0, None));
        assert_eq!(plan(20, 31, 10), (1, Some(90)));
        assert_eq!(plan(20, 31, 100), (2, Some(100)));
    }

    #[test]
    fn a_zone_that_is_down_loses_its_pods_while_another_is_up() {
        let mut zones = Zones::default();
        let all = nodes(&["a:Unknown", "a:Unknown", "a:Unknown", "b:True"]);
        let plan = zones.plan(&all, Instant::now());
        assert_eq!((told(&plan), seconds(plan.wait)), (vec!["a0 unreachable".to_owned()], Some(10)));
    }

    #[test]
    fn nobody_is_given_up_when_nobody_is_ready() {
        let (mut zones, start) = (Zones::default(), Instant::now());
        let plan = zones.plan(&nodes(&["a:Unknown~", "b:Unknown", "b:False"]), start);
        assert_eq!((told(&plan), plan.wait, plan.revived), (vec!["a0 none".to_owned()], None, false));
        let plan = zones.plan(&nodes(&["a:True", "b:Unknown", "b:False"]), start);
        assert_eq!((told(&plan), plan.revived), (vec!["b1 unreachable".to_owned()], true));
        assert!(!zones.plan(&nodes(&["a:True", "b:Unknown", "b:False"]), start).revived);
        // An excluded node neither holds its zone up nor drags it down.
        let plan = zones.plan(&nodes(&["a:Unknown", "b:True-"]), start);
        assert_eq!(told(&plan), Vec::<String>::new());
        let later = start + PAUSE;
        assert_eq!(told(&zones.plan(&nodes(&["a:True", "b:Unknown-"]), later)), ["b1 unreachable"]);
        assert!(zones.plan(&[], start).taints.is_empty());
    }

    #[test]
    fn the_health_of_zones_is_told_and_of_those_that_have_gone_once() {
        let mut zones = Zones::default();
        let mut look = |list: &[&str]| {
            let plan = zones.plan(&nodes(list), Instant::now());
            let told = plan.zones.iter().map(|(zone, health)| {
                format!("{} {} of {}", zone.replace('\0', "0"), health.percent(), health.ready + health.not_ready)
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(look(&["a:True", "a:Unknown", "b:True", "b:False-"]), [":0:a 50 of 2", ":0:b 100 of 1"]);
        assert_eq!(look(&["a:False"]), [":0:a 0 of 1", ":0:b 100 of 0"]);
        assert_eq!(look(&["a:False"]), [":0:a 0 of 1"]);
        assert_eq!(of(&NodeView::default()), "");
    }

    #[test]
    fn a_node_that_has_never_reported_is_left_alone() {
        let mut all = nodes(&["a:True", "a:True"]);
        all.push(Arc::new(NodeView::default()));
        assert!(Zones::default().plan(&all, Instant::now()).taints.is_empty());
    }
}
