//! What one object counts for.

use super::amounts::{Amounts, parse, pod_limits, pod_requests, with_overhead};
use crate::core::resource_names::{HUGE_PAGES, is_extended, is_native};
use crate::quantity::Quantity;
use crate::registry::Resource;
use crate::table;
use crate::tree::{int, list, some_text, text};
use serde_json::Value;

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// How many devices a request for all of them counts for.
const ALL_DEVICES: i64 = 32;

/// `count/jobs.batch`.
fn count_name(resource: &Resource) -> String {
    match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    }
}

/// Kinds that were counted under their plain names before there was `count/`.
fn plain_name(resource: &Resource) -> Option<&'static str> {
    let plain = ["configmaps", "secrets", "resourcequotas", "replicationcontrollers"];
    (resource.group.is_empty() && plain.contains(&resource.plural)).then_some(resource.plural)
}

/// Those of the limited resources that objects of this kind can use.
pub fn matching<'a>(resource: &'a Resource, hard: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let counted = count_name(resource);
    hard.iter().copied().filter(move |name| *name == counted || uses(resource, name))
}

fn uses(resource: &Resource, name: &str) -> bool {
    match (resource.group, resource.plural) {
        ("", "pods") => {
            let computing = ["cpu", "memory", "ephemeral-storage"];
            let part = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            name == "pods"
                || computing.contains(&part)
                || name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES)
                || (name.starts_with("requests.") && !is_native(name))
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            let storage = ["persistentvolumeclaims", "requests.storage"];
            storage.contains(&name) || name.split_once(STORAGE_CLASS).is_some_and(|(_, what)| storage.contains(&what))
        }
        ("resource.k8s.io", "resourceclaims") => name.ends_with(DEVICE_CLASS),
        _ => plain_name(resource) == Some(name),
    }
}

/// What the object counts for. `now` is seconds since the epoch: a pod whose grace is over counts no more.
pub fn usage(resource: &Resource, object: &Value, now: i64) -> Amounts {
    let one = Quantity::from_value(1);
    let mut amounts = Amounts::from([(count_name(resource), one)]);
    match (resource.group, resource.plural) {
        ("", "pods") => {
            if is_charged(object, now) {
                amounts.extend(pod(&object["spec"]));
            }
        }
        ("", "services") => amounts.extend(service(&object["spec"])),
        ("", "persistentvolumeclaims") => amounts.extend(claim(object)),
        ("resource.k8s.io", "resourceclaims") => devices(&object["spec"]["devices"], &mut amounts),
        _ => amounts.extend(plain_name(resource).map(|name| (name.to_owned(), one))),
    }
    amounts
}

fn is_charged(pod: &Value, now: i64) -> bool {
    let metadata = &pod["metadata"];
    let ended = matches!(text(&pod["status"]["phase"]), "Failed" | "Succeeded");
    let gone = some_text(&metadata["deletionTimestamp"]).and_then(table::seconds).is_some_and(|at| {
        metadata["deletionGracePeriodSeconds"].as_i64().is_some_and(|grace| now > at.saturating_add(grace))
    });
    !ended && !gone
}

/// What a pod counts for, and (of one container) which resources it names.
fn pod(spec: &Value) -> Amounts {
    computing(&with_overhead(pod_requests(spec), spec, false), &with_overhead(pod_limits(spec), spec, true))
}

/// Requests and limits under the names that quotas have for them.
pub(super) fn computing(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut amounts = Amounts::from([("pods".to_owned(), Quantity::from_value(1))]);
    for (name, request) in requests {
        let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if plain {
            amounts.insert(name.clone(), *request);
        }
        if plain || is_extended(name) {
            amounts.insert(format!("requests.{name}"), *request);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(limit) = limits.get(name) {
            amounts.insert(format!("limits.{name}"), *limit);
        }
    }
    amounts
}

fn service(spec: &Value) -> Amounts {
    let ports = list(&spec["ports"]);
    let numbered = || ports.iter().filter(|port| int(&port["nodePort"]) != 0).count();
    let (node_ports, balancers) = match text(&spec["type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => (numbered(), 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let count = |number: usize| Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX));
    Amounts::from([
        ("services".to_owned(), count(1)),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

fn claim(claim: &Value) -> Amounts {
    let mut amounts = Amounts::from([("persistentvolumeclaims".to_owned(), Quantity::from_value(1))]);
    let requested = parse(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    let allocated = parse(&claim["status"]["allocatedResources"]).get("storage").copied();
    if let Some(storage) = requested.map(|requested| allocated.map_or(requested, |a| a.max(requested)).rounded_up()) {
        amounts.insert("requests.storage".to_owned(), storage);
    }
    let annotated = some_text(&claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]);
    if let Some(class) = annotated.or_else(|| some_text(&claim["spec"]["storageClassName"])) {
        let by_class: Amounts =
            amounts.iter().map(|(name, amount)| (format!("{class}{STORAGE_CLASS}{name}"), *amount)).collect();
        amounts.extend(by_class);
    }
    amounts
}

/// Devices by class: the most that each request could take.
fn devices(claim: &Value, amounts: &mut Amounts) {
    for request in list(&claim["requests"]) {
        let mut most = Amounts::new();
        let exactly = std::iter::once(&request["exactly"]).filter(|exactly| exactly.is_object());
        for part in exactly.chain(list(&request["firstAvailable"])) {
            let number = if part["allocationMode"] == "All" { ALL_DEVICES } else { int(&part["count"]) };
            let number = Quantity::from_value(number.max(0));
            let name = format!("{}{DEVICE_CLASS}", text(&part["deviceClassName"]));
            most.entry(name).and_modify(|most| *most = (*most).max(number)).or_insert(number);
        }
        for (name, number) in most {
            amounts.entry(name).and_modify(|sum| *sum = *sum + number).or_insert(number);
        }
    }
}
