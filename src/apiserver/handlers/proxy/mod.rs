//! `/proxy` of pods, services and nodes: any request, passed on to what listens at the object's address.

mod html;
mod locate;
mod rewrite;
#[cfg(test)]
mod tests;

use super::Call;
use super::node_proxy::{connect_admission, copy_headers, join};
use crate::dialer::{Destination, Trust};
use crate::request_info::percent_decode;
use crate::response::{Body, BodyError, Failure, Outcome, Reply, full};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use naru_api::registry::Resource;
use naru_api::status::Status;
use rewrite::Rewriter;
use serde_json::json;
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a request is passed on to.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    to: Destination,
    trust: Trust,
}

/// Passes the request on.
pub(super) async fn proxy(mut call: Call, resource: &'static Resource, kind: &'static str) -> Outcome {
    let path = subpath(&call);
    let options = json!({ "kind": kind, "apiVersion": "v1", "path": path });
    connect_admission(&call, resource, options).await?;
    let target = locate::locate(&call, resource)?;
    let mut path = clean(&path);
    let asked = percent_decode(&call.info.path, false);
    if call.upgrade.is_some() {
        return upgrade(call, target, &path).await;
    }
    if path.is_empty() && asked.ends_with('/') {
        path.push('/');
    }
    if path.is_empty() && matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(to_root(&call));
    }
    let rewriter = Rewriter::new(&asked, &path, &target.to.to_string(), host(&call.headers));
    let mut request = request(&mut call, &target, &path)?;
    if let Ok(value) = HeaderValue::from_str(&rewriter.forwarded_uri(&escape(&path), path.ends_with('/'))) {
        request.headers_mut().insert("x-forwarded-uri", value);
    }
    let trouble = |why: String| Box::new(Status::service_unavailable(format!("error trying to reach service: {why}")));
    let mut sender = call.state.backends.connect(target.to, target.trust).await.map_err(trouble)?;
    let response = sender.send_request(request).await.map_err(|error| trouble(error.to_string()))?;
    answer(response, &rewriter).await
}

/// A request that turns its connection into something else is passed on as it is.
async fn upgrade(mut call: Call, target: Target, path: &str) -> Outcome {
    let mut request = request(&mut call, &target, path)?;
    if let Some(upgrade) = call.headers.get(UPGRADE) {
        request.headers_mut().insert(UPGRADE, upgrade.clone());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let trouble = |why: String| Box::new(Status::failure(500, "", format!("error dialing backend: {why}")));
    let mut sender = call.state.backends.connect(target.to, target.trust).await.map_err(trouble)?;
    let response = sender.send_request(request).await.map_err(|error| trouble(error.to_string()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return join(call, response);
    }
    if response.status().as_u16() < 400 {
        let code = response.status().as_u16();
        let text = format!("invalid upgrade response: status code {code}");
        return Err(Box::new(Status::failure(500, "", text)));
    }
    Ok(Reply::Http(Box::new(passed(response))))
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

fn request(call: &mut Call, target: &Target, path: &str) -> Result<Request<Body>, Failure> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let body: Body = match call.incoming.take() {
        Some(incoming) => incoming.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync(),
        None => full(std::mem::take(&mut call.body)),
    };
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("{slash}{}{query}", escape(path)))
        .body(body)
        .map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    copy_headers(&call.headers, request.headers_mut());
    // The backend sees the name that the client used.
    let name = call.headers.get(HOST).cloned().or_else(|| HeaderValue::from_str(&target.to.to_string()).ok());
    if let Some(name) = name {
        request.headers_mut().insert(HOST, name);
    }
    if let Some(client) = call.client {
        forwarded_for(request.headers_mut(), client);
    }
    Ok(request)
}

/// Adds who asks to those for whom the request was already passed on.
fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let client = client.to_canonical().to_string();
    let all: Vec<&str> = before.chain([client.as_str()]).collect();
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Links of a page are relative to a path that ends with a slash.
fn to_root(call: &Call) -> Reply {
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", call.info.path)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Reply::Http(Box::new(response))
}

/// The answer as the backend gave it, without what belongs to its connection.
fn passed(response: Response<Incoming>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut answer = Response::new(body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync());
    *answer.status_mut() = parts.status;
    copy_headers(&parts.headers, answer.headers_mut());
    for name in ["credentials", "headers", "methods", "origin"] {
        answer.headers_mut().remove(format!("access-control-allow-{name}"));
    }
    if let Some(length) = parts.headers.get(http::header::CONTENT_LENGTH) {
        answer.headers_mut().insert(http::header::CONTENT_LENGTH, length.clone());
    }
    answer
}

async fn answer(response: Response<Incoming>, rewriter: &Rewriter) -> Outcome {
    let mut answer = passed(response);
    if let Some(location) = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()) {
        if let Ok(value) = HeaderValue::from_str(&rewriter.url(location)) {
            answer.headers_mut().insert(LOCATION, value);
        }
        return Ok(Reply::Http(Box::new(answer)));
    }
    if html::is_page(answer.headers()) {
        answer = html::with_links(answer, rewriter).await?;
    }
    Ok(Reply::Http(Box::new(answer)))
}

/// What follows `/proxy` in the request's path, decoded, or the parameter `path`.
fn subpath(call: &Call) -> String {
    let before = if call.info.namespace.is_empty() { 5 } else { 7 };
    let rest = after_segments(&call.info.path, before);
    let inner = rest.trim_matches('/');
    if inner.is_empty() {
        return match rest {
            "" => call.query.get("path").unwrap_or_default().to_owned(),
            _ => "/".to_owned(),
        };
    }
    let slash = if rest.ends_with('/') { "/" } else { "" };
    format!("/{}{slash}", percent_decode(inner, false))
}

/// The path after so many segments.
fn after_segments(path: &str, count: usize) -> &str {
    let mut rest = path;
    for _ in 0..count {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |at| &rest[at..]);
    }
    rest
}

/// Without `.`, `..` and empty segments; a slash at the end stays.
fn clean(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

/// A path as it is written in a request.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A whole body and what comes after it, put together again.
fn rejoined(head: Bytes, tail: Body) -> Body {
    use futures::StreamExt;
    use http_body::Frame;
    let first = futures::stream::once(async move { Ok(Frame::data(head)) });
    let rest = http_body_util::BodyStream::new(tail);
    http_body_util::StreamBody::new(first.chain(rest)).boxed_unsync()
}
