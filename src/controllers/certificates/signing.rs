//! Signs approved requests for the cluster's own signers.

use super::{condition, is_issued, name, with_condition};
use crate::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naru_api::certificates::subject::{
    CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, Subject, check_client, check_kubelet_client,
    check_kubelet_serving,
};
use naru_api::registry;
use naru_client::{Client, Error, Next, is_not_found};
use serde_json::Value;
use std::time::Duration;

/// How long certificates are good for, at most and if unsaid, and at least.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(600);

/// Which of the cluster's authorities signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The one that the API server knows clients by.
    Client,
    /// The one that clients know servers by.
    Server,
}

/// What is to be signed.
#[derive(Debug)]
pub struct SigningRequest<'a> {
    /// Who signs.
    pub authority: Authority,
    /// The request, PEM.
    pub pem: &'a str,
    /// What the certificate is good for, in the words of the API.
    pub usages: Vec<&'a str>,
    /// For how long.
    pub duration: Duration,
}

/// Signs with the cluster's authorities.
pub trait Signer: Send + Sync {
    /// The certificate, PEM; or why there is none.
    fn sign(&self, request: &SigningRequest<'_>) -> Result<String, String>;
}

pub(crate) fn start(context: &Context) {
    let Some(signer) = context.config.signer.clone() else { return };
    let client = context.client.clone();
    super::run(context, move |request| {
        let (client, signer) = (client.clone(), signer.clone());
        async move {
            if let Some(changed) = decide(&request, &*signer) {
                write(&client, &changed).await?;
            }
            Ok(Next::Done)
        }
    });
}

async fn write(client: &Client, request: &Value) -> Result<(), Error> {
    let resource = &registry::CERTIFICATE_SIGNING_REQUESTS;
    match client.update_status::<Value>(resource, None, name(request), request).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The request with its certificate, or with the reason why it gets none; nothing if it is not for us.
fn decide(request: &Value, signer: &dyn Signer) -> Option<Value> {
    if is_issued(request) || condition(request, "Approved").is_none() || condition(request, "Failed").is_some() {
        return None;
    }
    let subject = Subject::of(request);
    let (authority, verdict) = match (request["spec"]["signerName"].as_str()?, &subject) {
        (CLIENT, _) => (Authority::Client, check_client(request)),
        (KUBELET_CLIENT, Ok(subject)) => (Authority::Client, check_kubelet_client(request, subject)),
        (KUBELET_SERVING, Ok(subject)) => (Authority::Server, check_kubelet_serving(request, subject)),
        (LEGACY_UNKNOWN, _) => (Authority::Server, Ok(())),
        _ => return None,
    };
    if let Err(why) = verdict.and(subject.map(drop)) {
        return Some(with_condition(request, "Failed", "SignerValidationFailure", &why));
    }
    let pem = STANDARD.decode(request["spec"]["request"].as_str()?).ok()?;
    let usages = request["spec"]["usages"].as_array()?.iter().filter_map(Value::as_str).collect();
    let duration = duration(request["spec"]["expirationSeconds"].as_u64());
    let wanted = SigningRequest { authority, pem: std::str::from_utf8(&pem).ok()?, usages, duration };
    match signer.sign(&wanted) {
        Ok(certificate) => {
            let mut request = request.clone();
            request["status"]["certificate"] = STANDARD.encode(certificate).into();
            Some(request)
        }
        Err(why) => {
            tracing::warn!(request = name(request), why, "certificate not signed");
            None
        }
    }
}

fn duration(asked: Option<u64>) -> Duration {
    asked.map_or(LONGEST, |seconds| Duration::from_secs(seconds).clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fake;

    impl Signer for Fake {
        fn sign(&self, request: &SigningRequest<'_>) -> Result<String, String> {
            Ok(format!("{:?} {} {}", request.authority, request.usages.join("+"), request.duration.as_secs()))
        }
    }

    /// A request for CN=jane, O=system:masters.
    fn request(signer: &str, usages: &[&str]) -> Value {
        let params = rcgen::CertificateParams::default();
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "usages": usages, "request": STANDARD.encode(pem)},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]}})
    }

    #[test]
    fn what_is_approved_and_fits_is_signed() {
        let issued = |request: &Value| {
            let changed = decide(request, &Fake).unwrap();
            String::from_utf8(STANDARD.decode(changed["status"]["certificate"].as_str().unwrap()).unwrap()).unwrap()
        };
        let mut client = request(CLIENT, &["client auth", "digital signature"]);
        assert_eq!(issued(&client), "Client client auth+digital signature 31536000");
        client["spec"]["expirationSeconds"] = 3600.into();
        assert_eq!(issued(&client), "Client client auth+digital signature 3600");
        assert_eq!(issued(&request(LEGACY_UNKNOWN, &["any"])), "Server any 31536000");
        client["status"]["conditions"] = json!([{"type": "Denied", "status": "True"}]);
        assert_eq!(decide(&client, &Fake), None);
        assert_eq!(decide(&request("example.com/x", &["any"]), &Fake), None);
    }

    #[test]
    fn what_does_not_fit_fails_in_upstreams_words() {
        let failed = |signer: &str, usages: &[&str]| {
            let changed = decide(&request(signer, usages), &Fake).unwrap();
            let condition = condition(&changed, "Failed").unwrap().clone();
            assert_eq!(condition["reason"], "SignerValidationFailure");
            condition["message"].as_str().unwrap().to_owned()
        };
        assert_eq!(failed(CLIENT, &["server auth"]), "invalid usage for client certificate: server auth");
        assert_eq!(failed(CLIENT, &[]), "missing required usage for client certificate: client auth");
        assert_eq!(failed(KUBELET_CLIENT, &["client auth"]), "subject organization is not system:nodes");
        assert_eq!(failed(KUBELET_SERVING, &["server auth"]), "subject organization is not system:nodes");
    }
}
