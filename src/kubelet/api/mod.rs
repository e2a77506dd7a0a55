//! The node API on port 10250: logs, exec, pods, health. TLS with client certificates, which also authorise.

pub mod cri;
mod exec;
mod logs;
mod peer;
mod port_forward;
mod query;
mod spdy;
mod upgrade;

use crate::config::NodeApiConfig;
use crate::pods::Pods;
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
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Caller {
    name: String,
    groups: Vec<String>,
}

/// Serves the node API until shutdown.
pub(crate) fn start(config: NodeApiConfig, pods: Pods, shutdown: &Shutdown) -> io::Result<()> {
    let listener = config.listener.try_clone()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(config.tls.clone());
    let allowed: Arc<[String]> = config.allowed_names.into();
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
            let (acceptor, allowed, pods, shutdown) =
                (acceptor.clone(), allowed.clone(), pods.clone(), shutdown.clone());
            spawn("node api connection", async move {
                let _permit = permit;
                shutdown.guard(connection(stream, acceptor, allowed, pods)).await;
            });
        }
    });
    Ok(())
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, allowed: Arc<[String]>, pods: Pods) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "node API handshake failed"),
        Err(_) => return tracing::debug!("node API handshake timed out"),
    };
    let caller = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(caller);
    let service = service_fn(move |request: Request<Incoming>| {
        let (caller, allowed, pods) = (caller.clone(), allowed.clone(), pods.clone());
        async move { Ok::<_, Infallible>(route(request, caller.as_ref(), &allowed, &pods).await) }
    });
    let served = Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "node API connection ended");
    }
}

/// Name and groups of a verified client certificate.
fn caller(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    Some(Caller {
        name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
        groups: subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect(),
    })
}

fn may_enter(caller: &Caller, allowed: &[String]) -> bool {
    caller.groups.iter().any(|g| g == "system:masters") || allowed.contains(&caller.name)
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

async fn route(request: Request<Incoming>, caller: Option<&Caller>, allowed: &[String], pods: &Pods) -> Response<Body> {
    match caller {
        None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Some(caller) if !may_enter(caller, allowed) => {
            let message = format!("Forbidden (user={}, verb=get, resource=nodes, subresource(s)=[proxy])", caller.name);
            return text(StatusCode::FORBIDDEN, message);
        }
        Some(_) => {}
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
        ["containerLogs", namespace, name, container] => logs::serve(pods, namespace, name, container, &query).await,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masters_and_named_callers_enter() {
        let caller = |name: &str, group: &str| Caller { name: name.into(), groups: vec![group.into()] };
        let allowed = ["kube-apiserver-kubelet-client".to_owned()];
        assert!(may_enter(&caller("x", "system:masters"), &allowed));
        assert!(may_enter(&caller("kube-apiserver-kubelet-client", ""), &allowed));
        assert!(!may_enter(&caller("system:node:n", "system:nodes"), &allowed));
    }
}
