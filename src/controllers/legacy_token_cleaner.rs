//! Tokens that were once made for every service account, and that nobody has used for a year, are marked as invalid
//! and go a year later.

use crate::Context;
use crate::objects::{now, seconds};
use naru_api::core::pod::references;
use naru_api::registry;
use naru_client::projections::Meta;
use naru_client::{DeleteOptions, Error, Informer, ListParams, Next, PatchKind, WorkQueue, is_conflict, is_not_found};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Says from which day on it is noted who uses such tokens.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

const DAY_SECONDS: i64 = 86_400;
/// How long a token may lie unused, and then be invalid.
const PERIOD_SECONDS: i64 = 365 * DAY_SECONDS;
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(24 * 3600);

/// What is looked at in a Secret.
#[derive(Debug, Clone, Default, Deserialize)]
struct TokenSecret {
    metadata: Meta,
}

/// What is looked at in a service account: the Secrets that were made for it.
#[derive(Debug, Clone, Default, Deserialize)]
struct Account {
    metadata: Meta,
    #[serde(default)]
    secrets: Vec<Reference>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
}

/// The Secrets that a pod uses.
#[derive(Debug)]
struct Uses(BTreeSet<String>);

impl<'de> Deserialize<'de> for Uses {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pod = Value::deserialize(deserializer)?;
        Ok(Self(references::secrets(&pod).map(str::to_owned).collect()))
    }
}

/// What is known of the cluster; only followed once there has been tracking for long enough.
#[derive(Debug)]
struct Seen {
    secrets: Informer<TokenSecret>,
    accounts: Informer<Account>,
    pods: Informer<Uses>,
}

impl Seen {
    async fn start(ctx: &Context) -> Self {
        let of_type = ListParams::all().fields(format!("type={TYPE}"));
        let seen = Self {
            secrets: ctx.informers.start(&registry::SECRETS, of_type),
            accounts: ctx.informers.start(&registry::SERVICE_ACCOUNTS, ListParams::all()),
            pods: ctx.informers.start(&registry::PODS, ListParams::all()),
        };
        seen.secrets.synced().await;
        seen.accounts.synced().await;
        seen.pods.synced().await;
        seen
    }
}

/// Looks once a day.
pub(crate) fn start(ctx: &Context) {
    let queue = WorkQueue::<()>::new();
    queue.add(());
    let (context, seen) = (ctx.clone(), Arc::new(OnceCell::new()));
    ctx.run(&queue, 1, async {}, move |()| {
        let (ctx, seen) = (context.clone(), seen.clone());
        async move {
            let now = now();
            if let Some(since) = tracked_since(&ctx).await?
                && now >= since + DAY_SECONDS + PERIOD_SECONDS
            {
                clean(&ctx, seen.get_or_init(|| Seen::start(&ctx)).await, now).await?;
            }
            Ok::<_, Error>(Next::After(PAUSE))
        }
    });
}

