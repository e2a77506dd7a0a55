//! Validation of a Job's status, which other controllers may write too.

use super::indexes::Indexes;
use super::spec::is_indexed;
use crate::checks::non_negative;
use crate::meta::time::parse_seconds;
use crate::status::{FieldErrors, Path};
use crate::tree::{flag, int, list, text};
use serde_json::Value;
use std::collections::HashSet;

/// Whether a Job has a condition that is true.
pub(super) fn has(job: &Value, kind: &str) -> bool {
    list(&job["status"]["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn is_finished(job: &Value) -> bool {
    has(job, "Complete") || has(job, "Failed")
}

/// An update of the status: what has changed must be right, what stays is left alone.
pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    let job = Change { new, old, path };
    counts(new, path, errors);
    job.conditions(errors);
    job.finished(errors);
    job.indexes(errors);
    job.last(errors);
    job.transitions(errors);
}

fn counts(job: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let status = &job["status"];
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(status, field, &path, errors);
    }
    let at = path.child("uncountedTerminatedPods");
    let mut seen = HashSet::new();
    for kind in ["succeeded", "failed"] {
        for (i, uid) in list(&status["uncountedTerminatedPods"][kind]).iter().enumerate() {
            let list_at = at.child(kind);
            if text(uid).is_empty() {
                errors.invalid(list_at.index(i), "", "must not be empty");
            } else if !seen.insert(text(uid)) {
                errors.duplicate(list_at.index(i), uid);
            }
        }
    }
}

struct Change<'a> {
    new: &'a Value,
    old: &'a Value,
    path: Path<'a>,
}

