//! Somebody attached to a container's output: a pipe beside the log. What it does not take is held
//! for a while, and the container with it; then the observer is let go, never the container.

use crate::sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a container's output waits for an observer who takes nothing.
const STALL: Duration = Duration::from_secs(10);

/// One observer of one stream.
#[derive(Debug)]
pub(super) struct Tap {
    name: &'static str,
    fd: OwnedFd,
    /// At most what is read at once while the container runs, and what its pipe held at its end.
    pending: Vec<u8>,
    /// When it last took something.
    since: Instant,
    finished: bool,
}

impl Tap {
    /// The observer's end and ours.
    pub(super) fn new(name: &'static str) -> io::Result<(OwnedFd, Self)> {
        let (reader, fd) = sys::pipe()?;
        sys::set_nonblocking(fd.as_raw_fd())?;
        Ok((reader, Self { name, fd, pending: Vec::new(), since: Instant::now(), finished: false }))
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it has something to take first.
    pub(super) fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Passes bytes on; false if there is nobody any more.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        if self.finished {
            return true;
        }
        if self.pending.is_empty() {
            self.since = Instant::now();
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    /// Nothing more will come; false if everything has been taken.
    pub(super) fn finish(&mut self) -> bool {
        self.finished = true;
        self.flush()
    }

    /// Whether the observer has gone, which a write of nothing would not show.
    fn is_abandoned(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Passes on what there is room for; false if this can be dropped.
    pub(super) fn flush(&mut self) -> bool {
        let mut sent = 0;
        let alive = loop {
            if sent == self.pending.len() {
                break !self.finished && !self.is_abandoned();
            }
            match nix::unistd::write(&self.fd, &self.pending[sent..]) {
                Ok(count) => {
                    sent += count;
                    self.since = Instant::now();
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break self.since.elapsed() < STALL,
                Err(_) => break false,
            }
        };
        self.pending.drain(..sent);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        alive
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_slow_observer_holds_the_stream_and_loses_nothing() {
        let (reader, mut tap) = Tap::new("stdout").unwrap();
        let piece = vec![b'x'; 16 * 1024];
        let mut written = 0;
        while !tap.is_full() {
            assert!(tap.write(&piece));
            written += piece.len();
        }
        assert!(tap.finish(), "the rest is still to be taken");
        let mut file = std::fs::File::from(reader);
        let mut got = vec![0; 32 * 1024];
        file.read_exact(&mut got).unwrap();
        assert!(!tap.flush(), "everything has been passed on");
        drop(tap);
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).unwrap();
        assert_eq!(got.len() + rest.len(), written);
    }

    #[test]
    fn an_observer_who_has_gone_is_let_go() {
        let (reader, mut tap) = Tap::new("stdout").unwrap();
        assert!(tap.flush());
        drop(reader);
        assert!(!tap.flush(), "even with nothing to pass on: the loop would wake for ever");
        // Rust ignores SIGPIPE, as does the shim.
        assert!(!tap.write(b"x"));
    }
}
