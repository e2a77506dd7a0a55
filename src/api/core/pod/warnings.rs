//! What is allowed in a pod, but hardly meant.

mod overlaps;

use crate::core::persistent_volume_claim as claims;
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
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// Resources that are counted in whole bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Warnings about a new pod.
pub(crate) fn of_pod(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let (metadata, spec) = (Path::root("metadata"), Path::root("spec"));
    let wrong = names::dns_label(text(&pod["metadata"]["name"]));
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    all(pod, (metadata, spec), false, &mut warnings);
    warnings
}

/// Warnings about a template.
pub(crate) fn of_template(template: &Value, path: Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    all(template, (path.child("metadata"), path.child("spec")), true, &mut warnings);
    warnings
}

/// What is said about both, in upstream's order.
fn all(pod: &Value, (metadata, path): (Path<'_>, Path<'_>), is_template: bool, warnings: &mut Vec<String>) {
    let (spec, annotations) = (&pod["spec"], &pod["metadata"]["annotations"]);
    placement(spec, path, warnings);
    for (key, why) in DEAD.iter().filter(|(key, _)| !annotations[*key].is_null()) {
        warnings.push(format!("{}: {why}", metadata.child("annotations").key(key)));
    }
    volumes(&spec["volumes"], path.child("volumes"), warnings);
    warnings.extend(overlaps::warnings(&spec["volumes"]));
    doubles(&spec["hostAliases"], "ip", path.child("hostAliases"), warnings);
    doubles(&spec["imagePullSecrets"], "name", path.child("imagePullSecrets"), warnings);
    let at = path.child("imagePullSecrets");
    for (i, _) in list(&spec["imagePullSecrets"]).iter().enumerate().filter(|(_, s)| text(&s["name"]).is_empty()) {
        warnings.push(format!("{}: invalid empty name \"\"", at.index(i).child("name")));
    }
    for name in BYTES {
        fraction(&spec["overhead"], name, path.child("overhead"), warnings);
    }
    if !spec["securityContext"]["seccompProfile"].is_object() && !annotations[SECCOMP_POD].is_null() {
        warnings.push(format!("{}: {SECCOMP}", metadata.child("annotations").key(SECCOMP_POD)));
    }
    each_container(spec, path, |container, at| {
        let key = format!("{SECCOMP_CONTAINER}{}", text(&container["name"]));
        if !container["securityContext"]["seccompProfile"].is_object() && !annotations[&key].is_null() {
            warnings.push(format!("{}: {SECCOMP}", metadata.child("annotations").key(&key)));
        }
        if is_template {
            app_armor(annotations, spec, container, metadata, warnings);
        }
        let resources = at.child("resources");
        for name in BYTES {
            for kind in ["limits", "requests"] {
                fraction(&container["resources"][kind], name, resources.child(kind), warnings);
            }
        }
        variables(container, at.child("env"), warnings);
    });
    ports(spec, path, warnings);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&spec["affinity"], path.child("affinity"), warnings);
    warnings.truncate(MAX_WARNINGS);
}

/// Does something with each container and its place.
fn each_container(spec: &Value, path: Path<'_>, mut each: impl FnMut(&Value, Path<'_>)) {
    for field in CONTAINERS {
        let at = path.child(field);
        for (i, container) in list(&spec[field]).iter().enumerate() {
            each(container, at.index(i));
        }
    }
}

/// A profile that an annotation gives where no field does.
fn app_armor(annotations: &Value, spec: &Value, container: &Value, metadata: Path<'_>, warnings: &mut Vec<String>) {
    let key = format!("{}{}", super::app_armor::PREFIX, text(&container["name"]));
    let given = [spec, container].iter().any(|of| of["securityContext"]["appArmorProfile"].is_object());
    if !given && !annotations[&key].is_null() {
        warnings.push(super::app_armor::warning(metadata.child("annotations"), &key));
    }
}

