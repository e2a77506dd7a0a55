//! ReplicationController: so many pods of one template, before there were ReplicaSets.

use super::pod;
use crate::apps::validate::{always_restarted, counts, named_warnings, selected};
use crate::checks::non_negative;
use crate::meta::prepare::{create_with, replicas as fields, update as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int, is_empty};
use serde_json::{Value, json};

/// ReplicationControllers.
pub static REPLICATION_CONTROLLERS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["rc"],
    categories: &["all"],
    type_name: "io.k8s.api.core.v1.ReplicationController",
    churn: Churn::Durable,
    subresources: &[Subresource::SCALE, Subresource::status("", "v1", "ReplicationController")],
    columns: &[
        Column::NAME,
        Column::new("Desired", "integer"),
        Column::new("Current", "integer"),
        Column::new("Ready", "integer"),
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
        validate_status,
        warnings: named_warnings,
        ..Rules::NONE
    },
};

fn default(controller: &mut Value) {
    let controller = tree::object(controller);
    let labels = controller.get("spec").map_or(Value::Null, |spec| spec["template"]["metadata"]["labels"].clone());
    let spec = tree::ensure(controller, "spec");
    tree::default(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
    // The template's labels stand for a selector and labels that are not given.
    if !is_empty(&labels) && labels.is_object() {
        if is_empty(spec.get("selector").unwrap_or(&Value::Null)) {
            spec.insert("selector".to_owned(), labels.clone());
        }
        let metadata = tree::ensure(controller, "metadata");
        if is_empty(metadata.get("labels").unwrap_or(&Value::Null)) {
            metadata.insert("labels".to_owned(), labels);
        }
    }
}

fn prepare_create(controller: &mut Value) {
    create_with(controller, json!({"replicas": 0}));
}

fn row(controller: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&controller["spec"], &controller["status"]);
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(controller),
        int(&spec["replicas"]).into(),
        int(&status["replicas"]).into(),
        int(&status["readyReplicas"]).into(),
        table::created(controller, now),
        names,
        images,
        table::labels(&spec["selector"]).into(),
    ]
}

fn validate(controller: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&controller["spec"], Path::root("spec"));
    non_negative(spec, "minReadySeconds", &path, errors);
    if is_empty(&spec["selector"]) {
        errors.required(path.child("selector"), "");
    }
    non_negative(spec, "replicas", &path, errors);
    let (template, at) = (&spec["template"], path.child("template"));
    if !template.is_object() {
        errors.required(at, "");
        return;
    }
    selected(&json!({ "matchLabels": spec["selector"] }), template, at, errors);
    pod::validate::template(template, at, errors);
    always_restarted(template, at, "ReplicationController", errors);
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let fields = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    counts(&new["status"], &fields, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_gives_selector_and_labels() {
        let mut controller = json!({"metadata": {"name": "c"}, "spec": {"template": {"metadata": {"labels": {"app": "c"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        default(&mut controller);
        prepare_create(&mut controller);
        assert_eq!(controller["spec"]["selector"], json!({"app": "c"}));
        assert_eq!(controller["metadata"]["labels"], json!({"app": "c"}));
        assert_eq!(controller["spec"]["replicas"], 1);
        assert_eq!(Value::from(row(&controller, 0)), json!(["c", 1, 0, 0, "<unknown>", "a", "x", "app=c"]));
        let mut errors = FieldErrors::default();
        validate(&controller, &mut errors);
        assert_eq!(errors.messages(), [""; 0]);
    }

    #[test]
    fn what_can_be_wrong() {
        let messages = |spec: Value| {
            let mut errors = FieldErrors::default();
            validate(&json!({ "spec": spec }), &mut errors);
            errors.messages()
        };
        assert_eq!(
            messages(json!({"minReadySeconds": -1, "replicas": -1})),
            [
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template: Required value",
            ]
        );
        let mut template = json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [{"name": "a", "image": "x"}]}});
        pod::defaults::template(&mut template);
        assert_eq!(
            messages(json!({"selector": {"a": "c"}, "template": template})),
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
            ]
        );
        let mut errors = FieldErrors::default();
        validate_status(&json!({"status": {"replicas": 1, "readyReplicas": 2}}), &Value::Null, &mut errors);
        assert_eq!(
            errors.messages(),
            ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
        );
    }
}
