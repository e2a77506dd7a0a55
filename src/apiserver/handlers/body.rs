//! Decodes request bodies, and says what is wrong with them in upstream's words.

use super::patch::go_kind;
use super::{Call, type_of};
use crate::negotiate::{self, BodyFormat};
use crate::response::Failure;
use naru_api::codec::{self, DecodeError, Decoded};
use naru_api::facts::{self, Type};
use naru_api::meta;
use naru_api::registry::Resource;
use naru_api::status::{FieldErrors, Status};
use serde_json::Value;

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Tell in a `Warning` header.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// From the query; `Warn` is the default.
    pub(crate) fn of(call: &Call) -> Result<Self, Failure> {
        match call.query.get("fieldValidation") {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Box::new(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            )))),
        }
    }
}

/// Longer names of managers are refused.
const MAX_FIELD_MANAGER: usize = 128;

/// Checks the parameters of creates and updates, all in one answer.
pub(super) fn check_write_options(call: &Call) -> Result<(), Failure> {
    let kind = match call.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        _ => return Ok(()),
    };
    let mut errors = FieldErrors::default();
    let manager = call.query.get("fieldManager").unwrap_or_default();
    if manager.len() > MAX_FIELD_MANAGER {
        errors.too_long("fieldManager", MAX_FIELD_MANAGER);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid("fieldManager", manager, &detail);
    }
    let dry_run: Vec<&str> = call.query.all("dryRun").filter(|value| !value.is_empty()).collect();
    if dry_run.iter().any(|value| *value != "All") {
        errors.not_supported("dryRun", Value::from(dry_run), &["All"]);
    }
    let validation = call.query.get("fieldValidation").unwrap_or_default();
    if !matches!(validation, "" | "Ignore" | "Warn" | "Strict") {
        errors.not_supported("fieldValidation", validation, &["", "Ignore", "Strict", "Warn"]);
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid("meta.k8s.io", kind, "", errors)))
}

/// The group, version and kind that a body should have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) ty: &'static Type,
}

impl Expected {
    /// An object of this resource.
    pub(crate) fn object(resource: &Resource) -> Result<Self, Failure> {
        Ok(Self { group: resource.group, version: resource.version, kind: resource.kind, ty: type_of(resource)? })
    }

    fn api_version(&self) -> String {
        meta::join_api_version(self.group, self.version)
    }
}

/// A decoded body with the warnings about it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) warnings: Vec<String>,
}

/// Decodes the request's body as an object of the expected kind.
pub(crate) fn decode(call: &Call, expected: Expected) -> Result<Object, Failure> {
    let format = negotiate::body_format(&call.headers)?;
    let refused = |error: DecodeError| {
        let given = given_kind(&call.body, format, expected);
        let given = given.as_ref().map(|(version, kind)| (kind.as_str(), version.as_str()));
        Box::new(Status::bad_request(error.bad_request(given, expected.kind, &call.body)))
    };
    if call.body.is_empty() {
        return Err(refused(match format {
            BodyFormat::Protobuf => DecodeError::Protobuf("empty data".to_owned()),
            _ => DecodeError::Syntax("unexpected end of JSON input".to_owned()),
        }));
    }
    if let Some(error) = no_object(&call.body, format) {
        return Err(refused(error));
    }
    let decoded = decode_as(format, &call.body, expected.ty).map_err(refused)?;
    finish(call, decoded, expected)
}

/// Decodes the request's body as an object of this resource and makes the stored version of it.
pub(crate) fn decode_stored(call: &Call, resource: &'static Resource) -> Result<Object, Failure> {
    let mut object = decode(call, Expected::object(resource)?)?;
    to_stored(resource, &mut object.value)?;
    Ok(object)
}

/// Makes the stored version of a decoded object, complete with its own version's defaults.
pub(crate) fn to_stored(resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    if resource.rules.view.is_some() {
        codec::apply_constant_defaults(object, type_of(resource)?);
        resource.to_stored(object);
    }
    Ok(())
}

