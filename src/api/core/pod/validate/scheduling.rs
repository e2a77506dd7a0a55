//! Where a pod may run: tolerations, affinity, spreading, gates.

use crate::checks::{complain, one_of};
use crate::meta::{names, validate};
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, some_text, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// What has to happen before the pod is considered at all.
pub(super) fn gates(gates: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, gate) in list(gates).iter().enumerate() {
        let name = text(&gate["name"]);
        complain(names::qualified_name(name), name, path.index(i), errors);
        if !seen.insert(name) {
            errors.duplicate(path.index(i), name);
        }
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The taints that the pod bears.
pub(crate) fn tolerations(tolerations: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for (i, toleration) in list(tolerations).iter().enumerate() {
        let item = path.index(i);
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        if !key.is_empty() {
            complain(names::qualified_name(key), key, item.child("key"), errors);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(item.child("operator"), operator, why);
        }
        if !toleration["tolerationSeconds"].is_null() && toleration["effect"] != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(item.child("effect"), text(&toleration["effect"]), why);
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value(text(&toleration["value"]));
                if !wrong.is_empty() {
                    errors.invalid(item.child("operator"), text(&toleration["value"]), &wrong.join(";"));
                }
            }
            "Exists" => {
                if some_text(&toleration["value"]).is_some() {
                    let why = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(item.child("operator"), text(&toleration["value"]), why);
                }
            }
            // The comparing operators are known, but switched off.
            "Lt" | "Gt" => errors.not_supported(item.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
            other => errors.not_supported(item.child("operator"), other, &["Equal", "Exists"]),
        }
        if some_text(&toleration["effect"]).is_some() {
            one_of(&toleration["effect"], item.child("effect"), &EFFECTS, errors);
        }
    }
}

/// How evenly pods are spread.
pub(super) fn spread(constraints: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let all = list(constraints);
    for (i, constraint) in all.iter().enumerate() {
        let item = path.index(i);
        if int(&constraint["maxSkew"]) <= 0 {
            errors.invalid(item.child("maxSkew"), int(&constraint["maxSkew"]), "must be greater than zero");
        }
        if some_text(&constraint["topologyKey"]).is_none() {
            errors.required(item.child("topologyKey"), "can not be empty");
        }
        let (key, action) = (text(&constraint["topologyKey"]), text(&constraint["whenUnsatisfiable"]));
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.not_supported(item.child("whenUnsatisfiable"), action, &actions);
        }
        let again = |other: &Value| other["topologyKey"] == key && other["whenUnsatisfiable"] == action;
        if all[i + 1..].iter().any(again) {
            let pair = format!("{{{key}, {action}}}");
            errors.duplicate(item.child("{topologyKey, whenUnsatisfiable}"), &pair);
        }
        if let Some(min) = constraint["minDomains"].as_i64() {
            if min <= 0 {
                errors.invalid(item.child("minDomains"), min, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(item.child("minDomains"), min, &why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(&constraint[field], item.child(field), &["Honor", "Ignore"], errors);
        }
        match_label_keys(constraint, item, errors);
        validate::label_selector(&constraint["labelSelector"], &item.child("labelSelector"), errors);
    }
}

/// Keys whose values are taken from the pod's own labels. The selector has them already: a key that
/// is there twice was also written by the user.
fn match_label_keys(term: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (list(&term[field]), path.child(field));
        if keys.is_empty() {
            continue;
        }
        if !selector.is_object() {
            errors.forbidden(at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            complain(names::qualified_name(text(key)), key, at.index(i), errors);
        }
    }
    let keys = list(&term["matchLabelKeys"]);
    if selector.is_object() {
        let mut seen: BTreeSet<&str> =
            crate::tree::entries(&selector["matchLabels"]).map(|(k, _)| k.as_str()).collect();
        for expression in list(&selector["matchExpressions"]) {
            let key = text(&expression["key"]);
            if let Some(i) = keys.iter().position(|k| k == key)
                && seen.contains(key)
            {
                errors.invalid(path.index(i), key, "exists in both matchLabelKeys and labelSelector");
            }
            seen.insert(key);
        }
    }
    let others = list(&term["mismatchLabelKeys"]);
    for (i, key) in keys.iter().enumerate().filter(|(_, key)| others.contains(key)) {
        let at = path.child("matchLabelKeys");
        errors.invalid(at.index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// What the pod wants to be near to, or far from.
pub(super) fn affinity(affinity: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (node, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if node[REQUIRED].is_object() {
        let at = at.child(REQUIRED);
        let (terms, at) = (list(&node[REQUIRED]["nodeSelectorTerms"]), at.child("nodeSelectorTerms"));
        if terms.is_empty() {
            errors.required(at, "must have at least one node selector term");
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(term, true, at.index(i), errors);
        }
    }
    let preferred = at.child(PREFERRED);
    for (i, term) in list(&node[PREFERRED]).iter().enumerate() {
        let item = preferred.index(i);
        weight(term, item, errors);
        node_term(&term["preference"], false, item.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (&affinity[kind], path.child(kind));
        let required = at.child(REQUIRED);
        for (i, term) in list(&pods[REQUIRED]).iter().enumerate() {
            pod_term(term, required.index(i), errors);
        }
        let preferred = at.child(PREFERRED);
        for (i, term) in list(&pods[PREFERRED]).iter().enumerate() {
            let item = preferred.index(i);
            weight(term, item, errors);
            pod_term(&term["podAffinityTerm"], item.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    if !(1..=100).contains(&int(&term["weight"])) {
        errors.invalid(path.child("weight"), int(&term["weight"]), "must be in the range 1-100");
    }
}

fn pod_term(term: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    validate::label_selector(&term["labelSelector"], &path.child("labelSelector"), errors);
    validate::label_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), errors);
    for (i, namespace) in list(&term["namespaces"]).iter().enumerate() {
        complain(names::dns_label(text(namespace)), namespace, path.child("namespace").index(i), errors);
    }
    match_label_keys(term, path, errors);
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        errors.required(path.child("topologyKey"), "can not be empty");
    }
    complain(names::qualified_name(key), key, path.child("topologyKey"), errors);
}

/// `strict`: whether the values have to be possible values of labels.
pub(crate) fn node_term(term: &Value, strict: bool, path: Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("matchExpressions");
    for (i, expression) in list(&term["matchExpressions"]).iter().enumerate() {
        let item = at.index(i);
        let values = list(&expression["values"]);
        match text(&expression["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(item.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(item.child("values"), why);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(item.child("values"), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid(item.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(&expression["key"]);
        complain(names::qualified_name(key), key, item.child("key"), errors);
        let at = item.child("values");
        for (n, value) in values.iter().enumerate().filter(|_| strict) {
            complain(names::label_value(text(value)), value, at.index(n), errors);
        }
    }
    let at = path.child("matchFields");
    for (i, field) in list(&term["matchFields"]).iter().enumerate() {
        let item = at.index(i);
        let operator = text(&field["operator"]);
        if !matches!(operator, "In" | "NotIn") {
            errors.invalid(item.child("operator"), operator, "not a valid selector operator");
        } else if list(&field["values"]).len() != 1 {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(item.child("values"), why);
        }
        if field["key"] != "metadata.name" {
            errors.invalid(item.child("key"), text(&field["key"]), "not a valid field selector key");
            continue;
        }
        let at = item.child("values");
        for (n, value) in list(&field["values"]).iter().enumerate() {
            complain(names::dns_subdomain(text(value)), value, at.index(n), errors);
        }
    }
}
