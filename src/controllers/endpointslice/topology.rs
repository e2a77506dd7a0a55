//! Hints by a Service's older annotation: each zone serves about as much as its share of the processors. Pure.

use super::desired::Family;
use super::diff::{Content, Writes};
use naru_api::quantity::Quantity;
use naru_client::projections::{Endpoint, EndpointHints, EndpointSliceView, HintFor, NodeView, ServiceView, condition};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The annotation, the name it had before first: that one counts where both are there.
const ANNOTATIONS: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes with one of these labels do not count.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its share an endpoint may have to bear.
const OVERLOAD: f64 = 0.2;

/// Whether a Service asks for hints by annotation.
pub(super) fn is_wanted(service: &ServiceView) -> bool {
    let value = ANNOTATIONS.iter().find_map(|name| service.metadata.annotations.get(*name));
    value.is_some_and(|value| value == "Auto" || value == "auto")
}

/// A slice as if it had no hints.
pub(super) fn without_hints(slice: &EndpointSliceView) -> EndpointSliceView {
    let mut slice = slice.clone();
    slice.endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
    slice
}

/// What of a node counts here.
pub(super) fn counted(node: &NodeView) -> (bool, Option<&String>) {
    let ready = condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "True");
    (ready, node.metadata.labels.get(super::ZONE))
}

/// The zones' shares of the processors; none if a node does not say what it has, or there is only one zone.
pub(super) fn shares(nodes: &[Arc<NodeView>]) -> Option<BTreeMap<String, f64>> {
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        let (ready, zone) = counted(node);
        if !ready || CONTROL_PLANE.iter().any(|label| node.metadata.labels.contains_key(*label)) {
            continue;
        }
        let cpu = node.status.allocatable.get("cpu").and_then(|cpu| Quantity::parse(cpu).ok());
        let milli = cpu.map(|cpu| cpu.milli_value()).filter(|milli| *milli > 0)?;
        *zones.entry(zone.filter(|zone| !zone.is_empty())?.clone()).or_default() += milli;
    }
    let total: i64 = zones.values().sum();
    (zones.len() > 1).then(|| zones.into_iter().map(|(zone, milli)| (zone, milli as f64 / total as f64)).collect())
}

/// How many endpoints a zone should have.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quota {
    most: usize,
    wanted: f64,
}

fn quotas(shares: &BTreeMap<String, f64>, endpoints: usize) -> Result<BTreeMap<String, Quota>, String> {
    let counts = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {counts}"));
    }
    let least = |share: f64| (share * endpoints as f64 * (1.0 / (1.0 + OVERLOAD))).ceil();
    let all: f64 = shares.values().map(|share| least(*share)).sum();
    if all > endpoints as f64 {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {counts}"
        ));
    }
    let spare = endpoints as f64 - all;
    let quota = |share: f64| {
        let (least, exact) = (least(share), share * endpoints as f64);
        Quota { most: (least + spare) as usize, wanted: exact.max(least) }
    };
    Ok(shares.iter().map(|(zone, share)| (zone.clone(), quota(*share))).collect())
}

/// Puts hints on all that is written, and adds slices whose hints do not do any more. Where there cannot be any, all
/// are taken away, and it is told why.
pub(super) fn hint(
    shares: Option<&BTreeMap<String, f64>>,
    writes: &mut Writes,
    unchanged: Vec<Arc<EndpointSliceView>>,
    family: Family,
) -> Result<(), String> {
    let hinted = try_hint(shares, writes, &unchanged);
    hinted.map_err(|why| {
        clear(writes, unchanged);
        format!("{why}, addressType: {}", family.as_str())
    })
}

fn try_hint(
    shares: Option<&BTreeMap<String, f64>>,
    writes: &mut Writes,
    unchanged: &[Arc<EndpointSliceView>],
) -> Result<(), String> {
    let insufficient = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
    let shares = shares.ok_or_else(|| insufficient.to_owned())?;
    let written = writes.contents().flat_map(|content| &content.endpoints);
    let kept = unchanged.iter().flat_map(|slice| &slice.endpoints);
    let quotas = quotas(shares, written.chain(kept).filter(|endpoint| is_ready(endpoint)).count())?;
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    for slice in unchanged {
        match still_right(slice, &given, &quotas) {
            Some(hints) => hints.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count),
            None => writes.update.push((slice.clone(), Content::of(slice))),
        }
    }
    for endpoint in writes.contents_mut().flat_map(|content| &mut content.endpoints) {
        endpoint.hints = None;
        if is_ready(endpoint) {
            let zone = endpoint.zone.clone().filter(|zone| !zone.is_empty());
            let zone = zone.ok_or_else(|| "One or more endpoints do not have a zone specified".to_owned())?;
            *given.entry(zone.clone()).or_default() += 1;
            endpoint.hints = hints(zone);
        }
    }
    let (mut givers, mut takers) = exchange(&quotas, &given);
    for endpoint in writes.contents_mut().flat_map(|content| &mut content.endpoints).filter(|e| is_ready(e)) {
        let Some(from) = endpoint.zone.as_ref().and_then(|zone| givers.get_mut(zone)).filter(|left| **left > 0) else {
            continue;
        };
        let Some((to, room)) = takers.iter_mut().find(|(_, room)| **room > 0) else { break };
        (*from, *room) = (*from - 1, *room - 1);
        endpoint.hints = hints(to.clone());
    }
    if given.is_empty() { Err("No hints allocated for zones".to_owned()) } else { Ok(()) }
}

