//! IPAddress: one address of a Service range, and whose it is.

use crate::checks::{complain, required};
use crate::internal;
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::tree::{some_text, text};
use crate::{address, table};
use serde_json::Value;

/// IPAddresses.
pub static IP_ADDRESSES: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &["ip"],
    categories: &[],
    type_name: "io.k8s.api.networking.v1.IPAddress",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("ParentRef", "string")],
    rules: Rules { name: address::canonical, fields, row, validate, validate_update, ..Rules::NONE },
};

fn fields(address: &Value) -> Vec<(&'static str, String)> {
    let parent = &address["spec"]["parentRef"];
    [
        ("spec.parentRef.group", text(&parent["group"])),
        ("spec.parentRef.resource", text(&parent["resource"])),
        ("spec.parentRef.namespace", text(&parent["namespace"])),
        ("spec.parentRef.name", text(&parent["name"])),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

/// `services/default/kubernetes`; a group follows the resource.
fn parent(parent: &Value) -> Value {
    if !parent.is_object() {
        return "<none>".into();
    }
    let mut shown = text(&parent["resource"]).to_lowercase();
    if let Some(group) = some_text(&parent["group"]) {
        shown = format!("{shown}.{}", group.to_lowercase());
    }
    for part in ["namespace", "name"].iter().filter_map(|f| some_text(&parent[*f])) {
        shown = format!("{shown}/{part}");
    }
    shown.into()
}

fn row(address: &Value, _now: i64) -> Vec<Value> {
    vec![table::name(address), parent(&address["spec"]["parentRef"])]
}

fn validate(address: &Value, errors: &mut FieldErrors) {
    let (parent, spec) = (&address["spec"]["parentRef"], Path::root("spec"));
    let path = spec.child("parentRef");
    if !parent.is_object() {
        errors.required(path, "");
        return;
    }
    // The core group is the empty one.
    if let Some(group) = some_text(&parent["group"]) {
        complain(names::dns_subdomain(group), group, path.child("group"), errors);
    }
    for field in ["resource", "name"] {
        if required(&parent[field], path.child(field), errors) {
            complain(names::path_segment(text(&parent[field])), &parent[field], path.child(field), errors);
        }
    }
    complain(names::path_segment(text(&parent["namespace"])), &parent["namespace"], path.child("namespace"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    if new != old {
        errors.immutable("spec.parentRef", internal::shown(new, "io.k8s.api.networking.v1.ParentReference"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    #[test]
    fn parents_are_named_and_kept() {
        let good = json!({"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}});
        assert_eq!(errors_of(good.clone()), [""; 0]);
        assert_eq!(errors_of(json!({})), ["spec.parentRef: Required value"]);
        assert_eq!(
            errors_of(json!({"parentRef": {"group": "", "resource": "a/b", "namespace": "x%"}})),
            [
                "spec.parentRef.resource: Invalid value: \"a/b\": may not contain '/'",
                "spec.parentRef.name: Required value",
                "spec.parentRef.namespace: Invalid value: \"x%\": may not contain '%'",
            ]
        );
        let mut errors = FieldErrors::default();
        let (old, mut new) = (json!({ "spec": good }), json!({ "spec": good }));
        validate_update(&new, &old, &mut errors);
        assert!(errors.is_empty());
        new["spec"]["parentRef"] = json!({"name": "x"});
        validate_update(&new, &old, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"\",\"Namespace\":\"\",\"Name\":\"x\"}: field is immutable"
            ]
        );
    }

    #[test]
    fn rows_of_addresses() {
        let address = json!({"metadata": {"name": "10.43.0.1"},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}}});
        assert_eq!(row(&address, 0), ["10.43.0.1", "services/default/kubernetes"]);
        assert_eq!(parent(&json!({"group": "X.io", "resource": "gateways", "name": "g"})), "gateways.x.io/g");
        assert_eq!(parent(&Value::Null), "<none>");
    }
}
