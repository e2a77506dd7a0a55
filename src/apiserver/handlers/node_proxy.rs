//! Logs, exec, attach and port-forward: passed to the pod's node, upgrades included.

use super::Call;
use crate::admission::{self, Attributes, Operation};
use crate::clock;
use crate::dialer::{Destination, Trust};
use crate::objects;
use crate::request_info::percent_encode;
use crate::response::{Body, BodyError, Failure, Outcome, Reply, full};
use crate::websocket;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use naru_api::registry::{self, Action, Resource};
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::num::{IntErrorKind, ParseIntError};

/// Where nodes listen when they do not say.
const USUAL_PORT: u16 = 10250;

/// Passes the request to the pod's node.
pub(super) async fn proxy(call: Call, resource: &'static Resource, action: Action) -> Outcome {
    let name = call.info.name.clone();
    match action {
        Action::Log => check_log_options(&call)?,
        _ => connect_admission(&call, resource, stream_options(&call, action)).await?,
    }
    let pod = call
        .state
        .cache
        .get(&registry::PODS, Some(&call.info.namespace), &name)
        .ok_or_else(|| Box::new(Status::not_found("", "pods", &name)))?;
    let pod = objects::tree(&pod)?;
    let path = kubelet_path(&call, &pod, action)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        if action == Action::Log {
            // Not started anywhere yet: nothing logged.
            return Ok(Reply::text(""));
        }
        return Err(Box::new(Status::bad_request(format!("pod {name} does not have a host assigned"))));
    }
    if action != Action::Log && call.upgrade.is_none() {
        return Err(Box::new(Status::bad_request("Upgrade request required")));
    }
    let kubelet = kubelet_of(&call, node)?;
    let blind = action == Action::Log && call.query.flag("insecureSkipTLSVerifyBackend");
    let trust = if blind { Trust::KubeletUnverified } else { Trust::Kubelet };
    let failed = |why: String| {
        let text = match action {
            Action::Log => format!("Get \"https://{kubelet}{path}\": {why}"),
            _ => format!("error dialing backend: {why}"),
        };
        Box::new(Status::failure(500, "", text))
    };
    let mut sender = call.state.backends.connect(kubelet.clone(), trust).await.map_err(failed)?;
    let request = request(&call, &path, &kubelet.to_string(), action == Action::Log)?;
    let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    answer(call, response, action).await
}

/// Admission of what is no write: a stream, or a request that is passed on.
pub(super) async fn connect_admission(
    call: &Call,
    resource: &'static Resource,
    mut options: Value,
) -> Result<(), Failure> {
    let attributes = Attributes {
        operation: Operation::Connect,
        resource,
        subresource: &call.info.subresource,
        namespace: call.namespace(resource),
        name: &call.info.name,
        user: &call.user,
        old: None,
        dry_run: false,
        notes: &call.notes,
    };
    admission::admit(&call.state, &attributes, &mut options).await?;
    admission::validate(&call.state, &attributes, &options).await
}

