//! `/scale`: autoscaling/v1 Scale over `spec.replicas`.

use super::Call;
use super::apply;
use super::body::{self, Expected};
use super::managed;
use super::patch::{Parsed, Patch, patch_failure};
use super::render;
use super::update::{Change, Make, Part, modify};
use crate::clock;
use crate::negotiate::{self, Form};
use crate::objects;
use crate::response::{Failure, Outcome, Reply};
use naru_api::apply::{to_parent, to_scale};
use naru_api::facts;
use naru_api::facts::Type;
use naru_api::meta;
use naru_api::registry::Resource;
use naru_api::selector::LabelSelector;
use naru_api::status::{FieldErrors, Status};
use naru_api::table;
use serde_json::{Value, json};

const SCALE_TYPE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// GET, PUT and PATCH of `/scale`.
pub(super) async fn handle(call: &Call, resource: &'static Resource) -> Outcome {
    let name = call.info.name.as_str();
    let not_found = || Box::new(Status::not_found(resource.group, resource.plural, name));
    let namespace = call.namespace(resource);
    let current = call.state.cache.get(resource, namespace, name).ok_or_else(not_found)?;
    if call.info.verb == "get" {
        return answer(call, &scale_of(&objects::tree(&current)?));
    }
    let ty = facts::type_by_name(SCALE_TYPE).ok_or_else(|| Box::new(Status::internal("no type Scale")))?;
    let make: Box<Make<'_>> = if call.info.verb == "update" {
        let expected = Expected { group: "autoscaling", version: "v1", kind: "Scale", ty };
        let wanted = body::decode(call, expected)?.value;
        if meta::name(&wanted) != name {
            return Err(Box::new(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                meta::name(&wanted)
            ))));
        }
        Box::new(move |object| rescaled(object, &wanted))
    } else {
        let Parsed { patch, .. } = Patch::of(call)?;
        if let Patch::Apply(config) = &patch {
            apply::check_kind(config, "autoscaling", "v1", "Scale")?;
        }
        Box::new(move |object| {
            let before = scale_of(object);
            if let Patch::Apply(config) = &patch {
                return applied(call, resource, object, before, ty, config);
            }
            let mut after = before.clone();
            patch.change(&mut after, ty).map_err(|error| patch_failure(&error))?;
            if meta::resource_version(&after) == meta::resource_version(&before) {
                meta::set(&mut after, "resourceVersion", "");
            }
            rescaled(object, &after)
        })
    };
    let change = Change {
        resource,
        namespace,
        name,
        part: Part::Main,
        subresource: "scale",
        dry_run: call.dry_run()?,
        make: &*make,
    };
    let changed = modify(call, change).await?;
    let object: Value = serde_json::from_slice(&changed.json).map_err(|error| Box::new(Status::internal(error)))?;
    answer(call, &scale_of(&object))
}

/// The object with the replicas of an applied Scale: who owns them is told by both.
fn applied(
    call: &Call,
    resource: &Resource,
    object: &Value,
    mut before: Value,
    ty: &'static Type,
    config: &Value,
) -> Result<Value, Failure> {
    let owners = &object["metadata"]["managedFields"];
    managed::put(&mut before, to_scale(owners));
    let mut after = apply::scale(call, &before, ty, config)?;
    let given = meta::name(&after);
    if given != call.info.name {
        return Err(Box::new(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            call.info.name
        ))));
    }
    if meta::resource_version(&after) == meta::resource_version(&before) {
        meta::set(&mut after, "resourceVersion", "");
    }
    let mut scaled = rescaled(object, &after)?;
    let owners = to_parent(owners, &after["metadata"]["managedFields"], &resource.api_version());
    managed::put(&mut scaled, owners);
    Ok(scaled)
}

fn answer(call: &Call, scale: &Value) -> Outcome {
    let accepted = negotiate::accepted(&call.headers)?;
    let text = scale.to_string();
    Ok(match accepted.form {
        Form::Object => Reply::json(200, text),
        Form::Metadata => Reply::json(200, render::partial_text(text.as_bytes(), accepted.meta_version())),
        Form::Table => {
            let mut table = table::scale(scale, render::include_object(call)?, clock::now_seconds());
            table["apiVersion"] = accepted.meta_version().into();
            Reply::json(200, table.to_string())
        }
    })
}

/// The object's Scale.
fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            meta[field] = value.clone();
        }
    }
    // A ReplicationController's selector is the labels themselves.
    let selector = match object["kind"].as_str() {
        Some("ReplicationController") => &json!({ "matchLabels": object["spec"]["selector"] }),
        _ => &object["spec"]["selector"],
    };
    let selector = LabelSelector::from_object(selector).map(|s| s.to_string()).unwrap_or_default();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": { "replicas": object["spec"]["replicas"].as_i64().unwrap_or(0) },
        "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector },
    })
}

/// The object with the Scale's replicas and preconditions.
fn rescaled(object: &Value, scale: &Value) -> Result<Value, Failure> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = FieldErrors::default();
        errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Box::new(Status::invalid("autoscaling", "Scale", meta::name(object), errors)));
    }
    let mut object = object.clone();
    object["spec"]["replicas"] = replicas.into();
    meta::set(&mut object, "resourceVersion", meta::resource_version(scale));
    let uid = meta::uid(scale);
    if !uid.is_empty() {
        meta::set(&mut object, "uid", uid);
    }
    Ok(object)
}
