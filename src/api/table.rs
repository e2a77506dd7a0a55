//! Tables: what `kubectl get` prints.

use crate::registry::{Column, Resource};
use crate::tree::{list, text};
use serde_json::{Value, json};

/// What each row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as a PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole of it.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` parameter.
    pub fn parse(parameter: &str) -> Option<Self> {
        match parameter {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The column definitions of a resource.
pub fn columns(resource: &Resource) -> Value {
    definitions(resource.columns)
}

const SCALE: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer"),
    Column::new("Available", "integer"),
    Column::new("Age", "string"),
];

/// The Table of a Scale, which is no resource of its own.
pub fn scale(scale: &Value, include: IncludeObject, now: i64) -> Value {
    let metadata = &scale["metadata"];
    let replicas = |part: &str| scale[part]["replicas"].as_i64().unwrap_or_default();
    let cells = json!([name(scale), replicas("spec"), replicas("status"), age(&metadata["creationTimestamp"], now)]);
    let mut row = json!({ "cells": cells });
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = partial(metadata),
        IncludeObject::Object => row["object"] = scale.clone(),
    }
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "columnDefinitions": definitions(SCALE),
        "rows": [row],
    })
}

fn definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.kind,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        })
        .collect()
}

/// One row of a stored object.
pub fn row(resource: &Resource, object: &Value, include: IncludeObject, now: i64) -> Value {
    let cells = (resource.rules.row)(object, now);
    let object = match include {
        IncludeObject::None => return json!({ "cells": cells }),
        IncludeObject::Metadata => partial(&object["metadata"]),
        IncludeObject::Object => whole(resource, object),
    };
    json!({ "cells": cells, "object": object })
}

fn partial(metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// The object in the version that is asked for.
fn whole(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    resource.from_stored(&mut object);
    object
}

/// A whole meta.k8s.io/v1 Table. `list_meta` is the list's metadata (resourceVersion, continue).
/// `now` is seconds since the epoch, for ages.
pub fn render<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: Value,
    include: IncludeObject,
    now: i64,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|o| row(resource, o, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns(resource),
        "rows": rows,
    })
}

/// Seconds since the epoch of an RFC 3339 time.
pub fn seconds(timestamp: &str) -> Option<i64> {
    crate::meta::time::parse_seconds(timestamp)
}

/// How long ago, as kubectl says it: `5s`, `2m30s`, `3h`, `12d`.
pub fn age(timestamp: &Value, now: i64) -> String {
    match timestamp.as_str().and_then(seconds) {
        Some(then) => duration(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in the two largest units that matter.
pub fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    if seconds < -1 {
        "<invalid>".to_owned()
    } else if seconds < 0 {
        "0s".to_owned()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, "d", hours % 24, "h")
    } else if years < 2 {
        format!("{days}d")
    } else if years < 8 {
        two(years, "y", days % 365, "d")
    } else {
        format!("{years}y")
    }
}

/// The object's name.
pub(crate) fn name(object: &Value) -> Value {
    object["metadata"]["name"].as_str().unwrap_or("").into()
}

/// The object's age.
pub(crate) fn created(object: &Value, now: i64) -> Value {
    age(&object["metadata"]["creationTimestamp"], now).into()
}

/// The text, or `<none>`.
pub(crate) fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>" } else { value }.into()
}

/// `a=1,b=2`, or `<none>`.
pub(crate) fn labels(map: &Value) -> String {
    let pairs: Vec<String> = crate::tree::entries(map).map(|(k, v)| format!("{k}={}", text(v))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector in its string form; `<none>` when it selects everything.
pub(crate) fn selector(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> =
        crate::tree::entries(&selector["matchLabels"]).map(|(k, v)| (k.clone(), format!("{k}={}", text(v)))).collect();
    for expression in list(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let mut values: Vec<&str> = list(&expression["values"]).iter().map(text).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(&expression["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort();
    let parts: Vec<String> = parts.into_iter().map(|(_, part)| part).collect();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

/// The names and images of a pod template's containers, each comma-separated.
pub(crate) fn containers(template: &Value) -> [Value; 2] {
    let join = |field: &str| {
        let all: Vec<&str> = list(&template["spec"]["containers"]).iter().map(|c| text(&c[field])).collect();
        Value::from(all.join(","))
    };
    [join("name"), join("image")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86_400 + 3600, "8d"),
            (729 * 86_400, "729d"),
            (731 * 86_400, "2y1d"),
            (3000 * 86_400, "8y"),
        ];
        for (seconds, expect) in cases {
            assert_eq!(duration(seconds), expect, "{seconds}");
        }
        assert_eq!(age(&json!("1970-01-01T00:01:00Z"), 65), "5s");
        assert_eq!(age(&Value::Null, 65), "<unknown>");
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for resource in crate::registry::RESOURCES.iter().filter(|r| r.is_stored()) {
            let object = json!({"metadata": {"name": "x"}});
            let row = row(resource, &object, IncludeObject::Metadata, 0);
            assert_eq!(list(&row["cells"]).len(), resource.columns.len(), "{}", resource.plural);
        }
    }

    #[test]
    fn selectors_print_sorted() {
        let s = json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [
            {"key": "aa", "operator": "In", "values": ["y", "x"]}, {"key": "z", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&s), "a=1,aa in (x,y),b=2,!z");
        assert_eq!(selector(&json!({})), "<none>");
    }
}
