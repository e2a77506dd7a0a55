//! Typed requests: get, list, create, update, patch, delete, watch.

use crate::calls::{Calls, Counting};
use crate::path::{Query, resource_path};
use crate::transport::{Error, Request, Transport, WatchStream};
use bytes::Bytes;
use naru_api::registry::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

const JSON: &str = "application/json";

/// Speaks to one API server as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Which objects to list or watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// Label selector in its string form.
    pub label_selector: Option<String>,
    /// Field selector in its string form.
    pub field_selector: Option<String>,
}

impl ListParams {
    /// Everything, in all namespaces.
    pub fn all() -> Self {
        Self::default()
    }

    /// Everything in one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Restricts to objects whose labels match.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    /// Restricts to objects whose fields match.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    pub(crate) fn query(&self, resource: &Resource) -> Query {
        Query::new(resource_path(resource, self.namespace.as_deref(), None, None))
            .set_some("labelSelector", self.label_selector.as_deref())
            .set_some("fieldSelector", self.field_selector.as_deref())
    }
}

/// metav1.ListMeta.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The store's revision that the list shows.
    pub resource_version: String,
    /// Token for the next page, empty on the last one.
    #[serde(rename = "continue")]
    pub continue_token: String,
}

/// A list of objects.
#[derive(Debug, Clone, Deserialize)]
pub struct List<T> {
    /// Revision and continuation.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// The kind of a patch document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge.
    Strategic,
    /// RFC 6902.
    Json,
}

impl PatchKind {
    /// The request's content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They are kept.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

/// What must hold for a delete to happen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// The object's uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object's resourceVersion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// metav1.DeleteOptions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds; 0 deletes at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// Dependents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// Preconditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

impl DeleteOptions {
    /// Deletes only the object with this uid.
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.preconditions.get_or_insert_default().uid = Some(uid.into());
        self
    }

    /// Deletes the object only if nobody has changed it since.
    pub fn resource_version(mut self, version: impl Into<String>) -> Self {
        self.preconditions.get_or_insert_default().resource_version = Some(version.into());
        self
    }

    /// Gives the object this many seconds.
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// Decides about the dependents.
    pub fn propagation(mut self, policy: Propagation) -> Self {
        self.propagation_policy = Some(policy);
        self
    }
}

impl Client {
    /// A client that sends its requests through `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// The same client, whose requests are counted.
    #[must_use]
    pub fn counted(&self, calls: Arc<Calls>) -> Self {
        Self::new(Arc::new(Counting { transport: self.transport.clone(), calls }))
    }

    /// What carries the requests, for those who build their own.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Reads one object.
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T, Error> {
        let uri = resource_path(resource, namespace, Some(name), None);
        decode(resource.kind, &self.send(http::Method::GET, uri, JSON, Bytes::new()).await?)
    }

    /// Reads a whole collection in one answer. Informers are the better choice for anything lasting.
    pub async fn list<T: DeserializeOwned>(&self, resource: &Resource, params: &ListParams) -> Result<List<T>, Error> {
        let uri = params.query(resource).build();
        decode(resource.kind, &self.send(http::Method::GET, uri, JSON, Bytes::new()).await?)
    }

    /// Creates an object and returns it as stored.
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let uri = resource_path(resource, namespace, None, None);
        let body = encode(resource.kind, object)?;
        decode(resource.kind, &self.send(http::Method::POST, uri, JSON, body).await?)
    }

    /// Creates through a subresource, such as `pods/binding` or `serviceaccounts/token`.
    pub async fn create_sub<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let uri = resource_path(resource, namespace, Some(name), Some(subresource));
        let body = encode(resource.kind, object)?;
        decode(resource.kind, &self.send(http::Method::POST, uri, JSON, body).await?)
    }

    /// Replaces an object; its resourceVersion, if set, must be the current one.
    pub async fn update<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        self.update_sub(resource, namespace, name, None, object).await
    }

    /// Replaces an object's status.
    pub async fn update_status<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        self.update_sub(resource, namespace, name, Some("status"), object).await
    }

    /// Replaces an object or, through a subresource, a part of it.
    pub async fn update_sub<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let uri = resource_path(resource, namespace, Some(name), subresource);
        let body = encode(resource.kind, object)?;
        decode(resource.kind, &self.send(http::Method::PUT, uri, JSON, body).await?)
    }

    /// Patches an object or a subresource.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        kind: PatchKind,
        patch: &Value,
    ) -> Result<T, Error> {
        let uri = resource_path(resource, namespace, Some(name), subresource);
        let body = encode(resource.kind, patch)?;
        decode(resource.kind, &self.send(http::Method::PATCH, uri, kind.content_type(), body).await?)
    }

    /// Deletes an object. The answer (a Status, or the object while it terminates) is dropped.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let uri = resource_path(resource, namespace, Some(name), None);
        let body = encode("DeleteOptions", options)?;
        self.send(http::Method::DELETE, uri, JSON, body).await.map(drop)
    }

    /// Deletes all objects of a collection that match.
    pub async fn delete_collection(
        &self,
        resource: &Resource,
        params: &ListParams,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let uri = params.query(resource).build();
        let body = encode("DeleteOptions", options)?;
        self.send(http::Method::DELETE, uri, JSON, body).await.map(drop)
    }

    /// Follows a collection from `resource_version` on, with bookmarks.
    pub async fn watch(
        &self,
        resource: &Resource,
        params: &ListParams,
        resource_version: &str,
    ) -> Result<WatchStream, Error> {
        let uri = params
            .query(resource)
            .set("watch", "true")
            .set("allowWatchBookmarks", "true")
            .set("resourceVersion", resource_version)
            .build();
        let request = Request { method: http::Method::GET, uri, content_type: JSON, body: Bytes::new() };
        self.transport.watch(request).await
    }

    /// Sends any request and returns the undecoded answer.
    pub async fn send(
        &self,
        method: http::Method,
        uri: String,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        self.transport.send(Request { method, uri, content_type, body }).await
    }
}

fn encode(what: &str, object: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(object).map(Bytes::from).map_err(|source| Error::Decode { what: what.to_owned(), source })
}

pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode { what: what.to_owned(), source })
}

fn has_reason(error: &Error, reason: &str, code: u16) -> bool {
    matches!(error, Error::Status(status)
        if status.reason == reason || (status.reason.is_empty() && status.code == code))
}

/// The object is not there.
pub fn is_not_found(error: &Error) -> bool {
    has_reason(error, "NotFound", 404)
}

/// The object has changed since it was read.
pub fn is_conflict(error: &Error) -> bool {
    has_reason(error, "Conflict", 409)
}

/// An object of that name is there already.
pub fn is_already_exists(error: &Error) -> bool {
    has_reason(error, "AlreadyExists", 409)
}

/// The object breaks a rule of its kind.
pub fn is_invalid(error: &Error) -> bool {
    has_reason(error, "Invalid", 422)
}

/// The resourceVersion or continue token is too old.
pub fn is_gone(error: &Error) -> bool {
    has_reason(error, "Expired", 410) || has_reason(error, "Gone", 410)
}
