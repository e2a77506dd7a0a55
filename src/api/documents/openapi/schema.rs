//! Schemas from the facts.

use super::paths;
use crate::facts::descriptions::{Descriptions, TypeDescriptions};
use crate::facts::{self, Constant, Field, Kind, ListType, Presence, Shape, Type};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Where the meta types live.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// A reference to a type's schema.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The types that a document speaks of.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    types: BTreeMap<&'static str, &'static Type>,
}

impl Schemas {
    /// Adds a type and all that it refers to.
    pub(super) fn add(&mut self, ty: &'static Type) {
        if self.types.insert(ty.name, ty).is_some() {
            return;
        }
        for field in ty.fields {
            let mut kind = field.kind;
            while let Kind::List(inner) | Kind::Map(inner) = kind {
                kind = *inner;
            }
            if let Kind::Object(inner) = kind {
                self.add(inner);
            }
        }
    }

    /// `components.schemas`.
    pub(super) fn render(&self) -> Map<String, Value> {
        let descriptions = Descriptions::unpack();
        let mut map: Map<String, Value> = descriptions
            .by_type()
            .filter(|(ty, _)| self.types.contains_key(ty.name))
            .map(|(ty, texts)| (ty.name.to_owned(), type_schema(ty, texts)))
            .collect();
        // A patch's body can be anything; it has no fields and so no place in the facts.
        map.insert(format!("{META}Patch"), json!({"type": "object"}));
        map
    }
}

/// Whether the type is a list of objects; the sources of the descriptions have one generic type for all of them.
fn is_list(ty: &Type) -> bool {
    ty.short_name().ends_with("List") && ty.field("items").is_some()
}

/// The description of a list's field.
fn of_list(field: &str) -> &'static str {
    match field {
        "apiVersion" => "Group and version of the list's schema.",
        "items" => "The objects.",
        "kind" => "Kind of the list.",
        "metadata" => "The list's metadata: its resource version, and where to go on.",
        _ => "",
    }
}

fn type_schema(ty: &'static Type, texts: TypeDescriptions<'_>) -> Value {
    let mut schema = match ty.shape {
        Shape::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Shape::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
        Shape::FieldsV1 | Shape::RawExtension => json!({"type": "object"}),
        Shape::Json | Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => json!({}),
        Shape::Object => object_schema(ty, texts),
    };
    if let Some(text) = texts.of_type() {
        schema["description"] = Value::from(text);
    } else if is_list(ty) {
        let name = ty.short_name();
        let kind = name.trim_end_matches("List");
        schema["description"] = Value::from(format!("{name} is a list of {kind} objects."));
    }
    schema
}

fn object_schema(ty: &'static Type, texts: TypeDescriptions<'_>) -> Value {
    let mut schema = Map::new();
    schema.insert("type".into(), Value::from("object"));
    let mut properties = Map::new();
    // Fields behind a gate that is off are told of too, as upstream does: clients know them.
    for (field, text) in ty.fields.iter().zip(texts.of_fields()) {
        let mut schema = field_schema(field);
        let text = if text.is_empty() && is_list(ty) { of_list(field.name) } else { text };
        if !text.is_empty() {
            schema["description"] = Value::from(text);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    if !properties.is_empty() {
        schema.insert("properties".into(), Value::Object(properties));
    }
    let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), Value::from(required));
    }
    let kinds: Vec<Value> = facts::gvks_of(ty)
        .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
        .collect();
    if !kinds.is_empty() {
        schema.insert("x-kubernetes-group-version-kind".into(), Value::from(kinds));
    }
    if ty.map_atomic {
        schema.insert("x-kubernetes-map-type".into(), Value::from("atomic"));
    }
    if let Some((_, discriminator, members)) = UNIONS.iter().find(|(name, ..)| *name == ty.name) {
        let fields: Map<String, Value> =
            members.iter().map(|member| ((*member).to_owned(), Value::from(paths::capital(member)))).collect();
        let union = json!([{"discriminator": discriminator, "fields-to-discriminateBy": fields}]);
        schema.insert("x-kubernetes-unions".into(), union);
    }
    Value::Object(schema)
}

/// Types of which one member is set, with the field that says which, and the members.
const UNIONS: &[(&str, &str, &[&str])] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &["queuing"]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type", &["exempt", "limited"]),
    ("io.k8s.api.flowcontrol.v1.Subject", "kind", &["group", "serviceAccount", "user"]),
];

fn field_schema(field: &'static Field) -> Value {
    let mut value = kind_schema(field.kind, false);
    let Value::Object(schema) = &mut value else { return value };
    if let Some(default) = default_of(field) {
        schema.insert("default".into(), default);
    }
    let facts = field.schema;
    let mut set = |key: &str, value: Value| {
        schema.insert(format!("x-kubernetes-{key}"), value);
    };
    match facts.list_type {
        Some(ListType::Atomic) => set("list-type", Value::from("atomic")),
        Some(ListType::Set) => set("list-type", Value::from("set")),
        Some(ListType::Map) => set("list-type", Value::from("map")),
        None => {}
    }
    if !facts.list_keys.is_empty() {
        set("list-map-keys", Value::from(facts.list_keys.to_vec()));
    }
    if let Some(key) = facts.merge_key {
        set("patch-merge-key", Value::from(key));
    }
    let strategies = [("merge", facts.merge), ("retainKeys", facts.retain_keys), ("replace", facts.replace)];
    let strategies: Vec<&str> = strategies.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    if !strategies.is_empty() {
        set("patch-strategy", Value::from(strategies.join(",")));
    }
    if facts.map_atomic {
        set("map-type", Value::from("atomic"));
    }
    if facts.map_granular {
        set("map-type", Value::from("granular"));
    }
    value
}

fn default_of(field: &Field) -> Option<Value> {
    if let Some(constant) = field.schema.default {
        return Some(match constant {
            Constant::Str(s) => Value::from(s),
            Constant::Int(n) => Value::from(n),
            Constant::Bool(b) => Value::from(b),
        });
    }
    if field.presence != Presence::Always {
        return None;
    }
    Some(match field.kind {
        Kind::Str => Value::from(""),
        Kind::I32 | Kind::I64 | Kind::F64 => Value::from(0),
        Kind::Bool => Value::from(false),
        Kind::Object(_) => json!({}),
        _ => return None,
    })
}

/// The schema of a value; those inside lists and maps carry their zero as default.
fn kind_schema(kind: Kind, inside: bool) -> Value {
    let scalar = |name: &str, format: &str, zero: Value| {
        let mut schema = json!({"type": name});
        if !format.is_empty() {
            schema["format"] = Value::from(format);
        }
        if inside {
            schema["default"] = zero;
        }
        schema
    };
    match kind {
        Kind::Str => scalar("string", "", Value::from("")),
        Kind::I32 => scalar("integer", "int32", Value::from(0)),
        Kind::I64 => scalar("integer", "int64", Value::from(0)),
        Kind::F64 => scalar("number", "double", Value::from(0)),
        Kind::Bool => scalar("boolean", "", Value::from(false)),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Object(ty) if inside && ty.shape == Shape::Object => {
            json!({"allOf": [reference(ty.name)], "default": {}})
        }
        Kind::Object(ty) => json!({"allOf": [reference(ty.name)]}),
        Kind::List(inner) => json!({"type": "array", "items": kind_schema(*inner, true)}),
        Kind::Map(inner) => json!({"type": "object", "additionalProperties": kind_schema(*inner, true)}),
    }
}
