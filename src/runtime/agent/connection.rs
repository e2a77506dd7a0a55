//! A connection to a shim: requests out, replies and events in.

use crate::error::{Result, RuntimeError};
use crate::protocol::{self, Answer, Call, Fault, Message, Request, SOCKET};
use crate::sys;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Requests that may wait for an answer at once.
const MAX_PENDING: usize = 1024;

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) result: Result<Answer, Fault>,
    pub(super) fds: Vec<OwnedFd>,
    /// For an exec: its exit code, later.
    pub(super) exit: Option<oneshot::Receiver<i32>>,
}

/// A connection to a shim.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// One frame at a time.
    writing: tokio::sync::Mutex<()>,
    next_id: AtomicU64,
    // Neither is held while the other is taken.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    execs: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
}

impl Connection {
    pub(super) async fn open(directory: &Path) -> io::Result<Self> {
        let (_handle, path) = sys::short_path(directory, SOCKET)?;
        Ok(Self {
            stream: UnixStream::connect(path).await?,
            writing: tokio::sync::Mutex::new(()),
            next_id: AtomicU64::new(1),
            pending: Mutex::new(Some(HashMap::new())),
            execs: Mutex::new(HashMap::new()),
        })
    }

    /// Sends a request and waits for its reply, at most `patience`.
    pub(super) async fn call(&self, call: Call, patience: Duration) -> Result<Reply> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = protocol::frame(&Request { id, call }).map_err(|e| RuntimeError::Invalid(e.to_string()))?;
        if frame.len() > protocol::MAX_FRAME {
            return Err(RuntimeError::Invalid(format!("request of {} bytes is too long", frame.len())));
        }
        let (sender, receiver) = oneshot::channel();
        match self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(pending) if pending.len() < MAX_PENDING => pending.insert(id, sender),
            Some(_) => return Err(lost("too many requests wait already")),
            None => return Err(lost("connection closed")),
        };
        let exchange = async {
            self.write(&frame).await.map_err(|error| lost(&error.to_string()))?;
            receiver.await.map_err(|_| lost("connection closed"))
        };
        let outcome = tokio::time::timeout(patience, exchange).await;
        if !matches!(outcome, Ok(Ok(_))) {
            self.forget(id);
        }
        outcome.unwrap_or(Err(RuntimeError::Timeout(patience)))
    }

    fn forget(&self, id: u64) {
        if let Some(pending) = self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            pending.remove(&id);
        }
    }

    /// A caller that gives up in the middle of a frame leaves a connection of no use: it is closed.
    async fn write(&self, frame: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().await;
        let mut guard = CloseUnlessWhole { stream: &self.stream, whole: false };
        let mut rest = frame;
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        guard.whole = true;
        Ok(())
    }

    /// Takes in messages until the connection ends; `note` sees what changes the shim's state, in
    /// order, before the one who asked sees the answer.
    pub(super) async fn read(&self, mut note: impl FnMut(&Message)) -> io::Result<()> {
        let mut scratch = vec![0; 16 * 1024];
        let mut inbox = Vec::new();
        let mut fds = VecDeque::new();
        let outcome = loop {
            let mut arrived = Vec::new();
            let receive = || sys::receive_with_fds(self.stream.as_raw_fd(), &mut scratch, &mut arrived);
            match self.stream.async_io(Interest::READABLE, receive).await {
                Ok(0) => break Ok(()),
                Ok(count) => inbox.extend_from_slice(&scratch[..count]),
                Err(error) => break Err(error),
            }
            fds.extend(arrived);
            let orphans = match self.take_frames(&mut inbox, &mut fds, &mut note) {
                Ok(orphans) => orphans,
                Err(error) => break Err(io::Error::other(error)),
            };
            for exec in orphans {
                self.kill_orphan(exec).await;
            }
        };
        self.close();
        outcome
    }

    fn take_frames(
        &self,
        inbox: &mut Vec<u8>,
        fds: &mut VecDeque<OwnedFd>,
        note: &mut impl FnMut(&Message),
    ) -> Result<Vec<u64>, protocol::FrameTooLong> {
        let (mut start, mut orphans) = (0, Vec::new());
        while let Some(length) = protocol::frame_length(&inbox[start..])?.filter(|l| inbox.len() >= start + 4 + l) {
            let body = &inbox[start + 4..start + 4 + length];
            start += 4 + length;
            let message = serde_json::from_slice(body).unwrap_or(Message::Unknown);
            note(&message);
            orphans.extend(self.deliver(message, fds));
        }
        inbox.drain(..start);
        Ok(orphans)
    }

    /// Ends a command that nobody waits for any more.
    async fn kill_orphan(&self, exec: u64) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Ok(frame) = protocol::frame(&Request { id, call: Call::KillExec { exec } }) {
            // If it cannot be sent the connection has ended, and with it the command.
            let _ = self.write(&frame).await;
        }
    }

    /// Hands a message to the one who waits for it. Returns the command that was begun for
    /// somebody who has given up.
    fn deliver(&self, message: Message, fds: &mut VecDeque<OwnedFd>) -> Option<u64> {
        match message {
            Message::Reply { id, fds: count, result } => {
                let fds: Vec<OwnedFd> = fds.drain(..count.min(fds.len())).collect();
                // The exit can be the very next message, so its receiver exists before that is read.
                let exit = match &result {
                    Ok(Answer::Exec { exec }) => {
                        let (sender, receiver) = oneshot::channel();
                        self.execs.lock().unwrap_or_else(PoisonError::into_inner).insert(*exec, sender);
                        Some(receiver)
                    }
                    _ => None,
                };
                let exec = match &result {
                    Ok(Answer::Exec { exec }) => Some(*exec),
                    _ => None,
                };
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                let asker = pending.as_mut().and_then(|pending| pending.remove(&id));
                let taken = asker.is_some_and(|asker| asker.send(Reply { result, fds, exit }).is_ok());
                if taken { None } else { exec }
            }
            Message::ExecExit { exec, exit_code } => {
                let waiter = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(&exec);
                if let Some(waiter) = waiter {
                    let _ = waiter.send(exit_code);
                }
                None
            }
            Message::Exit { .. } | Message::Unknown => None,
        }
    }

    /// Ends every wait.
    fn close(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Closes the connection when a frame was begun and not finished.
struct CloseUnlessWhole<'a> {
    stream: &'a UnixStream,
    whole: bool,
}

impl Drop for CloseUnlessWhole<'_> {
    fn drop(&mut self) {
        if !self.whole {
            // SAFETY: plain shutdown of an open socket; the reader then sees its end.
            unsafe { libc::shutdown(self.stream.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }
}

fn lost(reason: &str) -> RuntimeError {
    RuntimeError::Shim { sandbox: String::new(), reason: reason.to_owned() }
}
