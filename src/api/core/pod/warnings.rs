//! What is allowed in a pod, but hardly meant.

use crate::meta::names;
use crate::quantity::Quantity;
use crate::status::{Path, quote};
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

/// Annotations that no longer do anything.
const DEAD: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
/// Sources of volumes that are on their way out, or gone.
const OLD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Warnings about a new pod.
pub(crate) fn of_pod(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let wrong = names::dns_label(text(&pod["metadata"]["name"]));
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    let spec = &pod["spec"];
    let metadata = Path::root("metadata");
    of_annotations(&pod["metadata"]["annotations"], spec, metadata.child("annotations"), &mut warnings);
    warnings.extend(of_spec(spec, Path::root("spec")));
    warnings.truncate(MAX_WARNINGS);
    warnings
}

fn of_annotations(annotations: &Value, spec: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    for (key, why) in DEAD.iter().filter(|(key, _)| !annotations[*key].is_null()) {
        warnings.push(format!("{}: {why}", path.key(key)));
    }
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if !spec["securityContext"]["seccompProfile"].is_object() && !annotations[SECCOMP_POD].is_null() {
        warnings.push(format!("{}: {SECCOMP}", path.key(SECCOMP_POD)));
    }
    for container in CONTAINERS.iter().flat_map(|kind| list(&spec[*kind])) {
        let key = format!("{SECCOMP_CONTAINER}{}", text(&container["name"]));
        if !container["securityContext"]["seccompProfile"].is_object() && !annotations[&key].is_null() {
            warnings.push(format!("{}: {SECCOMP}", path.key(&key)));
        }
    }
}

/// What is said about a label of nodes that was renamed.
fn renamed(label: &str) -> Option<String> {
    let (_, new, since) = RENAMED.iter().find(|(old, _, _)| *old == label)?;
    Some(format!("deprecated since v{since}; use \"{new}\" instead"))
}

/// Warnings about the spec of a pod or a template.
pub(crate) fn of_spec(spec: &Value, path: Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    placement(spec, path, &mut warnings);
    volumes(&spec["volumes"], path.child("volumes"), &mut warnings);
    doubles(&spec["hostAliases"], "ip", path.child("hostAliases"), &mut warnings);
    doubles(&spec["imagePullSecrets"], "name", path.child("imagePullSecrets"), &mut warnings);
    let at = path.child("imagePullSecrets");
    for (i, _) in list(&spec["imagePullSecrets"]).iter().enumerate().filter(|(_, s)| text(&s["name"]).is_empty()) {
        warnings.push(format!("{}: invalid empty name \"\"", at.index(i).child("name")));
    }
    fractions(&spec["overhead"], path.child("overhead"), &mut warnings);
    for field in CONTAINERS {
        let at = path.child(field);
        for (i, container) in list(&spec[field]).iter().enumerate() {
            let item = at.index(i);
            for kind in ["limits", "requests"] {
                let resources = item.child("resources");
                fractions(&container["resources"][kind], resources.child(kind), &mut warnings);
            }
            variables(container, item.child("env"), &mut warnings);
        }
    }
    ports(spec, path, &mut warnings);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warnings.truncate(MAX_WARNINGS);
    warnings
}

