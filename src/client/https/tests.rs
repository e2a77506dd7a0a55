//! The transport against a small TLS server on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::client::{Client, ListParams, is_not_found};
use crate::fake::PODS;
use hyper::service::service_fn;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::net::TcpListener;

struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Certificate and key as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        use rustls_pki_types::pem::PemObject;
        let (cert, key) = self.issue("127.0.0.1");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![rustls_pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tokio_rustls::TlsAcceptor::from(Arc::new(tls))
    }

    fn config(&self, port: u16, credentials: Credentials) -> HttpConfig {
        HttpConfig {
            server: format!("https://127.0.0.1:{port}"),
            ca_pem: self.ca.pem().into_bytes(),
            tls_server_name: None,
            credentials,
        }
    }
}

/// Answers what it was asked; `/missing` is a 404, and a watch gets two events in odd chunks.
async fn answer(
    request: http::Request<Incoming>,
    certificate: bool,
) -> Result<http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    if path.contains("missing") {
        let status = json!({"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404,
            "message": "pods \"missing\" not found"});
        let body = Full::new(Bytes::from(status.to_string())).boxed();
        return Ok(http::Response::builder().status(404).body(body).unwrap());
    }
    let body = if path.contains("watch=true") {
        "{\"type\":\"ADDED\",\"object\":{\"n\":1}}\n{\"type\":\"DELETED\",\"object\":{\"n\":2}}\n".into()
    } else {
        json!({"path": path, "authorization": header(AUTHORIZATION), "certificate": certificate}).to_string()
    };
    Ok(http::Response::new(Full::new(Bytes::from(body)).boxed()))
}

/// Serves connections until the test ends, and returns the port.
async fn serve(pki: &Pki) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = pki.acceptor();
    spawn("test server", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let certificate = stream.get_ref().1.peer_certificates().is_some();
            spawn("test connection", async move {
                let service = service_fn(move |request| answer(request, certificate));
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

#[tokio::test]
async fn tokens_certificates_errors_and_watches_travel() {
    let pki = Pki::new();
    let port = serve(&pki).await;
    let config = pki.config(port, Credentials::Token("secret\n".into()));
    let transport = Arc::new(HttpTransport::new(&config).unwrap());
    let client = Client::new(transport.clone());
    let got: Value = client.get(&PODS, Some("a"), "b").await.unwrap();
    assert_eq!(got["path"], "/api/v1/namespaces/a/pods/b");
    assert_eq!(got["authorization"], "Bearer secret");
    assert_eq!(got["certificate"], false);

    let error = client.get::<Value>(&PODS, Some("a"), "missing").await.unwrap_err();
    assert!(is_not_found(&error));
    assert_eq!(error.to_string(), "pods \"missing\" not found");

    let (cert, key) = pki.issue("client");
    let credentials = Credentials::Certificate { cert_pem: cert.into(), key_pem: key.into() };
    transport.reload(&pki.config(port, credentials)).await.unwrap();
    let got: Value = client.get(&PODS, Some("a"), "b").await.unwrap();
    assert_eq!(got["certificate"], true, "reload dials with the new certificate");

    let events: Vec<_> = client.watch(&PODS, &ListParams::all(), "5").await.unwrap().collect().await;
    let objects: Vec<_> = events.into_iter().map(|event| event.unwrap().object).collect();
    assert_eq!(objects, ["{\"n\":1}", "{\"n\":2}"]);
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let pki = Pki::new();
    let port = serve(&pki).await;
    let config = Pki::new().config(port, Credentials::Anonymous);
    let client = Client::new(Arc::new(HttpTransport::new(&config).unwrap()));
    let error = client.get::<Value>(&PODS, Some("a"), "b").await.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error}");
}

#[test]
fn bad_configurations_say_what_is_wrong() {
    let pki = Pki::new();
    let check = |config: HttpConfig, expected: &str| {
        assert_eq!(HttpTransport::new(&config).unwrap_err().to_string(), expected);
    };
    let good = pki.config(1, Credentials::Anonymous);
    check(HttpConfig { server: "http://a".into(), ..good.clone() }, "server \"http://a\" is not an https URL");
    check(HttpConfig { ca_pem: b"x".to_vec(), ..good }, "certificate authority: no certificate found");
}
