//! One registry as seen by one pull: manifests and blobs over HTTP.

use super::challenge::{Challenge, basic, token};
use super::error::PullErrorKind;
use super::failure::{Failure, broken, denied, refusal, shorten, unanswered};
use super::layer::{has_digest, sha256};
use super::manifest::Descriptor;
use super::pipe::PipeSender;
use super::pull::Progress;
use super::registries::{Endpoint, Tls};
use super::store::RegistryCredentials;
use bytes::Bytes;
use naru_base::Backoff;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use std::time::Duration;
use tokio::sync::Mutex;

/// A registry, and with whose credentials it is asked.
pub(super) struct Registry {
    http: reqwest::Client,
    endpoint: Endpoint,
    credentials: Option<RegistryCredentials>,
    /// What it was last content with.
    authorization: Mutex<Option<HeaderValue>>,
}

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// What registries allow.
const MAX_MANIFEST: u64 = 4 << 20;
const MAX_COMPLAINT: u64 = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry that sends nothing for this long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an interrupted download goes on where it stopped.
const RESUMES: usize = 5;

impl Registry {
    pub(super) fn new(endpoint: Endpoint, credentials: Option<RegistryCredentials>) -> Result<Self, Failure> {
        // Whoever comes first wins; every part of the process installs the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = client(&endpoint)
            .map_err(|reason| Failure::new(PullErrorKind::Unknown, format!("set up the registry client: {reason}")))?;
        Ok(Self { http, endpoint, credentials, authorization: Mutex::default() })
    }

    /// A manifest or index by tag or digest, with its digest.
    pub(super) async fn manifest(&self, target: &str) -> Result<(Bytes, String), Failure> {
        let response = self.get(&format!("manifests/{target}"), Some(MANIFESTS), 0).await?;
        let body = self.whole(response, MAX_MANIFEST, "the manifest").await?;
        let digest = if target.contains(':') { target.to_owned() } else { sha256(&body) };
        if !has_digest(&body, &digest) {
            let text = format!("wrong digest of the manifest: expected {digest}, got {}", sha256(&body));
            return Err(Failure::new(PullErrorKind::Unknown, text));
        }
        Ok((Bytes::from(body), digest))
    }

