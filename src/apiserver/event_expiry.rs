//! Events are news: they go when nothing has been added to them for an hour, or for as long as `event-ttl` says.

use crate::clock;
use crate::objects;
use crate::pipeline::State;
use naru_api::registry;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Unless the flags say otherwise.
const USUAL: Duration = Duration::from_secs(3600);
/// Between two looks; events may be that much overdue.
const INTERVAL: Duration = Duration::from_secs(300);

/// Looks from time to time, until shutdown.
pub(crate) fn start(state: Arc<State>) {
    let life = state.config.flags.event_ttl.unwrap_or(USUAL);
    let interval = INTERVAL.min(life).max(Duration::from_secs(1));
    naru_base::spawn("event-expiry", async move {
        while state.shutdown.guard(tokio::time::sleep(interval)).await.is_some() {
            sweep(&state, clock::now_seconds(), life).await;
        }
    });
}

/// Removes what is older.
pub(crate) async fn sweep(state: &State, now: i64, life: Duration) {
    let oldest = now - i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    for event in state.cache.objects(&registry::EVENTS) {
        let Ok(tree) = objects::tree(&event) else { continue };
        if newest_time(&tree).is_none_or(|time| time >= oldest) {
            continue;
        }
        // One that has just been added to stays: the revision is another one then.
        let gone = objects::remove(state, &registry::EVENTS, event.namespace(), event.name(), event.revision()).await;
        if let Err(status) = gone {
            tracing::warn!(reason = status.message, "an old event could not be removed");
            return;
        }
    }
}

/// When something was last added.
fn newest_time(event: &Value) -> Option<i64> {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    times.into_iter().filter_map(|time| clock::parse_rfc3339(time.as_str()?)).max()
}
