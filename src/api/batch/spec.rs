//! Validation of what a Job is to do, for Jobs and for the templates of CronJobs.

use super::policy;
use crate::checks::{domain_prefixed_path, non_negative};
use crate::core::pod;
use crate::status::{FieldErrors, Path};
use crate::tree::{self, int, text};
use serde_json::{Map, Value};

/// Beyond this many, lists of indexes in the status could grow too long.
const MANY: i64 = 100_000;
/// How many may fail, or run at once, when there are many and each is counted.
const FEW: i64 = 10_000;
const MAX_MANAGED_BY: usize = 63;

/// Whether pods have an index each.
pub(super) fn is_indexed(spec: &Value) -> bool {
    spec["completionMode"] == "Indexed"
}

/// What Jobs and the templates of Jobs have in common: pods and the patterns of failures.
pub(super) fn defaults(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
    let Some(policy) = tree::sub(spec, "podFailurePolicy") else { return };
    for rule in tree::items(policy, "rules") {
        for pattern in tree::items(rule, "onPodConditions") {
            tree::default_zero(pattern, "status", "True");
        }
    }
}

/// Errors of a spec but for its selector.
pub(super) fn validate(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(spec, field, &path, errors);
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(controller) = spec["managedBy"].as_str() {
        let at = path.child("managedBy");
        match controller {
            "" => errors.required(at, ""),
            _ => domain_prefixed_path(controller, at, errors),
        }
        if controller.len() > MAX_MANAGED_BY {
            errors.too_long(at, MAX_MANAGED_BY);
        }
    }
    completion_mode(spec, path, errors);
    if spec["podFailurePolicy"].is_object() {
        policy::failure(spec, path.child("podFailurePolicy"), errors);
    }
    if spec["successPolicy"].is_object() {
        let at = path.child("successPolicy");
        match is_indexed(spec) {
            true => policy::success(spec, at, errors),
            false => errors.invalid(at, &spec["successPolicy"], "requires indexed completion mode"),
        }
    }
    replacement(spec, path.child("podReplacementPolicy"), errors);
    let template = path.child("template");
    pod::validate::template(&spec["template"], template, errors);
    restart_policy(spec, template.child("spec").child("restartPolicy"), errors);
}

fn completion_mode(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let mode = &spec["completionMode"];
    if !mode.is_null() && mode != "NonIndexed" && mode != "Indexed" {
        errors.not_supported(path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if is_indexed(spec) {
        indexed(spec, path, errors);
    } else if mode.is_null() || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !spec[field].is_null() {
                errors.invalid(path.child(field), &spec[field], "requires indexed completion mode");
            }
        }
    }
}

fn indexed(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (completions, failed) = (spec["completions"].as_i64(), spec["maxFailedIndexes"].as_i64());
    let (parallelism_at, failed_at) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    let parallelism = int(&spec["parallelism"]);
    if completions.is_none() {
        errors.required(path.child("completions"), "when completion mode is Indexed");
    }
    if parallelism > MANY {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.invalid(parallelism_at, parallelism, why);
    }
    if let (Some(failed), Some(_)) = (failed, completions.filter(|all| failed > Some(*all))) {
        errors.invalid(failed_at, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|failed| *failed > MANY) {
        errors.invalid(failed_at, failed, "must be less than or equal to 100000");
    }
    if completions.is_none_or(|all| all <= MANY) || spec["backoffLimitPerIndex"].is_null() {
        return;
    }
    let why =
        "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
    if failed.is_none() {
        errors.required(failed_at, "must be specified when completions is above 100000");
    }
    if parallelism > FEW {
        errors.invalid(parallelism_at, parallelism, why);
    }
    if let Some(failed) = failed.filter(|failed| *failed > FEW) {
        errors.invalid(failed_at, failed, why);
    }
}

fn replacement(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let policy = &spec["podReplacementPolicy"];
    let supported: &[&str] =
        if spec["podFailurePolicy"].is_object() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !policy.is_null() && !supported.contains(&text(policy)) {
        errors.not_supported(path, policy, supported);
    }
}

/// Pods of Jobs end; a policy about failures needs to see each of them.
fn restart_policy(spec: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match text(policy) {
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec["podFailurePolicy"].is_object() => {
            errors.invalid(path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" => {}
        _ => errors.not_supported(path, policy, &["OnFailure", "Never"]),
    }
}

/// Warnings about a spec.
pub(super) fn warnings(spec: &Value, path: Path<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if is_indexed(spec) && int(&spec["completions"]) > MANY && int(&spec["parallelism"]) > FEW {
        found.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    found.extend(pod::warnings::of_template(&spec["template"], path.child("template")));
    found
}
