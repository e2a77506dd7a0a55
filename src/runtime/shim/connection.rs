//! One agent's connection to the shim. Never waits: what the agent does not take is queued up to a
//! bound, then the connection is dropped; the agent comes back and asks for the state.

use crate::protocol::{self, Message, Request};
use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Bytes kept for an agent that does not read.
const MAX_QUEUED: usize = 4 << 20;

/// One agent's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    /// Whether it has introduced itself, and is sent events.
    pub(super) introduced: bool,
    socket: UnixStream,
    inbox: Vec<u8>,
    outbox: VecDeque<Outgoing>,
    queued: usize,
    pub(super) broken: bool,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// What the agent sent.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(Request),
    /// A request that a newer agent knows.
    Unsupported {
        id: u64,
    },
}

impl Connection {
    pub(super) fn new(id: u64, socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let (inbox, outbox) = (Vec::new(), VecDeque::new());
        Ok(Self { id, introduced: false, socket, inbox, outbox, queued: 0, broken: false })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn wants_to_send(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Vec<Incoming> {
        loop {
            // Descriptors do not come this way; any that do are closed at once.
            match sys::receive_with_fds(self.fd(), scratch, &mut Vec::new()) {
                Ok(0) => {
                    self.broken = true;
                    break;
                }
                Ok(count) => self.inbox.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
            if self.inbox.len() > protocol::MAX_FRAME + 4 {
                break;
            }
        }
        self.parse()
    }

    fn parse(&mut self) -> Vec<Incoming> {
        let mut requests = Vec::new();
        loop {
            match protocol::frame_length(&self.inbox) {
                Ok(Some(length)) if self.inbox.len() >= 4 + length => {
                    match parse_request(&self.inbox[4..4 + length]) {
                        Some(request) => requests.push(request),
                        None => self.broken = true,
                    }
                    self.inbox.drain(..4 + length);
                }
                Ok(_) => break,
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
        requests
    }

    /// Queues a message and sends what goes.
    pub(super) fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) {
        let Ok(bytes) = protocol::frame(message) else { return };
        self.queued += bytes.len();
        if self.queued > MAX_QUEUED {
            self.broken = true;
            return;
        }
        self.outbox.push_back(Outgoing { bytes, sent: 0, fds });
        self.flush();
    }

    /// Sends what goes without waiting.
    pub(super) fn flush(&mut self) {
        while let Some(first) = self.outbox.front_mut() {
            let fds: Vec<RawFd> = first.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match sys::send_with_fds(self.socket.as_raw_fd(), &first.bytes[first.sent..], &fds) {
                Ok(count) => {
                    first.fds.clear();
                    first.sent += count;
                    if first.sent == first.bytes.len() {
                        self.queued -= first.bytes.len();
                        self.outbox.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Sends the rest before the process ends, waiting a second at most.
    pub(super) fn flush_finally(&mut self) {
        let patience = std::time::Duration::from_secs(1);
        if self.socket.set_nonblocking(false).and_then(|()| self.socket.set_write_timeout(Some(patience))).is_ok() {
            self.flush();
        }
    }
}

fn parse_request(body: &[u8]) -> Option<Incoming> {
    #[derive(serde::Deserialize)]
    struct IdOnly {
        id: u64,
    }
    match serde_json::from_slice(body) {
        Ok(request) => Some(Incoming::Request(request)),
        Err(_) => serde_json::from_slice::<IdOnly>(body).ok().map(|IdOnly { id }| Incoming::Unsupported { id }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn frames_are_put_together_and_unknown_calls_kept_answerable() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(1, ours).unwrap();
        let mut bytes = protocol::frame(&Request { id: 1, call: protocol::Call::Stop {} }).unwrap();
        bytes.extend(protocol::frame(&serde_json::json!({"id": 2, "call": {"dance": {}}})).unwrap());
        let mut scratch = [0; 1024];
        theirs.write_all(&bytes[..7]).unwrap();
        assert!(connection.receive(&mut scratch).is_empty());
        theirs.write_all(&bytes[7..]).unwrap();
        let got = connection.receive(&mut scratch);
        assert!(matches!(got[0], Incoming::Request(Request { id: 1, .. })), "{got:?}");
        assert!(matches!(got[1], Incoming::Unsupported { id: 2 }), "{got:?}");
        assert!(!connection.broken);
    }

    #[test]
    fn an_agent_that_never_reads_is_dropped() {
        let (_theirs, ours) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(1, ours).unwrap();
        let text = "x".repeat(1 << 20);
        for exec in 0..8 {
            let fault = protocol::Fault::failed(text.clone());
            connection.send(&Message::Reply { id: exec, fds: 0, result: Err(fault) }, Vec::new());
        }
        assert!(connection.broken);
    }
}
