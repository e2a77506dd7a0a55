//! Reading and writing whole objects: what a projection is too small for.

use naru_api::meta::time;
use naru_api::registry::Resource;
use naru_client::projections::Meta;
use naru_client::{Client, Error};
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
    let mut object: Value = client.get(resource, meta.namespace(), &meta.name).await?;
    if object.pointer("/metadata/uid").and_then(Value::as_str) != Some(meta.uid.as_str()) {
        return Ok(());
    }
    object["status"] =
        serde_json::to_value(status).map_err(|source| Error::Decode { what: resource.kind.to_owned(), source })?;
    client.update_status::<Value>(resource, meta.namespace(), &meta.name, &object).await.map(drop)
}
