//! What is allowed in a pod, but hardly meant.

use crate::quantity::Quantity;
use crate::status::Path;
use crate::tree::{entries, int, list, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// More than this many warnings are not sent.
const MAX_WARNINGS: usize = 50;

/// Labels of nodes that were renamed.
const RENAMED: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch", "1.14"),
    ("beta.kubernetes.io/os", "kubernetes.io/os", "1.14"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region", "1.17"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone", "1.17"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "1.17"),
];

/// The present name of a label of nodes that was renamed.
pub(crate) fn renamed_label(key: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _, _)| *old == key).map(|(_, new, _)| *new)
}

/// Warnings about the spec of a pod or a template.
pub(crate) fn of_spec(spec: &Value, path: Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (old, new, since) in RENAMED.iter().filter(|(old, _, _)| !spec["nodeSelector"][*old].is_null()) {
        let at = path.child("nodeSelector");
        warnings.push(format!("{}: deprecated since v{since}; use \"{new}\" instead", at.key(old)));
    }
    for field in ["initContainers", "containers"] {
        let at = path.child(field);
        for (i, container) in list(&spec[field]).iter().enumerate() {
            of_container(container, at.index(i), &mut warnings);
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warnings
}

fn of_container(container: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let (env, at) = (list(&container["env"]), path.child("env"));
    let mut seen = BTreeSet::new();
    for (i, variable) in env.iter().enumerate() {
        let name = text(&variable["name"]);
        if !seen.insert(name) && warnings.len() < MAX_WARNINGS {
            let item = at.index(i);
            warnings.push(format!(
                "{item}: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
    let (ports, at) = (list(&container["ports"]), path.child("ports"));
    let mut first_of = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let key = ["protocol", "hostIP"].map(|f| text(&port[f]));
        let numbers = ["containerPort", "hostPort"].map(|f| int(&port[f]));
        let first = *first_of.entry((key, numbers)).or_insert(i);
        if first != i && warnings.len() < MAX_WARNINGS {
            let (item, first) = (at.index(i), at.index(first));
            warnings.push(format!("{item}: duplicate port definition with {first}"));
        }
    }
    let at = path.child("resources");
    for kind in ["limits", "requests"] {
        let list = at.child(kind);
        for (name, value) in entries(&container["resources"][kind]).filter(|(n, _)| *n == "memory") {
            if Quantity::parse(text(value)).is_ok_and(|q| !q.is_integer()) {
                let item = list.key(name);
                let shown = text(value);
                warnings.push(format!("{item}: fractional byte value \"{shown}\" is invalid, must be an integer"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hidden_variables_and_double_ports() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A"}, {"name": "A"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "name": "x"}],
            "resources": {"limits": {"memory": "100m"}}}]});
        assert_eq!(
            of_spec(&spec, Path::root("spec")),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }
}
