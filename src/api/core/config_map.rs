//! ConfigMap: strings and bytes for containers to read.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::{table, tree};
use serde_json::Value;

/// ConfigMaps.
pub static CONFIG_MAPS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["cm"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.ConfigMap",
    churn: Churn::Durable,
    subresources: &[],
    columns: &[Column::NAME, Column::new("Data", "string"), Column::new("Age", "string")],
    rules: Rules { row, ..Rules::NONE },
};

fn row(object: &Value, now: i64) -> Vec<Value> {
    let count = tree::entries(&object["data"]).count() + tree::entries(&object["binaryData"]).count();
    vec![table::name(object), count.into(), table::created(object, now)]
}
