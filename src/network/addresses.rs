//! Tells when addresses or routes of this machine have changed.

use futures::{FutureExt, StreamExt};
use naru_base::{Shutdown, spawn};
use rtnetlink::MulticastGroup;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Changes come in groups: an address goes, another comes, and a route by it.
const SETTLE: Duration = Duration::from_millis(500);

/// Notifies, until the shutdown, whenever addresses or routes have changed and have then been left alone for a moment.
/// What they are now is found out by looking.
pub fn changes(shutdown: &Shutdown) -> io::Result<Arc<Notify>> {
    let groups =
        [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    let task = spawn("addresses-netlink", connection);
    let (notify, shutdown) = (Arc::new(Notify::new()), shutdown.clone());
    let tell = notify.clone();
    spawn("addresses", async move {
        let follow = async {
            while messages.next().await.is_some() {
                tokio::time::sleep(SETTLE).await;
                while let Some(Some(_)) = messages.next().now_or_never() {}
                tell.notify_one();
            }
        };
        shutdown.guard(follow).await;
        task.abort();
    });
    Ok(notify)
}
