//! ConfigMap.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

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
    columns: &[
        Column::NAME,
        Column::new("Data", "string"),
        Column::new("Age", "string"),
    ],
    rules: Rules::NONE,
};
