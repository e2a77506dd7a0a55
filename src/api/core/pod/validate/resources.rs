//! Requests and limits.

use crate::checks::{NEGATIVE, complain};
use crate::core::resource_names::{self, HUGE_PAGES, is_extended, may_overcommit};
use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::{entries, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Whose resources they are: a pod may name fewer than a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Container,
    Pod,
}

const INTEGER: &str = "must be an integer";

fn amount(name: &str, value: &Value, path: Path<'_>, errors: &mut FieldErrors) -> Option<Quantity> {
    let quantity = Quantity::parse(text(value)).ok()?;
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string().as_str(), NEGATIVE);
    }
    let counted = is_extended(name) || name.starts_with(HUGE_PAGES);
    if counted && !quantity.is_integer() {
        errors.invalid(path, quantity.to_string().as_str(), INTEGER);
    }
    Some(quantity)
}

/// The requests, limits and claims of a container or a pod.
pub(super) fn requirements(
    resources: &Value,
    owner: Owner,
    path: Path<'_>,
    claims: &BTreeSet<&str>,
    errors: &mut FieldErrors,
) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, value) in entries(&resources["limits"]) {
        one_resource(name, value, owner, limits.key(name), errors);
    }
    for (name, value) in entries(&resources["requests"]) {
        let Some(request) = one_resource(name, value, owner, requests.key(name), errors) else { continue };
        let limit = some_text(&resources["limits"][name]).and_then(|l| Quantity::parse(l).ok());
        let shown = request.to_string();
        match limit {
            Some(limit) if request != limit && !may_overcommit(name) => {
                errors.invalid(requests, &shown, &format!("must be equal to {name} limit of {limit}"));
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(requests, &shown, &why);
            }
            None if !may_overcommit(name) => {
                errors.required(limits, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    huge_pages_alone(resources, path, errors);
    claim_names(resources, claims, path.child("claims"), errors);
}

/// A claim is named once as a whole, or once for each of its requests.
fn claim_names(resources: &Value, claims: &BTreeSet<&str>, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in list(&resources["claims"]).iter().enumerate() {
        let (name, item) = (text(&claim["name"]), path.index(i));
        if name.is_empty() {
            errors.required(item, "");
            continue;
        }
        let request = some_text(&claim["request"]);
        let key = request.map_or_else(|| name.to_owned(), |request| format!("{name}/{request}"));
        if seen.contains(name) {
            errors.duplicate(item, name);
        } else {
            if let Some(request) = request {
                complain(names::dns_label(request), request, item.child("request"), errors);
            }
            if seen.contains(&key) {
                errors.duplicate(item, &key);
            } else if request.is_none() {
                for _ in seen.iter().filter(|other| other.split_once('/').is_some_and(|(n, _)| n == name)) {
                    errors.duplicate(item, name);
                }
            }
            seen.insert(key);
        }
        if !claims.contains(name) {
            let known: Vec<&str> = claims.iter().copied().collect();
            let detail = match known.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                _ => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            errors.not_found_because(item, name, &detail);
        }
    }
}

fn one_resource(name: &str, value: &Value, owner: Owner, path: Path<'_>, errors: &mut FieldErrors) -> Option<Quantity> {
    match owner {
        Owner::Container => resource_names::container_resource(name, path, errors),
        Owner::Pod => {
            complain(names::qualified_name(name), name, path, errors);
            if !matches!(name, "cpu" | "memory") && !name.starts_with(HUGE_PAGES) {
                errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    let quantity = amount(name, value, path, errors)?;
    if let Some(page) = name.strip_prefix(HUGE_PAGES).and_then(|size| Quantity::parse(size).ok())
        && page.value() > 0
        && quantity.value() % page.value() != 0
    {
        let shown = quantity.to_string();
        errors.invalid(path, &shown, &format!("{shown} is not positive integer multiple of {name}"));
    }
    Some(quantity)
}

fn huge_pages_alone(resources: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let named = |test: &dyn Fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|k| entries(&resources[k]).any(|(n, _)| test(n)))
    };
    let huge = named(&|n| n.starts_with(HUGE_PAGES));
    let other = named(&|n| matches!(n, "cpu" | "memory"));
    if huge && !other {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// What the pod as a whole asks for.
pub(super) fn pod(spec: &Value, claims: &BTreeSet<&str>, path: Path<'_>, errors: &mut FieldErrors) {
    let resources = &spec["resources"];
    if !resources.is_object() {
        return;
    }
    let at = path.child("resources");
    if spec["os"]["name"] == "windows" {
        return errors.forbidden(at, "may not be set for a windows pod");
    }
    if resources["claims"].is_array() {
        errors.forbidden(at.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, Owner::Pod, at, claims, errors);
    let (requests, limits) = (at.child("requests"), at.child("limits"));
    for (name, wanted) in entries(&resources["requests"]) {
        let (wanted, sum) = (quantity(wanted), aggregate(spec, "requests", name));
        if sum > wanted {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(requests.key(name), wanted.to_string().as_str(), &why);
        }
    }
    for (name, most) in entries(&resources["limits"]).filter(|(name, _)| name.starts_with(HUGE_PAGES)) {
        let (most, sum) = (quantity(most), aggregate(spec, "limits", name));
        if sum > most {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(limits.key(name), most.to_string().as_str(), &why);
        }
    }
    let containers = at.child("containers");
    for (i, container) in list(&spec["containers"]).iter().enumerate() {
        for (name, limit) in entries(&container["resources"]["limits"]) {
            let Some(most) = resources["limits"].get(name).map(quantity) else { continue };
            if quantity(limit) > most {
                let why = format!("must be less than or equal to pod limits of {most}");
                let item = containers.index(i);
                errors.invalid(item.key(name).child("limits"), quantity(limit).to_string().as_str(), &why);
            }
        }
    }
}

fn quantity(value: &Value) -> Quantity {
    Quantity::parse(text(value)).unwrap_or(Quantity::ZERO)
}

/// What the containers need of a resource at the most crowded moment: sidecars stay while the others
/// among the init containers come and go.
fn aggregate(spec: &Value, kind: &str, name: &str) -> Quantity {
    let of = |container: &Value| quantity(&container["resources"][kind][name]);
    let mut running = list(&spec["containers"]).iter().map(of).fold(Quantity::ZERO, |sum, one| sum + one);
    let (mut sidecars, mut most) = (Quantity::ZERO, Quantity::ZERO);
    for container in list(&spec["initContainers"]) {
        if container["restartPolicy"] == "Always" {
            running = running + of(container);
            sidecars = sidecars + of(container);
            most = most.max(sidecars);
        } else {
            most = most.max(of(container) + sidecars);
        }
    }
    running.max(most)
}

/// What running the pod itself costs.
pub(crate) fn overhead(overhead: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (name, value) in entries(overhead) {
        one_resource(name, value, Owner::Container, path.key(name), errors);
    }
}

const FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to a container's request or limit; files must say of which container.
pub(super) fn field_ref(reference: &Value, named: bool, path: Path<'_>, errors: &mut FieldErrors) {
    let name = text(&reference["resource"]);
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if named && text(&reference["containerName"]).is_empty() {
        errors.required(path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !FIELDS.contains(&name) && !huge {
        errors.not_supported(path.child("resource"), name, FIELDS);
    }
    let Some(divisor) = some_text(&reference["divisor"]).filter(|d| !quantity(&(*d).into()).is_zero()) else { return };
    let kind = match name.split_once('.') {
        Some((_, "cpu")) => "cpu",
        Some((_, "memory")) => "memory",
        Some((_, "ephemeral-storage")) => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    let (allowed, shown): (&[&str], &str) = if kind == "cpu" {
        (&["1m", "1"], "1m and 1")
    } else {
        (
            &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
        )
    };
    if !allowed.contains(&divisor) {
        let why = format!("only divisor's values {shown} are supported with the {kind} resource");
        errors.invalid(path.child("divisor"), name, &why);
    }
}
