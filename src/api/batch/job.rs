//! Job: pods that run until enough of them have succeeded.

use super::spec::{self, is_indexed};
use super::status;
use crate::apps::validate::{name_warning, selected};
use crate::internal;
use crate::meta::prepare::{create_with, update as prepare_update};
use crate::meta::{names, validate};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{BadValue, FieldErrors, Path, Shown};
use crate::table;
use crate::tree::{self, flag, int, is_empty, list, text};
use serde_json::{Map, Value, json};

/// Jobs.
pub static JOBS: Resource = Resource {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &["all"],
    type_name: "io.k8s.api.batch.v1.Job",
    churn: Churn::Durable,
    subresources: &[Subresource::status("batch", "v1", "Job")],
    columns: &[
        Column::NAME,
        Column::new("Status", "string"),
        Column::new("Completions", "string"),
        Column::new("Duration", "string"),
        Column::new("Age", "string"),
        Column::wide("Containers", "string"),
        Column::wide("Images", "string"),
        Column::wide("Selector", "string"),
    ],
    rules: Rules {
        default,
        prepare_create,
        prepare_update,
        fields,
        row,
        validate,
        validate_update,
        validate_status: status::update,
        warnings,
        ..Rules::NONE
    },
};

/// The label by which a Job's pods are told from all others.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// The same two as older clients know them.
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

fn default(job: &mut Value) {
    let job = tree::object(job);
    let spec = tree::ensure(job, "spec");
    let absent = |spec: &Map<String, Value>, field: &str| spec.get(field).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        tree::default(spec, "completions", 1);
    }
    tree::default(spec, "parallelism", 1);
    let per_index = !absent(spec, "backoffLimitPerIndex");
    tree::default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    tree::default(spec, "completionMode", "NonIndexed");
    tree::default(spec, "suspend", false);
    tree::default(spec, "manualSelector", false);
    let by_policy = !absent(spec, "podFailurePolicy");
    tree::default(spec, "podReplacementPolicy", if by_policy { "Failed" } else { "TerminatingOrFailed" });
    spec::defaults(spec);
    let manual = spec.get("manualSelector").is_some_and(flag);
    let labels = spec.get("template").map_or(Value::Null, |template| template["metadata"]["labels"].clone());
    // The template's labels stand for those of the Job, once all of them are there.
    if manual || !labels[UID_LABEL].is_null() {
        take_labels(job, labels);
    }
}

fn take_labels(job: &mut Map<String, Value>, labels: Value) {
    let metadata = tree::ensure(job, "metadata");
    if labels.is_object() && !is_empty(&labels) && is_empty(metadata.get("labels").unwrap_or(&Value::Null)) {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn prepare_create(job: &mut Value) {
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    create_with(job, json!({}));
    let job = tree::object(job);
    let spec = tree::ensure(job, "spec");
    if spec.get("manualSelector").is_some_and(flag) {
        return;
    }
    let template = tree::ensure(spec, "template");
    let labels = tree::ensure(tree::ensure(template, "metadata"), "labels");
    for (key, value) in [(OLD_NAME_LABEL, &name), (OLD_UID_LABEL, &uid), (NAME_LABEL, &name), (UID_LABEL, &uid)] {
        labels.entry(key).or_insert_with(|| value.clone());
    }
    let labels = Value::Object(labels.clone());
    let wanted = tree::ensure(tree::ensure(spec, "selector"), "matchLabels");
    wanted.entry(UID_LABEL).or_insert(uid);
    take_labels(job, labels);
}

fn fields(job: &Value) -> Vec<(&'static str, String)> {
    vec![("status.successful", int(&job["status"]["succeeded"]).to_string())]
}

fn row(job: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&job["spec"], &job["status"]);
    let succeeded = int(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), int(&spec["parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    };
    let time = |field: &str| status[field].as_str().and_then(table::seconds);
    let duration = match time("startTime") {
        Some(start) => table::duration(time("completionTime").unwrap_or(now).saturating_sub(start)),
        None => String::new(),
    };
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(job),
        state(job).into(),
        completions.into(),
        duration.into(),
        table::created(job, now),
        names,
        images,
        table::selector(&spec["selector"]).into(),
    ]
}

fn state(job: &Value) -> &'static str {
    let deleting = !text(&job["metadata"]["deletionTimestamp"]).is_empty();
    let first = |kinds: &[&'static str]| kinds.iter().copied().find(|kind| status::has(job, kind));
    match first(&["Complete", "Failed"]) {
        Some(end) => end,
        None if deleting => "Terminating",
        None => first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running"),
    }
}

fn validate(job: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&job["spec"], Path::root("spec"));
    generated(job, errors);
    spec::validate(spec, path, errors);
    let (selector, at, template) = (&spec["selector"], path.child("selector"), path.child("template"));
    if !selector.is_object() {
        errors.required(at, "");
    }
    let before = errors.len();
    validate::label_selector(selector, &at, errors);
    // What cannot be read is not matched.
    if errors.len() == before {
        selected(selector, &spec["template"], template, errors);
    }
    let completions = int(&spec["completions"]);
    if is_indexed(spec) && completions > 0 {
        let name = text(&job["metadata"]["name"]);
        let longest = format!("{name}-{}", completions - 1);
        if !names::dns_label(&longest).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.invalid("metadata.name", name, &why);
        }
    }
}

