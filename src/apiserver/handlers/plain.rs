//! Paths that name no resource: version, health, metrics, discovery and the API's documents.

use super::Call;
use crate::documents::{Asked, GIT_VERSION};
use crate::metrics::Text;
use crate::negotiate;
use crate::response::{Failure, Outcome, Reply};
use http::header::X_CONTENT_TYPE_OPTIONS;
use http::{HeaderValue, Method};
use naru_api::registry::{RESOURCES, Resource};
use naru_api::status::Status;
use serde_json::json;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the store may take to say that it is well.
const STORE_ANSWERS: Duration = Duration::from_secs(2);

/// Answers a plain path.
pub(super) async fn handle(call: &Call) -> Outcome {
    let store = store_works(call).await;
    let path = call.info.path.trim_end_matches('/');
    let answer = match path {
        "" => Some(index(call)),
        "/version" => Some(version()),
        "/healthz" | "/livez" | "/readyz" => return health(call, path.trim_start_matches('/'), store),
        "/metrics" => Some(metrics(call, store)),
        "/openid/v1/jwks" => {
            Some(Reply::typed(200, "application/jwk-set+json", call.state.authn.issuer.key_set().to_string()))
        }
        "/.well-known/openid-configuration" => Some(openid(call)),
        _ => path
            .strip_prefix("/debug/api_priority_and_fairness/")
            .and_then(|table| call.state.flow_control.dump(table))
            .map(|table| plain_text(200, table)),
    };
    if let Some(reply) = answer {
        return if matches!(call.method, Method::GET | Method::HEAD) {
            Ok(reply)
        } else {
            Err(Box::new(Status::method_not_allowed()))
        };
    }
    if let Some(reply) = one_check(call, path, store) {
        return Ok(reply);
    }
    let accepted = negotiate::discovery(&call.headers, matches!(path, "/api" | "/apis"));
    let (encoding, aggregated) = accepted.as_ref().copied().unwrap_or_default();
    let known_hash = call.headers.get(http::header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let asked = |version| -> Result<Asked<'_>, Failure> {
        let gzip = negotiate::accepts_gzip(&call.headers);
        Ok(Asked { protobuf: negotiate::openapi(&call.headers, version)?, gzip, known: known_hash })
    };
    let answer = if path == "/openapi/v2" {
        call.state.documents.openapi_v2(&asked("v2")?)
    } else if path.starts_with("/openapi/v3/") {
        call.state.documents.openapi_v3(path, call.query.get("hash"), &asked("v3")?)
    } else {
        call.state.documents.answer(path, encoding, aggregated, known_hash)
    };
    match answer {
        Some(reply) if matches!(call.method, Method::GET | Method::HEAD) => {
            if path.starts_with("/api") {
                accepted?;
            }
            Ok(reply)
        }
        Some(_) => Err(Box::new(Status::method_not_allowed())),
        None => not_found(call),
    }
}

/// What there is not: below a group that is served, the API says so; elsewhere, plain HTTP does.
pub(super) fn not_found(call: &Call) -> Outcome {
    let mut parts = call.info.path.trim_start_matches('/').split('/');
    let of_api = match parts.next() {
        Some("api") => true,
        Some("apis") => parts.next().is_some_and(|group| {
            let served = |resource: &&Resource| !group.is_empty() && resource.group == group;
            RESOURCES.iter().copied().any(|resource| served(&resource))
        }),
        _ => false,
    };
    if of_api {
        return Err(Box::new(Status::no_such_resource()));
    }
    Ok(plain_text(404, "404 page not found\n".to_owned()))
}

fn index(call: &Call) -> Reply {
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".to_owned(),
        "/api/v1".to_owned(),
        "/apis".to_owned(),
        "/apis/".to_owned(),
    ];
    for name in ["healthz", "livez", "readyz"] {
        let own = checks(call, true).into_iter().filter(|check| name == "readyz" || !check.ready_only);
        paths.extend(own.map(|check| format!("/{name}/{}", check.name)));
    }
    for resource in RESOURCES.iter().filter(|r| !r.group.is_empty()) {
        for path in [format!("/apis/{}", resource.group), format!("/apis/{}/{}", resource.group, resource.version)] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let rest = [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(rest.map(str::to_owned));
    paths.sort();
    Reply::typed(200, "application/json", format!("{:#}", json!({ "paths": paths })))
}

fn version() -> Reply {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let version = json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{arch}"),
    });
    Reply::typed(200, "application/json", format!("{version:#}"))
}

/// Whether the store takes writes; asked only for what tells it.
async fn store_works(call: &Call) -> bool {
    let path = call.info.path.as_str();
    if !["/healthz", "/livez", "/readyz", "/metrics"].iter().any(|told| path.starts_with(told)) {
        return true;
    }
    match tokio::time::timeout(STORE_ANSWERS, call.state.store.raw().health()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store is not well");
            false
        }
        Err(_) => {
            tracing::warn!("the store does not answer");
            false
        }
    }
}

/// A check of the server's health.
struct Check {
    name: &'static str,
    well: bool,
    /// Whether it is part of `/readyz` alone: a server that is going down is still alive.
    ready_only: bool,
}

