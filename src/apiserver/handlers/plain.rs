//! Paths that name no resource: version, health, metrics, discovery and the API's documents.

use super::Call;
use crate::documents::GIT_VERSION;
use crate::negotiate;
use crate::response::{Outcome, Reply};
use http::Method;
use naru_api::status::Status;
use serde_json::json;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Answers a plain path.
pub(super) fn handle(call: &Call) -> Outcome {
    let path = call.info.path.trim_end_matches('/');
    let answer = match path {
        "" => Some(index()),
        "/version" => Some(version()),
        "/healthz" | "/livez" | "/readyz" => return health(call, path.trim_start_matches('/')),
        "/metrics" => Some(metrics(call)),
        "/openid/v1/jwks" => {
            Some(Reply::typed(200, "application/jwk-set+json", call.state.authn.issuer.key_set().to_string()))
        }
        "/.well-known/openid-configuration" => Some(openid(call)),
        _ => None,
    };
    if let Some(reply) = answer {
        return if matches!(call.method, Method::GET | Method::HEAD) {
            Ok(reply)
        } else {
            Err(Box::new(Status::method_not_allowed()))
        };
    }
    if let Some(check) = ["/healthz/", "/livez/", "/readyz/"].iter().find_map(|prefix| path.strip_prefix(prefix)) {
        return one_check(call, check);
    }
    let aggregated = negotiate::wants_aggregated_discovery(&call.headers);
    let known_hash = call.headers.get(http::header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    match call.state.documents.answer(path, aggregated, known_hash) {
        Some(reply) if matches!(call.method, Method::GET | Method::HEAD) => Ok(reply),
        Some(_) => Err(Box::new(Status::method_not_allowed())),
        None => Err(Box::new(Status::no_such_resource())),
    }
}

fn index() -> Reply {
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".to_owned(),
        "/api/v1".to_owned(),
        "/apis".to_owned(),
    ];
    for resource in naru_api::registry::RESOURCES.iter().filter(|r| !r.group.is_empty()) {
        for path in [format!("/apis/{}", resource.group), format!("/apis/{}/{}", resource.group, resource.version)] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let rest = ["/healthz", "/livez", "/metrics", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
    paths.extend(rest.map(str::to_owned));
    paths.sort();
    Reply::json(200, json!({ "paths": paths }).to_string())
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
    Reply::json(200, version.to_string())
}

/// The checks and whether each is well.
fn checks(call: &Call) -> [(&'static str, bool); 4] {
    let state = &call.state;
    [
        ("ping", true),
        ("store", !state.shutdown.is_triggered() || state.store.revision() >= 0),
        ("bootstrap", state.ready.load(Ordering::Acquire)),
        ("shutdown", !state.shutdown.is_triggered()),
    ]
}

fn health(call: &Call, name: &str) -> Outcome {
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let live = name == "livez";
    let mut text = String::new();
    let mut failed = false;
    for (check, well) in checks(call) {
        // A server that is going down is still alive.
        if live && check == "shutdown" {
            continue;
        }
        if excluded.contains(&check) {
            let _ = writeln!(text, "[+]{check} excluded: ok");
        } else if well {
            let _ = writeln!(text, "[+]{check} ok");
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{check} failed: reason withheld");
        }
    }
    if failed {
        let _ = writeln!(text, "{name} check failed");
        return Ok(Reply::typed(500, "text/plain; charset=utf-8", text));
    }
    if call.query.get("verbose").is_some() {
        let _ = writeln!(text, "{name} check passed");
        return Ok(Reply::text(text));
    }
    Ok(Reply::text("ok"))
}

fn one_check(call: &Call, name: &str) -> Outcome {
    match checks(call).into_iter().find(|(check, _)| *check == name) {
        Some((_, true)) => Ok(Reply::text("ok")),
        Some((_, false)) => {
            Ok(Reply::typed(500, "text/plain; charset=utf-8", "internal server error: reason withheld\n"))
        }
        None => Err(Box::new(Status::no_such_resource())),
    }
}

fn metrics(call: &Call) -> Reply {
    let mut text = String::new();
    let requests = call.state.requests.load(Ordering::Relaxed);
    let _ = writeln!(text, "# HELP apiserver_request_total Requests answered or being answered.");
    let _ = writeln!(text, "# TYPE apiserver_request_total counter");
    let _ = writeln!(text, "apiserver_request_total {requests}");
    let _ = writeln!(text, "# HELP apiserver_storage_objects Stored objects by resource.");
    let _ = writeln!(text, "# TYPE apiserver_storage_objects gauge");
    for resource in naru_api::registry::RESOURCES.iter().filter(|r| r.is_storage()) {
        let name = match resource.group {
            "" => resource.plural.to_owned(),
            group => format!("{}.{group}", resource.plural),
        };
        let count = call.state.cache.objects(resource).len();
        let _ = writeln!(text, "apiserver_storage_objects{{resource=\"{name}\"}} {count}");
    }
    Reply::typed(200, "text/plain; version=0.0.4; charset=utf-8", text)
}

fn openid(call: &Call) -> Reply {
    let state = &call.state;
    let host = format!("https://{}:{}", state.config.advertise_address, state.config.advertise_port);
    let document = json!({
        "issuer": state.authn.issuer.url(),
        "jwks_uri": format!("{host}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    Reply::json(200, document.to_string())
}
