//! The connection to the cluster, and how failures are told.

use crate::cli::Global;
use anyhow::bail;
use bytes::Bytes;
use naru_client::https::HttpTransport;
use naru_client::kubeconfig::{Kubeconfig, from_kubeconfig};
use naru_client::{Error, Request, Transport};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where a server on this machine leaves its kubeconfig.
const SERVER_KUBECONFIG: &str = "/etc/naru/naru.yaml";

pub(crate) struct Session {
    pub(crate) transport: HttpTransport,
    pub(crate) namespace: String,
}

impl Session {
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let path = find_kubeconfig(global)?;
        let Kubeconfig { mut http, namespace } = from_kubeconfig(&path, global.context.as_deref())
            .map_err(|error| anyhow::anyhow!("error loading config file {:?}: {error}", path.display().to_string()))?;
        if let Some(server) = &global.server {
            http.server.clone_from(server);
        }
        let given = global.namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace = given.or(namespace).filter(|namespace| !namespace.is_empty());
        Ok(Self { transport: HttpTransport::new(&http)?, namespace: namespace.unwrap_or_else(|| "default".to_owned()) })
    }

    pub(crate) async fn get(&self, uri: String) -> Result<Value, Error> {
        self.send(http_method("GET"), uri, "application/json", Bytes::new()).await
    }

    /// Reads a list or an object as a table.
    pub(crate) async fn table(&self, uri: String) -> Result<Value, Error> {
        const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = Request { method: http_method("GET"), uri, content_type: "application/json", body: Bytes::new() };
        decode(&self.transport.send_accepting(request, TABLE).await?)
    }

    pub(crate) async fn send(
        &self,
        method: http::Method,
        uri: String,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Value, Error> {
        decode(&self.transport.send(Request { method, uri, content_type, body }).await?)
    }
}

pub(crate) fn http_method(name: &'static str) -> http::Method {
    http::Method::from_bytes(name.as_bytes()).unwrap_or_default()
}

fn decode(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Decode { what: "the server's answer".to_owned(), source })
}

fn find_kubeconfig(global: &Global) -> anyhow::Result<PathBuf> {
    if let Some(path) = global.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        // A list of files, of which this client takes the first.
        let first = path.to_str().and_then(|list| list.split(':').find(|part| !part.is_empty()));
        return Ok(first.map_or_else(|| path.clone(), PathBuf::from));
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let candidates = home.into_iter().chain([PathBuf::from(SERVER_KUBECONFIG)]);
    match candidates.into_iter().find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!(
            "no kubeconfig: give --kubeconfig or set KUBECONFIG (a server on this machine writes {SERVER_KUBECONFIG})"
        ),
    }
}

/// A failure in upstream's words.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Error>() {
        Some(Error::Status(status)) if status.reason.is_empty() => format!("Error from server: {}", status.message),
        Some(Error::Status(status)) => format!("Error from server ({}): {}", status.reason, status.message),
        Some(Error::Connection(reason)) => format!("Unable to connect to the server: {reason}"),
        _ => format!("error: {error:#}"),
    }
}
