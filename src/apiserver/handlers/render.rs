//! Objects in the form that the client asked for: whole, as a Table, or metadata alone.

use super::Call;
use crate::cache::{self, Listing};
use crate::clock;
use crate::negotiate::{self, Form};
use crate::response::{Failure, Outcome, Reply};
use bytes::Bytes;
use naru_api::codec;
use naru_api::registry::Resource;
use naru_api::status::Status;
use naru_api::table::{self, IncludeObject};
use serde_json::{Value, json};

/// What a Table's rows carry.
pub(crate) fn include_object(call: &Call) -> Result<IncludeObject, Failure> {
    let parameter = call.query.get("includeObject").unwrap_or_default();
    IncludeObject::parse(parameter)
        .ok_or_else(|| Box::new(Status::bad_request(format!("unrecognized includeObject value: {parameter:?}"))))
}

/// The bytes of a stored object in the resource's version: themselves, unless it is stored in another.
pub(crate) fn served(resource: &Resource, json: Bytes) -> Result<Bytes, Failure> {
    if resource.rules.view.is_none() {
        return Ok(json);
    }
    let mut value: Value = serde_json::from_slice(&json).map_err(|error| Box::new(Status::internal(error)))?;
    resource.from_stored(&mut value);
    Ok(codec::canonical(&value).into())
}

/// A list of objects in the resource's version.
pub(crate) fn encode(resource: &Resource, listing: &Listing) -> Result<Bytes, Failure> {
    if resource.rules.view.is_none() {
        return Ok(listing.encode(resource));
    }
    let mut items = Vec::with_capacity(listing.objects.len());
    for object in &listing.objects {
        items.push(served(resource, object.json().clone())?);
    }
    Ok(listing.encode_items(resource, items.iter().map(|item| cache::item_tail(item))))
}

/// Answers with one object.
pub(crate) fn object(call: &Call, resource: &Resource, code: u16, json: Bytes) -> Outcome {
    let form = negotiate::accepted(&call.headers)?.form;
    if form == Form::Object {
        return Ok(Reply::json(code, served(resource, json)?));
    }
    let value: Value = serde_json::from_slice(&json).map_err(|error| Box::new(Status::internal(error)))?;
    let value = match form {
        Form::Metadata => partial(&value),
        _ => {
            let meta = json!({ "resourceVersion": value["metadata"]["resourceVersion"] });
            table::render(resource, [&value], meta, include_object(call)?, clock::now_seconds())
        }
    };
    Ok(Reply::json(code, value.to_string()))
}

/// Answers with a Status of success: what kubectl reads after a delete.
pub(crate) fn status(status: &Status) -> Outcome {
    let body = serde_json::to_vec(status).map_err(|error| Box::new(Status::internal(error)))?;
    Ok(Reply::json(if status.code == 0 { 200 } else { status.code }, body))
}

/// A PartialObjectMetadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// Turns listed objects into a Table or a list of metadata.
pub(crate) fn list(
    call: &Call,
    resource: &Resource,
    form: Form,
    items: &[Bytes],
    meta: Value,
) -> Result<Bytes, Failure> {
    let parse = |json: &Bytes| serde_json::from_slice::<Value>(json).map_err(|error| Box::new(Status::internal(error)));
    let value = match form {
        Form::Table => {
            let include = include_object(call)?;
            let now = clock::now_seconds();
            // One object's tree at a time.
            let mut table = table::render(resource, [], meta, include, now);
            let mut rows = Vec::with_capacity(items.len());
            for item in items {
                rows.push(table::row(resource, &parse(item)?, include, now));
            }
            table["rows"] = rows.into();
            table
        }
        _ => {
            let mut partials = Vec::with_capacity(items.len());
            for item in items {
                partials.push(partial(&parse(item)?));
            }
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "items": partials,
            })
        }
    };
    Ok(value.to_string().into())
}
