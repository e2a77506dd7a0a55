//! Notices when somebody else removes parts of our tables (`nft flush ruleset` does, as the usual nftables.service
//! does at each start): the kernel tells of every change, and by whose socket it was made.

use crate::nft;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's group for changes of nftables, as a bit.
const GROUP: u32 = 1 << 6;
/// Room for what a change of thousands of Services tells.
const ROOM: usize = 8 << 20;
/// Messages of the subsystem that remove something: tables, chains, rules, sets, elements.
const REMOVALS: [u16; 5] = [2, 5, 8, 11, 14];
const SUBSYSTEM: u16 = 10;
const TABLE_NAME: u16 = 1;

/// Listens for removals from one table.
#[derive(Debug)]
pub(super) struct Guard {
    table: String,
    /// None where the kernel does not tell: the next change puts back what is gone.
    socket: Option<AsyncFd<OwnedFd>>,
}

impl Guard {
    pub(super) fn open(table: &str) -> Self {
        let socket = open().inspect_err(|error| tracing::debug!(%error, "changes of nftables are not told"));
        Self { table: table.to_owned(), socket: socket.ok() }
    }

    /// Completes when somebody else has removed something from the table. Our own changes do not count.
    pub(super) async fn meddled(&mut self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        let mut buffer = vec![0_u8; 65_536];
        let mut removed = false;
        loop {
            // One removal is told of in many messages: what is there to be heard is heard before anything is done.
            if removed && !pending(socket) {
                return;
            }
            let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
            let received = ready.try_io(|fd| {
                recv(fd.get_ref(), &mut buffer[..], RecvFlags::DONTWAIT).map(|(_, length)| length).map_err(Into::into)
            });
            match received {
                Ok(Ok(length)) if tells_of_removal(&buffer[..length], &self.table) => removed = true,
                // Too much at once, some of it is lost: only what is there says what is gone.
                Ok(Err(error)) if is_overflow(&error) && !nft::has_table(&self.table).unwrap_or(true) => removed = true,
                Ok(Err(error)) if !is_overflow(&error) && error.kind() != io::ErrorKind::Interrupted => {
                    return std::future::pending().await;
                }
                _ => {}
            }
        }
    }
}

/// Whether there is a message to be read.
fn pending(socket: &AsyncFd<OwnedFd>) -> bool {
    let peeked = recv(socket.get_ref(), &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK);
    !peeked.is_err_and(|error| error == rustix::io::Errno::AGAIN)
}

fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

#[allow(unsafe_code, reason = "the runtime has no other way to wait for a descriptor")]
fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    // Forcing needs rights that a container may lack; then what is lost is looked at.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, ROOM);
    bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
    // SAFETY: the descriptor belongs to `socket`, which the `AsyncFd` keeps and nobody replaces or closes.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Whether one of the messages removes something from the table, and comes from a socket that is not ours.
fn tells_of_removal(mut rest: &[u8], table: &str) -> bool {
    while rest.len() >= 20 {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let from = u32::from_ne_bytes([rest[12], rest[13], rest[14], rest[15]]);
        let Some(message) = rest.get(..length).filter(|_| length >= 20) else { return false };
        let removal = kind >> 8 == SUBSYSTEM && REMOVALS.contains(&(kind & 0xff));
        if removal && !nft::is_ours(from) {
            let name = nft::attribute(&message[20..], TABLE_NAME).unwrap_or_default();
            if name.strip_suffix(&[0]).unwrap_or(name) == table.as_bytes() {
                return true;
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, from: u32, table: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 20];
        message[4..6].copy_from_slice(&((SUBSYSTEM << 8) | kind).to_ne_bytes());
        message[12..16].copy_from_slice(&from.to_ne_bytes());
        message.extend_from_slice(&u16::try_from(table.len() + 5).unwrap_or_default().to_ne_bytes());
        message.extend_from_slice(&TABLE_NAME.to_ne_bytes());
        message.extend_from_slice(table);
        message.push(0);
        message.resize(message.len().next_multiple_of(4), 0);
        let length = u32::try_from(message.len()).unwrap_or_default();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn only_what_others_remove_from_our_table_counts() {
        let tells = |messages: &[Vec<u8>]| tells_of_removal(&messages.concat(), "naru");
        assert!(tells(&[message(2, 1234, b"naru")]));
        assert!(tells(&[message(0, 1234, b"naru"), message(8, 1234, b"naru")]));
        assert!(!tells(&[message(0, 1234, b"naru"), message(8, 1234, b"nary")]));
        assert!(!tells(&[message(8, nft::OURS | 7, b"naru")]));
        assert!(!tells(&[vec![1, 2, 3]]));
    }
}
