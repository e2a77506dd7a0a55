//! Reading and writing whole objects: what a projection is too small for.

use naru_api::meta::time;
use naru_api::registry::Resource;
use naru_client::projections::Meta;
use naru_client::{Client, Error, is_not_found};
use serde::Serialize;
use serde_json::Value;

/// Now, in seconds since the epoch.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Now, as the API writes it.
pub(crate) fn now_text() -> String {
    time::format_seconds(now())
}

/// A time stamp of the API in seconds since the epoch; 0 if absent or unreadable.
pub(crate) fn seconds(text: &str) -> i64 {
    time::parse_any(text).map_or(0, |time| time.seconds)
}

/// Replaces an object's status. The object is fetched for it, so that nothing else is touched; should
/// it have changed since, the server answers with a conflict and the caller's retry sorts it out.
pub(crate) async fn write_status(
    client: &Client,
    resource: &Resource,
    meta: &Meta,
    status: &impl Serialize,
) -> Result<(), Error> {
    write_status_with(client, resource, meta, status, |_| {}).await
}

/// The same with a change of the metadata that goes along.
pub(crate) async fn write_status_with(
    client: &Client,
    resource: &Resource,
    meta: &Meta,
    status: &impl Serialize,
    change: impl FnOnce(&mut Value),
) -> Result<(), Error> {
    let mut object: Value = client.get(resource, meta.namespace(), &meta.name).await?;
    if object.pointer("/metadata/uid").and_then(Value::as_str) != Some(meta.uid.as_str()) {
        return Ok(());
    }
    object["status"] =
        serde_json::to_value(status).map_err(|source| Error::Decode { what: resource.kind.to_owned(), source })?;
    change(&mut object);
    client.update_status::<Value>(resource, meta.namespace(), &meta.name, &object).await.map(drop)
}

/// Replaces the status of an object that is still at `version`, and tells its new version. Whatever else
/// was written meanwhile has been decided upon by somebody who knew more: then nothing is written, and
/// the cache will show what happened.
pub(crate) async fn replace_status(
    client: &Client,
    resource: &Resource,
    meta: &Meta,
    version: &str,
    status: &impl Serialize,
) -> Result<Option<String>, Error> {
    let found: Result<Value, Error> = client.get(resource, meta.namespace(), &meta.name).await;
    let mut object = match found {
        Err(error) if is_not_found(&error) => return Ok(None),
        other => other?,
    };
    let text = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    if text(&object, "uid") != meta.uid || text(&object, "resourceVersion") != version {
        return Ok(None);
    }
    object["status"] =
        serde_json::to_value(status).map_err(|source| Error::Decode { what: resource.kind.to_owned(), source })?;
    let written: Value = client.update_status(resource, meta.namespace(), &meta.name, &object).await?;
    Ok(Some(text(&written, "resourceVersion")))
}
