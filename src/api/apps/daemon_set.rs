//! DaemonSet: one pod of a template on each node that fits.

use super::validate::{always_restarted, collisions, selected, selects_something};
use crate::checks::{self, non_negative};
use crate::core::pod;
use crate::meta::prepare;
use crate::meta::validate as meta;
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, text};
use serde_json::Value;

/// Counts the template's changes for clients of versions long gone, and is always served.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// DaemonSets.
pub static DAEMON_SETS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ds"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.DaemonSet",
    churn: Churn::Durable,
    subresources: &[Subresource::status("apps", "v1", "DaemonSet")],
    columns: &[
        Column::NAME,
        Column::new("Desired", "integer"),
        Column::new("Current", "integer"),
        Column::new("Ready", "integer"),
        Column::new("Up-to-date", "integer"),
        Column::new("Available", "integer"),
        Column::new("Node Selector", "string"),
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
        validate_update,
        validate_status,
        warnings: super::validate::warnings,
        ..Rules::NONE
    },
};

fn default(set: &mut Value) {
    let spec = tree::ensure(tree::object(set), "spec");
    let strategy = tree::ensure(spec, "updateStrategy");
    tree::default_zero(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = tree::ensure(strategy, "rollingUpdate");
        tree::default(rolling, "maxUnavailable", 1);
        tree::default(rolling, "maxSurge", 0);
    }
    tree::default(spec, "revisionHistoryLimit", 10);
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
}

fn template_generation(set: &Value) -> i64 {
    text(&set["metadata"]["annotations"][TEMPLATE_GENERATION]).parse().unwrap_or(0)
}

fn set_template_generation(set: &mut Value, generation: i64) {
    let annotations = tree::ensure(tree::ensure(tree::object(set), "metadata"), "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
}

fn prepare_create(set: &mut Value) {
    let generation = template_generation(set).max(1);
    set_template_generation(set, generation);
    let none = ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"];
    prepare::create_with(set, none.map(|field| (field.to_owned(), Value::from(0))).into_iter().collect());
}

fn prepare_update(new: &mut Value, old: &Value) {
    let changed = new["spec"]["template"] != old["spec"]["template"];
    set_template_generation(new, template_generation(old).saturating_add(i64::from(changed)));
    prepare::update(new, old);
}

fn row(set: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(set),
        int(&status["desiredNumberScheduled"]).into(),
        int(&status["currentNumberScheduled"]).into(),
        int(&status["numberReady"]).into(),
        int(&status["updatedNumberScheduled"]).into(),
        int(&status["numberAvailable"]).into(),
        table::labels(&spec["template"]["spec"]["nodeSelector"]).into(),
        table::created(set, now),
        names,
        images,
        table::selector(&spec["selector"]).into(),
    ]
}

fn validate(set: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&set["spec"], Path::root("spec"));
    let (selector, template, at) = (&spec["selector"], &spec["template"], path.child("template"));
    let before = errors.len();
    meta::label_selector(selector, &path.child("selector"), errors);
    if errors.len() == before {
        selected(selector, template, at, errors);
    }
    selects_something(selector, path.child("selector"), "daemonset", errors);
    pod::validate::template(template, at, errors);
    always_restarted(template, at, "DaemonSet", errors);
    non_negative(spec, "minReadySeconds", &path, errors);
    strategy(&spec["updateStrategy"], path.child("updateStrategy"), errors);
    non_negative(spec, "revisionHistoryLimit", &path, errors);
}

