//! Deployment: a ReplicaSet for each revision of a template, rolled over gently.

use crate::checks;
use crate::core::pod;
use crate::meta::prepare::create_with;
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int};
use serde_json::{Value, json};

/// Deployments.
pub static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["deploy"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.Deployment",
    churn: Churn::Durable,
    subresources: &[Subresource::SCALE, Subresource::status("apps", "v1", "Deployment")],
    columns: &[
        Column::NAME,
        Column::new("Ready", "string"),
        Column::new("Up-to-date", "string"),
        Column::new("Available", "string"),
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
        warnings: super::validate::named_warnings,
        ..Rules::NONE
    },
};

fn default(deployment: &mut Value) {
    let spec = tree::ensure(tree::object(deployment), "spec");
    tree::default(spec, "replicas", 1);
    tree::default(spec, "revisionHistoryLimit", 10);
    tree::default(spec, "progressDeadlineSeconds", 600);
    let strategy = tree::ensure(spec, "strategy");
    tree::default_zero(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = tree::ensure(strategy, "rollingUpdate");
        tree::default(rolling, "maxUnavailable", "25%");
        tree::default(rolling, "maxSurge", "25%");
    }
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
}

fn prepare_create(deployment: &mut Value) {
    create_with(deployment, json!({}));
}

fn prepare_update(new: &mut Value, old: &Value) {
    let deployment = tree::object(new);
    tree::keep_status(deployment, old);
    tree::bump_generation(deployment, old, |new, old| {
        let annotations = new.get("metadata").map_or(&Value::Null, |m| &m["annotations"]);
        new.get("spec") != Some(&old["spec"]) || *annotations != old["metadata"]["annotations"]
    });
}

fn row(deployment: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(deployment),
        format!("{}/{}", int(&status["readyReplicas"]), int(&spec["replicas"])).into(),
        int(&status["updatedReplicas"]).into(),
        int(&status["availableReplicas"]).into(),
        table::created(deployment, now),
        names,
        images,
        table::selector(&spec["selector"]).into(),
    ]
}

fn validate(deployment: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&deployment["spec"], Path::root("spec"));
    checks::non_negative(spec, "replicas", &path, errors);
    if super::validate::selector(spec, path, "deployment", errors) {
        super::validate::template(spec, path, "ReplicaSet", errors);
    } else {
        errors.invalid(path.child("selector"), &spec["selector"], "invalid label selector");
    }
    strategy(&spec["strategy"], path.child("strategy"), errors);
    checks::non_negative(spec, "minReadySeconds", &path, errors);
    checks::non_negative(spec, "revisionHistoryLimit", &path, errors);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
        let at = path.child("progressDeadlineSeconds");
        checks::non_negative(spec, "progressDeadlineSeconds", &path, errors);
        if deadline <= int(&spec["minReadySeconds"]) {
            errors.invalid(at, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: &Value, path: Path<'_>, errors: &mut FieldErrors) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match tree::text(&strategy["type"]) {
        "Recreate" => {
            if rolling.is_object() {
                errors.forbidden(at, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            checks::int_or_percent(unavailable, at.child("maxUnavailable"), errors);
            checks::int_or_percent(surge, at.child("maxSurge"), errors);
            if checks::is_zero_part(unavailable) && checks::is_zero_part(surge) {
                errors.invalid(at.child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0");
            }
            checks::at_most_all(unavailable, at.child("maxUnavailable"), errors);
        }
        _ => errors.not_supported(path, strategy, &["Recreate", "RollingUpdate"]),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"]["selector"] != old["spec"]["selector"] {
        errors.immutable("spec.selector", &new["spec"]["selector"]);
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    super::validate::counts(&new["status"], &fields, errors);
    super::validate::collisions(new, old, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_deployment_is_completed() {
        let mut deployment = json!({"spec": {"template": {"spec": {"containers": []}}}});
        default(&mut deployment);
        let spec = &deployment["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        let mut recreate = json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}});
        default(&mut recreate);
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(recreate["spec"]["replicas"], 0);
    }

    #[test]
    fn generation_follows_spec_and_annotations() {
        let old = json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut labels = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {}});
        prepare_update(&mut labels, &old);
        assert_eq!(labels["metadata"]["generation"], 1);
        assert_eq!(labels["status"], old["status"]);
        let mut annotated = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 1}});
        prepare_update(&mut annotated, &old);
        assert_eq!(annotated["metadata"]["generation"], 2);
    }

    #[test]
    fn rows_of_deployments() {
        let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
        let expect = json!(["web", "1/2", 2, 1, "<unknown>", "a,b", "x,y", "app=web"]);
        assert_eq!(Value::from(row(&deployment, 0)), expect);
    }

    fn errors_of(spec: Value) -> Vec<String> {
        let mut deployment = json!({ "spec": spec });
        default(&mut deployment);
        let mut errors = FieldErrors::default();
        validate(&deployment, &mut errors);
        errors.messages()
    }

    #[test]
    fn what_can_be_wrong() {
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let good = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
        assert_eq!(errors_of(good.clone()), [""; 0]);
        assert_eq!(errors_of(json!({"template": template}))[0], "spec.selector: Required value");
        let mut bad = good.clone();
        bad["selector"]["matchLabels"]["app"] = "other".into();
        bad["replicas"] = (-1).into();
        bad["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
        bad["template"]["spec"]["restartPolicy"] = "Never".into();
        bad["progressDeadlineSeconds"] = 5.into();
        bad["minReadySeconds"] = 5.into();
        assert_eq!(
            errors_of(bad),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
            ]
        );
        let mut errors = FieldErrors::default();
        let mut other = good.clone();
        other["selector"] = json!({"matchLabels": {"b": "c"}});
        validate_update(&json!({ "spec": other }), &json!({ "spec": good }), &mut errors);
        assert_eq!(
            errors.messages(),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"b\":\"c\"}}: field is immutable"]
        );
    }
}