/// The checks under upstream's names, in its order.
fn checks(call: &Call, store: bool) -> Vec<Check> {
    let state = &call.state;
    let ready = state.ready.load(Ordering::Acquire);
    let check = |name, well| Check { name, well, ready_only: false };
    let ready_only = |name, well| Check { name, well, ready_only: true };
    vec![
        check("ping", true),
        check("log", true),
        check("etcd", store),
        ready_only("etcd-readiness", store),
        ready_only("informer-sync", ready),
        check("poststarthook/rbac/bootstrap-roles", ready),
        check("poststarthook/scheduling/bootstrap-system-priority-classes", ready),
        check("poststarthook/start-system-namespaces-controller", ready),
        ready_only("shutdown", !state.stopping.load(Ordering::Acquire) && !state.shutdown.is_triggered()),
    ]
}

/// Plain text that browsers are not to take for anything else.
fn plain_text(code: u16, text: String) -> Reply {
    Reply::typed(code, "text/plain; charset=utf-8", text)
        .with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

fn health(call: &Call, name: &str, store: bool) -> Outcome {
    let mut excluded: Vec<&str> = call.query.all("exclude").collect();
    excluded.sort_unstable();
    excluded.dedup();
    let mut text = String::new();
    let mut failed = false;
    for check in checks(call, store).iter().filter(|check| name == "readyz" || !check.ready_only) {
        if let Some(at) = excluded.iter().position(|excluded| *excluded == check.name) {
            excluded.remove(at);
            let _ = writeln!(text, "[+]{} excluded: ok", check.name);
        } else if check.well {
            let _ = writeln!(text, "[+]{} ok", check.name);
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{} failed: reason withheld", check.name);
        }
    }
    if !excluded.is_empty() {
        let unknown: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let unknown = unknown.join(",");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {unknown}");
    }
    if failed {
        let _ = writeln!(text, "{name} check failed");
        return Ok(plain_text(500, text));
    }
    if call.query.get("verbose").is_none() {
        return Ok(plain_text(200, "ok".to_owned()));
    }
    let _ = writeln!(text, "{name} check passed");
    Ok(plain_text(200, text))
}

/// `/readyz/etcd`: one check alone. `None` where there is no such check.
fn one_check(call: &Call, path: &str, store: bool) -> Option<Reply> {
    let (name, check) = path.trim_start_matches('/').split_once('/')?;
    if !matches!(name, "healthz" | "livez" | "readyz") {
        return None;
    }
    let check = checks(call, store).into_iter().find(|c| c.name == check && (name == "readyz" || !c.ready_only))?;
    Some(match check.well {
        true => Reply::text("ok"),
        false => plain_text(500, format!("internal server error: {} is not well\n", check.name)),
    })
}

fn metrics(call: &Call, store: bool) -> Reply {
    let mut out = Text::default();
    let state = &call.state;
    state.metrics.render(&mut out);
    state.flow_control.render(&mut out);
    let stored = || naru_api::registry::RESOURCES.iter().filter(|r| r.is_storage());
    out.family("apiserver_storage_objects", "gauge", "Stored objects by resource.");
    for resource in stored() {
        let name = match resource.group {
            "" => resource.plural.to_owned(),
            group => format!("{}.{group}", resource.plural),
        };
        out.sample("apiserver_storage_objects", &[("resource", &name)], state.cache.count(resource));
    }
    out.family("apiserver_resource_objects", "gauge", "Stored objects by group and resource.");
    for resource in stored() {
        let labels = [("group", resource.group), ("resource", resource.plural)];
        out.sample("apiserver_resource_objects", &labels, state.cache.count(resource));
    }
    out.family("apiserver_storage_size_bytes", "gauge", "Bytes of the database that hold something.");
    let labels = [("storage_cluster_id", "etcd-0")];
    out.sample("apiserver_storage_size_bytes", &labels, state.store.raw().used_bytes());
    let labels = [("major", "1"), ("minor", "36"), ("git_version", GIT_VERSION)];
    out.family("kubernetes_build_info", "gauge", "The version, as labels of a constant 1.");
    out.sample("kubernetes_build_info", &labels, 1);
    out.family("kubernetes_healthcheck", "gauge", "Whether a check of health is passed.");
    for check in checks(call, store) {
        let kind = if check.ready_only { "readyz" } else { "healthz" };
        out.sample("kubernetes_healthcheck", &[("name", check.name), ("type", kind)], u8::from(check.well));
    }
    state.config.metric_sources.iter().for_each(|source| source.render(&mut out));
    Reply::typed(200, "text/plain; version=0.0.4; charset=utf-8", out.into_string())
}

fn openid(call: &Call) -> Reply {
    let state = &call.state;
    let here = std::net::SocketAddr::new(state.config.advertise_address, state.config.advertise_port);
    let keys = state.authn.issuer.jwks_uri.clone().unwrap_or_else(|| format!("https://{here}/openid/v1/jwks"));
    let document = json!({
        "issuer": state.authn.issuer.url(),
        "jwks_uri": keys,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    Reply::typed(200, "application/json", document.to_string())
}
