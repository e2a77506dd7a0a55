//! Server-side apply: PATCH with a configuration that its manager wants to be so.

use super::body::{self, FieldValidation};
use super::update::{Change, Part, modify};
use super::{Call, create, managed, render, type_of};
use crate::authz::Attributes;
use crate::clock;
use crate::response::{Failure, Outcome};
use naru_api::apply::{self, ApplyError, BuiltIn, FactsPlace, Ignored, OneVersion, Writer};
use naru_api::codec::{self, DecodeError};
use naru_api::facts::Type;
use naru_api::meta;
use naru_api::registry::Resource;
use naru_api::status::{Status, StatusCause, StatusDetails};
use serde_json::Value;

/// How often an object may come or go between looking and writing.
const ATTEMPTS: usize = 5;

/// Reads a configuration, YAML or JSON; also what a strict reader objects to.
pub(super) fn read(body: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    let decoded = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => codec::parse_json_strict(body).or_else(|_| read_yaml(body)),
        _ => read_yaml(body),
    }?;
    Ok((decoded.value, decoded.strict))
}

fn read_yaml(body: &[u8]) -> Result<codec::Decoded, DecodeError> {
    codec::parse_json_strict(codec::yaml_to_json(body)?.as_bytes())
}

/// Applies a configuration to an object, or makes one of it.
pub(super) async fn apply(
    call: &Call,
    resource: &'static Resource,
    part: Part,
    config: Value,
    strict: Vec<String>,
) -> Outcome {
    let validation = FieldValidation::of(call)?;
    check_kind(&config, resource.group, resource.version, resource.kind)?;
    let namespace = call.namespace(resource);
    let name = call.info.name.as_str();
    let dry_run = call.dry_run()?;
    let ty = type_of(resource)?;
    let make = |old: &Value| {
        let merged = merged(call, resource, ty, Some(old), &config)?;
        refuse_duplicates(validation, &strict)?;
        Ok(merged)
    };
    for _ in 0..ATTEMPTS {
        if part != Part::Main || call.state.cache.get(resource, namespace, name).is_some() {
            let subresource = &call.info.subresource;
            let change = Change { resource, namespace, name, part, subresource, dry_run, make: &make };
            match modify(call, change).await {
                // It went meanwhile.
                Err(status) if status.code == 404 && part == Part::Main => continue,
                Err(status) => return Err(status),
                Ok(changed) => {
                    let warnings =
                        create::answer_warnings(call, resource, changed.advise.then_some(&changed.value), strict)?;
                    return Ok(render::object(call, resource, 200, changed.json)?.with_warnings(warnings));
                }
            }
        }
        let object = new_object(call, resource, ty, &config)?;
        refuse_duplicates(validation, &strict)?;
        authorize_create(call, resource).await?;
        match create::insert(call, resource, object, dry_run).await {
            // It came meanwhile.
            Err(status) if status.reason == "AlreadyExists" => {}
            Err(status) => return Err(status),
            Ok(created) => {
                let warnings = create::answer_warnings(call, resource, Some(&created.value), strict)?;
                return Ok(render::object(call, resource, 201, created.json)?.with_warnings(warnings));
            }
        }
    }
    Err(Box::new(Status::modified(resource.group, resource.plural, name)))
}