/// Takes all hints away.
fn clear(writes: &mut Writes, unchanged: Vec<Arc<EndpointSliceView>>) {
    let hinted = unchanged.into_iter().filter(|slice| slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some()));
    for slice in hinted {
        if !writes.update.iter().any(|(known, _)| known.metadata.name == slice.metadata.name) {
            let content = Content::of(&slice);
            writes.update.push((slice, content));
        }
    }
    writes.contents_mut().flat_map(|content| &mut content.endpoints).for_each(|endpoint| endpoint.hints = None);
}

fn hints(zone: String) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: vec![HintFor { name: zone }], for_nodes: Vec::new() })
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.ready == Some(true)
}

/// The zones that a slice's endpoints are meant for, with their counts; none if one has no hint, or one that does
/// not do.
fn still_right(
    slice: &EndpointSliceView,
    given: &BTreeMap<String, usize>,
    quotas: &BTreeMap<String, Quota>,
) -> Option<BTreeMap<String, usize>> {
    let mut own: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref().map(|hints| &hints.for_zones).filter(|zones| !zones.is_empty())?;
        zones.iter().for_each(|zone| *own.entry(zone.name.clone()).or_default() += 1);
    }
    let fits = |(zone, count): (&String, &usize)| {
        quotas.get(zone).is_some_and(|quota| count + given.get(zone).copied().unwrap_or_default() <= quota.most)
    };
    own.iter().all(fits).then_some(own)
}