fn placement(spec: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let at = path.child("nodeSelector");
    for (key, _) in entries(&spec["nodeSelector"]) {
        warnings.extend(renamed(key).map(|why| format!("{}: {why}", at.key(key))));
    }
    let (affinity, node) = (path.child("affinity"), &spec["affinity"]["nodeAffinity"]);
    let at = affinity.child("nodeAffinity");
    let required = at.child("requiredDuringSchedulingIgnoredDuringExecution");
    let terms = required.child("nodeSelectorTerms");
    let all = &node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    for (i, term) in list(all).iter().enumerate() {
        expressions(term, terms.index(i), warnings);
    }
    let preferred = at.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in list(&node["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate() {
        let item = preferred.index(i);
        expressions(&term["preference"], item.child("preference"), warnings);
    }
    let at = path.child("topologySpreadConstraints");
    for (i, constraint) in list(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let (item, key) = (at.index(i), text(&constraint["topologyKey"]));
        warnings.extend(renamed(key).map(|why| format!("{}: {key} is {why}", item.child("topologyKey"))));
        if !constraint["labelSelector"].is_object() {
            let at = item.child("labelSelector");
            warnings.push(format!("{at}: a null labelSelector results in matching no pod"));
        }
    }
}

fn expressions(term: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let at = path.child("matchExpressions");
    for (i, expression) in list(&term["matchExpressions"]).iter().enumerate() {
        let key = text(&expression["key"]);
        warnings.extend(renamed(key).map(|why| format!("{}: {key} is {why}", at.index(i).child("key"))));
    }
}

fn volumes(volumes: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let mut tokens: BTreeSet<&str> = BTreeSet::new();
    for (i, volume) in list(volumes).iter().enumerate() {
        for (field, shown, why) in OLD_VOLUMES.iter().filter(|(field, _, _)| volume[*field].is_object()) {
            let _ = field;
            warnings.push(format!("{}: {why}", path.index(i).child(shown)));
        }
        let sources = list(&volume["projected"]["sources"]).iter();
        tokens.extend(sources.filter_map(|s| s["serviceAccountToken"]["path"].as_str()));
    }
    for (i, volume) in list(volumes).iter().enumerate().filter(|_| !tokens.is_empty()) {
        let item = path.index(i);
        let at = item.child("projected");
        let at = at.child("sources");
        for source in list(&volume["projected"]["sources"]) {
            for (kind, shown) in [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")] {
                for (j, file) in list(&source[kind]["items"]).iter().enumerate() {
                    let name = text(&file["path"]);
                    if tokens.contains(name) {
                        let at = at.child(shown);
                        let at = at.index(j);
                        warnings.push(format!("{at}: has duplicated path with ServiceAccountToken {}", quote(name)));
                    }
                }
            }
        }
    }
}

fn doubles(items: &Value, field: &str, path: Path<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, item) in list(items).iter().enumerate() {
        let value = text(&item[field]);
        if !seen.insert(value) {
            warnings.push(format!("{}: duplicate {field} {}", path.index(i).child(field), quote(value)));
        }
    }
}

/// Bytes do not come in parts.
fn fractions(amounts: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Ok(amount) = Quantity::parse(text(&amounts[name])) else { continue };
        if !amount.is_integer() {
            let item = path.key(name);
            warnings.push(format!("{item}: fractional byte value \"{amount}\" is invalid, must be an integer"));
        }
    }
}

/// A variable that is set again should build on the first value.
fn variables(container: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, variable) in list(&container["env"]).iter().enumerate() {
        let name = text(&variable["name"]);
        if seen.insert(name) {
            continue;
        }
        let (value, reference) = (text(&variable["value"]), format!("$({name})"));
        if variable["valueFrom"].is_object() || value == reference || !value.contains(&reference) {
            let at = path.index(i);
            let shown = quote(name);
            warnings.push(format!("{at}: hides previous definition of {shown}, which may be dropped when using apply"));
        }
    }
}

/// Ports that several entries name, in one container or in several.
fn ports(spec: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    for field in CONTAINERS {
        let at = path.child(field);
        for (i, container) in list(&spec[field]).iter().enumerate() {
            let item = at.index(i);
            let at = item.child("ports");
            for (n, port) in list(&container["ports"]).iter().enumerate() {
                let here = at.index(n).to_string();
                let others = seen.entry((int(&port["containerPort"]), text(&port["protocol"]))).or_default();
                if warnings.len() < MAX_WARNINGS {
                    warnings.extend(others.iter().filter_map(|(there, other)| overlap(port, other, &here, there)));
                }
                others.push((here, port));
            }
        }
    }
}

fn overlap(port: &Value, other: &Value, here: &str, there: &str) -> Option<String> {
    let host = |p: &Value| (text(&p["hostIP"]).to_owned(), int(&p["hostPort"]));
    let ((ip, number), (other_ip, other_number)) = (host(port), host(other));
    if ip == other_ip && number == other_number {
        Some(format!("{here}: duplicate port definition with {there}"))
    } else if number == 0 || other_number == 0 || (number == other_number && (ip.is_empty() || other_ip.is_empty())) {
        Some(format!("{here}: overlapping port definition with {there}"))
    } else {
        None
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
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }
}
