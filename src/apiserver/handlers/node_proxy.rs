//! Logs, exec, attach and port-forward: passed to the pod's node, upgrades included.

use super::Call;
use crate::config::{Config, StartError};
use crate::objects;
use crate::request_info::percent_encode;
use crate::response::{Body, BodyError, Failure, Outcome, Reply, full};
use crate::server::certificates;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naru_api::registry::{self, Action};
use naru_api::status::{FieldErrors, Status};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting to a node may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// Where nodes listen when they do not say.
const USUAL_PORT: u16 = 10250;

/// Connects to nodes as the API server.
pub(crate) struct KubeletDialer {
    connector: Option<TlsConnector>,
}

impl std::fmt::Debug for KubeletDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeletDialer").finish_non_exhaustive()
    }
}

impl KubeletDialer {
    /// With the configured identity; without one, nothing can be proxied.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let Some(identity) = &config.kubelet_client else { return Ok(Self { connector: None }) };
        let wrong = |what: &'static str| move |reason: String| StartError::Config { what, reason };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&config.kubelet_ca_pem).map_err(wrong("kubelet CA"))? {
            roots.add(certificate).map_err(|error| wrong("kubelet CA")(error.to_string()))?;
        }
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|error| wrong("kubelet client key")(error.to_string()))?;
        let chain = certificates(&identity.cert_pem).map_err(wrong("kubelet client certificate"))?;
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("tls")(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| wrong("kubelet client certificate")(error.to_string()))?;
        Ok(Self { connector: Some(TlsConnector::from(Arc::new(tls))) })
    }

    /// A connection for one request.
    async fn dial(&self, address: IpAddr, port: u16) -> Result<http1::SendRequest<Full<Bytes>>, String> {
        let connector = self.connector.as_ref().ok_or("the server has no identity towards nodes")?;
        let connect = async {
            let stream = TcpStream::connect((address, port))
                .await
                .map_err(|error| format!("dial tcp {address}:{port}: {error}"))?;
            let _ = stream.set_nodelay(true);
            let name = ServerName::IpAddress(address.into());
            connector.connect(name, stream).await.map_err(|error| format!("tls to {address}:{port}: {error}"))
        };
        let tls = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| format!("dial tcp {address}:{port}: timed out"))??;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|error| format!("http to {address}:{port}: {error}"))?;
        naru_base::spawn("kubelet-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        Ok(sender)
    }
}

/// Passes the request to the pod's node.
pub(super) async fn proxy(call: Call, action: Action) -> Outcome {
    let name = call.info.name.clone();
    let namespace = call.info.namespace.clone();
    if action == Action::Log {
        check_log_options(&call)?;
    }
    let pod = call
        .state
        .cache
        .get(&registry::PODS, Some(&namespace), &name)
        .ok_or_else(|| Box::new(Status::not_found("", "pods", &name)))?;
    let pod = objects::tree(&pod)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        if action == Action::Log {
            // Not started anywhere yet: nothing logged.
            return Ok(Reply::text(""));
        }
        return Err(Box::new(Status::bad_request(format!("pod {name} does not have a host assigned"))));
    }
    let (address, port) = node_address(&call, node)?;
    let path = kubelet_path(&call, &pod, action)?;
    let failed =
        |why: String| Box::new(Status::failure(502, "BadGateway", format!("error dialing node {node}: {why}")));
    let mut sender = call.state.kubelets.dial(address, port).await.map_err(failed)?;
    let request = request(&call, &path, &format!("{address}:{port}"))?;
    let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    answer(call, response, action).await
}

