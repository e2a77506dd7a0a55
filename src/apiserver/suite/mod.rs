//! The API server as a whole, driven in-process over a temporary store.

#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod admission;
mod apply;
mod audit;
mod authentication;
mod authorization;
mod content;
mod deletion;
mod flow_control;
mod identity;
mod lifecycles;
mod node_tokens;
mod objects;
mod outside;
mod permissions;
mod plugins;
mod proxying;
mod services;
mod stalls;
mod versions;
mod watches;

use crate::authn::{Peer, User};
use crate::negotiate;
use crate::pipeline::{self, Authenticated, Source, State};
use crate::response::Reply;
use crate::{ApiServer, Config};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use naru_api::status::Status;
use naru_base::Shutdown;
use naru_client::transport::WatchStream;
use naru_store::{Options, Store};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;

/// A server over a store that goes with it.
pub(crate) struct Server {
    _dir: Option<TempDir>,
    api: ApiServer,
    pub(crate) shutdown: Shutdown,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    body: Value,
    warnings: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub(crate) fn key_pem() -> String {
    use base64::Engine;
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server whose configuration differs from the usual one.
    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
        let shutdown = Shutdown::new();
        let mut config = Config::new(store, key_pem(), [192, 0, 2, 1].into());
        change(&mut config);
        let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
        let server = Self { _dir: Some(dir), api, shutdown };
        let account = json!({ "metadata": { "name": "default" } });
        server.post("/api/v1/namespaces/default/serviceaccounts", account).await;
        server
    }

    /// A server that was started elsewhere.
    pub(crate) fn over(api: ApiServer, shutdown: Shutdown) -> Self {
        Self { _dir: None, api, shutdown }
    }

    fn state(&self) -> &Arc<State> {
        &self.api.state
    }

    async fn outcome(
        &self,
        user: User,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, Box<Status>> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let request = Authenticated {
            user: Arc::new(user),
            notes: Arc::default(),
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: Source::Bytes(Bytes::copy_from_slice(body)),
            upgrade: None,
        };
        pipeline::run(self.state().clone(), request).await
    }

    async fn call_as(&self, user: User, method: Method, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.outcome(user, method, uri, headers, body).await {
            Ok(Reply::Bytes(complete)) => Answer {
                code: complete.code,
                body: serde_json::from_slice(&complete.body)
                    .unwrap_or_else(|_| String::from_utf8_lossy(&complete.body).into_owned().into()),
                warnings: complete.warnings,
            },
            Ok(_) => panic!("{uri} answered with a stream"),
            Err(status) => {
                Answer { code: status.code, body: serde_json::to_value(&*status).unwrap(), warnings: Vec::new() }
            }
        }
    }

    pub(crate) async fn call(&self, method: Method, uri: &str, content_type: &str, body: &[u8]) -> Answer {
        self.call_as(admin(), method, uri, &[("content-type", content_type)], body).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.call(Method::GET, uri, "", b"").await
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) -> Answer {
        self.call(Method::POST, uri, "application/json", body.to_string().as_bytes()).await
    }

    pub(crate) async fn put(&self, uri: &str, body: Value) -> Answer {
        self.call(Method::PUT, uri, "application/json", body.to_string().as_bytes()).await
    }

    pub(crate) async fn merge(&self, uri: &str, body: Value) -> Answer {
        self.call(Method::PATCH, uri, "application/merge-patch+json", body.to_string().as_bytes()).await
    }

    pub(crate) async fn delete(&self, uri: &str) -> Answer {
        self.call(Method::DELETE, uri, "", b"").await
    }

    async fn delete_with(&self, uri: &str, options: Value) -> Answer {
        self.call(Method::DELETE, uri, "application/json", options.to_string().as_bytes()).await
    }

    async fn watch(&self, uri: &str, accept: &str) -> WatchStream {
        match self.outcome(admin(), Method::GET, uri, &[("accept", accept)], b"").await {
            Ok(Reply::Watch(events)) => events,
            Ok(_) => panic!("{uri} is no watch"),
            Err(status) => panic!("{uri}: {}", status.message),
        }
    }
}

