//! Bootstrap tokens: `cluster-info` is signed with them, so that who joins by a token can tell whose
//! certificate it is shown; those that have expired are deleted.

use crate::Context;
use crate::objects::{now, seconds};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use naru_api::bootstrap_token::{NAME_PREFIX, NAMESPACE, SECRET_TYPE, is_id, is_secret};
use naru_api::registry;
use naru_client::{DeleteOptions, Error, Informer, ListParams, Next, ObjectKey, WorkQueue, is_not_found};
use ring::hmac;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SIGNATURE: &str = "jws-kubeconfig-";

/// A Secret that holds a token; others are empty here, so that no other Secret is kept in memory twice.
#[derive(Debug, Default, PartialEq)]
struct Token {
    id: String,
    secret: String,
    signs: bool,
    /// Seconds since the epoch; expired if the text is no time.
    expires: Option<i64>,
    uid: String,
}

impl<'de> serde::Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let full = Value::deserialize(deserializer)?;
        let name = full["metadata"]["name"].as_str().unwrap_or_default();
        let data = |key: &str| {
            let bytes = STANDARD.decode(full["data"][key].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let id = data("token-id").unwrap_or_default();
        if full["type"] != SECRET_TYPE || name.strip_prefix(NAME_PREFIX) != Some(&id) || !is_id(&id) {
            return Ok(Self::default());
        }
        Ok(Self {
            secret: data("token-secret").filter(|secret| is_secret(secret)).unwrap_or_default(),
            signs: data("usage-bootstrap-signing").as_deref() == Some("true"),
            expires: data("expiration").map(|text| seconds(&text)),
            uid: full["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            id,
        })
    }
}

impl Token {
    fn is_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

fn tokens(context: &Context) -> Informer<Token> {
    let params = ListParams::namespace(NAMESPACE).fields(format!("type={SECRET_TYPE}"));
    context.informers.start(&registry::SECRETS, params)
}

/// Deletes expired tokens.
pub(crate) fn start_cleaner(context: &Context) {
    let (tokens, queue) = (tokens(context), WorkQueue::<ObjectKey>::new());
    let wake = queue.clone();
    tokens.subscribe(move |change| wake.add(change.key.clone()));
    let (client, all) = (context.client.clone(), tokens.clone());
    context.run(&queue, 1, async move { tokens.synced().await }, move |key: ObjectKey| {
        let (client, token) = (client.clone(), all.get_key(&key));
        async move {
            let Some((at, token)) = token.as_ref().and_then(|token| Some((token.expires?, token))) else {
                return Ok::<_, Error>(Next::Done);
            };
            let left = at - now();
            if left > 0 {
                return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
            }
            let options = DeleteOptions::default().uid(&token.uid);
            match client.delete(&registry::SECRETS, key.namespace(), &key.name, &options).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(Next::Done),
            }
        }
    });
}

/// Signs `cluster-info` with each token that is there for it.
pub(crate) fn start_signer(context: &Context) {
    let (tokens, queue) = (tokens(context), WorkQueue::<()>::new());
    let info_only = ListParams::namespace("kube-public").fields("metadata.name=cluster-info");
    let info: Informer<Value> = context.informers.start(&registry::CONFIG_MAPS, info_only);
    let wake = queue.clone();
    tokens.subscribe(move |_| wake.add(()));
    let wake = queue.clone();
    info.subscribe(move |_| wake.add(()));
    let (client, all, map) = (context.client.clone(), tokens.clone(), info.clone());
    let synced = async move {
        tokens.synced().await;
        info.synced().await;
    };
    context.run(&queue, 1, synced, move |()| {
        let (client, tokens, map) = (client.clone(), all.list(), map.get("kube-public", "cluster-info"));
        async move {
            let Some(map) = map else { return Ok::<_, Error>(Next::Done) };
            if let Some(signed) = signed(&map, &tokens, now()) {
                client.update::<Value>(&registry::CONFIG_MAPS, Some("kube-public"), "cluster-info", &signed).await?;
            }
            // The next token to expire takes its signature along: the cleaner deletes it.
            Ok(Next::Done)
        }
    });
}

/// The map with the signatures that it shall have, unless it has them.
fn signed(map: &Value, tokens: &[Arc<Token>], now: i64) -> Option<Value> {
    let kubeconfig = map["data"]["kubeconfig"].as_str()?;
    let usable = tokens.iter().filter(|token| token.signs && !token.secret.is_empty() && !token.is_expired(now));
    let wanted: BTreeMap<String, Value> = usable
        .map(|token| (format!("{SIGNATURE}{}", token.id), sign(kubeconfig, &token.id, &token.secret).into()))
        .collect();
    let data = map["data"].as_object()?;
    let present: BTreeMap<String, Value> = data
        .iter()
        .filter(|(key, _)| key.starts_with(SIGNATURE))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if present == wanted {
        return None;
    }
    let mut data = data.clone();
    data.retain(|key, _| !key.starts_with(SIGNATURE));
    data.extend(wanted);
    let mut map = map.clone();
    map["data"] = data.into();
    Some(map)
}

/// A JSON web signature without its content, which the reader has.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(id: &str, change: impl Fn(&mut Value)) -> Token {
        let text = |text: &str| STANDARD.encode(text);
        let mut secret = json!({"metadata": {"name": format!("{NAME_PREFIX}{id}")}, "type": SECRET_TYPE, "data": {
            "token-id": text(id), "token-secret": text("0123456789abcdef"), "usage-bootstrap-signing": text("true")}});
        change(&mut secret);
        serde_json::from_value(secret).unwrap()
    }

    #[test]
    fn a_signature_is_the_one_that_joiners_expect() {
        // Header, nothing, and an HMAC of header and content.
        let signature = sign("x", "abcdef", "0123456789abcdef");
        let (header, rest) = signature.split_once("..").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode("x"));
        hmac::verify(&key, text.as_bytes(), &URL_SAFE_NO_PAD.decode(rest).unwrap()).unwrap();
    }

    #[test]
    fn only_usable_tokens_sign_and_old_signatures_go() {
        let map = json!({"data": {"kubeconfig": "k", "jws-kubeconfig-gone00": "s"}});
        let tokens: Vec<_> = [
            token("aaaaaa", |_| {}),
            token("bbbbbb", |secret| secret["data"]["usage-bootstrap-signing"] = Value::Null),
            token("cccccc", |secret| secret["data"]["expiration"] = STANDARD.encode("2020-01-01T00:00:00Z").into()),
            token("dddddd", |secret| secret["metadata"]["name"] = "other".into()),
        ]
        .map(Arc::new)
        .into();
        let at = seconds("2026-01-01T00:00:00Z");
        let once = signed(&map, &tokens, at).unwrap();
        let keys: Vec<_> = once["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "kubeconfig"]);
        assert_eq!(signed(&once, &tokens, at), None, "nothing is left to be written");
        assert!(tokens[2].is_expired(at) && !tokens[0].is_expired(at));
    }
}