/// The configuration must be of the request's kind.
pub(super) fn check_kind(config: &Value, group: &str, version: &str, kind: &str) -> Result<(), Failure> {
    let given = meta::split_api_version(meta::api_version(config));
    if given == (group, version) && meta::kind(config) == kind {
        return Ok(());
    }
    let (group, version) = given;
    Err(Box::new(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={}", meta::kind(config)))))
}

fn refuse_duplicates(validation: FieldValidation, strict: &[String]) -> Result<(), Failure> {
    if validation != FieldValidation::Strict || strict.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = strict.iter().map(|complaint| format!("  {complaint}")).collect();
    Err(Box::new(Status::bad_request(format!(
        "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n{}",
        lines.join("\n")
    ))))
}

/// The object that the configuration makes of a stored one, in the stored version, with its managed fields.
fn merged(
    call: &Call,
    resource: &'static Resource,
    ty: &'static Type,
    old: Option<&Value>,
    config: &Value,
) -> Result<Value, Failure> {
    let (manager, api_version, now) = (managed::manager(call), resource.api_version(), clock::now_rfc3339());
    let subresource = call.info.subresource.as_str();
    let writer = Writer {
        manager: &manager,
        api_version: &api_version,
        subresource,
        now: &now,
        ignored: Ignored::of(resource, subresource),
    };
    let live = old.map(|old| {
        let mut live = old.clone();
        resource.from_stored(&mut live);
        live
    });
    let force = call.query.flag("force");
    let mut merged =
        apply::apply(&BuiltIn(resource), live.as_ref(), config.clone(), &writer, force).map_err(failure)?;
    let owners = managed::take(&mut merged);
    if let Some(mut live) = live {
        managed::take(&mut live);
        if merged == live {
            // Nothing is new but who owns it.
            meta::set(&mut merged, "resourceVersion", "");
            body::to_stored(resource, &mut merged)?;
            managed::put(&mut merged, owners);
            return Ok(merged);
        }
    }
    let decoded = codec::decode_value(&merged, ty).map_err(|error| {
        let object = format!(
            "{}/{}; {}/{}, Kind={}",
            call.info.namespace, call.info.name, resource.group, resource.version, resource.kind
        );
        Box::new(Status::failure(500, "", format!("failed to convert new typed object ({object}) to object: {error}")))
    })?;
    let mut merged = decoded.value;
    create::place(call, resource, &mut merged)?;
    check_name(call, meta::name(&merged))?;
    if old.is_some_and(|old| meta::resource_version(&merged) == meta::resource_version(old)) {
        // A precondition counts only when the configuration itself names a version.
        meta::set(&mut merged, "resourceVersion", meta::resource_version(config));
    }
    body::to_stored(resource, &mut merged)?;
    managed::put(&mut merged, owners);
    Ok(merged)
}

fn check_name(call: &Call, given: &str) -> Result<(), Failure> {
    let name = call.info.name.as_str();
    if given == name {
        return Ok(());
    }
    Err(Box::new(Status::bad_request(match given.is_empty() {
        true => format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"),
        false => format!("the name of the object ({given}) does not match the name on the URL ({name})"),
    })))
}

/// The object to be created.
fn new_object(call: &Call, resource: &'static Resource, ty: &'static Type, config: &Value) -> Result<Value, Failure> {
    let object = merged(call, resource, ty, None, config)?;
    let name = call.info.name.as_str();
    let conflict = |why: &str| Err(Box::new(Status::conflict(resource.group, resource.plural, name, why)));
    let uid = meta::uid(&object);
    if !uid.is_empty() {
        return conflict(&format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        ));
    }
    if !matches!(meta::resource_version(&object), "" | "0") {
        return conflict(&format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: , UID in object meta: ",
            crate::cache::storage_key(resource, call.namespace(resource), name)
        ));
    }
    Ok(object)
}

/// Who may patch may not yet create.
async fn authorize_create(call: &Call, resource: &Resource) -> Result<(), Failure> {
    let attributes = Attributes { verb: "create", ..Attributes::of(&call.info) };
    let decision = call.state.authz.authorize(&call.state.cache, &call.user, &attributes).await;
    if decision.is_allowed() {
        return Ok(());
    }
    let _ = resource;
    Err(attributes.forbidden(&call.user, &decision))
}

/// The answer to a configuration that was not applied.
fn failure(error: ApplyError) -> Failure {
    let message = error.to_string();
    Box::new(match error {
        ApplyError::BadRequest(text) => Status::bad_request(text),
        ApplyError::Typed(text) => Status::failure(500, "", text),
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts.into_iter().map(|conflict| StatusCause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {}", conflict.manager),
                field: conflict.path,
            });
            let details = StatusDetails { causes: causes.collect(), ..StatusDetails::default() };
            Status::failure(409, "Conflict", message).with_details(details)
        }
    })
}

/// Applies a configuration of a Scale. The Scale has its managed fields.
pub(super) fn scale(call: &Call, scale: &Value, ty: &'static Type, config: &Value) -> Result<Value, Failure> {
    let (manager, now) = (managed::manager(call), clock::now_rfc3339());
    let api_version = "autoscaling/v1";
    let writer = Writer {
        manager: &manager,
        api_version,
        subresource: "scale",
        now: &now,
        ignored: Ignored::Places(&[&["status"]]),
    };
    let versions = OneVersion { api_version: api_version.to_owned(), place: FactsPlace::root(ty) };
    apply::apply(&versions, Some(scale), config.clone(), &writer, call.query.flag("force")).map_err(failure)
}
