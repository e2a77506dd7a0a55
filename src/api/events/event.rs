//! Event as events.k8s.io/v1 has it: the core Events under other names, and held to more.

use crate::core::event;
use crate::registry::{Churn, EVENTS, Resource, Rules, Scope, View, verbs};
use crate::status::FieldErrors;
use crate::tree::{self, int, is_empty, text};
use serde_json::Value;

/// Events of events.k8s.io/v1.
pub static EVENTS_V1: Resource = Resource {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    scope: Scope::Namespaced,
    verbs: verbs::ALL,
    short_names: &["ev"],
    categories: &[],
    type_name: "io.k8s.api.events.v1.Event",
    churn: Churn::Lazy,
    subresources: &[],
    columns: event::COLUMNS,
    rules: Rules {
        validate,
        validate_create,
        validate_update,
        view: Some(View { of: &EVENTS, to_stored, from_stored, field }),
        ..event::RULES
    },
};

/// Names here and in core/v1.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(event: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let event = tree::object(event);
    for (from, to) in names {
        match event.remove(from) {
            Some(value) => event.insert(to.to_owned(), value),
            None => event.remove(to),
        };
    }
}

fn to_stored(event: &mut Value) {
    rename(event, RENAMED.into_iter());
}

fn from_stored(event: &mut Value) {
    rename(event, RENAMED.into_iter().map(|(here, core)| (core, here)));
}

fn field(name: &str) -> Option<&str> {
    match name {
        "reason" | "type" => Some(name),
        "reportingController" => Some("reportingComponent"),
        "regarding.kind" => Some("involvedObject.kind"),
        "regarding.namespace" => Some("involvedObject.namespace"),
        "regarding.name" => Some("involvedObject.name"),
        "regarding.uid" => Some("involvedObject.uid"),
        "regarding.apiVersion" => Some("involvedObject.apiVersion"),
        "regarding.resourceVersion" => Some("involvedObject.resourceVersion"),
        "regarding.fieldPath" => Some("involvedObject.fieldPath"),
        _ => None,
    }
}

fn validate(event: &Value, errors: &mut FieldErrors) {
    event::check(event, "reportingController", errors);
}

fn validate_create(event: &Value, errors: &mut FieldErrors) {
    series(event, errors);
    if text(&event["eventTime"]).is_empty() {
        errors.required("eventTime", "");
    }
    let kind = text(&event["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", &format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let value = &event[field];
        let source = field == "source" && text(&value["component"]).is_empty() && text(&value["host"]).is_empty();
        if !is_empty(value) && value.as_i64() != Some(0) && !source {
            errors.invalid(field, "", "needs to be unset");
        }
    }
}

fn series(event: &Value, errors: &mut FieldErrors) {
    let series = &event["series"];
    if !series.is_object() {
        return;
    }
    if int(&series["count"]) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if text(&series["lastObservedTime"]).is_empty() {
        errors.required("series.lastObservedTime", "");
    }
}

/// All but the series is as it was.
fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if new["series"] != old["series"] {
        series(new, errors);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        if new[field] != old[field] {
            let shown = if field == "reportingComponent" { "reportingController" } else { field };
            errors.immutable(shown, &new[field]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_change_both_ways() {
        let here = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c",
            "deprecatedSource": {"component": "s"}, "deprecatedFirstTimestamp": "1970-01-01T00:00:00Z",
            "deprecatedLastTimestamp": "1970-01-01T00:00:01Z", "deprecatedCount": 3, "related": {"kind": "Node"}});
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "n",
            "reportingComponent": "c", "source": {"component": "s"}, "firstTimestamp": "1970-01-01T00:00:00Z",
            "lastTimestamp": "1970-01-01T00:00:01Z", "count": 3, "related": {"kind": "Node"}});
        let mut event = here.clone();
        to_stored(&mut event);
        assert_eq!(event, core);
        from_stored(&mut event);
        assert_eq!(event, here);
    }

    #[test]
    fn new_events_are_held_to_more() {
        let messages = |event: Value| {
            let mut errors = FieldErrors::default();
            validate(&event, &mut errors);
            validate_create(&event, &mut errors);
            errors.messages()
        };
        let good = json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "n"},
            "eventTime": "1970-01-01T00:00:00.000000Z", "type": "Normal", "reason": "r", "action": "a",
            "reportingComponent": "c", "reportingInstance": "i"});
        assert_eq!(messages(good.clone()), [""; 0]);
        let mut bad = good.clone();
        for (field, value) in [
            ("type", json!("Odd")),
            ("reportingComponent", json!("")),
            ("count", json!(1)),
            ("source", json!({"host": "h"})),
            ("firstTimestamp", json!("1970-01-01T00:00:00Z")),
            ("series", json!({"count": 1})),
        ] {
            bad[field] = value;
        }
        assert_eq!(
            messages(bad),
            [
                "reportingController: Required value",
                "reportingController: Invalid value: \"\": name part must be non-empty",
                "reportingController: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "firstTimestamp: Invalid value: \"\": needs to be unset",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
        let mut other = good.clone();
        other["reportingComponent"] = "d".into();
        other["message"] = "m".into();
        other["series"] = json!({"count": 2, "lastObservedTime": "1970-01-01T00:00:00.000000Z"});
        let mut errors = FieldErrors::default();
        validate_update(&other, &good, &mut errors);
        assert_eq!(
            errors.messages(),
            [
                "message: Invalid value: \"m\": field is immutable",
                "reportingController: Invalid value: \"d\": field is immutable"
            ]
        );
    }
}
