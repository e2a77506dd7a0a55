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

/// Sends a batch, or one message of another netlink family (`None` is the first, routing), and waits for the kernel's verdict on it.
pub(crate) fn exchange(family: Option<Protocol>, batch: &[u8]) -> Result<(), Error> {
    let unavailable = |error: Errno| Error::Unavailable(error.into());
    let socket =
        net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family).map_err(unavailable)?;
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
