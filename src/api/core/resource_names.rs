//! Names of resources that are counted: what a container, a limit range and a quota may speak of.

use crate::checks::{NEGATIVE, complain};
use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{FieldErrors, Path};
use crate::tree::text;
use serde_json::Value;

pub(crate) const HUGE_PAGES: &str = "hugepages-";
const REQUESTS: &str = "requests.";
const INTEGER: &str = "must be an integer";

/// Names without a prefix that mean something somewhere.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Those that count objects, and so in whole numbers.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether containers may ask for it.
pub(crate) fn is_for_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES)
}

/// Whether Kubernetes itself gives the name its meaning.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a node's operator or a device plugin gives the name its meaning.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with(REQUESTS) && names::qualified_name(&format!("{REQUESTS}{name}")).is_empty()
}

/// Whether more of it may be promised than there is.
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

fn is_huge_pages_of_quota(name: &str) -> bool {
    name.strip_prefix(REQUESTS).unwrap_or(name).starts_with(HUGE_PAGES)
}

/// Whether a quota may limit it under this plain name.
pub(crate) fn is_for_quota(name: &str) -> bool {
    (name != "storage" && STANDARD.contains(&name)) || is_huge_pages_of_quota(name)
}

/// Any name that means something; whether it does.
fn any(name: &str, path: Path<'_>, errors: &mut FieldErrors) -> bool {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        complain(wrong, name, path, errors);
        return false;
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge_pages_of_quota(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A name of any resource.
pub(crate) fn resource(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    any(name, path, errors);
}

/// A name that containers may use.
pub(crate) fn container_resource(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    any(name, path, errors);
    if !name.contains('/') {
        if !is_for_containers(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A name that quotas may limit.
pub(crate) fn quota_resource(name: &str, path: Path<'_>, errors: &mut FieldErrors) {
    any(name, path, errors);
    if !name.contains('/') && !is_for_quota(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// An amount in a quota: not negative, and whole where objects are counted.
pub(crate) fn quota_amount(name: &str, value: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let Ok(quantity) = Quantity::parse(text(value)) else { return };
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string(), NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !quantity.is_integer() {
        errors.invalid(path, quantity.to_string(), INTEGER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_use_which_name() {
        let check = |rule: fn(&str, Path<'_>, &mut FieldErrors), name: &str| -> Vec<String> {
            let mut errors = FieldErrors::default();
            rule(name, Path::root("x"), &mut errors);
            errors.messages()
        };
        for name in ["pods", "requests.hugepages-2Mi", "hugepages-2Mi", "count/deployments.apps", "requests.a.com/gpu"]
        {
            assert!(check(quota_resource, name).is_empty(), "{name}");
        }
        for name in ["cpu", "hugepages-1Gi", "a.com/gpu"] {
            assert!(check(container_resource, name).is_empty(), "{name}");
        }
        assert_eq!(
            check(quota_resource, "storage"),
            ["x: Invalid value: \"storage\": must be a standard resource for quota"]
        );
        assert_eq!(
            check(container_resource, "pods"),
            ["x: Invalid value: \"pods\": must be a standard resource for containers"]
        );
        assert_eq!(
            check(resource, "gpu"),
            ["x: Invalid value: \"gpu\": must be a standard resource type or fully qualified"]
        );
    }
}