/// The user of a request from the network with this Authorization header; `None` when it is refused.
async fn authenticate(state: &State, authorization: Option<&str>, path: &str) -> Option<Arc<User>> {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    let found = state.authn.authenticate(&state.cache, &Peer::default(), &mut headers, path).await;
    found.ok().map(|(user, _)| user)
}

fn admin() -> User {
    User::authenticated("admin", ["system:masters".to_owned()])
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{} {}", self.code, self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn code_is(self, code: u16) {
        assert_eq!(self.code, code, "{}", self.body);
    }

    #[track_caller]
    pub(crate) fn refused(self, code: u16, message: &str) -> Value {
        assert_eq!((self.code, self.body["message"].as_str().unwrap_or_default()), (code, message));
        self.body
    }
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": "v" } })
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let server = Server::start().await;
    let store = server.state().config.store.clone();
    let before = store.revision();
    let config = Config::new(store.clone(), key_pem(), [192, 0, 2, 1].into());
    ApiServer::new(config, server.shutdown.child()).await.unwrap();
    assert_eq!(store.revision(), before);
}

#[tokio::test]
async fn the_kubernetes_service_and_its_endpoints_exist() {
    let server = Server::start().await;
    let service = server.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.43.0.1"]));
    let endpoints = server.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.1");
    let slice = server.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
}

#[tokio::test]
async fn documents_and_health() {
    let server = Server::start().await;
    assert_eq!(server.get("/version").await.ok()["gitVersion"], "v1.36.0+naru1");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(server.get(path).await.ok(), "ok");
    }
    assert!(server.get("/readyz?verbose").await.ok().as_str().unwrap().ends_with("readyz check passed\n"));
    assert_eq!(server.get("/api/v1").await.ok()["kind"], "APIResourceList");
    assert_eq!(server.get("/apis").await.ok()["kind"], "APIGroupList");
    assert_eq!(server.get("/apis/apps").await.ok()["preferredVersion"]["version"], "v1");
    let index = server.get("/openapi/v3").await.ok();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(server.get(&url).await.ok()["paths"].is_object());
    let document = server.get("/openapi/v2").await.ok();
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    for (accept, kind) in
        [("*/*", "application/json"), (protobuf, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")]
    {
        let ask = async |headers: &[(&str, &str)]| match server
            .outcome(admin(), Method::GET, "/openapi/v2", headers, b"")
            .await
        {
            Ok(Reply::Bytes(complete)) => complete,
            _ => panic!("{accept}: no document"),
        };
        let given = ask(&[("accept", accept), ("accept-encoding", "gzip")]).await;
        assert_eq!((given.code, given.content_type), (200, kind));
        assert!(given.body.starts_with(&[0x1f, 0x8b]));
        let etag = given.headers.iter().find(|(name, _)| *name == http::header::ETAG).unwrap();
        let again = ask(&[("accept", accept), ("if-none-match", etag.1.to_str().unwrap())]).await;
        assert_eq!((again.code, again.body.len()), (304, 0));
    }
    server.call_as(admin(), Method::GET, "/openapi/v2", &[("accept", "text/html")], b"").await.code_is(406);
    assert_eq!(server.get("/nowhere").await.body, "404 page not found\n");
}

#[tokio::test]
async fn every_negotiated_form_of_a_list() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a")).await.ok();
    let accept = |form: &str| format!("application/json;as={form};g=meta.k8s.io;v=v1,application/json");
    for (form, kind) in [("Table", "Table"), ("PartialObjectMetadataList", "PartialObjectMetadataList")] {
        let accept = accept(form);
        let answer = server.call_as(admin(), Method::GET, CONFIG_MAPS, &[("accept", &accept)], b"").await.ok();
        assert_eq!(answer["kind"], kind);
        let rows = if form == "Table" { &answer["rows"][0]["object"] } else { &answer["items"][0] };
        assert_eq!(rows["metadata"]["name"], "a");
    }
    let accept = accept("Table");
    let one = format!("{CONFIG_MAPS}/a");
    let table = server.call_as(admin(), Method::GET, &one, &[("accept", &accept)], b"").await.ok();
    assert_eq!(table["rows"][0]["cells"][0], "a");
    let wrong = server.call_as(admin(), Method::GET, &one, &[("accept", "text/html")], b"").await;
    assert_eq!(wrong.code, 406);
    assert!(!negotiate::accepts_gzip(&HeaderMap::new()));
}
