//! Others on the network, played over HTTPS on a loopback address: identity providers and webhooks.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What is answered to a path and a body: a status and JSON, or plain text.
type Answer = dyn Fn(&str, Value) -> (u16, Value) + Send + Sync;

/// A server that answers as told and remembers what it was asked.
pub(super) struct Outside {
    pub(super) address: SocketAddr,
    pub(super) ca_pem: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outside {
    pub(super) async fn start(answer: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let ca_pem = certified.cert.pem();
        let tls = crate::tls_config(
            crate::CurrentCertificate::new(&ca_pem, &certified.signing_key.serialize_pem()).unwrap(),
            &ca_pem,
        )
        .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (known, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        let task = naru_base::spawn("outside", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, known, answer) = (acceptor.clone(), known.clone(), answer.clone());
                naru_base::spawn("outside-connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| one(request, known.clone(), answer.clone()));
                    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, ca_pem, asked, task }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Paths and bodies so far.
    pub(super) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    /// Writes a kubeconfig by which it is reached as a webhook.
    pub(super) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        let path = dir.join("webhook.kubeconfig");
        let text = serde_json::json!({
            "clusters": [{ "name": "c", "cluster": { "server": format!("{}/review", self.url()), "certificate-authority-data": ca } }],
            "users": [{ "name": "u", "user": { "token": "ours" } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }
}

async fn one(
    request: Request<Incoming>,
    known: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<Answer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get(http::header::AUTHORIZATION).cloned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(authorization) = authorization.filter(|_| body.is_null()) {
        // What comes without a body is known by its bearer.
        body = authorization.to_str().unwrap().into();
    }
    known.lock().unwrap().push((path.clone(), body.clone()));
    let (code, value) = answer(&path, body);
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(Response::builder().status(code).body(Full::new(text.into())).unwrap())
}
