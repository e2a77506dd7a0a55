//! Schemas of `metrics.k8s.io`, whose objects are measured: nobody decodes, stores or patches them, so that they have
//! no place in the facts.

use super::schema::{META, reference};
use serde_json::{Map, Value, json};

/// The group.
const GROUP: &str = "metrics.k8s.io";
/// Where its types live.
const TYPES: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.";

/// The full name of the list of a kind of the group.
pub(super) fn list_name(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        (GROUP, "NodeMetrics") => Some("io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetricsList"),
        (GROUP, "PodMetrics") => Some("io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetricsList"),
        _ => None,
    }
}

/// What the group adds to the schemas of its document.
pub(super) fn schemas(group: &str) -> Map<String, Value> {
    if group != GROUP {
        return Map::new();
    }
    let containers = json!({
        "type": "array", "items": {"allOf": [reference(&format!("{TYPES}ContainerMetrics"))], "default": {}},
        "description": "What each container uses.",
    });
    let name = json!({"type": "string", "default": "", "description": "The container's name."});
    let usage = || ("usage", usage());
    let types = [
        ("NodeMetrics", object("What a node uses at present.", Some("NodeMetrics"), measured(usage()))),
        ("PodMetrics", object("What a pod uses at present.", Some("PodMetrics"), measured(("containers", containers)))),
        ("ContainerMetrics", object("What a container uses at present.", None, vec![("name", name), usage()])),
        ("NodeMetricsList", list("NodeMetrics")),
        ("PodMetricsList", list("PodMetrics")),
    ];
    let mut out: Map<String, Value> = types.into_iter().map(|(name, ty)| (format!("{TYPES}{name}"), ty)).collect();
    let about = "A span of time, as a number with a unit: `10s`.";
    out.insert(format!("{META}Duration"), json!({"type": "string", "description": about}));
    out
}

/// The schema of an object, all of whose own fields are there always.
fn object(about: &str, kind: Option<&str>, fields: Vec<(&'static str, Value)>) -> Value {
    let required: Vec<&str> = fields
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !["kind", "apiVersion", "metadata"].contains(name))
        .collect();
    let mut schema = json!({"type": "object", "description": about, "required": required});
    if let Some(kind) = kind {
        schema["x-kubernetes-group-version-kind"] = json!([{"group": GROUP, "version": "v1beta1", "kind": kind}]);
    }
    schema["properties"] = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
    schema
}

/// The fields that say what an object is.
fn head(meta: &str) -> Vec<(&'static str, Value)> {
    let text = |about: &str| json!({"type": "string", "description": about});
    vec![
        ("apiVersion", text("Group and version of the object's schema.")),
        ("kind", text("Kind of the object.")),
        ("metadata", described(&format!("{META}{meta}"), "The object's metadata.")),
    ]
}

fn measured(what: (&'static str, Value)) -> Vec<(&'static str, Value)> {
    let mut fields = head("ObjectMeta");
    fields.push(("timestamp", described(&format!("{META}Time"), "When it was measured: the end of the window.")));
    fields.push(("window", described(&format!("{META}Duration"), "Over which time it was measured.")));
    fields.push(what);
    fields
}

fn list(kind: &str) -> Value {
    let mut fields = head("ListMeta");
    let items = json!({"allOf": [reference(&format!("{TYPES}{kind}"))], "default": {}});
    fields.push(("items", json!({"type": "array", "items": items, "description": "The objects."})));
    object(&format!("{kind}List is a list of {kind} objects."), Some(&format!("{kind}List")), fields)
}

fn described(name: &str, about: &str) -> Value {
    json!({"allOf": [reference(name)], "default": {}, "description": about})
}

fn usage() -> Value {
    json!({
        "type": "object", "description": "Processor time and memory in use.",
        "additionalProperties": reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
    })
}
