//! What HTTP/2 over HTTPS adds: a watcher that does not read, beside others on the same connection; HEAD.

use super::*;
use crate::StaticToken;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::Ipv4Addr;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

type Sender = http2::SendRequest<Empty<Bytes>>;

/// What is written while the watcher does not read: more than the history keeps.
const CHANGES: usize = 100;
const SIZE: usize = 100_000;

/// Serves on loopback, and connects to it with small windows.
async fn connected(server: &Server) -> Sender {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let tls = crate::api_tls_config(
        crate::CurrentCertificate::new(&pem, &certified.signing_key.serialize_pem()).unwrap(),
        &[],
    )
    .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = server.api.clone();
    naru_base::spawn("test-server", async move { api.serve(listener, Arc::new(tls)).await });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    naru_base::spawn("test-client", connection);
    sender
}

async fn watch(sender: &mut Sender) -> Incoming {
    let request = Request::get(format!("https://localhost{CONFIG_MAPS}?watch=1"))
        .header("authorization", "Bearer t")
        .body(Empty::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body()
}

/// The next events' names.
async fn take(body: &mut Incoming, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            return Some(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        }
        match body.frame().await {
            Some(frame) => buffer.extend_from_slice(&frame.unwrap().into_data().unwrap()),
            None => return None,
        }
    }
}

async fn server() -> Server {
    Server::start_with(|config| {
        config.static_tokens.push(StaticToken {
            token: "t".to_owned(),
            user: "reader".to_owned(),
            uid: String::new(),
            groups: vec!["system:masters".to_owned()],
        });
    })
    .await
}

#[tokio::test]
async fn head_has_the_headers_of_get_alone() {
    let server = server().await;
    let mut sender = connected(&server).await;
    for (path, status) in [("/version", 200), ("/api/v1/namespaces/default/pods/absent", 404)] {
        let request = Request::head(format!("https://localhost{path}")).header("authorization", "Bearer t");
        let answer = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(answer.headers().contains_key("content-length"), "{:?}", answer.headers());
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_and_delays_nobody() {
    let server = server().await;
    let mut sender = connected(&server).await;
    let mut unread = watch(&mut sender).await;
    let mut read = watch(&mut sender).await;
    let mut buffer = Vec::new();
    let text = "x".repeat(SIZE);
    for number in 0..CHANGES {
        let name = format!("m-{number}");
        server.post(CONFIG_MAPS, json!({ "metadata": { "name": name }, "data": { "k": text } })).await.ok();
        assert_eq!(take(&mut read, &mut buffer).await, Some(name), "the other one sees each at once");
    }
    // What it was sent before nothing more went through, and then the end: not all of the changes were kept for it.
    let (mut seen, mut buffer) = (0, Vec::new());
    while let Some(name) = take(&mut unread, &mut buffer).await {
        assert_eq!(name, format!("m-{seen}"));
        seen += 1;
    }
    assert!(seen < CHANGES / 2, "{seen}");
}