/// Terms that have no selector match nothing.
fn affinity(affinity: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    const NOTHING: &str = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(kind);
        for (field, inner) in [(REQUIRED, None), (PREFERRED, Some("podAffinityTerm"))] {
            let at = at.child(field);
            for (i, term) in list(&affinity[kind][field]).iter().enumerate() {
                let item = at.index(i);
                let selects = |term: &Value| term["labelSelector"].is_object();
                match inner {
                    None if !selects(term) => {
                        warnings.push(format!("{}: {NOTHING}", item.child("labelSelector")));
                    }
                    Some(inner) if !selects(&term[inner]) => {
                        warnings.push(format!("{}: {NOTHING}", item.child(inner).child("labelSelector")));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What is said about a label of nodes that was renamed.
pub(crate) fn renamed(label: &str) -> Option<String> {
    let (_, new, since) = RENAMED.iter().find(|(old, _, _)| *old == label)?;
    Some(format!("deprecated since v{since}; use \"{new}\" instead"))
}

fn placement(spec: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let at = path.child("nodeSelector");
    for (key, _) in entries(&spec["nodeSelector"]) {
        warnings.extend(renamed(key).map(|why| format!("{}: {why}", at.key(key))));
    }
    let (affinity, node) = (path.child("affinity"), &spec["affinity"]["nodeAffinity"]);
    let at = affinity.child("nodeAffinity");
    selector_terms(&node[REQUIRED]["nodeSelectorTerms"], at.child(REQUIRED).child("nodeSelectorTerms"), warnings);
    let preferred = at.child(PREFERRED);
    for (i, term) in list(&node[PREFERRED]).iter().enumerate() {
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

/// Warnings about terms that select nodes by labels that were renamed.
pub(crate) fn selector_terms(terms: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    for (i, term) in list(terms).iter().enumerate() {
        expressions(term, path.index(i), warnings);
    }
}

/// Warnings about expressions over labels of nodes that were renamed.
pub(crate) fn expressions(term: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    let at = path.child("matchExpressions");
    for (i, expression) in list(&term["matchExpressions"]).iter().enumerate() {
        let key = text(&expression["key"]);
        warnings.extend(renamed(key).map(|why| format!("{}: {key} is {why}", at.index(i).child("key"))));
    }
}

fn volumes(volumes: &Value, path: Path<'_>, warnings: &mut Vec<String>) {
    for (i, volume) in list(volumes).iter().enumerate() {
        let item = path.index(i);
        for (field, shown, why) in OLD_VOLUMES {
            if field == "cephfs" && volume["ephemeral"]["volumeClaimTemplate"].is_object() {
                let (template, at) = (&volume["ephemeral"]["volumeClaimTemplate"], item.child("ephemeral"));
                let at = at.child("volumeClaimTemplate");
                warnings.extend(claims::spec_warnings(&template["spec"], at.child("spec")));
            }
            if volume[field].is_object() {
                warnings.push(format!("{}: {why}", item.child(shown)));
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
fn fraction(amounts: &Value, name: &str, path: Path<'_>, warnings: &mut Vec<String>) {
    let Ok(amount) = Quantity::parse(text(&amounts[name])) else { return };
    if !amount.is_integer() {
        let item = path.key(name);
        warnings.push(format!("{item}: fractional byte value \"{amount}\" is invalid, must be an integer"));
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
                if !text(&port["hostIP"]).is_empty() && int(&port["hostPort"]) == 0 {
                    warnings.push(format!("{here}: hostIP set without hostPort: {}", as_struct(port)));
                }
                let others = seen.entry((int(&port["containerPort"]), text(&port["protocol"]))).or_default();
                if warnings.len() < MAX_WARNINGS {
                    warnings.extend(others.iter().filter_map(|(there, other)| overlap(port, other, &here, there)));
                }
                others.push((here, port));
            }
        }
    }
}

/// A port as Go prints the struct.
fn as_struct(port: &Value) -> String {
    let (name, protocol, ip) = (text(&port["name"]), text(&port["protocol"]), text(&port["hostIP"]));
    let (host, own) = (int(&port["hostPort"]), int(&port["containerPort"]));
    format!("{{Name:{name} HostPort:{host} ContainerPort:{own} Protocol:{protocol} HostIP:{ip}}}")
}

fn overlap(port: &Value, other: &Value, here: &str, there: &str) -> Option<String> {
    let host = |p: &Value| (text(&p["hostIP"]).to_owned(), int(&p["hostPort"]));
    let ((ip, number), (other_ip, other_number)) = (host(port), host(other));
    if ip == other_ip && number == other_number {
        Some(format!("{here}: duplicate port definition with {there}"))
    } else if number == 0 || other_number == 0 {
        Some(format!("{here}: overlapping port definition with {there}"))
    } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
        Some(format!("{here}: dangerously ambiguous port definition with {there}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of_spec(spec: Value) -> Vec<String> {
        of_template(&json!({ "spec": spec }), Path::root("template"))
    }

    #[test]
    fn hidden_variables_and_double_ports() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{
            "env": [{"name": "A"}, {"name": "A"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "name": "x"}],
            "resources": {"limits": {"memory": "100m"}}}]});
        assert_eq!(
            of_spec(spec),
            [
                "template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "template.spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "template.spec.containers[0].ports[1]: duplicate port definition with template.spec.containers[0].ports[0]",
            ]
        );
    }

    #[test]
    fn ports_of_hosts() {
        let port =
            |ip: &str, host: i64| json!({"containerPort": 80, "protocol": "TCP", "hostIP": ip, "hostPort": host});
        let spec = |ports: Value| json!({"containers": [{ "ports": ports }]});
        assert_eq!(
            of_spec(spec(json!([port("10.0.0.1", 0)]))),
            [
                "template.spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}"
            ]
        );
        assert_eq!(
            of_spec(spec(json!([port("10.0.0.1", 8), port("", 8), port("10.0.0.2", 8)]))),
            [
                "template.spec.containers[0].ports[1]: dangerously ambiguous port definition with template.spec.containers[0].ports[0]",
                "template.spec.containers[0].ports[2]: dangerously ambiguous port definition with template.spec.containers[0].ports[1]",
            ]
        );
        assert_eq!(of_spec(spec(json!([port("10.0.0.1", 8), port("10.0.0.1", 9)]))), [""; 0]);
    }

    #[test]
    fn what_a_template_says_about_itself_counts_too() {
        let key = "container.apparmor.security.beta.kubernetes.io/c";
        let mut template = json!({
            "metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": "", SECCOMP_POD: "", key: "unconfined"}},
            "spec": {"containers": [{"name": "c"}],
                "affinity": {"podAffinity": {REQUIRED: [{"topologyKey": "a"}], PREFERRED: [{"podAffinityTerm": {}}]}},
                "volumes": [{"ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1m"}}}}}}]}});
        let armor = "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead";
        let affinity = "template.spec.affinity.podAffinity";
        assert_eq!(
            of_template(&template, Path::root("template")),
            [
                "template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead".to_owned(),
                "template.spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"1m\" is invalid, must be an integer".to_owned(),
                format!("template.metadata.annotations[{SECCOMP_POD}]: {SECCOMP}"),
                format!("template.{armor}"),
                format!("{affinity}.{REQUIRED}[0].labelSelector: a null labelSelector results in matching no pod"),
                format!("{affinity}.{PREFERRED}[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod"),
            ]
        );
        template["metadata"]["name"] = "a.b".into();
        let of_pod = of_pod(&template);
        assert!(of_pod[0].starts_with("metadata.name: this is used in the Pod's hostname"), "{of_pod:?}");
        assert!(!of_pod.iter().any(|w| w == armor));
    }
}