/// Decodes bytes of any format.
pub(super) fn decode_as(format: BodyFormat, body: &[u8], ty: &'static Type) -> Result<Decoded, DecodeError> {
    match format {
        BodyFormat::Json => codec::decode_json(body, ty),
        BodyFormat::Yaml => codec::decode_yaml(body, ty),
        BodyFormat::Protobuf => codec::decode_protobuf(body),
    }
}

/// What upstream reads kind and version into, as its errors show it.
const KIND_AND_VERSION: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// The error of a JSON value that is no object, and so has no kind.
fn no_object(body: &[u8], format: BodyFormat) -> Option<DecodeError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if format != BodyFormat::Json || matches!(first, b'{' | b'n') {
        return None;
    }
    let value = codec::parse_json(body).ok()?;
    let kind = go_kind(&value);
    Some(DecodeError::Syntax(format!("json: cannot unmarshal {kind} into Go value of type {KIND_AND_VERSION}")))
}

/// Kind and version as far as a broken body tells. An envelope that cannot be opened tells nothing.
fn given_kind(body: &[u8], format: BodyFormat, expected: Expected) -> Option<(String, String)> {
    let (api_version, kind) = match format {
        BodyFormat::Protobuf => {
            let envelope = codec::open_envelope(body).ok()?;
            (envelope.api_version.to_owned(), envelope.kind.to_owned())
        }
        BodyFormat::Json => {
            let value = codec::parse_json(body).ok()?;
            (meta::api_version(&value).to_owned(), meta::kind(&value).to_owned())
        }
        BodyFormat::Yaml => (String::new(), String::new()),
    };
    let or = |given: &str, expected: &str| if given.is_empty() { expected } else { given }.to_owned();
    Some((or(meta::split_api_version(&api_version).1, expected.version), or(&kind, expected.kind)))
}

/// Whether the object is of the expected kind and version, where it says so.
fn check_kind(value: &Value, expected: Expected) -> Result<(), Failure> {
    let own_version = expected.api_version();
    let kind = Some(meta::kind(value)).filter(|kind| !kind.is_empty()).unwrap_or(expected.kind);
    let given = Some(meta::api_version(value)).filter(|given| !given.is_empty()).unwrap_or(&own_version);
    // An older version of the one kind that clients of long ago still post.
    let is_old_eviction = kind == "Eviction" && given == "policy/v1beta1";
    if kind == expected.kind && (given == own_version || is_old_eviction) {
        return Ok(());
    }
    let (group, version) = meta::split_api_version(given);
    let why = if facts::type_by_gvk(group, version, kind).is_none() {
        DecodeError::UnknownKind { version: given.to_owned(), kind: kind.to_owned() }.to_string()
    } else if kind != expected.kind {
        let package = expected.group.split('.').next().filter(|name| !name.is_empty()).unwrap_or("core");
        format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", expected.kind)
    } else {
        return Err(Box::new(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({own_version})"
        ))));
    };
    Err(Box::new(Status::bad_request(codec::cannot_be_handled(kind, version, expected.kind, &why))))
}

/// Checks kind and strictness, and sets `kind` and `apiVersion`.
pub(crate) fn finish(call: &Call, decoded: Decoded, expected: Expected) -> Result<Object, Failure> {
    let strict = decoded.strict_error();
    let Decoded { mut value, strict: complaints } = decoded;
    check_kind(&value, expected)?;
    let warnings = match FieldValidation::of(call)? {
        FieldValidation::Strict => {
            if let Some(error) = strict {
                let text = codec::cannot_be_handled(expected.kind, expected.version, expected.kind, &error);
                return Err(Box::new(Status::bad_request(text)));
            }
            Vec::new()
        }
        FieldValidation::Warn => complaints,
        FieldValidation::Ignore => Vec::new(),
    };
    value["kind"] = expected.kind.into();
    value["apiVersion"] = expected.api_version().into();
    Ok(Object { value, warnings })
}