fn strategy(strategy: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_object() => errors.required(at, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (unavailable_at, surge_at) = (at.child("maxUnavailable"), at.child("maxSurge"));
            checks::int_or_percent(unavailable, unavailable_at, errors);
            checks::int_or_percent(surge, surge_at, errors);
            checks::at_most_all(unavailable, unavailable_at, errors);
            checks::at_most_all(surge, surge_at, errors);
            match (checks::is_zero_part(unavailable), checks::is_zero_part(surge)) {
                (false, false) => errors.invalid(surge_at, surge, "may not be set when maxUnavailable is non-zero"),
                (true, true) => errors.required(unavailable_at, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => errors.not_supported(path, strategy, &["RollingUpdate", "OnDelete"]),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"]["selector"] != old["spec"]["selector"] {
        errors.immutable("spec.selector", &new["spec"]["selector"]);
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::root("status");
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        non_negative(&new["status"], field, &path, errors);
    }
    collisions(new, old, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(spec: Value) -> Value {
        let mut set = json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        crate::patch::merge(&mut set["spec"], &spec);
        default(&mut set);
        set
    }

    fn errors_of(set: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(set, &mut errors);
        errors.messages()
    }

    #[test]
    fn a_minimal_set_is_completed() {
        let mut minimal = set(json!({}));
        prepare_create(&mut minimal);
        assert_eq!(errors_of(&minimal), [""; 0]);
        assert_eq!(
            minimal["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(minimal["spec"]["revisionHistoryLimit"], 10);
        assert_eq!(minimal["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        assert_eq!(minimal["metadata"]["generation"], 1);
        assert_eq!(minimal["status"]["numberReady"], 0);
    }

    #[test]
    fn generations_follow_the_spec_and_the_template() {
        let mut old = set(json!({}));
        prepare_create(&mut old);
        let mut slower = old.clone();
        slower["spec"]["minReadySeconds"] = 5.into();
        slower["metadata"]["annotations"] = Value::Null;
        prepare_update(&mut slower, &old);
        assert_eq!(slower["metadata"]["generation"], 2);
        assert_eq!(slower["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut other = old.clone();
        other["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        prepare_update(&mut other, &old);
        assert_eq!(other["metadata"]["generation"], 2);
        assert_eq!(other["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
    }

    #[test]
    fn the_selector_stays() {
        let old = set(json!({}));
        let new = set(json!({"selector": {"matchLabels": {"app": "d", "tier": "x"}}}));
        let mut errors = FieldErrors::default();
        validate_update(&new, &old, &mut errors);
        let shown = r#"{"matchLabels":{"app":"d","tier":"x"}}"#;
        assert_eq!(errors.messages(), [format!("spec.selector: Invalid value: {shown}: field is immutable")]);
        let mut errors = FieldErrors::default();
        validate_update(&old, &old, &mut errors);
        assert!(errors.is_empty());
    }

    #[test]
    fn what_can_be_wrong() {
        let strategy = |rolling: Value| set(json!({"updateStrategy": {"rollingUpdate": rolling}}));
        assert_eq!(
            errors_of(&strategy(json!({"maxSurge": "101%"}))),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"101%\": must not be greater than 100%",
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"101%\": may not be set when maxUnavailable is non-zero",
            ]
        );
        assert_eq!(
            errors_of(&strategy(json!({"maxUnavailable": 0}))),
            ["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        let odd = set(json!({"selector": {"matchLabels": null}, "minReadySeconds": -1,
            "updateStrategy": {"type": "Odd"}, "template": {"spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 5}}}));
        assert_eq!(
            errors_of(&odd),
            [
                "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.updateStrategy: Unsupported value: {\"type\":\"Odd\"}: supported values: \"RollingUpdate\", \"OnDelete\"",
            ]
        );
        let without = set(json!({"selector": null}));
        assert_eq!(
            errors_of(&without),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`"
            ]
        );
        let mut errors = FieldErrors::default();
        let status = |count: i64| json!({"status": {"numberReady": -1, "collisionCount": count}});
        validate_status(&status(1), &status(2), &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "status.numberReady: Invalid value: -1: must be greater than or equal to 0",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ]
        );
    }

    #[test]
    fn rows_of_daemon_sets() {
        let mut set = set(json!({"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}));
        set["status"] = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1,
            "updatedNumberScheduled": 2, "numberAvailable": 1});
        let expect = json!(["d", 3, 2, 1, 2, 1, "disk=ssd", "<unknown>", "a", "x", "app=d"]);
        assert_eq!(Value::from(row(&set, 0)), expect);
    }
}
