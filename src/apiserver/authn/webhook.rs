//! Bearer tokens that somebody else judges: TokenReview by webhook.

use super::User;
use crate::expiring::{self, Expiring};
use crate::outbound::{Reviewer, SetupError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long the webhook may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer counts, unless the flags say otherwise.
const USUAL_LIFE: Duration = Duration::from_secs(120);
/// Answers that are remembered.
const MAX_ANSWERS: usize = 4096;

/// A user and the audiences that the token is for.
type Judged = (User, Vec<String>);

/// The webhook.
#[derive(Debug)]
pub(super) struct TokenWebhook {
    reviewer: Reviewer,
    version: String,
    life: Duration,
    /// The API server's audiences: what a webhook means that does not know audiences.
    audiences: Vec<String>,
    answers: Expiring<Option<Judged>>,
}

impl TokenWebhook {
    /// From its kubeconfig.
    pub(super) fn new(
        kubeconfig: &Path,
        version: Option<&str>,
        life: Option<Duration>,
        audiences: Vec<String>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            reviewer: Reviewer::from_kubeconfig(kubeconfig, TIMEOUT)?,
            version: format!("authentication.k8s.io/{}", version.unwrap_or("v1beta1")),
            life: life.unwrap_or(USUAL_LIFE),
            audiences,
            answers: Expiring::new(MAX_ANSWERS),
        })
    }

    /// Whose token it is for one of the wanted audiences; `None` when the webhook does not know it.
    pub(super) async fn user(&self, token: &str, wanted: &[String]) -> Result<Option<Judged>, String> {
        let key = expiring::key(format!("{wanted:?}{token}").as_bytes());
        if let Some(answer) = self.answers.get(&key) {
            return Ok(answer);
        }
        let review = json!({
            "apiVersion": self.version,
            "kind": "TokenReview",
            "metadata": { "creationTimestamp": null },
            "spec": { "token": token, "audiences": wanted },
            "status": { "user": {} },
        });
        let answer = self.reviewer.ask(&review).await.map_err(|error| error.to_string())?;
        let judged = judge(&answer["status"], wanted, &self.audiences)?;
        self.answers.put(key, judged.clone(), self.life);
        Ok(judged)
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn judge(status: &Value, wanted: &[String], implicit: &[String]) -> Result<Option<Judged>, String> {
    if status["authenticated"] != true {
        return match status["error"].as_str().unwrap_or_default() {
            "" => Ok(None),
            error => Err(error.to_owned()),
        };
    }
    let mut audiences = strings(&status["audiences"]);
    if audiences.is_empty() {
        audiences = implicit.to_vec();
    }
    let common: Vec<String> = wanted.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
    if common.is_empty() {
        return Ok(None);
    }
    let info = &status["user"];
    let text = |field: &str| info[field].as_str().unwrap_or_default().to_owned();
    let mut user = User::authenticated(text("username"), strings(&info["groups"]));
    user.uid = text("uid");
    let extra = info["extra"].as_object().into_iter().flatten();
    user.extra = extra.map(|(key, values)| (key.clone(), strings(values))).collect::<BTreeMap<_, _>>();
    Ok(Some((user, common)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_upstream_does() {
        let api = ["api".to_owned()];
        let user = json!({ "username": "jane", "uid": "42", "groups": ["dev"], "extra": { "k": ["v"] } });
        let yes = json!({ "authenticated": true, "user": user });
        let (found, audiences) = judge(&yes, &api, &api).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.uid.as_str(), audiences), ("jane", "42", api.to_vec()));
        assert_eq!(found.groups, ["dev", "system:authenticated"]);
        assert_eq!(found.extra["k"], ["v"]);
        let other = json!({ "authenticated": true, "user": user, "audiences": ["x"] });
        assert_eq!(judge(&other, &api, &api), Ok(None));
        assert_eq!(judge(&json!({ "authenticated": false }), &api, &api), Ok(None));
        assert_eq!(judge(&json!({ "error": "who?" }), &api, &api), Err("who?".to_owned()));
    }
}
