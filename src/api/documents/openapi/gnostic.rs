//! The protobuf form of an OpenAPI version 2 document, in gnostic's messages.

use serde_json::Value;

/// How a JSON value is written into a field.
pub(super) enum Form {
    /// A string.
    Text,
    /// A boolean.
    Flag,
    /// Anything, as a message with its YAML text (JSON is YAML).
    Any,
    /// A repeated field.
    List(&'static Form),
    /// An object with known members.
    Object(&'static Message),
    /// A message that has the value in one field.
    Within(u32, &'static Form),
    /// An object with free names: a message with a repeated field of name and value.
    Named(u32, &'static Form),
    /// One field of a message for the object itself, another for a reference to one elsewhere.
    OrReference(&'static Message),
    /// A default, which is a scalar; there is no message for others.
    Default,
    /// A parameter, whose message depends on where it is.
    Parameter,
}

/// A message: its members with their field numbers, and the field of the `x-` members.
pub(super) struct Message {
    pub(super) fields: &'static [(&'static str, u32, Form)],
    pub(super) extensions: u32,
}

use Form::{Any, Flag, List, Named, Object, Parameter, Text, Within};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Object(&INFO)),
        ("paths", 8, Named(2, &Object(&PATH_ITEM))),
        ("definitions", 9, Named(1, &Object(&SCHEMA))),
        ("security", 12, List(&Named(1, &Within(1, &List(&Text))))),
        ("securityDefinitions", 13, Named(1, &Within(2, &Object(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Object(&OPERATION)),
        ("put", 3, Object(&OPERATION)),
        ("post", 4, Object(&OPERATION)),
        ("delete", 5, Object(&OPERATION)),
        ("options", 6, Object(&OPERATION)),
        ("head", 7, Object(&OPERATION)),
        ("patch", 8, Object(&OPERATION)),
        ("parameters", 9, List(&Within(1, &Parameter))),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, List(&Text)),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, List(&Text)),
        ("consumes", 7, List(&Text)),
        ("parameters", 8, List(&Within(1, &Parameter))),
        ("responses", 9, Named(1, &Within(1, &Object(&RESPONSE)))),
        ("schemes", 10, List(&Text)),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Within(1, &Object(&SCHEMA)))], extensions: 5 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, Object(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

static PATH: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static IN_QUERY: Form = Within(3, &Object(&QUERY));
static IN_PATH: Form = Within(4, &Object(&PATH));

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("uniqueItems", 16, Flag),
        ("required", 19, List(&Text)),
        ("enum", 20, List(&Any)),
        ("additionalProperties", 21, Within(1, &Object(&SCHEMA))),
        ("type", 22, Within(1, &Text)),
        ("items", 23, Within(1, &Object(&SCHEMA))),
        ("allOf", 24, List(&Object(&SCHEMA))),
        ("properties", 25, Named(1, &Object(&SCHEMA))),
        ("readOnly", 27, Flag),
    ],
    extensions: 31,
};

/// Encodes what [`super::v2`] makes.
pub fn encode_v2(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    members(&DOCUMENT, document, &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn delimited(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    varint((u64::from(number) << 3) | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn members(message: &Message, value: &Value, out: &mut Vec<u8>) {
    for (name, number, form) in message.fields {
        if let Some(value) = value.get(name) {
            write(form, *number, value, out);
        }
    }
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        named(message.extensions, name, &Any, value, out);
    }
}

fn named(number: u32, name: &str, form: &Form, value: &Value, out: &mut Vec<u8>) {
    let mut entry = Vec::new();
    delimited(1, name.as_bytes(), &mut entry);
    write(form, 2, value, &mut entry);
    delimited(number, &entry, out);
}

fn write(form: &Form, number: u32, value: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    match form {
        Text => return delimited(number, value.as_str().unwrap_or_default().as_bytes(), out),
        Flag => {
            varint(u64::from(number) << 3, out);
            return varint(u64::from(value == &Value::Bool(true)), out);
        }
        List(form) => return value.as_array().into_iter().flatten().for_each(|v| write(form, number, v, out)),
        Any => delimited(2, value.to_string().as_bytes(), &mut inner),
        Object(message) => members(message, value, &mut inner),
        Form::OrReference(message) => match value.get("$ref") {
            Some(target) => write(&Within(1, &Text), 2, target, &mut inner),
            None => write(&Object(message), 1, value, &mut inner),
        },
        Form::Default => match value {
            Value::Number(number) => {
                varint((1 << 3) | 1, &mut inner);
                inner.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
            }
            Value::Bool(_) => write(&Flag, 2, value, &mut inner),
            Value::String(_) => write(&Text, 3, value, &mut inner),
            _ => return,
        },
        Within(field, form) => write(form, *field, value, &mut inner),
        Named(field, form) => {
            let entries = value.as_object().into_iter().flatten();
            entries.for_each(|(name, value)| named(*field, name, form, value, &mut inner));
        }
        Parameter => match value["in"].as_str() {
            Some("body") => write(&Object(&BODY), 1, value, &mut inner),
            Some("path") => write(&IN_PATH, 2, value, &mut inner),
            _ => write(&IN_QUERY, 2, value, &mut inner),
        },
    }
    delimited(number, &inner, out);
}
