//! The agent's side of joining.

use super::{CA_PATH, Cluster, JOIN_PATH, JoinAnswer, JoinRequest};
use crate::files::{private_dir, read_optional, write_atomic};
use crate::pki::{self, Identity};
use crate::token;
use anyhow::{Context, Result, bail};
use naru_base::Backoff;
use naru_client::https::{Credentials, HttpConfig, HttpTransport, Servers, fetch_untrusted};
use naru_client::transport::{Error, Request, Transport};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What an agent has once it belongs to a cluster.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The server's authority, PEM.
    pub(crate) server_ca: String,
    /// As `system:node:NAME`.
    pub(crate) client: Identity,
    /// What the node API is served with.
    pub(crate) serving: Identity,
    /// As an agent, for what all nodes read.
    pub(crate) agent: Identity,
    /// What all nodes have in common.
    pub(crate) cluster: Cluster,
    /// By how many seconds this machine's clock was ahead when it joined.
    seconds_ahead: Option<i64>,
}

/// Who joins, and where.
#[derive(Debug)]
pub(crate) struct Asking {
    /// `https://HOST:PORT`.
    pub(crate) server: String,
    /// All servers that are known.
    pub(crate) servers: Arc<Servers>,
    /// The token, if one was given; not needed after the first time.
    pub(crate) token: Option<String>,
    /// Name of the node.
    pub(crate) node_name: String,
    /// At least one.
    pub(crate) ips: Vec<IpAddr>,
    /// Which machine this is.
    pub(crate) machine: String,
    /// Where keys and certificates are kept.
    pub(crate) dir: PathBuf,
}

impl Asking {
    /// What its serving certificate is to name.
    pub(crate) fn names(&self) -> Vec<String> {
        std::iter::once(self.node_name.clone()).chain(self.ips.iter().map(ToString::to_string)).collect()
    }
}

/// The names of the files of one identity.
const IDENTITIES: [&str; 3] = ["client-kubelet", "serving-kubelet", "client-agent"];

