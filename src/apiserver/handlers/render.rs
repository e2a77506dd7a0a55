//! Objects in the form that the client asked for: whole, as a Table, or metadata alone.

use super::Call;
use crate::cache::Listing;
use crate::clock;
use crate::negotiate::{self, Accepted, Form};
use crate::response::{Failure, Outcome, Reply};
use bytes::Bytes;
use naru_api::codec;
use naru_api::registry::Resource;
use naru_api::status::{FieldErrors, Status};
use naru_api::table::{self, IncludeObject};
use serde_json::{Value, json};

/// What a Table's rows carry.
pub(crate) fn include_object(call: &Call) -> Result<IncludeObject, Failure> {
    let parameter = call.query.get("includeObject").unwrap_or_default();
    IncludeObject::parse(parameter).ok_or_else(|| {
        let mut errors = FieldErrors::default();
        errors.invalid("includeObject", parameter, "must be 'Metadata', 'Object', 'None', or empty");
        let error = errors.aggregate().unwrap_or_default();
        Box::new(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
    })
}

/// Refuses what the client could not be answered, before anything is done for it. Not everything has a table.
pub(crate) fn check_accept(call: &Call, has_table: bool) -> Result<(), Failure> {
    match call.info.verb {
        _ if !has_table => negotiate::accepted_without_table(&call.headers)?,
        "watch" => negotiate::accepted_stream(&call.headers)?,
        _ => negotiate::accepted(&call.headers)?,
    };
    Ok(())
}

/// The name of a kind's struct, as refusals give it.
fn struct_name(resource: &Resource, suffix: &str) -> String {
    let package = resource.group.split('.').next().filter(|name| !name.is_empty()).unwrap_or("core");
    format!("*{package}.{}{suffix}", resource.kind)
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
        items.push(served(resource, object.json())?);
    }
    let size = items.iter().map(Bytes::len).sum();
    Ok(listing.encode_items(resource, size, items.into_iter()))
}

/// Answers with one object.
pub(crate) fn object(call: &Call, resource: &Resource, code: u16, json: Bytes) -> Outcome {
    let accepted = negotiate::accepted(&call.headers)?;
    match accepted.form {
        Form::Object => Ok(Reply::json(code, served(resource, json)?)),
        Form::Metadata if accepted.list => {
            let name = struct_name(resource, "");
            let text =
                format!("you requested PartialObjectMetadataList, but the requested object is not a list ({name})");
            Err(Box::new(Status::failure(406, "NotAcceptable", text)))
        }
        Form::Metadata => Ok(Reply::json(code, partial_text(&json, accepted.meta_version()))),
        Form::Table => {
            let value: Value = serde_json::from_slice(&json).map_err(|error| Box::new(Status::internal(error)))?;
            let meta = json!({ "resourceVersion": value["metadata"]["resourceVersion"] });
            let mut table = table::render(resource, [&value], meta, include_object(call)?, clock::now_seconds());
            set_version(&mut table, accepted);
            Ok(Reply::json(code, table.to_string()))
        }
    }
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

/// A PartialObjectMetadata spliced from an object's bytes.
pub(crate) fn partial_text(object: &[u8], api_version: &str) -> Bytes {
    let metadata = codec::metadata_text(object).unwrap_or("{}");
    format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{api_version}","metadata":{metadata}}}"#).into()
}

/// A Table and the objects in its rows, in the version of the meta group that was asked for.
pub(crate) fn set_version(table: &mut Value, accepted: Accepted) {
    if !accepted.beta {
        return;
    }
    table["apiVersion"] = accepted.meta_version().into();
    for row in table["rows"].as_array_mut().into_iter().flatten() {
        if row["object"]["kind"] == "PartialObjectMetadata" {
            row["object"]["apiVersion"] = accepted.meta_version().into();
        }
    }
}

/// Answers with a list.
pub(crate) fn list(call: &Call, resource: &Resource, listing: &Listing) -> Outcome {
    let accepted = negotiate::accepted(&call.headers)?;
    Ok(Reply::json(
        200,
        match accepted.form {
            Form::Object => encode(resource, listing)?,
            Form::Table => table(call, resource, listing, accepted)?,
            Form::Metadata if accepted.list => partial_list(listing, accepted),
            Form::Metadata => {
                let name = struct_name(resource, "List");
                let text = format!("you requested PartialObjectMetadata, but the requested object is a list ({name})");
                return Err(Box::new(Status::failure(406, "NotAcceptable", text)));
            }
        },
    ))
}

fn list_meta(listing: &Listing) -> Value {
    let mut meta = json!({ "resourceVersion": listing.revision.to_string() });
    if let Some(next) = &listing.next {
        meta["continue"] = next.as_str().into();
    }
    if let Some(remaining) = listing.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    meta
}

fn table(call: &Call, resource: &Resource, listing: &Listing, accepted: Accepted) -> Result<Bytes, Failure> {
    let include = include_object(call)?;
    let now = clock::now_seconds();
    let mut table = table::render(resource, [], list_meta(listing), include, now);
    set_version(&mut table, accepted);
    table["rows"] = Value::Null;
    let mut out = table.to_string().into_bytes();
    // Sorted as the keys are, the rows come last: one object's tree at a time.
    out.truncate(out.len() - "null}".len());
    out.push(b'[');
    for (i, object) in listing.objects.iter().enumerate() {
        let value = serde_json::from_slice(&object.json()).map_err(|error| Box::new(Status::internal(error)))?;
        let mut row = table::row(resource, &value, include, now);
        if accepted.beta && include == IncludeObject::Metadata {
            row["object"]["apiVersion"] = accepted.meta_version().into();
        }
        out.extend_from_slice(if i == 0 { b"" } else { b"," });
        serde_json::to_writer(&mut out, &row).map_err(|error| Box::new(Status::internal(error)))?;
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

fn partial_list(listing: &Listing, accepted: Accepted) -> Bytes {
    let version = accepted.meta_version();
    let head = format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{version}","metadata":{},"items":["#,
        list_meta(listing)
    );
    let mut out = head.into_bytes();
    let item = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{version}","metadata":"#);
    for (i, object) in listing.objects.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b"" } else { b"," });
        out.extend_from_slice(item.as_bytes());
        out.extend_from_slice(codec::metadata_text(&object.json()).unwrap_or("{}").as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out.into()
}
