//! A load program for `scripts/bench`: creates ConfigMaps of 1 KiB over HTTP/2 and prints the rate.
//!
//! Usage: load KUBECONFIG CLIENTS REQUESTS

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

type Failure = Box<dyn Error + Send + Sync>;

/// Where to connect, and as whom.
struct Target {
    authority: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    fn from_kubeconfig(path: &str) -> Result<Self, Failure> {
        let value: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        let text = |pointer: &str| {
            value.pointer(pointer).and_then(|v| v.as_str()).ok_or(format!("kubeconfig lacks {pointer}"))
        };
        let pem = |pointer: &str| -> Result<Vec<u8>, Failure> {
            Ok(base64::engine::general_purpose::STANDARD.decode(text(pointer)?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("/clusters/0/cluster/certificate-authority-data")?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&pem("/users/0/user/client-certificate-data")?)?];
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = text("/clusters/0/cluster/server")?;
        let authority = server.strip_prefix("https://").ok_or("the server's URL must start with https://")?;
        Ok(Self { authority: authority.to_string(), tls: Arc::new(tls) })
    }
}

/// One client: its own connection, one request after another.
async fn client(target: Arc<Target>, next: Arc<AtomicUsize>, total: usize, run: u32) -> Result<(), Failure> {
    let stream = tokio::net::TcpStream::connect(target.authority.parse::<std::net::SocketAddr>()?).await?;
    stream.set_nodelay(true)?;
    let connector = tokio_rustls::TlsConnector::from(target.tls.clone());
    let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    naru_base::spawn("connection", connection);
    let data = "x".repeat(1024);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= total {
            return Ok(());
        }
        let body = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"load-{run}-{number}\"}},\"data\":{{\"a\":\"{data}\"}}}}"
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}/api/v1/namespaces/default/configmaps", target.authority))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::CREATED {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, clients, requests] = args.as_slice() else {
        return Err("usage: load KUBECONFIG CLIENTS REQUESTS".into());
    };
    let (clients, total): (usize, usize) = (clients.parse()?, requests.parse()?);
    let target = Arc::new(Target::from_kubeconfig(kubeconfig)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let next = Arc::new(AtomicUsize::new(0));
        let begin = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| naru_base::spawn("client", client(target.clone(), next.clone(), total, std::process::id())))
            .collect();
        for task in tasks {
            task.await??;
        }
        let rate = total as f64 / begin.elapsed().as_secs_f64();
        use std::io::Write;
        writeln!(std::io::stdout(), "{rate:.0}")?;
        Ok(())
    })
}
