//! The protobuf form of an OpenAPI version 3 document, in gnostic's messages.

use super::gnostic::Form::{Any, Default, Flag, List, Named, Object, OrReference, Text, Within};
use super::gnostic::{Message, members};
use serde_json::Value;

static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, Object(&INFO)),
        ("paths", 4, Named(1, &Object(&PATH_ITEM))),
        ("components", 5, Object(&COMPONENTS)),
    ],
    extensions: 9,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("description", 2, Text), ("version", 6, Text)], extensions: 7 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 4, Object(&OPERATION)),
        ("put", 5, Object(&OPERATION)),
        ("post", 6, Object(&OPERATION)),
        ("delete", 7, Object(&OPERATION)),
        ("options", 8, Object(&OPERATION)),
        ("head", 9, Object(&OPERATION)),
        ("patch", 10, Object(&OPERATION)),
        ("parameters", 13, List(&OrReference(&PARAMETER))),
    ],
    extensions: 14,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, List(&Text)),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, List(&OrReference(&PARAMETER))),
        ("requestBody", 7, OrReference(&REQUEST_BODY)),
        ("responses", 8, Named(2, &OrReference(&RESPONSE))),
        ("deprecated", 10, Flag),
    ],
    extensions: 13,
};

static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("schema", 10, OrReference(&SCHEMA)),
    ],
    extensions: 14,
};

static REQUEST_BODY: Message = Message {
    fields: &[("description", 1, Text), ("content", 2, Named(1, &Object(&MEDIA))), ("required", 3, Flag)],
    extensions: 4,
};

static MEDIA: Message = Message { fields: &[("schema", 1, OrReference(&SCHEMA))], extensions: 5 };

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("content", 3, Named(1, &Object(&MEDIA)))], extensions: 5 };

static COMPONENTS: Message = Message {
    fields: &[
        ("schemas", 1, Named(1, &OrReference(&SCHEMA))),
        ("securitySchemes", 7, Named(1, &OrReference(&SECURITY_SCHEME))),
    ],
    extensions: 10,
};

static SECURITY_SCHEME: Message = Message {
    fields: &[("type", 1, Text), ("description", 2, Text), ("name", 3, Text), ("in", 4, Text)],
    extensions: 9,
};

static SCHEMA: Message = Message {
    fields: &[
        ("nullable", 1, Flag),
        ("readOnly", 3, Flag),
        ("title", 9, Text),
        ("uniqueItems", 20, Flag),
        ("required", 23, List(&Text)),
        ("enum", 24, List(&Any)),
        ("type", 25, Text),
        ("allOf", 26, List(&OrReference(&SCHEMA))),
        ("oneOf", 27, List(&OrReference(&SCHEMA))),
        ("anyOf", 28, List(&OrReference(&SCHEMA))),
        ("items", 30, Within(1, &OrReference(&SCHEMA))),
        ("properties", 31, Named(1, &OrReference(&SCHEMA))),
        ("additionalProperties", 32, Within(1, &OrReference(&SCHEMA))),
        ("default", 33, Default),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

/// Encodes what [`super::v3_at`] makes.
pub fn encode_v3(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    members(&DOCUMENT, document, &mut out);
    out
}
