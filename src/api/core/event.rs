//! Event: what happened to an object. Kept lazily: losing the newest in a crash hurts nobody.

use crate::checks::complain;
use crate::meta::names;
use crate::registry::{Churn, Column, Resource, Rules, Scope, verbs};
use crate::status::{FieldErrors, Path};
use crate::table;
use crate::tree::{int, some_text, text};
use serde_json::Value;

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
    columns: COLUMNS,
    rules: RULES,
};

/// What is printed of an event, in all versions.
pub(crate) const COLUMNS: &[Column] = &[
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
];

/// The rules that all versions share.
pub(crate) const RULES: Rules = Rules { fields, row, validate, ..Rules::NONE };

fn component(event: &Value) -> &str {
    some_text(&event["source"]["component"]).unwrap_or(text(&event["reportingComponent"]))
}

fn fields(event: &Value) -> Vec<(&'static str, String)> {
    let involved = &event["involvedObject"];
    [
        ("involvedObject.kind", text(&involved["kind"])),
        ("involvedObject.namespace", text(&involved["namespace"])),
        ("involvedObject.name", text(&involved["name"])),
        ("involvedObject.uid", text(&involved["uid"])),
        ("involvedObject.apiVersion", text(&involved["apiVersion"])),
        ("involvedObject.resourceVersion", text(&involved["resourceVersion"])),
        ("involvedObject.fieldPath", text(&involved["fieldPath"])),
        ("reason", text(&event["reason"])),
        ("reportingComponent", text(&event["reportingComponent"])),
        ("source", component(event)),
        ("type", text(&event["type"])),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

fn source(event: &Value) -> String {
    let host = some_text(&event["source"]["host"]).unwrap_or(text(&event["reportingInstance"]));
    match host {
        "" => component(event).to_owned(),
        host => format!("{}, {host}", component(event)),
    }
}

fn row(event: &Value, now: i64) -> Vec<Value> {
    let first = if event["firstTimestamp"].is_string() { "firstTimestamp" } else { "eventTime" };
    let first = table::age(&event[first], now);
    let series = &event["series"];
    let (last, count) = if series.is_object() {
        (table::age(&series["lastObservedTime"], now), int(&series["count"]))
    } else if event["lastTimestamp"].is_string() {
        (table::age(&event["lastTimestamp"], now), int(&event["count"]).max(1))
    } else {
        (first.clone(), int(&event["count"]).max(1))
    };
    let involved = &event["involvedObject"];
    let mut target = text(&involved["kind"]).to_lowercase();
    if let Some(name) = some_text(&involved["name"]) {
        target = format!("{target}/{name}");
    }
    vec![
        last.into(),
        text(&event["type"]).into(),
        text(&event["reason"]).into(),
        target.into(),
        text(&involved["fieldPath"]).into(),
        source(event).into(),
        text(&event["message"]).trim().into(),
        first.into(),
        count.into(),
        table::name(event),
    ]
}

fn validate(event: &Value, errors: &mut FieldErrors) {
    check(event, "reportingComponent", errors);
}

/// What every version checks; the reporting controller goes by a name of the version's.
pub(crate) fn check(event: &Value, controller: &str, errors: &mut FieldErrors) {
    let namespace = text(&event["metadata"]["namespace"]);
    let involved = text(&event["involvedObject"]["namespace"]);
    let old = event["eventTime"].is_null();
    // Events about what has no namespace live in the default one; newer ones may live in kube-system.
    let fits = match (involved, old) {
        ("", true) => matches!(namespace, "" | "default"),
        ("", false) => matches!(namespace, "default" | "kube-system"),
        (_, true) => involved == namespace,
        (_, false) => true,
    };
    if !fits {
        errors.invalid("involvedObject.namespace", involved, "does not match event.namespace");
    }
    if !old {
        let name = text(&event["reportingComponent"]);
        required(name, controller, errors);
        complain(names::qualified_name(name), name, Path::root(controller), errors);
        for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
            let value = text(&event[field]);
            if field != "message" {
                required(value, field, errors);
            }
            if value.len() > max {
                errors.invalid(field, "", &format!("can have at most {max} characters"));
            }
        }
    }
    complain(names::dns_subdomain(namespace), namespace, Path::root("namespace"), errors);
}

fn required(value: &str, field: &str, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(field, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_events() {
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " Started\n",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
            "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:05Z", "count": 2});
        let expect =
            json!(["5s", "Normal", "Started", "pod/p", "spec.containers{a}", "kubelet, n", "Started", "10s", 2, "e"]);
        assert_eq!(Value::from(row(&event, 10)), expect);
        let newer = json!({"metadata": {"name": "e"}, "eventTime": "1970-01-01T00:00:00.000000Z",
            "reportingComponent": "c", "reportingInstance": "i", "involvedObject": {"kind": "Node"}});
        let cells = row(&newer, 10);
        assert_eq!(cells[0], "10s");
        assert_eq!(cells[3], "node");
        assert_eq!(cells[5], "c, i");
        assert_eq!(cells[8], 1);
    }

    #[test]
    fn events_live_beside_their_object() {
        let check = |event: Value, count: usize| {
            let mut errors = FieldErrors::default();
            validate(&event, &mut errors);
            assert_eq!(errors.len(), count, "{:?}", errors.messages());
        };
        check(json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "n"}}), 0);
        check(json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}}), 0);
        check(json!({"metadata": {"namespace": "m"}, "involvedObject": {"namespace": "n"}}), 1);
    }
}
