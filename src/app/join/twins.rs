//! Machines that want to be a node that another one is: said on the node, for as long as they come.

use naru_api::registry::NODES;
use naru_client::{Client, PatchKind};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The condition of the node.
const CONDITION: &str = "DuplicateName";
/// So long nobody must have come for it to be over.
const OVER: Duration = Duration::from_secs(300);
/// Nodes that are remembered at the same time.
const MAX_NODES: usize = 1024;

/// When somebody came last, by the node's name.
#[derive(Debug, Clone, Default)]
pub(super) struct Twins {
    /// Leaf lock.
    last: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Twins {
    /// Another machine wants to be this node.
    pub(super) fn seen(&self, client: &Client, node: &str) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() >= MAX_NODES && !last.contains_key(node) {
                return;
            }
            if last.insert(node.to_owned(), Instant::now()).is_some() {
                // Somebody has said so, and waits.
                return;
            }
        }
        let (twins, client, node) = (self.clone(), client.clone(), node.to_owned());
        naru_base::spawn("duplicate-node", async move {
            publish(&client, &node, true).await;
            while let Some(rest) = twins.rest(&node) {
                tokio::time::sleep(rest).await;
            }
            publish(&client, &node, false).await;
        });
    }

    /// How long it may still not be over; forgets the node when it is.
    fn rest(&self, node: &str) -> Option<Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = OVER.checked_sub(last.get(node)?.elapsed()).filter(|rest| !rest.is_zero());
        if rest.is_none() {
            last.remove(node);
        }
        rest
    }
}

async fn publish(client: &Client, node: &str, twin: bool) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, reason, message) = if twin {
        ("True", "AnotherMachine", "another machine wants to be this node: start it with a --node-name of its own")
    } else {
        ("False", "NameIsUnique", "no other machine wants to be this node")
    };
    let condition = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = json!({ "status": { "conditions": [condition] } });
    let patched = client.patch::<Value>(&NODES, None, node, Some("status"), PatchKind::Strategic, &patch).await;
    if let Err(error) = patched {
        tracing::debug!(%error, node, "the node's condition could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nobody_comes_any_more() {
        let twins = Twins::default();
        let come = || twins.last.lock().unwrap_or_else(PoisonError::into_inner).insert("a".to_owned(), Instant::now());
        assert!(come().is_none());
        tokio::time::sleep(OVER - Duration::from_secs(1)).await;
        assert_eq!(twins.rest("a"), Some(Duration::from_secs(1)));
        assert!(come().is_some());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(twins.rest("a").is_some());
        tokio::time::sleep(OVER).await;
        assert_eq!(twins.rest("a"), None);
        assert!(come().is_none(), "it is forgotten");
    }
}
