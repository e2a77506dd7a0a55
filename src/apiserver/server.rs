//! The network edge: TLS, HTTP/1.1 and HTTP/2, and the limits on both.

use crate::config::{ServeError, StartError};
use crate::current_certificate::CurrentCertificate;
use crate::pace::{self, Streams};
use crate::pipeline::{self, State};
use crate::response::Body;
use crate::shares::Shares;
use crate::stall::{Patient, Stalling};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 8192;
/// Connections of one address: whole sites may come from one, but none takes all.
const CONNECTIONS_EACH: u32 = 2048;
/// How long a client may take over its TLS handshake or its HTTP/1 header.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams on one HTTP/2 connection: client-go multiplexes all its watches over one.
const MAX_STREAMS: u32 = 1000;
/// What a client may send on one stream before we have read it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 25 * 1024 * 1024;
/// All headers of a request.
pub(crate) const MAX_HEADERS: u32 = 64 * 1024;
/// How long streams and idle connections may take to end after the shutdown is triggered.
const DRAIN: Duration = Duration::from_secs(5);
/// The same for requests that are being worked on.
const FINISH: Duration = Duration::from_secs(60);
/// How often it is looked whether they are done.
const LOOK: Duration = Duration::from_millis(20);

/// TLS as the API server wants it: HTTP/2 offered, client certificates of `client_ca_pem` asked for
/// but not demanded (tokens are the other way to identify).
pub fn tls_config(
    certificate: Arc<CurrentCertificate>,
    client_ca_pem: &str,
) -> Result<rustls::ServerConfig, StartError> {
    let wrong = |what: &'static str| move |reason: String| StartError::Config { what, reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(client_ca_pem).map_err(wrong("client CA"))? {
        roots.add(certificate).map_err(|error| wrong("client CA")(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| wrong("client CA")(error.to_string()))?;
    serving(certificate, verifier)
}

/// TLS for the API's own port: any client certificate is taken, and [`crate::ApiServer`] judges it by the authorities
/// in its configuration, so that a wrong one gets an answer (401). `hint_ca_pems` are the authorities that clients
/// choose their certificate by.
pub fn api_tls_config(
    certificate: Arc<CurrentCertificate>,
    hint_ca_pems: &[&str],
) -> Result<rustls::ServerConfig, StartError> {
    let wrong = |what: &'static str| move |reason: String| StartError::Config { what, reason };
    let mut roots = rustls::RootCertStore::empty();
    for pem in hint_ca_pems.iter().filter(|pem| !pem.is_empty()) {
        for certificate in certificates(pem).map_err(wrong("client CA"))? {
            roots.add(certificate).map_err(|error| wrong("client CA")(error.to_string()))?;
        }
    }
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    serving(certificate, Arc::new(AnyCertificate { hints: roots.subjects(), algorithms }))
}

fn serving(
    certificate: Arc<CurrentCertificate>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<rustls::ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Config { what: "tls", reason: error.to_string() })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any client certificate whose key the client has; whether it counts for anything is decided later.
#[derive(Debug)]
struct AnyCertificate {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(found) }
}

/// Accepts until shutdown, then drains.
pub(crate) async fn serve(
    state: Arc<State>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
) -> Result<(), ServeError> {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shares = Shares::new(CONNECTIONS_EACH);
    let shutdown = state.shutdown.clone();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = match shutdown.guard(listener.accept()).await {
            None => break,
            Some(accepted) => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            // Out of descriptors, or the client went away: both pass.
            Err(error) if is_transient(&error) => {
                tracing::warn!(%error, "accept failed, trying again");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(ServeError::Accept(error)),
        };
        let Some(share) = shares.take(site(address)) else {
            tracing::debug!(%address, "too many connections");
            continue;
        };
        let (state, acceptor) = (state.clone(), acceptor.clone());
        naru_base::spawn("api-connection", async move {
            connection(state, acceptor, stream, address).await;
            drop((slot, share));
        });
    }
    let all = u32::try_from(MAX_CONNECTIONS).expect("a small constant");
    // Each connection gives its slot back when it ends.
    let _ = tokio::time::timeout(DRAIN, slots.acquire_many(all)).await;
    let finished = async {
        while state.metrics.inflight() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(FINISH, finished).await;
    Ok(())
}

fn is_transient(error: &std::io::Error) -> bool {
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.raw_os_error(), Some(23 | 24))
        || matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::Interrupted
        )
}

/// Whose connections are counted together: an address, or the network that one host has in IPv6.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

async fn connection(state: Arc<State>, acceptor: TlsAcceptor, stream: TcpStream, client: IpAddr) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            state.metrics.tls_handshake_errors.fetch_add(1, Ordering::Relaxed);
            return tracing::debug!(%error, "tls handshake failed");
        }
        Err(_) => {
            state.metrics.tls_handshake_errors.fetch_add(1, Ordering::Relaxed);
            return tracing::debug!("tls handshake took too long");
        }
    };
    let peer = Arc::new(state.authn.peers.judge(tls.get_ref().1.peer_certificates().unwrap_or_default()));
    let shutdown = state.shutdown.clone();
    let patient = Patient::default();
    let tls = Stalling::new(tls, patient.clone());
    let chance = state.config.flags.goaway_chance.unwrap_or(0.0);
    let enough = Arc::new(Notify::new());
    let last = enough.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let looked_at = is_looked_at(&request);
        if looked_at {
            patient.set();
        }
        let (state, peer) = (state.clone(), peer.clone());
        if chance > 0.0 && request.version() == http::Version::HTTP_2 && rand::random::<f64>() < chance {
            last.notify_one();
        }
        async move {
            let response = pipeline::serve_http(state, peer, Some(client), request).await;
            Ok::<Response<Body>, Infallible>(if looked_at { response } else { response.map(pace::watched) })
        }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.triggered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = enough.notified() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Whether the answer may be a stream that a person looks at and may let wait.
fn is_looked_at(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    request.headers().contains_key(http::header::UPGRADE) || path.ends_with("/log") || path.contains("/proxy")
}

pub(crate) fn builder() -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(MAX_HEADERS as usize + 16 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// The first bytes of a body beyond which it is refused.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;

/// How much of a body that is too large is read and thrown away, so that a client that is still
/// sending gets to see the answer.
const MAX_DISCARDED: usize = 64 * 1024 * 1024;

/// Reads a body up to the limit; `None` when it is larger.
pub(crate) async fn read_body(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    use http_body_util::BodyExt;
    let mut parts: Vec<Bytes> = Vec::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        size = size.saturating_add(data.len());
        if size > MAX_BODY {
            parts.clear();
            if size > MAX_DISCARDED {
                return Ok(None);
            }
        } else {
            parts.push(data);
        }
    }
    if size > MAX_BODY {
        return Ok(None);
    }
    Ok(Some(match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_site_is_an_address_or_a_network() {
        let site = |text: &str| super::site(text.parse().expect("an address")).to_string();
        assert_eq!(site("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(site("192.0.2.1"), "192.0.2.1");
        assert_eq!(site("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
