//! The DNS service's addresses on this host: they live on the loopback device, so that packets to them end here.

use naru_base::spawn;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use std::net::IpAddr;

/// Index of the loopback device.
const LOOPBACK: u32 = 1;
/// Marks the addresses that are ours.
const LABEL: &str = "lo:naru-dns";
/// The same for IPv6, whose addresses have no labels: the rank of their route, which means nothing for a single one.
const MARK: u32 = 53_530;

/// Why an address could not be put on this host, or taken off.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No netlink socket.
    #[error("netlink is not available: {0}")]
    Unavailable(#[from] std::io::Error),
    /// The kernel refused.
    #[error("the kernel refused the change of an address: {0}")]
    Refused(#[from] rtnetlink::Error),
}

/// Puts an address on this host. It may be there already.
pub(super) async fn add(address: IpAddr) -> Result<(), AddressError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = spawn("dns-address", connection);
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(LOOPBACK, address, prefix).replace();
    let attributes = &mut request.message_mut().attributes;
    match address {
        IpAddr::V4(_) => attributes.push(AddressAttribute::Label(LABEL.into())),
        IpAddr::V6(_) => {
            attributes.extend([AddressAttribute::RoutePriority(MARK), AddressAttribute::Flags(AddressFlags::Nodad)])
        }
    }
    let added = request.execute().await;
    task.abort();
    Ok(added?)
}

/// Takes the addresses that `add` has put on this host off it.
///
/// # Errors
/// The kernel refused.
pub async fn remove_addresses() -> Result<(), AddressError> {
    use futures::TryStreamExt;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = spawn("dns-address", connection);
    let ours = |message: &AddressMessage| {
        message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Label(label) => label == LABEL,
            AddressAttribute::RoutePriority(mark) => *mark == MARK,
            _ => false,
        })
    };
    let all: Vec<AddressMessage> =
        handle.address().get().set_link_index_filter(LOOPBACK).execute().try_collect().await?;
    for message in all.into_iter().filter(ours) {
        handle.address().del(message).execute().await?;
    }
    task.abort();
    Ok(())
}
