//! Amounts by resource, and what a pod asks for as a whole.

use crate::quantity::Quantity;
use crate::tree::{entries, list, text};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Amounts by the name of their resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a resource list; what is no quantity is left out.
pub fn parse(amounts: &Value) -> Amounts {
    entries(amounts).filter_map(|(name, value)| Some((name.clone(), Quantity::parse(text(value)).ok()?))).collect()
}

/// The amounts as a resource list.
pub(super) fn write(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect::<Map<_, _>>())
}

/// `cpu=1,pods=2`.
pub fn show(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}

fn add(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        to.entry(name.clone()).and_modify(|sum| *sum = *sum + *amount).or_insert(*amount);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        to.entry(name.clone()).and_modify(|most| *most = (*most).max(*amount)).or_insert(*amount);
    }
}

/// What a pod requests, without its overhead.
pub fn pod_requests(spec: &Value) -> Amounts {
    whole(spec, "requests")
}

/// What a pod is limited to, without its overhead.
pub fn pod_limits(spec: &Value) -> Amounts {
    whole(spec, "limits")
}

/// The containers together, or the largest step of initialisation; what the pod says itself counts more.
fn whole(spec: &Value, part: &str) -> Amounts {
    let mut running = Amounts::new();
    for container in list(&spec["containers"]) {
        add(&mut running, &parse(&container["resources"][part]));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in list(&spec["initContainers"]) {
        let own = parse(&container["resources"][part]);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            raise(&mut starting, &step);
        }
    }
    raise(&mut running, &starting);
    for (name, amount) in parse(&spec["resources"][part]) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            running.insert(name, amount);
        }
    }
    running
}

/// What a pod costs with its overhead. A limit is raised only where there is one.
pub(super) fn with_overhead(mut amounts: Amounts, spec: &Value, limits: bool) -> Amounts {
    for (name, overhead) in parse(&spec["overhead"]) {
        match amounts.get_mut(&name) {
            Some(sum) if !limits || !sum.is_zero() => *sum = *sum + overhead,
            None if !limits => drop(amounts.insert(name, overhead)),
            _ => {}
        }
    }
    amounts
}
