//! The caller's side of a command running in a container.

use super::sandbox::Sandbox;
use crate::error::Result;
use crate::protocol::Call;
use crate::sys;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Where the command's input is written. Dropping it is end of file (not with a terminal).
pub type ExecInput = Box<dyn AsyncWrite + Send + Sync + Unpin>;
/// Where the command's output is read.
pub type ExecOutput = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// Most output of a probe that is kept.
const MAX_PROBE_OUTPUT: usize = 10 * 1024;
/// How long output may come after a probe's end, since its children may hold the pipe for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// A command running in a container, or a container's own streams. Dropping the session kills the
/// command; a container goes on.
pub struct ExecSession {
    /// Input, if asked for. Take it to write from another task.
    pub stdin: Option<ExecInput>,
    /// Output; everything with a terminal.
    pub stdout: Option<ExecOutput>,
    /// Error output; `None` with a terminal.
    pub stderr: Option<ExecOutput>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    exit: Option<oneshot::Receiver<i32>>,
    sandbox: Arc<Sandbox>,
    exec: u64,
    attached: bool,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("exec", &self.exec).finish_non_exhaustive()
    }
}

impl ExecSession {
    pub(super) fn new(
        sandbox: Arc<Sandbox>,
        exec: u64,
        fds: Vec<OwnedFd>,
        exit: Option<oneshot::Receiver<i32>>,
    ) -> io::Result<Self> {
        let mut session = Self::empty(sandbox);
        (session.exit, session.exec) = (exit, exec);
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next(), fds.next()) {
            (Some(master), None, None) => {
                sys::set_nonblocking(master.as_raw_fd())?;
                // SAFETY: the descriptor is owned by what is registered and never replaced.
                let terminal = Arc::new(unsafe { AsyncFd::register(master) }?);
                session.stdin = Some(Box::new(Terminal(Arc::clone(&terminal))));
                session.stdout = Some(Box::new(Terminal(Arc::clone(&terminal))));
                session.terminal = Some(terminal);
            }
            (Some(stdin), Some(stdout), Some(stderr)) => {
                session.stdin = Some(Box::new(pipe::Sender::from_owned_fd(stdin)?));
                session.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(stdout)?));
                session.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(stderr)?));
            }
            (Some(stdout), Some(stderr), None) => {
                session.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(stdout)?));
                session.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(stderr)?));
            }
            _ => return Err(io::Error::other("the shim sent no streams")),
        }
        Ok(session)
    }

    fn empty(sandbox: Arc<Sandbox>) -> Self {
        let (stdin, stdout, stderr) = (None, None, None);
        Self { stdin, stdout, stderr, terminal: None, exit: None, sandbox, exec: 0, attached: false }
    }

    /// The streams of a container, by the descriptors of [`Answer::Attached`].
    pub(super) fn attached(sandbox: Arc<Sandbox>, fds: Vec<OwnedFd>, tty: bool, stdin: bool) -> io::Result<Self> {
        let mut session = Self::empty(sandbox);
        session.attached = true;
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| io::Error::other("the shim sent no streams"));
        if tty {
            let master = next()?;
            sys::set_nonblocking(master.as_raw_fd())?;
            // SAFETY: the descriptor is owned by what is registered and never replaced.
            let terminal = Arc::new(unsafe { AsyncFd::register(master) }?);
            if stdin {
                session.stdin = Some(Box::new(Terminal(Arc::clone(&terminal))));
            }
            session.terminal = Some(terminal);
            session.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(next()?)?));
            return Ok(session);
        }
        if stdin {
            session.stdin = Some(Box::new(pipe::Sender::from_owned_fd(next()?)?));
        }
        session.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(next()?)?));
        session.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(next()?)?));
        Ok(session)
    }

    /// Whether these are a container's own streams: they end with it, and [`ExecSession::wait`] never does.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Sets the size of the terminal; nothing without one.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            sys::set_terminal_size(terminal.as_raw_fd(), columns, rows);
        }
    }

    /// Waits for the exit code (128 + n if killed by signal n). The output may still hold bytes:
    /// read it to its end, but with a bound, since children left in the background keep it open.
    pub async fn wait(&mut self) -> Result<i32> {
        if self.attached {
            return std::future::pending().await;
        }
        let gone = || self.sandbox.lost_error("the command's end was not seen");
        let Some(exit) = self.exit.as_mut() else { return Err(gone()) };
        let code = exit.await.map_err(|_| gone());
        self.exit = None;
        code
    }

    /// Kills the command.
    pub async fn kill(&self) {
        if self.exit.is_some() {
            // If the shim does not answer, the command ends with the connection.
            let _ = self.sandbox.call(Call::KillExec { exec: self.exec }).await;
        }
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        if self.exit.take().is_some_and(|mut exit| exit.try_recv() == Err(oneshot::error::TryRecvError::Empty))
            && tokio::runtime::Handle::try_current().is_ok()
        {
            let (sandbox, exec) = (Arc::clone(&self.sandbox), self.exec);
            naru_base::spawn("exec-kill", async move {
                let _ = sandbox.call(Call::KillExec { exec }).await;
            });
        }
    }
}

/// What a probing command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output and error, mixed, cut at 10 KiB.
    pub output: Vec<u8>,
}

/// Gathers the output of a session until it ends.
pub(super) async fn gather(mut session: ExecSession) -> Result<ProbeResult> {
    let mut output = Vec::new();
    let mut streams = [session.stdout.take(), session.stderr.take()];
    let exit_code = loop {
        tokio::select! {
            code = session.wait() => break code?,
            () = read_either(&mut streams, &mut output) => {}
        }
    };
    let rest = async {
        while streams.iter().any(Option::is_some) {
            read_either(&mut streams, &mut output).await;
        }
    };
    // Running out of time only cuts the text.
    let _ = tokio::time::timeout(LAST_OUTPUT, rest).await;
    Ok(ProbeResult { exit_code, output })
}

/// Reads once from whichever stream has something; drops one that has ended; with none, waits for ever.
async fn read_either(streams: &mut [Option<ExecOutput>; 2], output: &mut Vec<u8>) {
    async fn read(stream: &mut Option<ExecOutput>, buffer: &mut [u8]) -> usize {
        match stream {
            Some(open) => match open.read(buffer).await {
                Ok(count) if count > 0 => count,
                _ => {
                    *stream = None;
                    0
                }
            },
            None => std::future::pending().await,
        }
    }
    let (mut first, mut second) = ([0; 2048], [0; 2048]);
    let [stdout, stderr] = streams;
    let bytes = tokio::select! {
        count = read(stdout, &mut first) => &first[..count],
        count = read(stderr, &mut second) => &second[..count],
    };
    let room = MAX_PROBE_OUTPUT - output.len();
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// One direction of a terminal's master.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The last program has closed the terminal: that is its end of file.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