/// A selector that nobody has chosen is this Job's and nobody else's.
fn generated(job: &Value, errors: &mut FieldErrors) {
    let (spec, metadata) = (&job["spec"], &job["metadata"]);
    if flag(&spec["manualSelector"]) || !spec["selector"].is_object() {
        return;
    }
    let (uid, name) = (text(&metadata["uid"]), text(&metadata["name"]));
    if uid.is_empty() {
        errors.required("metadata.uid", "");
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = [(OLD_UID_LABEL, uid), (OLD_NAME_LABEL, name), (UID_LABEL, uid), (NAME_LABEL, name)];
    for (key, value) in wanted {
        let path = Path::root("spec.template.metadata.labels");
        let why = format!("must be '{value}'");
        match &labels[key] {
            Value::Null => errors.required(path.key(key), &why),
            other if text(other) != value => errors.invalid(path.key(key), labels, &why),
            _ => {}
        }
    }
    let all: Map<String, Value> = wanted.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let mut wrong = FieldErrors::default();
    validate::label_selector(&spec["selector"], &Path::root("spec"), &mut wrong);
    if wrong.is_empty() && !crate::checks::selects(&spec["selector"], &all.into()) {
        errors.invalid("spec.selector", &spec["selector"], "`selector` not auto-generated");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, before, path) = (&new["spec"], &old["spec"], Path::root("spec"));
    completions(spec, before, errors);
    let mut same = |field: &str| {
        if spec[field] != before[field] {
            let shown = match field {
                "template" => internal::shown(&spec[field], "io.k8s.api.core.v1.PodTemplateSpec"),
                "podFailurePolicy" => internal::shown(&spec[field], "io.k8s.api.batch.v1.PodFailurePolicy"),
                "successPolicy" => internal::shown(&spec[field], "io.k8s.api.batch.v1.SuccessPolicy"),
                _ => Shown(spec[field].show()),
            };
            errors.immutable(path.child(field), shown);
        }
    };
    same("selector");
    let mutable = is_idle(old) && allowed(&spec["template"], &before["template"]) == spec["template"];
    if !mutable {
        same("template");
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        same(field);
    }
}

/// Only an indexed Job with a pod for each index at once may be made larger or smaller.
fn completions(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    let (completions, path) = (&spec["completions"], Path::root("spec.completions"));
    if *completions == before["completions"] {
        return;
    }
    if !is_indexed(spec) {
        errors.immutable(path, completions);
    } else if !completions.is_null() && *completions != spec["parallelism"] {
        errors.invalid(path, completions, "can only be modified in tandem with spec.parallelism");
    }
}

/// Whether a Job is suspended and has no pods, so that where and how they run can still change.
fn is_idle(job: &Value) -> bool {
    let status = &job["status"];
    let stopped = status["startTime"].is_null() || status::has(job, "Suspended");
    flag(&job["spec"]["suspend"]) && int(&status["active"]) == 0 && stopped
}

/// The old template with all of the new one's that an idle Job may change.
fn allowed(new: &Value, old: &Value) -> Value {
    let mut template = old.clone();
    let into = tree::object(&mut template);
    let metadata = tree::ensure(into, "metadata");
    for field in ["annotations", "labels"] {
        replace(metadata, &new["metadata"], field);
    }
    let (spec, new) = (tree::ensure(into, "spec"), &new["spec"]);
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        replace(spec, new, field);
    }
    let others = |affinity: &Value| !affinity["podAffinity"].is_null() || !affinity["podAntiAffinity"].is_null();
    if new["affinity"].is_object() {
        replace(tree::ensure(spec, "affinity"), &new["affinity"], "nodeAffinity");
    } else if !others(spec.get("affinity").unwrap_or(&Value::Null)) {
        replace(spec, new, "affinity");
    }
    for kind in ["containers", "initContainers"] {
        for (container, new) in tree::items(spec, kind).zip(list(&new[kind])) {
            if container.get("name") == new.get("name") {
                replace(container, new, "resources");
            }
        }
    }
    template
}

