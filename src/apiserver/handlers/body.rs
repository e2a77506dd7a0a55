//! Decodes request bodies, and says what is wrong with them in upstream's words.

use super::{Call, type_of};
use crate::negotiate::{self, BodyFormat};
use crate::response::Failure;
use naru_api::codec::{self, DecodeError, Decoded};
use naru_api::facts::Type;
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
    if call.body.is_empty() {
        return Err(Box::new(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: the body is empty",
            expected.kind, expected.version, expected.kind
        ))));
    }
    let decoded = decode_as(format, &call.body, expected.ty).map_err(|error| {
        let given = given_kind(&call.body, format);
        let given = given.as_ref().map(|(version, kind)| (kind.as_str(), version.as_str()));
        let given = given.or(Some((expected.kind, expected.version)));
        Box::new(Status::bad_request(error.bad_request(given, expected.kind, &call.body)))
    })?;
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

/// Kind and version as far as a broken body tells.
fn given_kind(body: &[u8], format: BodyFormat) -> Option<(String, String)> {
    if format != BodyFormat::Json {
        return None;
    }
    let value = codec::parse_json(body).ok()?;
    let (_, version) = meta::split_api_version(meta::api_version(&value));
    let kind = meta::kind(&value);
    (!kind.is_empty()).then(|| (version.to_owned(), kind.to_owned()))
}

/// Checks kind and strictness, and sets `kind` and `apiVersion`.
pub(crate) fn finish(call: &Call, decoded: Decoded, expected: Expected) -> Result<Object, Failure> {
    let strict = decoded.strict_error();
    let Decoded { mut value, strict: complaints } = decoded;
    let given = meta::kind(&value);
    let api_version = meta::api_version(&value);
    // An older version of the one kind that clients of long ago still post.
    let is_old_eviction = expected.kind == "Eviction" && api_version == "policy/v1beta1";
    if !api_version.is_empty() && api_version != expected.api_version() && !is_old_eviction {
        return Err(Box::new(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        ))));
    }
    if !given.is_empty() && given != expected.kind {
        return Err(Box::new(Status::bad_request(codec::cannot_be_handled(
            given,
            expected.version,
            expected.kind,
            &format!("the object is a {given}, not a {}", expected.kind),
        ))));
    }
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
