//! One exchange with the kernel over a netlink socket.

use super::wire;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::time::Duration;

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket: the kernel lacks the family, or the process its rights.
    #[error("netlink is not available: {0}")]
    Unavailable(io::Error),
    /// The kernel refused the batch; nothing has changed.
    #[error("the kernel refused the change: {0}")]
    Refused(io::Error),
}

/// Asks for a table of the kernel's netfilter and hands the body of each entry to `each`, without the header that
/// names its family.
pub(crate) fn dump(request: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
    const HEADERS: usize = 20;
    const DONE: u16 = 3;
    let unavailable = |error: Errno| Error::Unavailable(error.into());
    let family = Some(rustix::net::netlink::NETFILTER);
    let socket =
        net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family).map_err(unavailable)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10))).map_err(unavailable)?;
    net::send(&socket, request, SendFlags::empty()).map_err(unavailable)?;
    let mut answer = vec![0_u8; 65_536];
    loop {
        let (_, length) = net::recv(&socket, &mut answer[..], RecvFlags::empty()).map_err(unavailable)?;
        let mut rest = &answer[..length];
        while rest.len() >= 16 {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let Some(message) = rest.get(..size).filter(|_| size >= 16) else { break };
            if u16::from_ne_bytes([rest[4], rest[5]]) == DONE {
                return Ok(());
            }
            if let Some(error) = wire::outcome(message).filter(|error| *error != 0) {
                return Err(Error::Refused(io::Error::from_raw_os_error(error)));
            }
            if let Some(body) = message.get(HEADERS..) {
                each(body);
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The upper half of the addresses of sockets by which we change our tables: so that what the kernel tells of changes
/// can be told from others' changes.
pub(crate) const OURS: u32 = 0x6e61_0000;

/// Whether a change came by one of our sockets.
pub(crate) fn is_ours(address: u32) -> bool {
    address & 0xffff_0000 == OURS
}

/// Gives a socket one of our addresses. One that is taken by chance does not matter much: the kernel then chooses, and
/// the change looks like somebody else's once.
fn mark(socket: &impl std::os::fd::AsFd) {
    for _ in 0..8 {
        let address = net::netlink::SocketAddrNetlink::new(OURS | u32::from(rand::random::<u16>()), 0);
        if net::bind(socket, &address).is_ok() {
            return;
        }
    }
}

/// Sends a batch of ours.
pub(crate) fn commit(batch: &[u8]) -> Result<(), Error> {
    send(Some(net::netlink::NETFILTER), batch, true)
}

/// Sends a batch, or one message of another netlink family (`None` is the first, routing), and waits for the kernel's verdict on it.
pub(crate) fn exchange(family: Option<Protocol>, batch: &[u8]) -> Result<(), Error> {
    send(family, batch, false)
}

fn send(family: Option<Protocol>, batch: &[u8], marked: bool) -> Result<(), Error> {
    let unavailable = |error: Errno| Error::Unavailable(error.into());
    let socket =
        net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family).map_err(unavailable)?;
    if marked {
        mark(&socket);
    }
    // A batch is one datagram. Forcing needs rights that a container may lack; small batches fit anyway.
    let size = batch.len() * 2 + 65_536;
    if sockopt::set_socket_send_buffer_size_force(&socket, size).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, size);
    }
    // The answer is there when `send` returns; this only keeps a surprise from hanging the caller.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10))).map_err(unavailable)?;
    net::send(&socket, batch, SendFlags::empty()).map_err(unavailable)?;
    let mut answer = vec![0_u8; 65_536];
    loop {
        let (_, length) = net::recv(&socket, &mut answer[..], RecvFlags::empty()).map_err(unavailable)?;
        match wire::outcome(&answer[..length]) {
            Some(0) => return Ok(()),
            Some(error) => return Err(Error::Refused(io::Error::from_raw_os_error(error))),
            None => {}
        }
    }
}
