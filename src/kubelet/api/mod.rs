//! The node API on port 10250: logs, streams, pods, statistics, health.

mod access;
pub mod cri;
mod exec;
mod logs;
mod peer;
mod port_forward;
mod query;
mod spdy;
pub(crate) mod stats;
mod system_logs;
mod upgrade;

use crate::config::NodeApiConfig;
use crate::pods::Pods;
use access::{Access, Caller, Wish};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use naru_base::{Shutdown, spawn};
use query::Query;
use rustls_pki_types::CertificateDer;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// How long answers may take to end when the agent does.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves the node API until shutdown.
pub(crate) fn start(config: NodeApiConfig, pods: Pods, shutdown: &Shutdown) -> io::Result<()> {
    let listener = config.listener.try_clone()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(config.tls.clone());
    let shared = pods.shared();
    let access =
        Arc::new(Access::new(shared.config.client.clone(), shared.config.node_name.clone(), config.allowed_names));
    let shutdown = shutdown.clone();
    spawn("node api", async move {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let stream = match shutdown.guard(listener.accept()).await {
                None => return,
                Some(Ok((stream, _))) => stream,
                Some(Err(error)) => {
                    tracing::warn!(%error, "node API accepts no connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, access, pods, shutdown) = (acceptor.clone(), access.clone(), pods.clone(), shutdown.clone());
            spawn("node api connection", async move {
                let _permit = permit;
                connection(stream, acceptor, access, pods, shutdown).await;
            });
        }
    });
    Ok(())
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, access: Arc<Access>, pods: Pods, shutdown: Shutdown) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "node API handshake failed"),
        Err(_) => return tracing::debug!("node API handshake timed out"),
    };
    let caller = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(caller);
    let service = service_fn(move |request: Request<Incoming>| {
        let (caller, access, pods) = (caller.clone(), access.clone(), pods.clone());
        async move { Ok::<_, Infallible>(route(request, caller, &access, &pods).await) }
    });
    let builder = Builder::new(TokioExecutor::new());
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(served);
    let outcome = match shutdown.guard(served.as_mut()).await {
        Some(outcome) => outcome,
        None => {
            // What is being answered comes to an end of its own; followed logs end now.
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWERS, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "node API connection ended");
    }
}

/// Name and groups of a verified client certificate.
fn caller(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    Some(Caller {
        name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
        groups: subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok().map(str::to_owned))
            .chain(["system:authenticated".to_owned()])
            .collect(),
        ..Caller::default()
    })
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", Bytes::from(message.into()))
}

fn respond(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn metrics(text: String) -> Response<Body> {
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

async fn route(
    request: Request<Incoming>,
    certificate: Option<Caller>,
    access: &Access,
    pods: &Pods,
) -> Response<Body> {
    let token = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = token.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
    let caller = match (certificate, token) {
        (Some(caller), _) => Some(caller),
        (None, Some(token)) => access.bearer(token).await,
        (None, None) => None,
    };
    let Some(caller) = caller else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    let wish = Wish::of(request.method(), request.uri().path());
    if !access.may(&caller, &wish).await {
        let message = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            caller.name,
            wish.verb,
            wish.subresources.join(" ")
        );
        return text(StatusCode::FORBIDDEN, message);
    }
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => {
            let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods.list()});
            respond(StatusCode::OK, "application/json", Bytes::from(list.to_string()))
        }
        ["stats"] | ["stats", "summary"] => {
            let pods = pods.clone();
            let summary = tokio::task::spawn_blocking(move || stats::summary(&pods)).await;
            match summary {
                Ok(summary) => respond(StatusCode::OK, "application/json", Bytes::from(summary.to_string())),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        ["metrics"] => metrics(stats::own(pods)),
        ["metrics", "resource"] => metrics(stats::resource(pods)),
        ["metrics", "cadvisor"] => {
            let pods = pods.clone();
            match tokio::task::spawn_blocking(move || stats::cadvisor(&pods)).await {
                Ok(text) => metrics(text),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        ["metrics", "probes"] => metrics(pods.shared().probe_counts.render()),
        ["containerLogs", namespace, name, container] => logs::serve(pods, namespace, name, container, &query).await,
        ["logs", ..] => {
            let below = path.strip_prefix("/logs").unwrap_or_default();
            system_logs::serve(Path::new(system_logs::DIRECTORY), request.method(), below).await
        }
        ["exec", namespace, name, container] => exec::serve(request, pods, namespace, name, container, &query).await,
        // The older form with the pod's uid in it.
        ["exec", namespace, name, _uid, container] => {
            exec::serve(request, pods, namespace, name, container, &query).await
        }
        ["attach", namespace, name, container] | ["attach", namespace, name, _, container] => {
            exec::attach(request, pods, namespace, name, container, &query).await
        }
        ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
            port_forward::serve(request, pods, namespace, name, &query).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
