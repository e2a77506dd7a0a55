//! ResourceSlice: devices that a driver offers, on a node or elsewhere.

use super::slice;
use crate::meta::prepare::{create as prepare_create, update_spec as prepare_update};
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::text;
use serde_json::Value;

/// ResourceSlices.
pub static RESOURCE_SLICES: Resource = Resource {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    scope: Scope::Cluster,
    verbs: verbs::ALL,
    short_names: &[],
    categories: &[],
    type_name: "io.k8s.api.resource.v1.ResourceSlice",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[
        Column::NAME,
        Column::new("Node", "string"),
        Column::new("Driver", "string"),
        Column::new("Pool", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules {
        prepare_create,
        prepare_update,
        fields,
        row,
        validate: |object, errors| slice::spec(&object["spec"], Path::root("spec"), errors),
        validate_update,
        ..Rules::NONE
    },
};

fn fields(object: &Value) -> Vec<(&'static str, String)> {
    let spec = &object["spec"];
    vec![("spec.nodeName", text(&spec["nodeName"]).to_owned()), ("spec.driver", text(&spec["driver"]).to_owned())]
}

fn row(object: &Value, now: i64) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        table::name(object),
        text(&spec["nodeName"]).into(),
        text(&spec["driver"]).into(),
        text(&spec["pool"]["name"]).into(),
        table::created(object, now),
    ]
}

fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::root("spec"));
    if new["pool"]["name"] != old["pool"]["name"] {
        errors.immutable(path.child("pool").child("name"), &new["pool"]["name"]);
    }
    for field in ["driver", "nodeName"] {
        if new[field] != old[field] {
            errors.immutable(path.child(field), &new[field]);
        }
    }
}
