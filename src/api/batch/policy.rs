//! What a Job makes of failed pods and of some of its indexes alone.

use super::indexes::Indexes;
use crate::checks::{NEGATIVE, complain};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use crate::tree::{int, list, text};
use serde_json::Value;
use std::collections::HashSet;

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_INDEXES_BYTES: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// A word out of a list; one that is missing is told which there are.
fn word(value: &Value, words: &[&str], path: Path<'_>, errors: &mut FieldErrors) {
    if text(value).is_empty() {
        let all: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        errors.required(path, &format!("valid values: [{}]", all.join(" ")));
    } else if !words.contains(&text(value)) {
        errors.not_supported(path, value, words);
    }
}

/// `podFailurePolicy`.
pub(super) fn failure(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rules, at) = (list(&spec["podFailurePolicy"]["rules"]), path.child("rules"));
    if rules.len() > MAX_RULES {
        errors.too_many(at, rules.len(), MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, at.index(i), errors);
    }
}

fn failure_rule(spec: &Value, rule: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (action, at) = (&rule["action"], path.child("action"));
    if action == "FailIndex" {
        if spec["backoffLimitPerIndex"].is_null() {
            errors.invalid(at, action, "requires the backoffLimitPerIndex to be set");
        }
    } else {
        word(action, &ACTIONS, at, errors);
    }
    let (codes, patterns) = (&rule["onExitCodes"], list(&rule["onPodConditions"]));
    if codes.is_object() {
        exit_codes(spec, codes, path.child("onExitCodes"), errors);
    }
    if !patterns.is_empty() {
        conditions(patterns, path.child("onPodConditions"), errors);
    }
    match (codes.is_object(), patterns.is_empty()) {
        (true, false) => {
            errors.invalid_whole(path, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_whole(path, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
}

fn exit_codes(spec: &Value, codes: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    word(&codes["operator"], &OPERATORS, path.child("operator"), errors);
    let pod = &spec["template"]["spec"];
    let mut containers = list(&pod["containers"]).iter().chain(list(&pod["initContainers"]));
    if let Some(name) = codes["containerName"].as_str()
        && !containers.any(|container| container["name"] == name)
    {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.invalid(path.child("containerName"), name, why);
    }
    let (values, at) = (list(&codes["values"]), path.child("values"));
    if values.is_empty() {
        errors.invalid(at, &codes["values"], "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(at, values.len(), MAX_EXIT_CODES);
    }
    let mut seen = HashSet::new();
    for (i, value) in values.iter().enumerate() {
        if codes["operator"] == "In" && int(value) == 0 {
            errors.invalid(at.index(i), int(value), "must not be 0 for the In operator");
        }
        if !seen.insert(int(value)) {
            errors.duplicate(at.index(i), value);
        }
    }
    if !values.is_sorted_by_key(int) {
        errors.invalid(at, &codes["values"], "must be ordered");
    }
}

fn conditions(patterns: &[Value], path: Path<'_>, errors: &mut FieldErrors) {
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(path, patterns.len(), MAX_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let item = path.index(i);
        let kind = text(&pattern["type"]);
        complain(names::qualified_name(kind), kind, item.child("type"), errors);
        word(&pattern["status"], &STATUSES, item.child("status"), errors);
    }
}

/// `successPolicy` of an indexed Job.
pub(super) fn success(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rules, at) = (list(&spec["successPolicy"]["rules"]), path.child("rules"));
    if rules.is_empty() {
        errors.required(at, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(at, rules.len(), MAX_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(rule, int(&spec["completions"]), at.index(i), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: Path<'_>, errors: &mut FieldErrors) {
    let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_BYTES {
            errors.too_long(at, MAX_INDEXES_BYTES);
        }
        match Indexes::parse(indexes, completions) {
            Ok(set) => total = set.total(),
            Err(error) => errors.invalid(at, indexes, &format!("error parsing succeededIndexes: {error}")),
        }
    }
    let Some(count) = count else { return };
    let at = path.child("succeededCount");
    if count < 0 {
        errors.invalid(at, count, NEGATIVE);
    }
    if count > completions {
        let why = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.invalid(at, count, &why);
    }
    if indexes.is_some() && count > total {
        let why = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(at, count, &why);
    }
}
