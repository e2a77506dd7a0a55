//! Deletes requests that have served their time.

use super::{condition, is_issued, name};
use crate::Context;
use crate::objects::{now, seconds};
use naru_api::certificates::subject::expiry;
use naru_api::registry;
use naru_client::{DeleteOptions, Next, is_not_found};
use serde_json::Value;
use std::time::Duration;

const HOUR: i64 = 3600;
/// After a certificate was issued, refused or could not be made.
const DECIDED: i64 = HOUR;
/// While nobody decides, or nobody signs.
const PENDING: i64 = 24 * HOUR;

pub(crate) fn start(context: &Context) {
    let client = context.client.clone();
    super::run(context, move |request| {
        let client = client.clone();
        async move {
            let left = deadline(&request).saturating_sub(now());
            if left > 0 {
                return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
            }
            let options = DeleteOptions::default().uid(request["metadata"]["uid"].as_str().unwrap_or_default());
            match client.delete(&registry::CERTIFICATE_SIGNING_REQUESTS, None, name(&request), &options).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(Next::Done),
            }
        }
    });
}

/// When a request goes, in seconds since the epoch.
fn deadline(request: &Value) -> i64 {
    let updated = |kind: &str| {
        condition(request, kind).map(|condition| seconds(condition["lastUpdateTime"].as_str().unwrap_or_default()))
    };
    let issued = is_issued(request);
    let created = seconds(request["metadata"]["creationTimestamp"].as_str().unwrap_or_default());
    let approved = updated("Approved").filter(|_| issued);
    let decided = [approved, updated("Denied"), updated("Failed")].into_iter().flatten().map(|at| at + DECIDED);
    let pending = (!issued).then_some(created + PENDING);
    decided.chain(pending).chain(expiry(request)).min().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_decided_stays_an_hour_and_what_is_not_a_day() {
        let check = |status: Value, hours: i64| {
            let request = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status});
            assert_eq!(deadline(&request) - seconds("2026-01-01T00:00:00Z"), hours * HOUR, "{status}");
        };
        let condition =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z"}]);
        check(json!({}), 24);
        check(json!({"conditions": condition("Denied")}), 3);
        check(json!({"conditions": condition("Failed")}), 3);
        check(json!({"conditions": condition("Approved")}), 24);
        check(json!({"conditions": condition("Approved"), "certificate": "eA=="}), 3);
    }
}
