//! ReplicaSet: so many pods of one template.

use crate::checks;
use crate::core::pod;
use crate::meta::prepare::{create_with, replicas as fields, update as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, Subresource, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{self, int};
use serde_json::{Value, json};

/// ReplicaSets.
pub static REPLICA_SETS: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["rs"],
    categories: &["all"],
    type_name: "io.k8s.api.apps.v1.ReplicaSet",
    churn: Churn::Durable,
    subresources: &[Subresource::SCALE, Subresource::status("apps", "v1", "ReplicaSet")],
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
        validate_update,
        validate_status,
        warnings: super::validate::named_warnings,
        ..Rules::NONE
    },
};

fn default(set: &mut Value) {
    let spec = tree::ensure(tree::object(set), "spec");
    tree::default(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        pod::defaults::template(template);
    }
}

fn prepare_create(set: &mut Value) {
    create_with(set, json!({"replicas": 0}));
}

fn row(set: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let [names, images] = table::containers(&spec["template"]);
    vec![
        table::name(set),
        int(&spec["replicas"]).into(),
        int(&status["replicas"]).into(),
        int(&status["readyReplicas"]).into(),
        table::created(set, now),
        names,
        images,
        table::selector(&spec["selector"]).into(),
    ]
}

fn validate(set: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&set["spec"], Path::root("spec"));
    checks::non_negative(spec, "replicas", &path, errors);
    checks::non_negative(spec, "minReadySeconds", &path, errors);
    if super::validate::selector(spec, path, "deployment", errors) {
        super::validate::template(spec, path, "ReplicaSet", errors);
    } else {
        errors.invalid(path.child("selector"), &spec["selector"], "invalid label selector");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["spec"]["selector"] != old["spec"]["selector"] {
        errors.immutable("spec.selector", &new["spec"]["selector"]);
    }
}

fn validate_status(new: &Value, _old: &Value, errors: &mut FieldErrors) {
    let fields = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ];
    super::validate::counts(&new["status"], &fields, errors);
}