/// The day, in seconds, from which on uses are noted.
async fn tracked_since(ctx: &Context) -> Result<Option<i64>, Error> {
    match ctx.client.get::<Value>(&registry::CONFIG_MAPS, Some("kube-system"), TRACKING).await {
        Ok(map) => Ok(map["data"]["since"].as_str().and_then(day_seconds)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn clean(ctx: &Context, seen: &Seen, now: i64) -> Result<(), Error> {
    for secret in seen.secrets.list() {
        let meta = &secret.metadata;
        let name = meta.annotations.get(ACCOUNT_NAME).map_or("", String::as_str);
        let account = seen.accounts.get(&meta.namespace, name);
        let is_used = || seen.pods.by_namespace(&meta.namespace).iter().any(|pod| pod.0.contains(&meta.name));
        let result: Result<(), Error> = match verdict(meta, account.as_deref(), is_used, now) {
            Verdict::Keep => continue,
            Verdict::Mark => {
                let patch = json!({ "metadata": { "uid": meta.uid, "labels": { INVALID_SINCE: day(now) } } });
                let (namespace, kind) = (Some(meta.namespace.as_str()), PatchKind::Merge);
                let done = ctx.client.patch(&registry::SECRETS, namespace, &meta.name, None, kind, &patch).await;
                done.map(|_: Value| {
                    tracing::info!(meta.namespace, meta.name, "a token that nobody uses is invalid now")
                })
            }
            Verdict::Delete => {
                let mut only = DeleteOptions::default();
                only.preconditions.get_or_insert_default().resource_version = Some(meta.resource_version.clone());
                let done = ctx.client.delete(&registry::SECRETS, Some(&meta.namespace), &meta.name, &only).await;
                done.map(|()| tracing::info!(meta.namespace, meta.name, "an invalid token is deleted"))
            }
        };
        match result {
            // What has changed is looked at again the next day.
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What becomes of a token.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Mark,
    Delete,
}

fn verdict(secret: &Meta, account: Option<&Account>, is_used: impl Fn() -> bool, now: i64) -> Verdict {
    let oldest = now - PERIOD_SECONDS;
    let recent = |label: &str| secret.labels.get(label).map(|text| day_seconds(text).map(|_| *text >= day(oldest)));
    if secret.is_deleting() || seconds(&secret.creation_timestamp) >= oldest {
        return Verdict::Keep;
    }
    // A day that cannot be read tells nothing.
    if matches!(recent(LAST_USED), Some(None | Some(true))) {
        return Verdict::Keep;
    }
    let uid = secret.annotations.get(ACCOUNT_UID).map_or("", String::as_str);
    let account = account.filter(|account| uid.is_empty() || account.metadata.uid == uid);
    // Only those that were made without anybody asking; what people have made is theirs.
    let is_listed = |account: &Account| account.secrets.iter().any(|reference| reference.name == secret.name);
    if !account.is_some_and(is_listed) || is_used() {
        return Verdict::Keep;
    }
    match recent(INVALID_SINCE) {
        None | Some(None) => Verdict::Mark,
        Some(Some(true)) => Verdict::Keep,
        Some(Some(false)) => Verdict::Delete,
    }
}

/// `2006-01-02`.
fn day(at: i64) -> String {
    jiff::Timestamp::from_second(at).unwrap_or_default().strftime("%Y-%m-%d").to_string()
}

fn day_seconds(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = Some(text).filter(|text| text.len() == 10)?.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn old_tokens_are_marked_and_then_go() {
        let now = day_seconds("2026-06-15").unwrap();
        let account: Account =
            serde_json::from_value(json!({ "metadata": { "uid": "u" }, "secrets": [{ "name": "s" }] })).unwrap();
        let check = |change: Value, account: Option<&Account>, used: bool, expected: Verdict| {
            let mut meta = json!({ "name": "s", "creationTimestamp": "2024-01-01T00:00:00Z",
                "annotations": { ACCOUNT_UID: "u" } });
            for (field, value) in change.as_object().unwrap() {
                meta[field] = value.clone();
            }
            let meta: Meta = serde_json::from_value(meta).unwrap();
            assert_eq!(verdict(&meta, account, || used, now), expected, "{change}");
        };
        let labels = |used: &str, invalid: &str| json!({ "labels": { LAST_USED: used, INVALID_SINCE: invalid } });
        let known = Some(&account);
        check(json!({}), known, false, Verdict::Mark);
        check(json!({}), known, true, Verdict::Keep);
        check(json!({}), None, false, Verdict::Keep);
        check(json!({ "name": "made-by-somebody" }), known, false, Verdict::Keep);
        check(json!({ "annotations": { ACCOUNT_UID: "other" } }), known, false, Verdict::Keep);
        check(json!({ "creationTimestamp": "2026-01-01T00:00:00Z" }), known, false, Verdict::Keep);
        check(json!({ "deletionTimestamp": "2026-06-14T00:00:00Z" }), known, false, Verdict::Keep);
        check(labels("2025-06-15", ""), known, false, Verdict::Keep);
        check(labels("2025-06-14", ""), known, false, Verdict::Mark);
        check(labels("soon", "2025-01-01"), known, false, Verdict::Keep);
        check(labels("2024-02-01", "never"), known, false, Verdict::Mark);
        check(labels("2024-02-01", "2025-06-15"), known, false, Verdict::Keep);
        check(labels("2024-02-01", "2025-06-14"), known, false, Verdict::Delete);
    }
}