/// Joins, or takes what an earlier start has got while that is good. Waits for a server that does not answer; ends
/// with an error when it refuses.
pub(crate) async fn join(asking: &Asking) -> Result<Joined> {
    let server = &asking.server;
    private_dir(&asking.dir)?;
    if let Some(kept) = kept(asking)? {
        return Ok(kept);
    }
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        match ask(asking, false).await {
            Ok(joined) => {
                keep(&asking.dir, &joined)?;
                return Ok(joined);
            }
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Away(error)) => {
                let advice = advice(&error, &asking.dir, jiff::Timestamp::now());
                tracing::warn!("{server} does not answer, trying again: {error}{advice}");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// New keys and certificates in the place of those that are kept.
pub(crate) async fn renew(asking: &Asking) -> Result<Joined> {
    match ask(asking, false).await {
        Ok(joined) => {
            keep(&asking.dir, &joined)?;
            Ok(joined)
        }
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Away(error)) => Err(error.into()),
    }
}

/// Whether this machine could join; changes nothing, here or there. Gives what nodes have in common, and by how many
/// seconds the clock is ahead.
pub(crate) async fn check(asking: &Asking) -> Result<(Cluster, Option<i64>)> {
    kept(asking)?;
    match ask(asking, true).await {
        Ok(joined) => Ok((joined.cluster, joined.seconds_ahead)),
        Err(Failure::Refused(error)) => Err(error),
        Err(Failure::Away(error)) => {
            let advice = advice(&error, &asking.dir, jiff::Timestamp::now());
            bail!("{} does not answer: {error}{advice}", asking.server)
        }
    }
}

/// What to do where the server's certificate is refused: for its time, which is rarely the certificate's fault, or
/// since it is of another authority than that of the token.
fn advice(error: &impl std::fmt::Display, dir: &Path, now: jiff::Timestamp) -> String {
    let text = error.to_string();
    let says = |words: [&str; 2]| words.iter().any(|word| text.contains(word));
    if says(["certificate not valid yet", "certificate expired"]) {
        let now = now.strftime("%Y-%m-%d %H:%M:%S UTC");
        return format!(
            "; this machine's clock shows {now}: if that is wrong, set it (timedatectl set-ntp true), there and on the \
             server"
        );
    }
    if says(["UnknownIssuer", "BadSignature"]) {
        return format!(
            "; its certificate is not of the authority that this machine knows as its cluster's. Make sure that nobody \
             is in between. If the server was set up anew, remove {} and join with its new token",
            dir.display()
        );
    }
    String::new()
}

enum Failure {
    /// The server cannot be reached.
    Away(Error),
    /// It said no, or something here is wrong.
    Refused(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(error)
    }
}

async fn ask(asking: &Asking, dry_run: bool) -> Result<Joined, Failure> {
    let (server_ca, credentials) = trust(asking).await?;
    let keys: Vec<(String, String)> = IDENTITIES.iter().map(|_| pki::new_request()).collect::<Result<_>>()?;
    let [client, serving, agent] = keys.as_slice() else { unreachable!("one key for each identity") };
    let [node_ip, more_ips @ ..] = asking.ips.as_slice() else { unreachable!("a node has an address") };
    let request = JoinRequest {
        node_name: asking.node_name.clone(),
        node_ip: *node_ip,
        more_ips: more_ips.to_vec(),
        machine: asking.machine.clone(),
        dry_run,
        client_csr: client.0.clone(),
        serving_csr: serving.0.clone(),
        agent_csr: agent.0.clone(),
    };
    let config = HttpConfig {
        server: asking.server.clone(),
        ca_pem: server_ca.clone().into_bytes(),
        tls_server_name: None,
        credentials,
    };
    let transport = HttpTransport::balanced(&config, asking.servers.clone()).map_err(anyhow::Error::from)?;
    let body = serde_json::to_vec(&request).map_err(anyhow::Error::from)?;
    let request = Request {
        method: http::Method::POST,
        uri: JOIN_PATH.to_owned(),
        content_type: "application/json",
        body: body.into(),
    };
    let answer = match transport.send(request).await {
        Ok(answer) => answer,
        Err(Error::Status(status)) => {
            let refused = anyhow::anyhow!("{} refused this node: {}", asking.server, status.message.trim());
            return Err(Failure::Refused(refused));
        }
        Err(error) => return Err(Failure::Away(error)),
    };
    let answer: JoinAnswer = serde_json::from_slice(&answer).context("the server's answer cannot be read")?;
    Ok(Joined {
        seconds_ahead: transport.seconds_ahead(),
        client: Identity { cert_pem: answer.client_certificate, key_pem: client.1.clone() },
        serving: Identity { cert_pem: answer.serving_certificate, key_pem: serving.1.clone() },
        agent: Identity { cert_pem: answer.agent_certificate, key_pem: agent.1.clone() },
        server_ca,
        cluster: answer.cluster,
    })
}

/// The server's authority, checked against the token (or known from the first time), and how to ask.
async fn trust(asking: &Asking) -> Result<(String, Credentials), Failure> {
    if let Some(kept) = stored(&asking.dir)? {
        // The certificate is still a proof of who we are, also when it is about to expire.
        if pki::seconds_left(&kept.client.cert_pem)? > 0 {
            let (cert_pem, key_pem) = (kept.client.cert_pem.into_bytes(), kept.client.key_pem.into_bytes());
            return Ok((kept.server_ca, Credentials::Certificate { cert_pem, key_pem }));
        }
    }
    let Some(given) = &asking.token else {
        return Err(Failure::Refused(anyhow::anyhow!(
            "a token is needed to join: --token or --token-file with the content of server/token on the server"
        )));
    };
    let (hash, secret) = token::parts(given)?;
    let ca = fetch_untrusted(&asking.server, CA_PATH).await.map_err(|error| match error {
        Error::Status(status) => Failure::Refused(anyhow::anyhow!("{}: {}", asking.server, status.message)),
        error => Failure::Away(error),
    })?;
    let ca = String::from_utf8(ca.to_vec()).context("the server's authority is no PEM")?;
    match hash {
        Some(hash) if token::hash(&ca)? == hash => {}
        Some(_) => {
            return Err(Failure::Refused(anyhow::anyhow!(
                "the token is not of the cluster at {}: its authority is another one. Copy server/token from that \
                 server whole, and make sure that nobody is in between",
                asking.server
            )));
        }
        None => tracing::warn!("the token has no hash of the server's authority: {} is believed", asking.server),
    }
    Ok((ca, Credentials::Token(secret.to_owned())))
}

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

fn keep(dir: &Path, joined: &Joined) -> Result<()> {
    for (name, identity) in IDENTITIES.iter().zip([&joined.client, &joined.serving, &joined.agent]) {
        write_atomic(&file(dir, &format!("{name}.key")), identity.key_pem.as_bytes(), 0o600)?;
        write_atomic(&file(dir, &format!("{name}.crt")), identity.cert_pem.as_bytes(), 0o644)?;
    }
    write_atomic(&file(dir, "server-ca.crt"), joined.server_ca.as_bytes(), 0o644)?;
    // Last: without it the rest counts for nothing.
    write_atomic(&file(dir, "cluster.json"), &serde_json::to_vec_pretty(&joined.cluster)?, 0o644)
}

fn stored(dir: &Path) -> Result<Option<Joined>> {
    let read = |name: &str| read_optional(&file(dir, name));
    let identity = |name: &str| -> Result<Option<Identity>> {
        let (cert, key) = (read(&format!("{name}.crt"))?, read(&format!("{name}.key"))?);
        Ok(cert.zip(key).map(|(cert_pem, key_pem)| Identity { cert_pem, key_pem }))
    };
    let Some(cluster) = read("cluster.json")? else { return Ok(None) };
    let Ok(cluster) = serde_json::from_str(&cluster) else { return Ok(None) };
    let [client, serving, agent] = IDENTITIES.map(identity);
    let (Some(client), Some(serving), Some(agent)) = (client?, serving?, agent?) else { return Ok(None) };
    let Some(server_ca) = read("server-ca.crt")? else { return Ok(None) };
    Ok(Some(Joined { server_ca, client, serving, agent, cluster, seconds_ahead: None }))
}

/// What an earlier start has got, if it is for this node and cluster. It may be about to expire, or for another
/// address: a node that its server does not answer runs with it, and it is renewed when the server is there.
fn kept(asking: &Asking) -> Result<Option<Joined>> {
    let Some(kept) = stored(&asking.dir)? else { return Ok(None) };
    if let Some((Some(hash), _)) = asking.token.as_deref().map(token::parts).transpose()?
        && token::hash(&kept.server_ca)? != hash
    {
        bail!(
            "this machine belongs to another cluster than that of the token: remove {} to join the new one",
            asking.dir.display()
        );
    }
    let of_node = pki::names_all(&kept.serving, std::slice::from_ref(&asking.node_name))?;
    Ok((of_node && pki::seconds_left(&kept.client.cert_pem)? > 0).then_some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, LeafSpec};
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use naru_apiserver::{CurrentCertificate, api_tls_config};
    use rustls_pki_types::UnixTime;
    use std::convert::Infallible;
    use std::sync::{Mutex, PoisonError};

    #[test]
    fn what_to_do_about_a_refused_certificate_is_said() -> Result<()> {
        let now: jiff::Timestamp = "1970-01-01T00:01:00Z".parse()?;
        let dir = Path::new("/var/lib/naru/agent/tls");
        let said = |error| advice(&rustls::Error::InvalidCertificate(error), dir, now);
        let (time, limit) = (UnixTime::since_unix_epoch(Duration::ZERO), UnixTime::since_unix_epoch(Duration::MAX));
        for error in [
            rustls::CertificateError::NotValidYetContext { time, not_before: limit },
            rustls::CertificateError::ExpiredContext { time: limit, not_after: time },
        ] {
            let said = said(error);
            assert!(said.contains("clock shows 1970-01-01 00:01:00 UTC") && said.contains("set-ntp"), "{said}");
        }
        let said = said(rustls::CertificateError::UnknownIssuer);
        assert!(said.contains("remove /var/lib/naru/agent/tls") && said.contains("in between"), "{said}");
        assert_eq!(advice(&"connection refused", dir, now), "");
        Ok(())
    }

    /// Somebody who is not the server, shows this authority as the cluster's, and writes down what he is sent.
    async fn impostor(shown: String) -> Result<(String, Arc<Mutex<Vec<String>>>)> {
        let dir = tempfile::tempdir()?;
        let own = Authority::load_or_create(dir.path(), "server-ca", "not-the-cluster's")?;
        let leaf = own.sign(&LeafSpec { alt_names: vec!["127.0.0.1".into()], ..LeafSpec::default() })?;
        let tls = api_tls_config(CurrentCertificate::new(&leaf.cert_pem, &leaf.key_pem)?, &[])?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let server = format!("https://{}", listener.local_addr()?);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = sent.clone();
        naru_base::spawn("impostor", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (seen, shown) = (seen.clone(), shown.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let token = request.headers().contains_key(http::header::AUTHORIZATION);
                    let line = format!("{} {} token={token}", request.method(), request.uri().path());
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    let answer = http::Response::new(Full::new(bytes::Bytes::from(shown.clone())));
                    async move { Ok::<_, Infallible>(answer) }
                });
                naru_base::spawn("impostor-connection", async move {
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // The other side ends it as soon as it has understood.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok((server, sent))
    }

    #[tokio::test]
    async fn an_impostor_is_sent_nothing() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let of_cluster = Authority::load_or_create(dir.path(), "server-ca", "the-cluster's")?.cert_pem;
        let other = Authority::load_or_create(&dir.path().join("."), "other-ca", "another")?.cert_pem;
        let token = token::full(&of_cluster, "secret")?;
        for (shown, expect) in [(other, "not of the cluster"), (of_cluster, "UnknownIssuer")] {
            let (server, sent) = impostor(shown).await?;
            let asking = Asking {
                servers: super::super::servers::known(dir.path(), &server)?,
                server,
                token: Some(token.clone()),
                node_name: "a".into(),
                ips: vec![IpAddr::from([192, 0, 2, 1])],
                machine: "m".into(),
                dir: dir.path().join("tls"),
            };
            let error = match ask(&asking, false).await {
                Ok(_) => bail!("an impostor is believed"),
                Err(Failure::Away(error)) => error.to_string(),
                Err(Failure::Refused(error)) => error.to_string(),
            };
            assert!(error.contains(expect), "{error}");
            let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
            assert_eq!(sent, ["GET /cacerts token=false"], "{expect}");
            assert!(!asking.dir.exists());
        }
        Ok(())
    }
}
