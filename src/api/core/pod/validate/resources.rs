//! Requests and limits.

use crate::checks::{NEGATIVE, required};
use crate::core::resource_names::{self, HUGE_PAGES, is_extended, may_overcommit};
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
    huge_pages(resources, path, errors);
    for (i, claim) in list(&resources["claims"]).iter().enumerate() {
        let name = text(&claim["name"]);
        let at = path.child("claims");
        if name.is_empty() {
            errors.required(at.index(i), "");
        } else if !claims.contains(&name) {
            errors.not_found(at.index(i), name);
        }
    }
}

fn one_resource(name: &str, value: &Value, owner: Owner, path: Path<'_>, errors: &mut FieldErrors) -> Option<Quantity> {
    resource_names::container_resource(name, path, errors);
    if owner == Owner::Pod && !matches!(name, "cpu" | "memory") && !name.starts_with(HUGE_PAGES) {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
    amount(name, value, path, errors)
}

fn huge_pages(resources: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let named = |test: &dyn Fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|k| entries(&resources[k]).any(|(n, _)| test(n)))
    };
    let huge = named(&|n| n.starts_with(HUGE_PAGES));
    let other = named(&|n| matches!(n, "cpu" | "memory"));
    if huge && !other {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
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
    if named && !required(&reference["containerName"], path.child("containerName"), errors) {
        return;
    }
    if !required(&reference["resource"], path.child("resource"), errors) {
        return;
    }
    let name = text(&reference["resource"]);
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if !FIELDS.contains(&name) && !huge {
        errors.not_supported(path.child("resource"), name, FIELDS);
        return;
    }
    let Some(divisor) = some_text(&reference["divisor"]).filter(|d| *d != "0") else { return };
    let kind = name.split_once('.').map_or(name, |(_, kind)| kind);
    let (allowed, list): (&[&str], &str) = if kind == "cpu" {
        (&["1m", "1"], "1m and 1")
    } else {
        (
            &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei",
        )
    };
    if !allowed.contains(&divisor) {
        let kind = if kind == "ephemeral-storage" { "local ephemeral storage" } else { kind };
        let why = format!("only divisor's values {list} are supported with the {kind} resource");
        errors.invalid(path.child("divisor"), divisor, &why);
    }
}
