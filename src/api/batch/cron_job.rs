//! CronJob: a Job at set times.

use super::schedule::{Schedule, Zone};
use super::spec;
use crate::apps::validate::name_warning;
use crate::checks::{non_negative, required_one_of};
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, flag, list, some_text, text};
use serde_json::{Value, json};

/// CronJobs.
pub static CRON_JOBS: Resource = Resource {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["cj"],
    categories: &["all"],
    type_name: "io.k8s.api.batch.v1.CronJob",
    churn: Churn::Durable,
    subresources: &[Subresource::status("batch", "v1", "CronJob")],
    columns: &[
        Column::NAME,
        Column::new("Schedule", "string"),
        Column::new("Timezone", "string"),
        Column::new("Suspend", "boolean"),
        Column::new("Active", "integer"),
        Column::new("Last Schedule", "string"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        row,
        validate,
        validate_create,
        validate_update,
        warnings,
        ..Rules::NONE
    },
};

/// The names of its Jobs are 11 characters longer, and theirs end at 63.
const MAX_NAME: usize = 52;

fn default(cron: &mut Value) {
    let spec = tree::ensure(tree::object(cron), "spec");
    tree::default_zero(spec, "concurrencyPolicy", "Allow");
    tree::default(spec, "suspend", false);
    tree::default(spec, "successfulJobsHistoryLimit", 3);
    tree::default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = tree::sub(spec, "jobTemplate").and_then(|template| tree::sub(template, "spec")) {
        spec::defaults(job);
    }
}

fn prepare_create(cron: &mut Value) {
    create_with(cron, json!({}));
}

fn row(cron: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&cron["spec"], &cron["status"]);
    let job = &spec["jobTemplate"]["spec"];
    let [names, images] = table::containers(&job["template"]);
    let suspend = match spec["suspend"].as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    let last = match &status["lastScheduleTime"] {
        Value::Null => "<none>".to_owned(),
        time => table::age(time, now),
    };
    vec![
        table::name(cron),
        text(&spec["schedule"]).into(),
        spec["timeZone"].as_str().unwrap_or("<none>").into(),
        suspend.into(),
        list(&status["active"]).len().into(),
        last.into(),
        table::created(cron, now),
        names,
        images,
        table::selector(&job["selector"]).into(),
    ]
}

fn validate(cron: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&cron["spec"], Path::root("spec"));
    match some_text(&spec["schedule"]) {
        None => errors.required(path.child("schedule"), ""),
        Some(schedule) => {
            if let Err(error) = Schedule::parse(schedule) {
                errors.invalid(path.child("schedule"), schedule, &error.to_string());
            }
        }
    }
    non_negative(spec, "startingDeadlineSeconds", &path, errors);
    let policies = ["Allow", "Forbid", "Replace"];
    required_one_of(&spec["concurrencyPolicy"], path.child("concurrencyPolicy"), &policies, errors);
    let (job, template) = (&spec["jobTemplate"]["spec"], path.child("jobTemplate"));
    let at = template.child("spec");
    spec::validate(job, at, errors);
    if !job["selector"].is_null() {
        errors.invalid(at.child("selector"), &job["selector"], "`selector` will be auto-generated");
    }
    if flag(&job["manualSelector"]) {
        errors.not_supported(at.child("manualSelector"), true, &["nil", "false"]);
    }
    non_negative(spec, "successfulJobsHistoryLimit", &path, errors);
    non_negative(spec, "failedJobsHistoryLimit", &path, errors);
}

fn validate_create(cron: &Value, errors: &mut FieldErrors) {
    let spec = &cron["spec"];
    zone_in_schedule(spec, errors);
    time_zone(&spec["timeZone"], errors);
    let name = text(&cron["metadata"]["name"]);
    if name.len() > MAX_NAME {
        errors.invalid("metadata.name", name, "must be no more than 52 characters");
    }
}

/// What was let through once, by an older server, stays.
fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let schedule = text(&spec["schedule"]);
    if !text(&before["schedule"]).contains("TZ") {
        zone_in_schedule(spec, errors);
    } else if schedule.contains("TZ") && !spec["timeZone"].is_null() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.invalid("spec.schedule", schedule, why);
    }
    if spec["timeZone"] != before["timeZone"] {
        time_zone(&spec["timeZone"], errors);
    }
}

fn zone_in_schedule(spec: &Value, errors: &mut FieldErrors) {
    let schedule = text(&spec["schedule"]);
    if schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid("spec.schedule", schedule, why);
    }
}

fn time_zone(zone: &Value, errors: &mut FieldErrors) {
    let Some(name) = zone.as_str() else { return };
    let path = Path::root("spec.timeZone");
    let part = |part: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(fine)
    };
    if name.is_empty() {
        errors.invalid(path, name, "timeZone must be nil or non-empty string");
    } else if !name.split('/').all(part) {
        errors.invalid(path, name, &format!("unknown time zone {name}"));
    } else {
        if name.eq_ignore_ascii_case("Local") {
            let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.invalid(path, name, why);
        }
        if name != "Local" && Zone::find(name).is_none() {
            errors.invalid(path, name, &format!("unknown time zone {name}"));
        }
    }
}

fn warnings(cron: &Value) -> Vec<String> {
    let mut found: Vec<String> = name_warning(cron).into_iter().collect();
    let path = Path::root("spec.jobTemplate.spec");
    found.extend(spec::warnings(&cron["spec"]["jobTemplate"]["spec"], path));
    if text(&cron["spec"]["schedule"]).contains("TZ") {
        found.push("CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(spec: Value) -> Value {
        let mut cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}}}});
        crate::patch::merge(&mut cron["spec"], &spec);
        default(&mut cron);
        cron
    }

    fn errors_of(spec: Value) -> Vec<String> {
        let cron = cron(spec);
        let mut errors = FieldErrors::default();
        validate(&cron, &mut errors);
        validate_create(&cron, &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_cron_job_is_completed_and_printed() {
        let cron = cron(json!({}));
        let spec = &cron["spec"];
        assert_eq!(spec["concurrencyPolicy"], "Allow");
        assert_eq!(
            (spec["successfulJobsHistoryLimit"].as_i64(), spec["failedJobsHistoryLimit"].as_i64()),
            (Some(3), Some(1))
        );
        assert!(spec["jobTemplate"]["spec"]["backoffLimit"].is_null());
        assert_eq!(errors_of(json!({"timeZone": "Europe/Berlin"})), [""; 0]);
        assert_eq!(
            Value::from(row(&cron, 0)),
            json!(["c", "*/5 * * * *", "<none>", "False", 0, "<none>", "<unknown>", "a", "x", "<none>"])
        );
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(
            errors_of(json!({"schedule": "61 * * * *", "startingDeadlineSeconds": -1, "concurrencyPolicy": "Odd",
                "jobTemplate": {"spec": {"selector": {}, "manualSelector": true}}, "failedJobsHistoryLimit": -1})),
            [
                "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
                "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.concurrencyPolicy: Unsupported value: \"Odd\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
                "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        let zone = |name: &str| errors_of(json!({ "timeZone": name }));
        assert_eq!(
            zone("Mars/Olympus"),
            ["spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"]
        );
        assert_eq!(zone("europe/berlin").len(), 1);
        assert_eq!(zone("../Berlin").len(), 1);
        assert_eq!(zone("UTC"), [""; 0]);
        assert_eq!(
            zone("Local"),
            [
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            ]
        );
        assert_eq!(
            errors_of(json!({"schedule": "TZ=UTC 0 * * * *"})),
            [
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            ]
        );
    }
}