/// Refuses options of a log that contradict each other or make no sense.
fn check_log_options(call: &Call) -> Result<(), Failure> {
    let number = |key: &str| call.query.get(key).and_then(|text| text.parse::<i64>().ok());
    let mut errors = FieldErrors::default();
    if let Some(lines) = number("tailLines").filter(|lines| *lines < 0) {
        errors.invalid("tailLines", lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = number("limitBytes").filter(|bytes| *bytes < 1) {
        errors.invalid("limitBytes", bytes, "must be greater than 0");
    }
    match (number("sinceSeconds"), call.query.get("sinceTime")) {
        (Some(_), Some(_)) => {
            errors.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        (Some(seconds), None) if seconds < 1 => errors.invalid("sinceSeconds", seconds, "must be greater than 0"),
        _ => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid("", "PodLogOptions", &call.info.name, errors)))
}

/// The node's internal address and the port of its API.
fn node_address(call: &Call, node: &str) -> Result<(IpAddr, u16), Failure> {
    let found = call
        .state
        .cache
        .get(&registry::NODES, None, node)
        .ok_or_else(|| Box::new(Status::not_found("", "nodes", node)))?;
    let found = objects::tree(&found)?;
    let status = &found["status"];
    let address = ["InternalIP", "ExternalIP"].iter().find_map(|kind| {
        let addresses = status["addresses"].as_array()?;
        let entry = addresses.iter().find(|entry| entry["type"] == *kind)?;
        entry["address"].as_str()?.parse::<IpAddr>().ok()
    });
    let address = address.ok_or_else(|| {
        Box::new(Status::internal(format!(
            "no preferred addresses found for node {node:?}; known addresses: {}",
            status["addresses"]
        )))
    })?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|port| u16::try_from(port).ok());
    Ok((address, port.filter(|port| *port != 0).unwrap_or(USUAL_PORT)))
}

/// The path and query of the node's API.
fn kubelet_path(call: &Call, pod: &Value, action: Action) -> Result<String, Failure> {
    let (namespace, name) = (percent_encode(&call.info.namespace), percent_encode(&call.info.name));
    if action == Action::PortForward {
        let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
        return Ok(format!("/portForward/{namespace}/{name}{query}"));
    }
    let container = percent_encode(&container(call, pod, action)?);
    let mut query: Vec<String> = Vec::new();
    let endpoint = match action {
        Action::Log => {
            let passed =
                ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
            for key in passed {
                query.extend(call.query.get(key).map(|value| format!("{key}={}", percent_encode(value))));
            }
            "containerLogs"
        }
        Action::Exec => {
            query.extend(call.query.all("command").map(|command| format!("command={}", percent_encode(command))));
            "exec"
        }
        _ => "attach",
    };
    if action != Action::Log {
        for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
            if call.query.flag(ours) {
                query.push(format!("{theirs}=1"));
            }
        }
    }
    Ok(format!("/{endpoint}/{namespace}/{name}/{container}?{}", query.join("&")))
}

/// The container that is meant: the named one, or the only one, or the annotated default.
fn container(call: &Call, pod: &Value, action: Action) -> Result<String, Failure> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    let pod_name = &call.info.name;
    match call.query.get("container").filter(|name| !name.is_empty()) {
        Some(wanted) => {
            let found = main.iter().chain(&init).chain(&ephemeral).any(|name| name == wanted);
            if found {
                return Ok(wanted.to_owned());
            }
            Err(Box::new(Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}"))))
        }
        None if main.len() == 1 && (init.is_empty() || action != Action::Log) => Ok(main[0].clone()),
        None => {
            let annotated = naru_api::meta::annotation(pod, "kubectl.kubernetes.io/default-container");
            if let Some(name) = annotated.filter(|name| main.iter().any(|main| main == name)) {
                return Ok(name.to_owned());
            }
            let mut text =
                format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", main.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Box::new(Status::bad_request(text)))
        }
    }
}

/// Headers that belong to one connection.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | HOST | CONTENT_LENGTH | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "te" | "trailer" | "proxy-connection" | "authorization" | "cookie")
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if !is_hop_by_hop(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

fn request(call: &Call, path: &str, host: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(path)
        .header(HOST, host)
        .body(Full::new(call.body.clone()))
        .map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    copy_headers(&call.headers, request.headers_mut());
    if let Some(upgrade) = call.headers.get(UPGRADE) {
        request.headers_mut().insert(UPGRADE, upgrade.clone());
        request.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    }
    Ok(request)
}

/// The node's answer. After an upgrade the two connections are joined until one ends.
async fn answer(mut call: Call, mut response: Response<Incoming>, action: Action) -> Outcome {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = call.upgrade.take() else {
            return Err(Box::new(Status::internal("the node upgraded a connection that was not asked to")));
        };
        let node = hyper::upgrade::on(&mut response);
        naru_base::spawn("stream-to-node", async move {
            let (Ok(client), Ok(node)) = (client.await, node.await) else { return };
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
                tracing::debug!(%error, "stream to a node ended");
            }
        });
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        copy_headers(response.headers(), answer.headers_mut());
        for name in [UPGRADE, CONNECTION] {
            if let Some(value) = response.headers().get(&name) {
                answer.headers_mut().insert(name, value.clone());
            }
        }
        return Ok(Reply::Http(Box::new(answer)));
    }
    if !response.status().is_success() && action == Action::Log {
        return Err(refusal(response).await);
    }
    let (parts, body) = response.into_parts();
    let body: Body = body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = parts.status;
    copy_headers(&parts.headers, answer.headers_mut());
    Ok(Reply::Http(Box::new(answer)))
}

/// What a node says when it has no log, as a Status.
async fn refusal(response: Response<Incoming>) -> Failure {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), 64 * 1024).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    Box::new(match code {
        400 => Status::bad_request(text),
        404 => Status::failure(404, "NotFound", text),
        _ => Status::failure(code, "InternalError", text),
    })
}
