//! Webhooks that answer a review: a URL, how to reach it, and when to ask again.

use super::{HttpsClient, OutboundError};
use bytes::Bytes;
use naru_base::Backoff;
use naru_client::kubeconfig::{KubeconfigError, from_kubeconfig};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Attempts in all.
const ATTEMPTS: u32 = 5;
/// Between the first two; doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a review was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    /// Not reached.
    #[error("Post {url:?}: {source}")]
    Request {
        /// Of the webhook.
        url: String,
        /// Why.
        source: OutboundError,
    },
    /// Another status than 200 or 201.
    #[error("the webhook at {url:?} answered {code}")]
    Code {
        /// Of the webhook.
        url: String,
        /// The status.
        code: u16,
    },
    /// No JSON.
    #[error("the webhook at {url:?} answered something that is no review: {reason}")]
    Answer {
        /// Of the webhook.
        url: String,
        /// Why.
        reason: String,
    },
}

/// Why a webhook cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// Its kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// Its certificates.
    #[error(transparent)]
    Client(#[from] OutboundError),
}

/// One webhook, as its kubeconfig describes it.
#[derive(Debug)]
pub(crate) struct Reviewer {
    client: HttpsClient,
    url: String,
}

impl Reviewer {
    /// Reads the kubeconfig: the cluster is the webhook, the user is this server.
    pub(crate) fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, SetupError> {
        let config = from_kubeconfig(path, None)?.http;
        let url = config.server.clone();
        if !url.starts_with("https://") {
            return Err(OutboundError::Url(url).into());
        }
        Ok(Self { client: HttpsClient::new(&config, timeout)?, url })
    }

    /// Sends a review and gives back the answered one.
    pub(crate) async fn ask(&self, review: &Value) -> Result<Value, ReviewError> {
        let body = Bytes::from(review.to_string());
        again(Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), || self.ask_once(review, body.clone())).await
    }

    /// Sends something whose answer says nothing. The pause before the second attempt is the caller's.
    pub(crate) async fn deliver(&self, body: Bytes, first_pause: Duration) -> Result<(), ReviewError> {
        let backoff = Backoff::new(first_pause, first_pause.saturating_mul(4));
        again(backoff, || async { self.post(body.clone()).await.map(|_| ()) }).await
    }

    async fn post(&self, body: Bytes) -> Result<Bytes, ReviewError> {
        let url = || self.url.clone();
        let answer = self.client.post(&self.url, body).await;
        let answer = answer.map_err(|source| ReviewError::Request { url: url(), source })?;
        if !(200..=299).contains(&answer.code) {
            return Err(ReviewError::Code { url: url(), code: answer.code });
        }
        Ok(answer.body)
    }

    async fn ask_once(&self, review: &Value, body: Bytes) -> Result<Value, ReviewError> {
        let url = || self.url.clone();
        let answer = self.post(body).await?;
        let value: Value = serde_json::from_slice(&answer)
            .map_err(|error| ReviewError::Answer { url: url(), reason: error.to_string() })?;
        if value["kind"] != review["kind"] || value["apiVersion"] != review["apiVersion"] {
            let reason = format!("its kind is {} {}", value["apiVersion"], value["kind"]);
            return Err(ReviewError::Answer { url: url(), reason });
        }
        Ok(value)
    }
}

/// Tries until it works, it cannot work, or it has been tried often enough.
async fn again<T, F>(mut backoff: Backoff, mut once: impl FnMut() -> F) -> Result<T, ReviewError>
where
    F: Future<Output = Result<T, ReviewError>>,
{
    let mut attempt = 1;
    loop {
        match once().await {
            Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                tracing::debug!(%error, "a webhook is asked again");
                tokio::time::sleep(backoff.next_delay()).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// Whether asking again may help.
fn is_passing(error: &ReviewError) -> bool {
    match error {
        ReviewError::Request { source, .. } => {
            !matches!(source, OutboundError::Url(_) | OutboundError::Tls(_) | OutboundError::Deadline)
        }
        ReviewError::Code { code, .. } => *code == 429 || *code >= 500,
        ReviewError::Answer { .. } => false,
    }
}
