//! Applies and deletes single objects, of built-in kinds and of others.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use naru_api::registry::{self, Scope};
use naru_client::{Client, DeleteOptions, Propagation, Query, is_not_found};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Owns the fields that manifests set.
const FIELD_MANAGER: &str = "naru-manifests";
/// Names the file that an object comes from.
const ANNOTATION: &str = "naru.io/manifest";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Id {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
}

impl Id {
    pub(super) fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
        }
    }
}

/// Where objects of a kind are.
struct Place {
    plural: String,
    namespaced: bool,
}

/// Speaks to the server.
pub(super) struct Applier {
    client: Client,
}

impl Applier {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Makes the object what the file says; fields that others have set stay.
    pub(super) async fn apply(&self, object: &Value, file: &str) -> Result<()> {
        let id = Id::of(object);
        let what = || format!("{} {}", id.kind, id.name);
        let Some(path) = self.path(&id).await.with_context(what)? else {
            bail!("no matches for kind {:?} in version {:?}", id.kind, id.api_version);
        };
        let mut object = object.clone();
        object["metadata"]["annotations"][ANNOTATION] = file.into();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp"] {
                metadata.remove(field);
            }
        }
        let uri = Query::new(path).set("fieldManager", FIELD_MANAGER).set("force", "true").build();
        let body = Bytes::from(serde_json::to_vec(&object)?);
        self.client.send(http::Method::PATCH, uri, APPLY, body).await.with_context(what)?;
        Ok(())
    }

    /// Deletes an object, if it comes from that file still.
    pub(super) async fn delete(&self, id: &Id, file: &str) -> Result<()> {
        let what = || format!("{} {}", id.kind, id.name);
        let Some(path) = self.path(id).await.with_context(what)? else { return Ok(()) };
        let found = match self.client.send(http::Method::GET, path.clone(), JSON, Bytes::new()).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other.with_context(what)?,
        };
        let found: Value = serde_json::from_slice(&found)?;
        if found["metadata"]["annotations"][ANNOTATION] != file {
            return Ok(());
        }
        let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
        let options = DeleteOptions::default().uid(uid).propagation(Propagation::Background);
        let body = Bytes::from(serde_json::to_vec(&options)?);
        match self.client.send(http::Method::DELETE, path, JSON, body).await {
            Err(error) if !is_not_found(&error) => Err(error).with_context(what),
            _ => Ok(()),
        }
    }

    /// The object's path; nothing if there is no such kind.
    async fn path(&self, id: &Id) -> Result<Option<String>> {
        let (group, version) = id.api_version.split_once('/').unwrap_or(("", &id.api_version));
        let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let built_in = registry::by_kind(group, version, &id.kind);
        let place = match built_in {
            Some(resource) => {
                Some(Place { plural: resource.plural.to_owned(), namespaced: resource.scope == Scope::Namespaced })
            }
            None => self.discover(&prefix, &id.kind).await?,
        };
        Ok(place.map(|place| {
            let namespace = if id.namespace.is_empty() { "default" } else { &id.namespace };
            let namespace = if place.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
            format!("{prefix}{namespace}/{}/{}", place.plural, id.name)
        }))
    }

    async fn discover(&self, prefix: &str, kind: &str) -> Result<Option<Place>> {
        let list = match self.client.send(http::Method::GET, prefix.to_owned(), JSON, Bytes::new()).await {
            Err(error) if is_not_found(&error) => return Ok(None),
            other => other?,
        };
        // A group that is not served is answered in plain words.
        let list: Value = serde_json::from_slice(&list).unwrap_or_default();
        let resources = list["resources"].as_array().into_iter().flatten();
        let mut found = resources.filter_map(|resource| {
            let plural = resource["name"].as_str().filter(|name| !name.contains('/') && resource["kind"] == kind)?;
            Some(Place { plural: plural.to_owned(), namespaced: resource["namespaced"] == true })
        });
        Ok(found.next())
    }
}
