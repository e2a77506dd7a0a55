//! Defaults that are plain constants, from the facts.

use crate::facts::{Constant, Field, Kind, Presence, Shape, Type};
use serde_json::{Map, Value};

/// Fills in constant defaults, and the zero of scalars and structs that are always written (`resources: {}`),
/// wherever the parent object is present. So an object from a client that writes them and one from a
/// client that does not are equal.
pub fn apply_constant_defaults(value: &mut Value, ty: &'static Type) {
    if let Value::Object(map) = value {
        apply(map, ty);
    }
}

fn apply(map: &mut Map<String, Value>, ty: &'static Type) {
    if ty.shape != Shape::Object {
        return;
    }
    for field in ty.fields {
        match map.get_mut(field.name) {
            Some(value) => {
                if let Some(constant) = replaces(field, value) {
                    *value = constant;
                } else {
                    descend(value, field.kind);
                }
            }
            None => {
                if let Some(mut value) = missing(field) {
                    descend(&mut value, field.kind);
                    map.insert(field.name.to_owned(), value);
                }
            }
        }
    }
}

fn descend(value: &mut Value, kind: Kind) {
    match (kind, value) {
        (Kind::Object(ty), Value::Object(map)) => apply(map, ty),
        (Kind::List(inner @ Kind::Object(_)), Value::Array(list)) => list.iter_mut().for_each(|v| descend(v, *inner)),
        (Kind::Map(inner @ Kind::Object(_)), Value::Object(map)) => map.values_mut().for_each(|v| descend(v, *inner)),
        _ => {}
    }
}

fn constant(field: &Field) -> Option<Value> {
    field.schema.default.map(|c| match c {
        Constant::Str(s) => Value::from(s),
        Constant::Int(n) => Value::from(n),
        Constant::Bool(b) => Value::from(b),
    })
}

fn zero(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Bool(b) => !b,
        _ => false,
    }
}

/// The value of an absent field.
fn missing(field: &Field) -> Option<Value> {
    let default = constant(field).filter(|v| field.presence == Presence::Pointer || !zero(v));
    if default.is_some() || field.presence != Presence::Always {
        return default;
    }
    match field.kind {
        Kind::Str => Some(Value::from("")),
        Kind::I32 | Kind::I64 | Kind::F64 => Some(Value::from(0)),
        Kind::Bool => Some(Value::from(false)),
        Kind::Object(ty) if ty.shape == Shape::Object => Some(Value::Object(Map::new())),
        _ => None,
    }
}

/// Where zero means absent, a default replaces a zero.
fn replaces(field: &Field, value: &Value) -> Option<Value> {
    if field.presence == Presence::Pointer || !zero(value) {
        return None;
    }
    constant(field).filter(|v| !zero(v))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::facts::type_by_gvk;
    use serde_json::json;

    #[test]
    fn protocols_and_probe_services_get_their_constants() {
        let mut pod = json!({"spec": {"containers": [{
            "name": "a",
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
            "readinessProbe": {"grpc": {"port": 1}},
        }]}});
        apply_constant_defaults(&mut pod, type_by_gvk("", "v1", "Pod").unwrap());
        let expect = json!({"metadata": {}, "status": {}, "spec": {"containers": [{
            "name": "a",
            "resources": {},
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}],
            "readinessProbe": {"grpc": {"port": 1, "service": ""}},
        }]}});
        assert_eq!(pod, expect);
    }

    #[test]
    fn fields_that_are_always_written_get_their_zero() {
        let mut set = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}});
        apply_constant_defaults(&mut set, type_by_gvk("apps", "v1", "ReplicaSet").unwrap());
        let expect = json!({"metadata": {"name": "a"}, "status": {"replicas": 0},
            "spec": {"replicas": 2, "template": {"metadata": {}, "spec": {}}}});
        assert_eq!(set, expect);
        let mut twice = set.clone();
        apply_constant_defaults(&mut twice, type_by_gvk("apps", "v1", "ReplicaSet").unwrap());
        assert_eq!(twice, set);
    }
}