fn replace(object: &mut Map<String, Value>, new: &Value, field: &str) {
    match new.get(field) {
        Some(value) => object.insert(field.to_owned(), value.clone()),
        None => object.remove(field),
    };
}

fn warnings(job: &Value) -> Vec<String> {
    let mut found: Vec<String> = name_warning(job).into_iter().collect();
    found.extend(spec::warnings(&job["spec"], Path::root("spec")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        let mut job = json!({"metadata": {"name": "pi", "uid": "u1"}, "spec": {"template":
            {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}});
        crate::patch::merge(&mut job["spec"], &spec);
        default(&mut job);
        prepare_create(&mut job);
        job
    }

    fn errors_of(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&job(spec), &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_job_is_completed() {
        let job = job(json!({}));
        let spec = &job["spec"];
        let labels = json!({"job-name": "pi", "controller-uid": "u1", "batch.kubernetes.io/job-name": "pi",
            "batch.kubernetes.io/controller-uid": "u1"});
        assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
        assert_eq!(spec["template"]["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["labels"], labels);
        for (field, value) in [
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("manualSelector", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ] {
            assert_eq!(spec[field], value, "{field}");
        }
        assert_eq!(errors_of(json!({})), [""; 0]);
        let queue = super::tests::job(json!({"parallelism": 3}));
        assert!(queue["spec"]["completions"].is_null());
        let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
        let counted = super::tests::job(
            json!({"podFailurePolicy": policy, "completionMode": "Indexed", "backoffLimitPerIndex": 1}),
        );
        assert_eq!(counted["spec"]["podReplacementPolicy"], "Failed");
        assert_eq!(counted["spec"]["backoffLimit"], i32::MAX);
        assert_eq!(counted["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
    }

    #[test]
    fn selectors_are_generated_or_given() {
        assert_eq!(
            errors_of(
                json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"job-name": "x"}}}})
            ),
            [
                "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u1\",\"batch.kubernetes.io/job-name\":\"pi\",\"controller-uid\":\"u1\",\"job-name\":\"x\"}: must be 'pi'",
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u1\"}}: `selector` not auto-generated",
                "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u1\",\"batch.kubernetes.io/job-name\":\"pi\",\"controller-uid\":\"u1\",\"job-name\":\"x\"}: `selector` does not match template `labels`",
            ]
        );
        assert_eq!(
            errors_of(json!({"manualSelector": true})),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
            ]
        );
        let manual = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}});
        assert_eq!(errors_of(manual.clone()), [""; 0]);
        assert_eq!(job(manual)["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn what_can_be_wrong() {
        assert_eq!(
            errors_of(
                json!({"template": {"spec": {"restartPolicy": "Always"}}, "parallelism": -1, "maxFailedIndexes": 1,
                "managedBy": "me", "successPolicy": {"rules": []}, "podReplacementPolicy": "Odd"})
            ),
            [
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                "spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode",
                "spec.podReplacementPolicy: Unsupported value: \"Odd\": supported values: \"Failed\", \"TerminatingOrFailed\"",
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ]
        );
        assert_eq!(
            errors_of(
                json!({"completionMode": "Indexed", "completions": 200_000, "parallelism": 20_000, "backoffLimitPerIndex": 1})
            ),
            [
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                "spec.parallelism: Invalid value: 20000: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
            ]
        );
        assert_eq!(
            errors_of(json!({"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [
                {}, {"succeededCount": 3}, {"succeededIndexes": "0-2"}, {"succeededIndexes": "1", "succeededCount": 2}]}})),
            [
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                "spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of specified completions)",
                "spec.successPolicy.rules[2].succeededIndexes: Invalid value: \"0-2\": error parsing succeededIndexes: too large index: \"2\"",
                "spec.successPolicy.rules[3].succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)",
            ]
        );
    }

    #[test]
    fn rules_about_failures() {
        let rules = json!([
            {"action": "", "onExitCodes": {"operator": "In", "values": [0, 3, 2, 2], "containerName": "b"}},
            {"action": "FailIndex", "onPodConditions": [{"type": "a b"}]},
            {"action": "Odd"},
        ]);
        let found = errors_of(
            json!({"podFailurePolicy": {"rules": rules}, "template": {"spec": {"restartPolicy": "OnFailure"}}}),
        );
        assert_eq!(
            found.iter().map(|m| m.split("name part").next().unwrap_or("").trim_end()).collect::<Vec<_>>(),
            [
                "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"b\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: 2",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,3,2,2]: must be ordered",
                "spec.podFailurePolicy.rules[1].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: \"a b\":",
                "spec.podFailurePolicy.rules[2].action: Unsupported value: \"Odd\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified",
            ]
        );
    }

    fn update_errors(old: &Value, change: Value) -> Vec<String> {
        let mut new = old.clone();
        crate::patch::merge(&mut new, &change);
        let mut errors = FieldErrors::default();
        validate_update(&new, old, &mut errors);
        errors.messages().iter().map(|m| m.split(": ").next().unwrap_or("").to_owned()).collect()
    }

    #[test]
    fn what_updates_may_change() {
        let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "y"}]}}}});
        let node = json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}});
        let running = job(json!({}));
        assert_eq!(update_errors(&running, image.clone()), ["spec.template"]);
        assert_eq!(update_errors(&running, node.clone()), ["spec.template"]);
        assert_eq!(update_errors(&running, json!({"spec": {"completions": 2}})), ["spec.completions"]);
        assert_eq!(update_errors(&running, json!({"spec": {"parallelism": 2, "backoffLimit": 1}})), [""; 0]);
        let mut idle = job(json!({"suspend": true}));
        assert_eq!(update_errors(&idle, node.clone()), [""; 0]);
        assert_eq!(update_errors(&idle, image), ["spec.template"]);
        let mut container = idle["spec"]["template"]["spec"]["containers"][0].clone();
        container["resources"] = json!({"requests": {"cpu": "1"}});
        let resources = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        assert_eq!(update_errors(&idle, resources), [""; 0]);
        idle["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(update_errors(&idle, node), ["spec.template"]);
        let elastic = job(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
        assert_eq!(update_errors(&elastic, json!({"spec": {"completions": 3, "parallelism": 3}})), [""; 0]);
        assert_eq!(update_errors(&elastic, json!({"spec": {"completions": 3}})), ["spec.completions"]);
    }

    #[test]
    fn statuses_are_held_to_their_word() {
        let with = |status: Value| {
            let mut job = job(json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1}));
            job["status"] = status;
            job
        };
        let check = |new: Value, old: Value, expect: &[&str]| {
            let mut errors = FieldErrors::default();
            status::update(&with(new), &with(old), &mut errors);
            assert_eq!(errors.messages(), expect);
        };
        let is = |kind: &str| json!({"type": kind, "status": "True"});
        check(
            json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:05Z", "succeeded": 3,
                "conditions": [is("SuccessCriteriaMet"), is("Complete")]}),
            json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "succeeded": 2}),
            &[],
        );
        check(
            json!({"active": 1, "ready": 2, "conditions": [is("Failed")]}),
            json!({"failed": 1, "active": 1}),
            &[
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.ready: Invalid value: 2: cannot set more ready pods than active",
                "status.failed: Invalid value: 0: cannot decrease the failed counter",
            ],
        );
        check(
            json!({"completedIndexes": "0,1", "failedIndexes": "1-3"}),
            json!({}),
            &["status.failedIndexes: Invalid value: \"1-3\": error parsing failedIndexes: too large index: \"3\""],
        );
        check(
            json!({"completedIndexes": "0,1", "failedIndexes": "1"}),
            json!({"conditions": [is("FailureTarget")]}),
            &[
                "status.failedIndexes: Invalid value: \"1\": failedIndexes and completedIndexes overlap at index: 1",
                "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
            ],
        );
    }

    #[test]
    fn rows_of_jobs() {
        let mut job = job(json!({"parallelism": 2}));
        job["status"] = json!({"succeeded": 1, "startTime": "1970-01-01T00:00:10Z"});
        let row_of = |job: &Value| Value::from(row(job, 15));
        assert_eq!(
            row_of(&job),
            json!(["pi", "Running", "1/1 of 2", "5s", "<unknown>", "a", "x", "batch.kubernetes.io/controller-uid=u1"])
        );
        job["spec"]["completions"] = 4.into();
        job["status"]["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
        assert_eq!(row_of(&job)[1], "Suspended");
        assert_eq!(row_of(&job)[2], "1/4");
    }
}
