//! The scheduler: queue, cache, cycle, plugins.

use naru_base::Shutdown;
use naru_client::{Client, Informers};

/// Starts to schedule pods until shutdown. `client` writes as `system:kube-scheduler`.
pub fn start(client: Client, informers: &Informers, shutdown: &Shutdown) {
    let _ = (client, informers, shutdown);
}
