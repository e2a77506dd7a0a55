//! Node: a machine that runs pods. Its agent creates it with a status.

use crate::address;
use crate::checks::{self, complain};
use crate::meta::names;
use crate::meta::prepare::keep_status;
use crate::quantity::Quantity;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, list, some_text, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Nodes.
pub static NODES: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["no"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Node",
    churn: Churn::Durable,
    subresources: &[
        Subresource { name: "proxy", gvk: ("", "v1", "NodeProxyOptions"), verbs: verbs::PROXY, action: Action::Proxy },
        Subresource::status("", "v1", "Node"),
    ],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Roles", "string"),
        Column::new("Age", "string"),
        Column::new("Version", "string"),
        Column::wide("Internal-IP", "string"),
        Column::wide("External-IP", "string"),
        Column::wide("OS-Image", "string"),
        Column::wide("Kernel-Version", "string"),
        Column::wide("Container-Runtime", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        prepare_status,
        fields,
        row,
        validate,
        validate_update,
        validate_status,
        warnings,
        ..Rules::NONE
    },
};

fn warnings(node: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if node["spec"]["configSource"].is_object() {
        found.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(&node["spec"]["externalID"]).is_empty() {
        found.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    found
}

fn default(node: &mut Value) {
    let node = tree::object(node);
    let spec = tree::ensure(node, "spec");
    let one = spec.get("podCIDR").map_or("", text).to_owned();
    let first = spec.get("podCIDRs").map_or("", |l| text(&l[0])).to_owned();
    if !one.is_empty() && one != first {
        spec.insert("podCIDRs".to_owned(), json!([one]));
    } else if one.is_empty() && !first.is_empty() {
        spec.insert("podCIDR".to_owned(), first.into());
    }
    let status = tree::ensure(node, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        tree::default(status, "allocatable", capacity);
    }
}

/// Where kubelets once got their settings from; nothing reads it any more.
const OLD_SETTINGS: [(&str, &str); 2] = [("spec", "configSource"), ("status", "config")];

/// Takes away old settings that are not there already.
fn drop_old_settings(node: &mut Value, old: &Value) {
    for (part, field) in OLD_SETTINGS.iter().filter(|(part, field)| old[part][field].is_null()) {
        if let Some(part) = tree::sub(tree::object(node), part) {
            part.remove(*field);
        }
    }
}

/// All else may be given with a new node, its status included.
fn prepare_create(node: &mut Value) {
    drop_old_settings(node, &Value::Null);
}

fn prepare_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    drop_old_settings(new, old);
}

fn prepare_status(new: &mut Value, old: &Value) {
    drop_old_settings(new, old);
}

fn fields(node: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.unschedulable", tree::flag(&node["spec"]["unschedulable"]).to_string())]
}

fn state(node: &Value) -> String {
    let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut state = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if tree::flag(&node["spec"]["unschedulable"]) {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = tree::entries(&node["metadata"]["labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => some_text(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        return "<none>".to_owned();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(node: &Value, kind: &str) -> Value {
    let address = list(&node["status"]["addresses"]).iter().find(|a| a["type"] == kind);
    table::or_none(address.map_or("", |a| text(&a["address"])))
}

fn row(node: &Value, now: i64) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    let known = |field: &str| Value::from(some_text(&info[field]).unwrap_or("<unknown>"));
    vec![
        table::name(node),
        state(node).into(),
        roles(node).into(),
        table::created(node, now),
        text(&info["kubeletVersion"]).into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn validate(node: &Value, errors: &mut FieldErrors) {
    // Upstream names taints below the metadata.
    let metadata = Path::root("metadata");
    taints(&node["spec"]["taints"], metadata.child("taints"), errors);
    resources(node, errors);
    let (path, ranges) = (Path::root("spec"), list(&node["spec"]["podCIDRs"]));
    let cidrs = path.child("podCIDRs");
    for (i, cidr) in ranges.iter().enumerate() {
        address::check_canonical_cidr(text(cidr), cidrs.index(i), errors);
    }
    if ranges.len() < 2 {
        return;
    }
    let families: BTreeSet<bool> =
        ranges.iter().filter_map(|c| address::parse_cidr(text(c))).map(|c| c.network.is_ipv4()).collect();
    if families.len() < 2 || ranges.len() > 2 {
        let why = "may specify no more than one CIDR for each IP family";
        errors.invalid(cidrs, &node["spec"]["podCIDRs"], why);
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, cidr) in ranges.iter().enumerate() {
        if !seen.insert(text(cidr)) {
            errors.duplicate(cidrs.index(i), cidr);
        }
    }
}

fn taints(taints: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, taint) in list(taints).iter().enumerate() {
        let item = path.index(i);
        let (key, effect) = (text(&taint["key"]), text(&taint["effect"]));
        complain(names::qualified_name(key), key, item.child("key"), errors);
        let wrong = names::label_value(text(&taint["value"]));
        if !wrong.is_empty() {
            errors.invalid(item.child("value"), text(&taint["value"]), &wrong.join(";"));
        }
        checks::required_one_of(&taint["effect"], item.child("effect"), &EFFECTS, errors);
        if !seen.insert((key, effect)) {
            errors.duplicate_because(item, taint, "taints must be unique by key and effect pair");
        }
    }
}

fn resources(node: &Value, errors: &mut FieldErrors) {
    let status = Path::root("status");
    for kind in ["capacity", "allocatable"] {
        let at = status.child(kind);
        for (name, amount) in tree::entries(&node["status"][kind]) {
            if Quantity::parse(text(amount)).is_ok_and(|q| q.is_negative()) {
                errors.invalid(at.child(name), amount, checks::NEGATIVE);
            }
        }
    }
}

/// Each address of a kind is told once.
fn addresses(node: &Value, errors: &mut FieldErrors) {
    let status = Path::root("status");
    let (all, at) = (list(&node["status"]["addresses"]), status.child("addresses"));
    for (i, address) in all.iter().enumerate().filter(|(i, a)| all[..*i].contains(a)) {
        errors.duplicate(at.index(i), address);
    }
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    resources(new, errors);
    addresses(new, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    addresses(new, errors);
    let path = Path::root("spec");
    for (field, name) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let (new, old) = (&new["spec"][field], &old["spec"][field]);
        if !tree::is_empty(old) && new != old {
            let why = format!("node updates may not change {name} except from \"\" to valid");
            errors.forbidden(path.child(field), &why);
        }
    }
    if text(&new["spec"]["externalID"]) != text(&old["spec"]["externalID"]) {
        errors.forbidden(path.child("externalID"), "may not be updated");
    }
}

/// Labels of Kubernetes' own namespaces that kubelets put on their nodes.
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Whether a kubelet may set this label on its own node: labels that steer workloads are others' to set.
pub fn kubelet_may_set(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within =
        |suffix: &str| namespace.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    !of_kubernetes || KUBELET_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_nodes() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {
                "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0"}},
        });
        let expect = json!([
            "n",
            "NotReady,SchedulingDisabled",
            "control-plane,edge",
            "9s",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]);
        assert_eq!(Value::from(row(&node, 9)), expect);
    }

    #[test]
    fn taints_and_ranges() {
        let node = json!({"spec": {"podCIDRs": ["x"], "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "Foo"}]}});
        let mut errors = FieldErrors::default();
        validate(&node, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"Foo\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ]
        );
        let mut errors = FieldErrors::default();
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}});
        validate_update(&json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}), &old, &mut errors);
        assert_eq!(
            errors.messages(),
            ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
        );
    }

    #[test]
    fn labels_that_steer_workloads_are_not_the_kubelets() {
        for label in ["a", "example.com/a", "kubernetes.io/os", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/x"] {
            assert!(kubelet_may_set(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/master",
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "k8s.io/x",
        ] {
            assert!(!kubelet_may_set(label), "{label}");
        }
    }

    #[test]
    fn ranges_differ_in_family_and_statuses_are_checked() {
        let mut errors = FieldErrors::default();
        validate(&json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.0.0/24"]}}), &mut errors);
        let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let status = json!({"capacity": {"cpu": "-1"}, "addresses": [address, address]});
        validate_status(&json!({ "status": status }), &Value::Null, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.0.0/24\"]: may specify no more than one CIDR for each IP family",
                "spec.podCIDRs[1]: Duplicate value: \"10.0.0.0/24\"",
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.addresses[1]: Duplicate value: {\"address\":\"10.0.0.1\",\"type\":\"InternalIP\"}",
            ]
        );
    }

    #[test]
    fn old_settings_are_dropped_and_external_ids_stay() {
        let sent = json!({"spec": {"configSource": {"configMap": {}}, "externalID": "a"}, "status": {"config": {}, "phase": "x"}});
        let mut new = sent.clone();
        prepare_create(&mut new);
        assert_eq!(new, json!({"spec": {"externalID": "a"}, "status": {"phase": "x"}}));
        let mut kept = sent.clone();
        prepare_update(&mut kept, &sent);
        assert_eq!(kept, sent);
        let mut errors = FieldErrors::default();
        validate_update(&json!({"spec": {}}), &sent, &mut errors);
        assert_eq!(errors.messages(), ["spec.externalID: Forbidden: may not be updated"]);
    }
}
