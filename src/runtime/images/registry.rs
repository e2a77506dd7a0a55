//! One registry as seen by one pull, and its failures in the words that Kubernetes users know.

use super::error::{ImageError, PullError, PullErrorKind};
use super::manifest::Descriptor;
use super::pipe::PipeSender;
use super::pull::Progress;
use super::reference::Reference;
use super::store::RegistryCredentials;
use futures::StreamExt;
use naru_base::Backoff;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, SizedStream};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use std::time::Duration;

/// Why a step of a pull failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: PullErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(kind: PullErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Puts the step that every pull starts with before the reason.
    pub(super) fn resolving(self, reference: &Reference) -> Self {
        let text = match self.kind {
            PullErrorKind::NotFound if !self.text.contains("no match for platform") => {
                format!("failed to resolve reference \"{reference}\": {reference}: {}", self.text)
            }
            _ => format!("failed to resolve reference \"{reference}\": {}", self.text),
        };
        Self { kind: self.kind, text }
    }

    pub(super) fn for_image(self, reference: &Reference) -> PullError {
        PullError {
            kind: self.kind,
            message: format!("failed to pull and unpack image \"{reference}\": {}", self.text),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::new(PullErrorKind::Unknown, error.to_string())
    }
}

pub(super) struct Registry {
    client: oci_client::Client,
    reference: Reference,
    auth: RegistryAuth,
}

const ACCEPT: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A registry that sends nothing for this long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an interrupted download goes on where it stopped.
const RESUMES: usize = 5;
const MAX_REASON: usize = 1024;

