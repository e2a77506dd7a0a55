//! PodDisruptionBudget: how many of some pods may be missing at once by choice.

use crate::checks::{at_most_all, complain, int_or_percent, non_negative, one_of};
use crate::internal;
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::meta::{names, validate};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{int, list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// PodDisruptionBudgets.
pub static POD_DISRUPTION_BUDGETS: Resource = Resource {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["pdb"],
    categories: &[],
    type_name: "io.k8s.api.policy.v1.PodDisruptionBudget",
    churn: Churn::Durable,
    subresources: &[Subresource::status("policy", "v1", "PodDisruptionBudget")],
    columns: &[
        Column::NAME,
        Column::new("Min Available", "string"),
        Column::new("Max Unavailable", "string"),
        Column::new("Allowed Disruptions", "integer"),
        Column::new("Age", "string"),
    ],
    rules: Rules { prepare_create, prepare_update, row, validate, validate_status, ..Rules::NONE },
};

/// Counts of a status, all of them always written.
const COUNTS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

fn prepare_create(budget: &mut Value) {
    let status = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    create_with(budget, status);
}

fn row(budget: &Value, now: i64) -> Vec<Value> {
    let spec = &budget["spec"];
    let part = |field: &str| match &spec[field] {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    vec![
        table::name(budget),
        part("minAvailable").into(),
        part("maxUnavailable").into(),
        int(&budget["status"]["disruptionsAllowed"]).into(),
        table::created(budget, now),
    ]
}

fn validate(budget: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&budget["spec"], Path::root("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let shown = internal::shown(spec, "io.k8s.api.policy.v1.PodDisruptionBudgetSpec");
        errors.invalid(path, shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if !spec[field].is_null() {
            int_or_percent(&spec[field], path.child(field), errors);
            at_most_all(&spec[field], path.child(field), errors);
        }
    }
    let at = path.child("unhealthyPodEvictionPolicy");
    one_of(&spec["unhealthyPodEvictionPolicy"], at, &["AlwaysAllow", "IfHealthyBudget"], errors);
    validate::label_selector(&spec["selector"], &path.child("selector"), errors);
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let (status, path) = (&new["status"], Path::root("status"));
    conditions(&status["conditions"], path.child("conditions"), errors);
    for field in COUNTS {
        non_negative(status, field, &path, errors);
    }
}

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;
const BAD_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// Conditions in the form that all newer kinds share.
fn conditions(conditions: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, condition) in list(conditions).iter().enumerate() {
        let at = path.index(i);
        let kind = text(&condition["type"]);
        if !kind.is_empty() && !seen.insert(kind) {
            errors.duplicate(at.child("type"), kind);
        }
        complain(names::qualified_name(kind), kind, at.child("type"), errors);
        if !matches!(text(&condition["status"]), "True" | "False" | "Unknown") {
            errors.not_supported(at.child("status"), text(&condition["status"]), &["False", "True", "Unknown"]);
        }
        non_negative(condition, "observedGeneration", &at, errors);
        if condition["lastTransitionTime"].is_null() {
            errors.required(at.child("lastTransitionTime"), "must be set");
        }
        reason(text(&condition["reason"]), at.child("reason"), errors);
        if text(&condition["message"]).len() > MAX_MESSAGE {
            errors.too_long(at.child("message"), MAX_MESSAGE);
        }
    }
}

fn reason(reason: &str, path: Path<'_>, errors: &mut FieldErrors) {
    if reason.is_empty() {
        return errors.required(path, "must be set");
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    let shaped = bytes[0].is_ascii_alphabetic()
        && bytes.last().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'));
    if !shaped {
        errors.invalid(path, reason, BAD_REASON);
    }
    if reason.len() > MAX_REASON {
        errors.too_long(path, MAX_REASON);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(rule: impl Fn(&mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::default();
        rule(&mut errors);
        errors.messages()
    }

    #[test]
    fn budgets_are_one_number() {
        let errors_of = |spec: Value| messages(|errors| validate(&json!({ "spec": spec }), errors));
        assert_eq!(errors_of(json!({"minAvailable": "50%", "selector": {}})), [""; 0]);
        assert_eq!(
            errors_of(json!({"minAvailable": -1, "maxUnavailable": "101%", "unhealthyPodEvictionPolicy": "Odd"})),
            [
                "spec: Invalid value: {\"MinAvailable\":-1,\"Selector\":null,\"MaxUnavailable\":\"101%\",\"UnhealthyPodEvictionPolicy\":\"Odd\"}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Odd\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ]
        );
    }

    #[test]
    fn statuses_and_rows() {
        let status =
            json!({"status": {"expectedPods": -1, "conditions": [{"type": "A", "status": "Odd", "reason": "x-"}]}});
        let found = messages(|errors| validate_status(&status, &Value::Null, errors));
        let heads: Vec<&str> = found.iter().filter_map(|m| m.split(": ").next()).collect();
        assert_eq!(
            heads,
            [
                "status.conditions[0].status",
                "status.conditions[0].lastTransitionTime",
                "status.conditions[0].reason",
                "status.expectedPods"
            ]
        );
        let mut budget = json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": 1}});
        prepare_create(&mut budget);
        assert_eq!(Value::from(row(&budget, 0)), json!(["b", "N/A", "1", 0, "<unknown>"]));
    }
}
