//! `naru hello`: a small HTTP responder, the example workload that needs no image from anywhere.

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

const MAX_CONNECTIONS: usize = 1024;

/// Answers every request with one line until SIGTERM, then ends at once; on `/client` with the address that asks.
#[derive(Debug, clap::Args)]
pub struct HelloArgs {
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: HelloArgs) -> Result<()> {
    // Both families where there are both.
    let listener = match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port))).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.port)))
            .await
            .with_context(|| format!("cannot listen on port {}", args.port))?,
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
    let text: Arc<str> = format!("Hello from {host}\n").into();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = connections.clone().acquire_owned().await?;
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors, or the peer is gone: neither is a reason to end.
                Err(_) => { tokio::time::sleep(Duration::from_millis(50)).await; continue }
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let text = text.clone();
        naru_base::spawn("hello", async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let body = match request.uri().path() {
                    "/client" => format!("{}\n", from.ip().to_canonical()).into(),
                    _ => Bytes::copy_from_slice(text.as_bytes()),
                };
                async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
            });
            // A broken connection is the client's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
