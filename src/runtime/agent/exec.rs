//! The caller's side of a command running in a container.

use crate::error::{Result, RuntimeError};
use std::fmt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

/// Where the command's input is written. Dropping it is end of file (not with a terminal).
pub type ExecInput = Box<dyn AsyncWrite + Send + Sync + Unpin>;
/// Where the command's output is read.
pub type ExecOutput = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// A command running in a container. Dropping the session kills the command.
pub struct ExecSession {
    /// Input, if asked for. Take it to write from another task.
    pub stdin: Option<ExecInput>,
    /// Output; everything with a terminal.
    pub stdout: Option<ExecOutput>,
    /// Error output; `None` with a terminal.
    pub stderr: Option<ExecOutput>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

impl ExecSession {
    /// Sets the size of the terminal; nothing without one.
    pub fn resize(&self, columns: u16, rows: u16) {
        let _ = (columns, rows);
    }

    /// Waits for the exit code (128 + n if killed by signal n). The output may still hold bytes:
    /// read it to its end, but with a bound, since children left in the background keep it open.
    pub async fn wait(&mut self) -> Result<i32> {
        Err(RuntimeError::Failed("exec is not there yet".into()))
    }

    /// Kills the command.
    pub async fn kill(&self) {}
}

/// What a probing command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output and error, mixed, cut at 10 KiB.
    pub output: Vec<u8>,
}
#[allow(dead_code, reason = "filled in by the next change")]
type Unused = oneshot::Receiver<i32>;