/// How many endpoints zones give to others, and get from them.
fn exchange(
    quotas: &BTreeMap<String, Quota>,
    given: &BTreeMap<String, usize>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let surplus = |zone: &String, quota: &Quota| given.get(zone).copied().unwrap_or_default() as f64 - quota.wanted;
    let mut left: BTreeMap<&String, f64> = quotas.iter().map(|(zone, quota)| (zone, surplus(zone, quota))).collect();
    let (mut givers, mut takers) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let most = left.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, surplus)| (*zone, *surplus));
        let least = left.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, surplus)| (*zone, -surplus));
        let (Some((giver, gives)), Some((taker, takes))) = (most, least) else { break };
        if gives < 0.5 || takes < 0.5 || (gives < 1.0 && takes < 1.0) {
            break;
        }
        *givers.entry(giver.clone()).or_default() += 1;
        *takers.entry(taker.clone()).or_default() += 1;
        left.insert(giver, gives - 1.0);
        left.insert(taker, 1.0 - takes);
    }
    (givers, takers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::desired::tests::service;
    use super::*;
    use serde_json::json;

    fn node(zone: &str, cpu: &str) -> Arc<NodeView> {
        let node = json!({
            "metadata": {"labels": {super::super::ZONE: zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    /// `aab`: endpoints in zones a, a and b; capital ones are not ready.
    fn endpoints(zones: &str) -> Vec<Endpoint> {
        let endpoint = |(index, zone): (usize, char)| {
            let endpoint = json!({"addresses": [format!("10.0.0.{index}")], "zone": zone.to_lowercase().to_string(),
                "conditions": {"ready": zone.is_lowercase()}});
            serde_json::from_value(endpoint).unwrap()
        };
        zones.chars().enumerate().map(endpoint).collect()
    }

    fn hinted(endpoints: &[Endpoint]) -> String {
        let zone = |endpoint: &Endpoint| {
            endpoint.hints.as_ref().map_or("-".to_owned(), |hints| hints.for_zones[0].name.clone())
        };
        endpoints.iter().map(zone).collect()
    }

    fn run(nodes: &[(&str, &str)], zones: &str) -> Result<String, String> {
        let nodes: Vec<_> = nodes.iter().map(|(zone, cpu)| node(zone, cpu)).collect();
        let content = Content { endpoints: endpoints(zones), ..Content::default() };
        let mut writes = Writes { create: vec![content], ..Writes::default() };
        hint(shares(&nodes).as_ref(), &mut writes, Vec::new(), Family::V4)?;
        Ok(hinted(&writes.create[0].endpoints))
    }

    #[test]
    fn both_names_of_the_annotation_count_and_the_older_one_first() {
        let wanted = |annotations: serde_json::Value| {
            let mut service = service(json!({}));
            service.metadata.annotations = serde_json::from_value(annotations).unwrap();
            is_wanted(&service)
        };
        assert!(wanted(json!({ANNOTATIONS[1]: "Auto"})));
        assert!(wanted(json!({ANNOTATIONS[1]: "auto"})));
        assert!(wanted(json!({ANNOTATIONS[0]: "Auto", ANNOTATIONS[1]: "Disabled"})));
        assert!(!wanted(json!({ANNOTATIONS[0]: "Disabled", ANNOTATIONS[1]: "Auto"})));
        assert!(!wanted(json!({ANNOTATIONS[1]: "PreferZone"})));
        assert!(!wanted(json!({})));
    }

    #[test]
    fn zones_get_endpoints_by_their_share() {
        let even = [("a", "1"), ("b", "1")];
        assert_eq!(run(&even, "aabb").unwrap(), "aabb");
        assert_eq!(run(&even, "aaaa").unwrap(), "bbaa", "what is missing in one zone comes from the other");
        assert_eq!(run(&even, "aabbB").unwrap(), "aabb-", "what is not ready has none");
        assert_eq!(run(&[("a", "3"), ("b", "1")], "aabb").unwrap(), "aaab");
        assert_eq!(run(&[("a", "1"), ("a", "1"), ("b", "2")], "aaaabbb").unwrap(), "aaaabbb", "half an endpoint stays");
        // What is in a zone that has no nodes of its own keeps its hint, as upstream's does.
        assert_eq!(run(&even, "aaabbbc").unwrap(), "aaabbbc");
    }

    #[test]
    fn where_there_can_be_no_hints_it_is_told_why() {
        let even = [("a", "1"), ("b", "1")];
        let few = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, \
            addressType: IPv4";
        assert_eq!(run(&[("a", "1")], "aa").unwrap_err(), few);
        assert_eq!(run(&[("a", "1"), ("", "1")], "aa").unwrap_err(), few);
        assert_eq!(run(&[("a", "1"), ("b", "0")], "aa").unwrap_err(), few);
        assert_eq!(
            run(&even, "aB").unwrap_err(),
            "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4"
        );
        assert_eq!(
            run(&even, "aab").unwrap_err(),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
             (3 endpoints, 2 zones), addressType: IPv4"
        );
    }

    #[test]
    fn slices_with_the_right_hints_are_left_alone() {
        let slice = |name: &str, zones: &str, given: &str| {
            let mut slice = EndpointSliceView { endpoints: endpoints(zones), ..EndpointSliceView::default() };
            name.clone_into(&mut slice.metadata.name);
            for (endpoint, zone) in slice.endpoints.iter_mut().zip(given.chars()) {
                endpoint.hints = (zone != '-').then(|| hints(zone.to_string())).flatten();
            }
            Arc::new(slice)
        };
        let run = |nodes: &[(&str, &str)], unchanged: Vec<Arc<EndpointSliceView>>| {
            let nodes: Vec<_> = nodes.iter().map(|(zone, cpu)| node(zone, cpu)).collect();
            let mut writes = Writes::default();
            let refused = hint(shares(&nodes).as_ref(), &mut writes, unchanged, Family::V4).is_err();
            let told = writes
                .update
                .iter()
                .map(|(slice, content)| format!("{} {}", slice.metadata.name, hinted(&content.endpoints)));
            (told.collect::<Vec<_>>(), refused)
        };
        let even = [("a", "1"), ("b", "1")];
        let none: Vec<String> = Vec::new();
        assert_eq!(run(&even, vec![slice("x", "aaaa", "bbaa")]), (none.clone(), false));
        assert_eq!(run(&even, vec![slice("x", "aabb", "aab-")]), (vec!["x aabb".to_owned()], false));
        assert_eq!(run(&even, vec![slice("x", "aabb", "aacc")]), (vec!["x aabb".to_owned()], false));
        let two = || vec![slice("x", "aaaa", "aaaa"), slice("y", "bbbb", "bbbb")];
        assert_eq!(run(&even, two()), (none.clone(), false));
        assert_eq!(run(&[("a", "1"), ("b", "3")], two()), (vec!["x bbaa".to_owned()], false));
        // One zone is gone: the hints go.
        assert_eq!(run(&even[..1], two()), (vec!["x ----".to_owned(), "y ----".to_owned()], true));
    }
}