impl Change<'_> {
    fn changed(&self, field: &str) -> bool {
        self.new["status"][field] != self.old["status"][field]
    }

    fn changed_condition(&self, kind: &str) -> bool {
        has(self.new, kind) != has(self.old, kind)
    }

    fn changed_finish(&self) -> bool {
        is_finished(self.new) != is_finished(self.old)
    }

    fn conditions(&self, errors: &mut FieldErrors) {
        let (job, status) = (self.new, &self.new["status"]);
        let at = self.path.child("conditions");
        let (complete, failed) = (has(job, "Complete"), has(job, "Failed"));
        let completing = self.changed_condition("Complete");
        if (completing || self.changed_condition("Failed")) && complete && failed {
            errors.invalid_whole(at, "cannot set Complete=True and Failed=true conditions");
        }
        if (completing || self.changed_condition("FailureTarget")) && complete && has(job, "FailureTarget") {
            errors.invalid_whole(at, "cannot set Complete=True and FailureTarget=true conditions");
        }
        let at_time = self.path.child("completionTime");
        let (start, end) = (&status["startTime"], &status["completionTime"]);
        if completing || self.changed("completionTime") {
            if !end.is_null() && !complete {
                errors.invalid(at_time, end, "cannot set completionTime when there is no Complete=True condition");
            }
            if end.is_null() && complete {
                errors.required(at_time, "completionTime is required for Complete jobs");
            }
        }
        let seconds = |time: &Value| time.as_str().and_then(parse_seconds);
        if (self.changed("startTime") || self.changed("completionTime"))
            && seconds(start).zip(seconds(end)).is_some_and(|(start, end)| end < start)
        {
            errors.invalid(at_time, end, "completionTime cannot be set before startTime");
        }
        if (self.changed_condition("Failed") || self.changed_condition("FailureTarget"))
            && failed
            && !has(job, "FailureTarget")
        {
            errors.invalid_whole(at, "cannot set Failed=True condition without the FailureTarget=true condition");
        }
        if (completing || self.changed_condition("SuccessCriteriaMet")) && complete && !has(job, "SuccessCriteriaMet") {
            errors
                .invalid_whole(at, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
        }
    }

    fn finished(&self, errors: &mut FieldErrors) {
        let (job, status, path) = (self.new, &self.new["status"], self.path);
        if !is_finished(job) {
            return;
        }
        let finishing = self.changed_finish();
        if (finishing || self.changed("active")) && int(&status["active"]) > 0 {
            errors.invalid(path.child("active"), &status["active"], "active>0 is invalid for finished job");
        }
        // A suspended Job that wants nothing is complete without ever having started.
        let nothing = flag(&job["spec"]["suspend"]) && job["spec"]["completions"] == 0;
        if (finishing || self.changed("startTime")) && !nothing && status["startTime"].is_null() {
            errors.required(path.child("startTime"), "startTime is required for finished job");
        }
        let uncounted = &status["uncountedTerminatedPods"];
        if (finishing || self.changed("uncountedTerminatedPods"))
            && list(&uncounted["failed"]).len() + list(&uncounted["succeeded"]).len() > 0
        {
            let why = "uncountedTerminatedPods needs to be empty for finished job";
            errors.invalid(path.child("uncountedTerminatedPods"), uncounted, why);
        }
    }

    fn indexes(&self, errors: &mut FieldErrors) {
        let (spec, status) = (&self.new["spec"], &self.new["status"]);
        let (completed_at, failed_at) = (self.path.child("completedIndexes"), self.path.child("failedIndexes"));
        let (completed, failed) = (text(&status["completedIndexes"]), status["failedIndexes"].as_str());
        let (changed, changed_failed) = (self.changed("completedIndexes"), self.changed("failedIndexes"));
        let completions = spec["completions"].as_i64();
        let read = |text: &str| completions.map(|all| Indexes::parse(text, all));
        if changed && let Some(Err(error)) = read(completed) {
            errors.invalid(completed_at, completed, &format!("error parsing completedIndexes: {error}"));
        }
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        if changed_failed
            && per_index
            && let Some(failed) = failed
            && let Some(Err(error)) = read(failed)
        {
            errors.invalid(failed_at, failed, &format!("error parsing failedIndexes: {error}"));
        }
        if changed && !completed.is_empty() && !is_indexed(spec) {
            let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(completed_at, completed, why);
        }
        let Some(failed) = failed else { return };
        if changed_failed && !per_index {
            errors.invalid(failed_at, failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
        if (changed || changed_failed)
            && let (Some(Ok(completed)), Some(Ok(read))) = (read(completed), read(failed))
            && let Some(index) = completed.overlap(&read)
        {
            let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(failed_at, failed, &why);
        }
    }

    fn last(&self, errors: &mut FieldErrors) {
        let (job, status, path) = (self.new, &self.new["status"], self.path);
        let terminating = int(&status["terminating"]);
        if (self.changed_finish() || self.changed("terminating")) && terminating > 0 && is_finished(job) {
            errors.invalid(path.child("terminating"), terminating, "terminating>0 is invalid for finished job");
        }
        let ready = int(&status["ready"]);
        if (self.changed("ready") || self.changed("active")) && ready > int(&status["active"]) {
            errors.invalid(path.child("ready"), ready, "cannot set more ready pods than active");
        }
        let at = path.child("conditions");
        let met = has(job, "SuccessCriteriaMet");
        if met && has(job, "Failed") {
            errors.invalid_whole(at, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
        }
        if met && has(job, "FailureTarget") {
            errors.invalid_whole(at, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
        }
        if !job["spec"]["successPolicy"].is_null() && !met && has(job, "Complete") {
            let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            errors.invalid_whole(at, why);
        }
    }

    /// What was true for ever stays true, and what was counted stays counted.
    fn transitions(&self, errors: &mut FieldErrors) {
        let (new, old, path) = (self.new, self.old, self.path);
        let at = path.child("conditions");
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if has(old, kind) && !has(new, kind) {
                errors.invalid_whole(at, &format!("cannot disable the terminal {kind}=True condition"));
            }
        }
        let count = |job: &Value, field: &str| int(&job["status"][field]);
        if count(new, "failed") < count(old, "failed") {
            errors.invalid(path.child("failed"), count(new, "failed"), "cannot decrease the failed counter");
        }
        // An elastic Job may be made smaller.
        let elastic = is_indexed(&new["spec"]) && new["spec"]["completions"] == new["spec"]["parallelism"];
        if !elastic && count(new, "succeeded") < count(old, "succeeded") {
            let why = "cannot decrease the succeeded counter";
            errors.invalid(path.child("succeeded"), count(new, "succeeded"), why);
        }
        let times = |field: &str| (&new["status"][field], &old["status"][field]);
        let (end, before) = times("completionTime");
        if !end.is_null() && !before.is_null() && end != before {
            errors.invalid(path.child("completionTime"), end, "completionTime cannot be mutated");
        }
        let (start, before) = times("startTime");
        if !before.is_null() && start != before && !flag(&new["spec"]["suspend"]) {
            errors.required(path.child("startTime"), "startTime cannot be removed for unsuspended job");
        }
        let met = "SuccessCriteriaMet";
        if has(old, met) && !has(new, met) {
            errors.invalid_whole(at, "cannot disable the SuccessCriteriaMet=True condition");
        }
        if has(old, "Complete") && !has(old, met) && has(new, met) {
            let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.invalid_whole(at, why);
        }
    }
}