impl Registry {
    pub(super) fn new(
        reference: &Reference,
        plain: bool,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Self, Failure> {
        // Whoever comes first wins; every part of the process installs the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
        let mut config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("naru/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if reference.is_loopback() {
            // A proxy from the environment cannot mean this machine. Naming one with an exception for
            // everything is how the client is told to use none.
            config.http_proxy = Some("http://127.0.0.1:1".to_owned());
            config.no_proxy = Some("*,127.0.0.0/8,::1".to_owned());
        }
        let client = oci_client::Client::try_from(config)
            .map_err(|error| Failure::new(PullErrorKind::Unknown, format!("set up the registry client: {error}")))?;
        let auth = match credentials {
            None => RegistryAuth::Anonymous,
            Some(RegistryCredentials::Basic { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Some(RegistryCredentials::Bearer(token)) => RegistryAuth::Bearer(token.clone()),
        };
        Ok(Self { client, reference: reference.clone(), auth })
    }

    fn target(&self, target: &str) -> oci_client::Reference {
        let (registry, repository) = (self.reference.registry.clone(), self.reference.repository.clone());
        if target.contains(':') {
            oci_client::Reference::with_digest(registry, repository, target.to_owned())
        } else {
            oci_client::Reference::with_tag(registry, repository, target.to_owned())
        }
    }

    /// A manifest or index by tag or digest, with its digest.
    pub(super) async fn manifest(&self, target: &str) -> Result<(bytes::Bytes, String), Failure> {
        let result = self.client.pull_manifest_raw(&self.target(target), &self.auth, ACCEPT).await;
        result.map_err(|error| self.failure(&error))
    }

    /// A blob that is kept in memory.
    pub(super) async fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut stream = self.open(blob, 0).await?;
        let mut data = Vec::new();
        while let Some(chunk) = stream.next().await {
            data.extend_from_slice(&chunk.map_err(|error| broken(blob, &error))?);
            if data.len() as u64 > limit {
                return Err(Failure::new(
                    PullErrorKind::Unknown,
                    format!("{} is larger than {limit} bytes", blob.digest),
                ));
            }
        }
        Ok(data)
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<SizedStream, Failure> {
        let descriptor = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let reference = self.target(self.reference.target());
        if offset == 0 {
            return self
                .client
                .pull_blob_stream(&reference, &descriptor)
                .await
                .map_err(|error| self.blob_failure(blob, &error));
        }
        match self.client.pull_blob_stream_partial(&reference, &descriptor, offset, None).await {
            Ok(BlobResponse::Partial(stream)) => Ok(stream),
            Ok(BlobResponse::Full(_)) => {
                Err(Failure::new(PullErrorKind::Unavailable, "the registry cannot resume a download"))
            }
            Err(error) => Err(self.blob_failure(blob, &error)),
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
        let mut stream = self.open(blob, *received).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| broken(blob, &error))?;
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

    fn blob_failure(&self, blob: &Descriptor, error: &OciDistributionError) -> Failure {
        let failure = self.failure(error);
        Failure { text: format!("failed to copy {}: {}", blob.digest, failure.text), ..failure }
    }

    fn failure(&self, error: &OciDistributionError) -> Failure {
        let denied = |reason: &str| {
            let text = format!("pull access denied, repository does not exist or may require authorization: {reason}");
            Failure::new(PullErrorKind::PermissionDenied, text)
        };
        match error {
            OciDistributionError::RegistryError { envelope, .. } => {
                let codes = || envelope.errors.iter().map(|error| &error.code);
                let reason = envelope.errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join(", ");
                let reason = shorten(&reason);
                use OciErrorCode as Code;
                if codes().any(|code| matches!(code, Code::Denied | Code::Unauthorized)) {
                    denied(&format!("server message: {reason}"))
                } else if codes().any(|code| {
                    matches!(
                        code,
                        Code::ManifestUnknown
                            | Code::NameUnknown
                            | Code::NotFound
                            | Code::BlobUnknown
                            | Code::ManifestBlobUnknown
                    )
                }) {
                    Failure::new(PullErrorKind::NotFound, format!("not found ({reason})"))
                } else if codes().any(|code| matches!(code, Code::Toomanyrequests)) {
                    Failure::new(
                        PullErrorKind::Unavailable,
                        format!("unexpected status code 429 Too Many Requests: {reason}"),
                    )
                } else {
                    Failure::new(PullErrorKind::Unknown, reason)
                }
            }
            OciDistributionError::ServerError { code: 404, .. }
            | OciDistributionError::ImageManifestNotFoundError(_) => Failure::new(PullErrorKind::NotFound, "not found"),
            OciDistributionError::ServerError { code: 403, message, .. } => denied(&shorten(message)),
            OciDistributionError::ServerError { code, url, message } => {
                let kind =
                    if *code >= 500 || *code == 429 { PullErrorKind::Unavailable } else { PullErrorKind::Unknown };
                Failure::new(kind, format!("unexpected status from GET request to {url}: {code}: {}", shorten(message)))
            }
            OciDistributionError::UnauthorizedError { .. } => denied("authorization failed: no basic auth credentials"),
            OciDistributionError::AuthenticationFailure(reason) => {
                denied(&format!("authorization failed: {}", shorten(reason)))
            }
            OciDistributionError::RequestError(error) => {
                let url = error.url().map(ToString::to_string).unwrap_or_default();
                let text = format!("failed to do request: Get \"{url}\": {}", self.reason(error));
                Failure::new(PullErrorKind::Unavailable, text)
            }
            other => Failure::new(PullErrorKind::Unknown, shorten(&other.to_string())),
        }
    }

    /// The innermost reason of a failed request, since the outer ones only say that sending failed.
    fn reason(&self, error: &(dyn std::error::Error + 'static)) -> String {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            if let Some(io) = source.downcast_ref::<std::io::Error>()
                && io.kind() == std::io::ErrorKind::ConnectionRefused
            {
                return format!("dial tcp {}: connect: connection refused", self.reference.registry);
            }
            innermost = source;
        }
        innermost.to_string()
    }
}

fn broken(blob: &Descriptor, error: &std::io::Error) -> Failure {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Failure::new(PullErrorKind::Unavailable, format!("failed to copy {}: {innermost}", blob.digest))
}

/// A registry may send pages; a message should stay one line of readable length.
fn shorten(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_REASON).collect()
}
