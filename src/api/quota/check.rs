//! Whether a request fits into the quotas of its namespace, and what they hold afterwards.

use super::amounts::{Amounts, parse, show, write};
use super::usage::computing;
use super::{matches, matching, usage};
use crate::quantity::Quantity;
use crate::registry::Resource;
use crate::tree::{entries, list, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It changes.
    Update,
}

/// A request that may cost something.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// To objects of this resource.
    pub resource: &'static Resource,
    /// Through this part of it, empty for the object itself.
    pub subresource: &'a str,
    /// The object as it would be.
    pub object: &'a Value,
    /// The object as it is.
    pub old: Option<&'a Value>,
    /// Seconds since the epoch.
    pub now: i64,
}

/// A change to one quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The quota, by its place in the list that was given.
    pub quota: usize,
    /// What is added.
    pub amounts: Amounts,
}

/// Why a request does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would exceed a quota.
    #[error("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}")]
    Exceeded {
        /// The quota.
        name: String,
        /// What is asked for of what is exceeded.
        requested: String,
        /// What is used of it.
        used: String,
        /// What there is of it.
        limited: String,
    },
    /// Containers must say how much they want of what a quota limits.
    #[error("failed quota: {name}: must specify {missing}")]
    Unspecified {
        /// The quota.
        name: String,
        /// Which resources, for which containers.
        missing: String,
    },
    /// Nobody has counted yet what is used.
    #[error("status unknown for quota: {name}, resources: {resources}")]
    Unknown {
        /// The quota.
        name: String,
        /// Of these resources.
        resources: String,
    },
    /// An object that would count negatively.
    #[error("quota usage is negative for resource(s): {0}")]
    Negative(String),
}

impl Request<'_> {
    /// Whether quotas are interested at all.
    pub fn is_counted(&self) -> bool {
        let (create, update) = (self.operation == Operation::Create, self.operation == Operation::Update);
        match (self.resource.group, self.resource.plural, self.subresource) {
            (_, "events", _) => false,
            ("", "pods", "") => create,
            ("", "pods", "resize") => update,
            ("", "services" | "persistentvolumeclaims", "") => true,
            ("", "persistentvolumeclaims", "status") => update,
            ("resource.k8s.io", "resourceclaims", "") => true,
            (_, _, "") => create,
            _ => false,
        }
    }
}

/// What the request adds to each of the quotas. Nothing is added where it would not fit.
pub fn charge(request: &Request<'_>, quotas: &[Value]) -> Result<Vec<Charge>, Refusal> {
    let resource = request.resource;
    let interested: Vec<usize> = (0..quotas.len()).filter(|i| matches(&quotas[*i], resource, request.object)).collect();
    for i in &interested {
        constraints(request, &quotas[*i])?;
    }
    if interested.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = usage(resource, request.object, request.now);
    let negative: Vec<&str> = wanted.iter().filter(|(_, a)| a.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(Refusal::Negative(negative.join(",")));
    }
    let had = request.old.filter(|_| request.operation == Operation::Update);
    let before = had.map(|old| usage(resource, old, request.now));
    let mut charges = Vec::new();
    for i in interested {
        let quota = &quotas[i];
        let counted_before = had.is_some_and(|old| matches(quota, resource, old));
        let hard = parse(&quota["status"]["hard"]);
        let amounts: Amounts = wanted
            .iter()
            .filter(|(name, _)| hard.contains_key(*name))
            .map(|(name, amount)| {
                let had = before.as_ref().filter(|_| counted_before).and_then(|before| before.get(name));
                (name.clone(), had.map_or(*amount, |had| *amount - *had))
            })
            .filter(|(_, amount)| !amount.is_zero() && !amount.is_negative())
            .collect();
        if amounts.is_empty() {
            continue;
        }
        if request.subresource != "status" {
            fits(quota, &amounts, &hard)?;
        }
        charges.push(Charge { quota: i, amounts });
    }
    Ok(charges)
}

fn fits(quota: &Value, wanted: &Amounts, hard: &Amounts) -> Result<(), Refusal> {
    let used = parse(&quota["status"]["used"]);
    let sum = |name: &str, amount: Quantity| used.get(name).map_or(amount, |used| *used + amount);
    let exceeded = |name: &str| wanted.get(name).is_some_and(|a| hard.get(name).is_some_and(|h| sum(name, *a) > *h));
    if !wanted.keys().any(|name| exceeded(name)) {
        return Ok(());
    }
    let only = |amounts: &Amounts| -> String {
        show(&amounts.iter().filter(|(name, _)| exceeded(name)).map(|(name, a)| (name.clone(), *a)).collect())
    };
    Err(Refusal::Exceeded {
        name: text(&quota["metadata"]["name"]).to_owned(),
        requested: only(wanted),
        used: only(&used),
        limited: only(hard),
    })
}

/// What a quota demands before it counts: that it has been counted, and that containers say what they want.
fn constraints(request: &Request<'_>, quota: &Value) -> Result<(), Refusal> {
    let name = || text(&quota["metadata"]["name"]).to_owned();
    let hard: Vec<&str> = entries(&quota["status"]["hard"]).map(|(name, _)| name.as_str()).collect();
    let mut restricted: Vec<&str> = matching(request.resource, &hard).collect();
    restricted.sort_unstable();
    if (request.resource.group, request.resource.plural) == ("", "pods") {
        let missing = unspecified(&request.object["spec"], &restricted);
        if !missing.is_empty() {
            return Err(Refusal::Unspecified { name: name(), missing });
        }
    }
    let used = &quota["status"]["used"];
    if restricted.iter().any(|resource| used[*resource].is_null()) {
        return Err(Refusal::Unknown { name: name(), resources: restricted.join(",") });
    }
    Ok(())
}

/// What each container must speak of when a quota limits it. No others: these are so for their age.
const MUST_SPECIFY: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn unspecified(spec: &Value, restricted: &[&str]) -> String {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    // What the pod says for all its containers need not be said by each.
    let whole = computing(&parse(&spec["resources"]["requests"]), &parse(&spec["resources"]["limits"]));
    for container in ["containers", "initContainers"].iter().flat_map(|part| list(&spec[part])) {
        let resources = &container["resources"];
        let own = computing(&parse(&resources["requests"]), &parse(&resources["limits"]));
        for name in restricted.iter().filter(|name| MUST_SPECIFY.contains(name)) {
            if !own.contains_key(*name) && !whole.contains_key(*name) {
                missing.entry(name).or_default().insert(text(&container["name"]));
            }
        }
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(",")))
        .collect();
    parts.join("; ")
}

impl Charge {
    /// The quota with the charge in its `status.used`.
    pub fn apply(&self, quota: &Value) -> Value {
        changed(quota, &self.amounts, |used, amount| used + amount)
    }
}

/// The quota without what a write that did not happen had been charged.
pub fn refund(quota: &Value, amounts: &Amounts) -> Value {
    changed(quota, amounts, |used, amount| (used - amount).max(Quantity::ZERO))
}

fn changed(quota: &Value, amounts: &Amounts, with: impl Fn(Quantity, Quantity) -> Quantity) -> Value {
    let mut used = parse(&quota["status"]["used"]);
    for (name, amount) in amounts {
        let sum = with(used.get(name).copied().unwrap_or(Quantity::ZERO), *amount);
        used.insert(name.clone(), sum);
    }
    let mut quota = quota.clone();
    quota["status"]["used"] = write(&used);
    quota
}
