//! Event.

use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};

/// Events.
pub static EVENTS: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ev"],
    categories: &[],
    type_name: "io.k8s.api.core.v1.Event",
    churn: Churn::Lazy,
    subresources: &[],
    columns: &[
        Column::new("Last Seen", "string"),
        Column::new("Type", "string"),
        Column::new("Reason", "string"),
        Column::new("Object", "string"),
        Column::wide("Subobject", "string"),
        Column::wide("Source", "string"),
        Column::new("Message", "string"),
        Column::wide("First Seen", "string"),
        Column::wide("Count", "string"),
        Column::WIDE_NAME,
    ],
    rules: Rules::NONE,
};