/// The query of a stream as the object that admission looks at.
fn stream_options(call: &Call, action: Action) -> Value {
    let mut options = json!({ "apiVersion": "v1" });
    if action == Action::PortForward {
        options["kind"] = "PodPortForwardOptions".into();
        let ports: Vec<i64> = call.query.all("ports").flat_map(|all| all.split(',')).flat_map(str::parse).collect();
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        return options;
    }
    options["kind"] = if action == Action::Exec { "PodExecOptions" } else { "PodAttachOptions" }.into();
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = call.query.get("container").filter(|name| !name.is_empty()) {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if action == Action::Exec && !command.is_empty() {
        options["command"] = command.into();
    }
    options
}

/// Refuses options of a log that contradict each other or make no sense.
fn check_log_options(call: &Call) -> Result<(), Failure> {
    let number = |key: &str| -> Result<Option<i64>, Failure> {
        let Some(text) = call.query.get(key) else { return Ok(None) };
        let wrong = |error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Box::new(Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}")))
        };
        text.parse().map(Some).map_err(wrong)
    };
    let (lines, bytes, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = call.query.get("sinceTime").filter(|time| !time.is_empty());
    if let Some(time) = time.filter(|time| clock::parse_rfc3339(time).is_none()) {
        let text = format!("parsing time {time:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {time:?} as \"2006\"");
        return Err(Box::new(Status::bad_request(text)));
    }
    let mut errors = FieldErrors::default();
    if let Some(lines) = lines.filter(|lines| *lines < 0) {
        errors.invalid("tailLines", lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = bytes.filter(|bytes| *bytes < 1) {
        errors.invalid("limitBytes", bytes, "must be greater than 0");
    }
    match (seconds, time) {
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
pub(super) fn kubelet_of(call: &Call, node: &str) -> Result<Destination, Failure> {
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
    let port = port.filter(|port| *port != 0).unwrap_or(USUAL_PORT);
    Ok(Destination { node: Some(node.to_owned()), address, port })
}

/// The path and query of the node's API.
fn kubelet_path(call: &Call, pod: &Value, action: Action) -> Result<String, Failure> {
    let (namespace, name) = (percent_encode(&call.info.namespace), percent_encode(&call.info.name));
    if action == Action::PortForward {
        let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
        return Ok(format!("/portForward/{namespace}/{name}{query}"));
    }
    let container = percent_encode(&container(call, pod)?);
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

/// The container that is meant: the named one, or the only one.
fn container(call: &Call, pod: &Value) -> Result<String, Failure> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let pod_name = &call.info.name;
    if let Some(wanted) = call.query.get("container").filter(|name| !name.is_empty()) {
        let ephemeral = names("ephemeralContainers");
        let found = main.iter().chain(&init).chain(&ephemeral).any(|name| name == wanted);
        let text = format!("container {wanted} is not valid for pod {pod_name}");
        return if found { Ok(wanted.to_owned()) } else { Err(Box::new(Status::bad_request(text))) };
    }
    let mut text = format!("a container name must be specified for pod {pod_name}");
    match main.as_slice() {
        [one] => return Ok(one.clone()),
        [] => {}
        all => {
            text.push_str(&format!(", choose one of: [{}]", all.join(" ")));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
        }
    }
    Err(Box::new(Status::bad_request(text)))
}

/// Headers that belong to one connection, or that are for this server alone.
fn is_own(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | HOST | CONTENT_LENGTH | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "te" | "trailer" | "authorization")
        || name.as_str().starts_with("proxy-")
        || name.as_str().starts_with("impersonate-")
}

/// Copies what one side says to the other, and not to this server.
pub(super) fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    let listed: Vec<String> = from
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for (name, value) in from {
        if !is_own(name) && !listed.iter().any(|own| own == name.as_str()) {
            to.append(name.clone(), value.clone());
        }
    }
}

fn request(call: &Call, path: &str, host: &str, of_log: bool) -> Result<Request<Body>, Failure> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(path)
        .header(HOST, host)
        .body(full(call.body.clone()))
        .map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    copy_headers(&call.headers, request.headers_mut());
    if let Some(upgrade) = call.headers.get(UPGRADE).filter(|_| !of_log) {
        request.headers_mut().insert(UPGRADE, upgrade.clone());
        request.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    }
    Ok(request)
}

/// After an upgrade the two connections are joined until one ends.
pub(super) fn join(mut call: Call, mut response: Response<Incoming>) -> Outcome {
    let Some(client) = call.upgrade.take() else {
        return Err(Box::new(Status::internal("the backend upgraded a connection that was not asked to")));
    };
    let backend = hyper::upgrade::on(&mut response);
    naru_base::spawn("stream-to-backend", async move {
        let (Ok(client), Ok(backend)) = (client.await, backend.await) else { return };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
            tracing::debug!(%error, "stream to a backend ended");
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
    Ok(Reply::Http(Box::new(answer)))
}

async fn answer(mut call: Call, response: Response<Incoming>, action: Action) -> Outcome {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return join(call, response);
    }
    if action != Action::Log && response.status().as_u16() < 400 {
        let text = format!("invalid upgrade response: status code {}", response.status().as_u16());
        return Err(Box::new(Status::failure(500, "", text)));
    }
    if !response.status().is_success() && action == Action::Log {
        return Err(refusal(response).await);
    }
    let (parts, body) = response.into_parts();
    let body: Body = body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
    if action == Action::Log
        && websocket::is_asked_for(&call.method, &call.headers)
        && let Some(upgrade) = call.upgrade.take()
    {
        return Ok(Reply::Http(Box::new(websocket::Asked::new(upgrade, &call.headers).read(body))));
    }
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
