//! ResourceQuota: how much of what a namespace may have, and how much it has.

use super::resource_names as resources;
use crate::meta::prepare::keep_status as prepare_update;
use crate::quantity::Quantity;
use crate::registry::{Action, Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, entries, is_empty, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// ResourceQuotas.
pub static RESOURCE_QUOTAS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["quota"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ResourceQuota",
    churn: Churn::Durable,
    subresources: &[Subresource {
        name: "status",
        gvk: ("", "v1", "ResourceQuota"),
        verbs: verbs::GET_PATCH_UPDATE,
        action: Action::Status,
    }],
    columns: &[
        Column::NAME,
        Column::new("Request", "string"),
        Column::new("Limit", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules { prepare_create, prepare_update, row, validate, validate_update, validate_status, ..Rules::NONE },
};

fn prepare_create(quota: &mut Value) {
    tree::object(quota).insert("status".to_owned(), json!({}));
}

fn row(quota: &Value, now: i64) -> Vec<Value> {
    let status = &quota["status"];
    let shown = |value: &Value| Quantity::parse(text(value)).unwrap_or(Quantity::ZERO).to_string();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in entries(&status["hard"]).collect::<std::collections::BTreeMap<_, _>>() {
        let cell = format!("{name}: {}/{}", shown(&status["used"][name]), shown(hard));
        if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![table::name(quota), requests.join(", ").into(), limits.join(", ").into(), table::created(quota, now)]
}

fn validate(quota: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&quota["spec"], Path::root("spec"));
    amounts(&spec["hard"], path.child("hard"), errors);
    scopes(spec, path.child("scopes"), errors);
    scope_selector(spec, path.child("scopeSelector"), errors);
    status(quota, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let set = |quota: &Value| -> BTreeSet<String> {
        list(&quota["spec"]["scopes"]).iter().map(|scope| text(scope).to_owned()).collect()
    };
    if set(new) != set(old) {
        errors.immutable("spec.scopes", &new["spec"]["scopes"]);
    }
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if text(&new["metadata"]["resourceVersion"]).is_empty() {
        errors.required("resourceVersion", "");
    }
    status(new, errors);
}

fn status(quota: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    for part in ["hard", "used"] {
        amounts(&quota["status"][part], path.child(part), errors);
    }
}

fn amounts(amounts: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (name, amount) in entries(amounts) {
        resources::quota_resource(name, path.key(name), errors);
        resources::quota_amount(name, amount, path.key(name), errors);
    }
}

/// Everything that quotas can be narrowed to.
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]];

/// Whether a quota of this scope may limit this resource.
fn fits(scope: &str, resource: &str) -> bool {
    let of_pods = resource == "pods";
    let computing =
        matches!(resource, "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory");
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            of_pods || computing
        }
        "BestEffort" => of_pods,
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// The plain names among what is limited, in order.
fn limited(spec: &Value) -> BTreeSet<&str> {
    entries(&spec["hard"]).map(|(name, _)| name.as_str()).filter(|name| resources::is_for_quota(name)).collect()
}

fn scopes(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let scopes: Vec<&str> = list(&spec["scopes"]).iter().map(text).collect();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(path, &spec["scopes"], "unsupported scope");
        }
        for _ in limited(spec).into_iter().filter(|name| !fits(scope, name)) {
            errors.invalid(path, &spec["scopes"], "unsupported scope applied to resource");
        }
    }
    conflicts(&scopes, spec, path, errors);
}

fn conflicts(scopes: &[&str], spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for pair in CONFLICTS {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, &spec["scopes"], "conflicting scopes");
        }
    }
}

const EXISTS_ONLY: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn scope_selector(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("matchExpressions");
    let requirements = list(&spec["scopeSelector"]["matchExpressions"]);
    for requirement in requirements {
        let (scope, operator) = (text(&requirement["scopeName"]), text(&requirement["operator"]));
        if !SCOPES.contains(&scope) {
            errors.invalid(at.child("scopeName"), scope, "unsupported scope");
        }
        for _ in limited(spec).into_iter().filter(|name| !fits(scope, name)) {
            errors.invalid(at, &spec["scopeSelector"], "unsupported scope applied to resource");
        }
        let plain = SCOPES.contains(&scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if plain && operator != "Exists" {
            errors.invalid(at.child("operator"), operator, EXISTS_ONLY);
        }
        let values = &requirement["values"];
        match operator {
            "In" | "NotIn" if is_empty(values) => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(at.child("values"), why);
            }
            "Exists" | "DoesNotExist" if !is_empty(values) => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(at.child("values"), values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(at.child("operator"), other, "not a valid selector operator"),
        }
    }
    let names: Vec<&str> = requirements.iter().map(|requirement| text(&requirement["scopeName"])).collect();
    conflicts(&names, spec, at, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({ "spec": spec }), &mut errors);
        errors.messages()
    }

    #[test]
    fn amounts_and_names() {
        let good = json!({"hard": {"pods": "10", "cpu": "1500m", "requests.a.com/gpu": "2", "count/jobs.batch": "3",
            "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}});
        assert_eq!(errors_of(good), [""; 0]);
        assert_eq!(
            errors_of(json!({"hard": {"cpu": "-1", "pods": "500m", "gpus": "1"}})),
            [
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
                "spec.hard[gpus]: Invalid value: \"gpus\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
            ]
        );
    }

    #[test]
    fn scopes_fit_what_they_limit() {
        assert_eq!(errors_of(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})), [""; 0]);
        assert_eq!(
            errors_of(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort", "x"]})),
            [
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: unsupported scope",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"x\"]: conflicting scopes",
            ]
        );
        let selector = |requirement: Value| json!({"scopeSelector": {"matchExpressions": [requirement]}});
        assert_eq!(
            errors_of(selector(json!({"scopeName": "PriorityClass", "operator": "In"}))),
            [
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            ]
        );
        assert_eq!(
            errors_of(selector(json!({"scopeName": "Terminating", "operator": "DoesNotExist"}))),
            [format!("spec.scopeSelector.matchExpressions.operator: Invalid value: \"DoesNotExist\": {EXISTS_ONLY}")]
        );
        let mut errors = FieldErrors::default();
        validate_update(&json!({"spec": {"scopes": ["BestEffort"]}}), &json!({"spec": {}}), &mut errors);
        assert_eq!(errors.messages(), ["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"]);
    }

    #[test]
    fn rows_tell_requests_from_limits() {
        let quota = json!({"metadata": {"name": "q"}, "status": {
            "hard": {"requests.cpu": "1", "pods": "10", "limits.cpu": "2"}, "used": {"pods": "3", "limits.cpu": "500m"}}});
        assert_eq!(
            Value::from(row(&quota, 0)),
            json!(["q", "pods: 3/10, requests.cpu: 0/1", "limits.cpu: 500m/2", "<unknown>"])
        );
    }
}