    /// A blob that is kept in memory.
    pub(super) async fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Failure> {
        let response = self.open(blob, 0).await?;
        self.whole(response, limit, &blob.digest).await
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Response, Failure> {
        let response = self.get(&format!("blobs/{}", blob.digest), None, offset).await.map_err(|failure| Failure {
            text: format!("failed to copy {}: {}", blob.digest, failure.text),
            ..failure
        })?;
        if offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Failure::new(PullErrorKind::Unavailable, "the registry cannot resume a download"));
        }
        Ok(response)
    }

    /// Asks for something of the repository, as whom the registry wants.
    async fn get(&self, path: &str, accept: Option<&'static str>, offset: u64) -> Result<Response, Failure> {
        let Endpoint { url, repository, namespace, .. } = &self.endpoint;
        let url = format!("{url}/{repository}/{path}");
        let mut shown = self.known().await;
        loop {
            let mut request = self.http.get(&url);
            if let Some(namespace) = namespace {
                request = request.query(&[("ns", namespace)]);
            }
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(authorization) = &shown {
                request = request.header(AUTHORIZATION, authorization);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let response = request.send().await.map_err(|error| unanswered(&self.endpoint.host, &error))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED {
                // Nothing better can be had than what was refused just now.
                let better = self.answer(response.headers()).await?.filter(|better| Some(better) != shown.as_ref());
                if let Some(better) = better {
                    shown = Some(better);
                    continue;
                }
            }
            let body = self.whole(response, MAX_COMPLAINT, "the answer").await.unwrap_or_default();
            return Err(refusal(&url, status, &body));
        }
    }

    async fn known(&self) -> Option<HeaderValue> {
        match &self.credentials {
            Some(RegistryCredentials::Bearer(token)) => secret(&format!("Bearer {token}")),
            _ => self.authorization.lock().await.clone(),
        }
    }

    /// What to show a registry that asked who we are; `None` if there is nothing that could convince it.
    async fn answer(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Failure> {
        let asked = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let answer = match Challenge::choose(asked) {
            Some(Challenge::Basic) => match &self.credentials {
                Some(RegistryCredentials::Basic { username, password }) => secret(&basic(username, password)),
                Some(_) => None,
                None => return Err(denied("authorization failed: no basic auth credentials")),
            },
            Some(Challenge::Bearer(wanted)) => {
                let scope = format!("repository:{}:pull", self.endpoint.repository);
                let token = token(&self.http, &wanted, &scope, self.credentials.as_ref()).await?;
                secret(&format!("Bearer {token}"))
            }
            None => None,
        };
        self.authorization.lock().await.clone_from(&answer);
        Ok(answer)
    }

    async fn whole(&self, mut response: Response, limit: u64, what: &str) -> Result<Vec<u8>, Failure> {
        let mut data = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => data.extend_from_slice(&chunk),
                Ok(None) => return Ok(data),
                Err(error) => return Err(unanswered(&self.endpoint.host, &error)),
            }
            if data.len() as u64 > limit {
                return Err(Failure::new(PullErrorKind::Unknown, format!("{what} is larger than {limit} bytes")));
            }
        }
    }

    /// Sends a blob down the pipe, going on after interruptions.
    pub(super) async fn feed(
        &self,
        blob: &Descriptor,
        sender: PipeSender,
        progress: &Progress<'_>,
    ) -> Result<(), Failure> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let (mut received, mut resumes) = (0, 0);
        loop {
            match self.feed_once(blob, &sender, &mut received, progress).await {
                Ok(()) => break,
                Err(failure) if failure.kind == PullErrorKind::Unavailable && received > 0 && resumes < RESUMES => {
                    resumes += 1;
                    tracing::info!(digest = blob.digest, received, reason = failure.text, "resuming a download");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        sender.finish().await;
        Ok(())
    }

    async fn feed_once(
        &self,
        blob: &Descriptor,
        sender: &PipeSender,
        received: &mut u64,
        progress: &Progress<'_>,
    ) -> Result<(), Failure> {
        let mut response = self.open(blob, *received).await?;
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(blob, &error))? {
            *received += chunk.len() as u64;
            if *received > blob.size {
                let (digest, size) = (&blob.digest, blob.size);
                return Err(Failure::new(
                    PullErrorKind::Unknown,
                    format!("{digest} is larger than the {size} bytes of the manifest"),
                ));
            }
            progress.add(chunk.len() as u64);
            if !sender.send(chunk).await {
                // The unpacker has ended with an error that says more.
                return Ok(());
            }
        }
        if *received < blob.size {
            let text =
                format!("failed to copy {}: unexpected EOF after {received} of {} bytes", blob.digest, blob.size);
            return Err(Failure::new(PullErrorKind::Unavailable, text));
        }
        Ok(())
    }
}

/// A header that is not shown in logs.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn client(endpoint: &Endpoint) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("naru/", env!("CARGO_PKG_VERSION")));
    if endpoint.is_here() {
        // A proxy from the environment cannot mean this machine.
        builder = builder.no_proxy();
    }
    let Tls { ca_file, identity, skip_verify } = &endpoint.tls;
    let read = |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    if let Some(path) = ca_file {
        let bundle = reqwest::Certificate::from_pem_bundle(&read(path)?);
        builder = builder.tls_certs_merge(bundle.map_err(|_| format!("{}: no certificates in it", path.display()))?);
    }
    if let Some((cert, key)) = identity {
        let mut pem = read(key)?;
        pem.push(b'\n');
        pem.extend(read(cert)?);
        let identity = reqwest::Identity::from_pem(&pem);
        let wrong = |_| format!("{} and {}: not a certificate and its key", cert.display(), key.display());
        builder = builder.identity(identity.map_err(wrong)?);
    }
    if *skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        shorten(&source.unwrap_or_else(|| error.to_string()))
    })
}
