//! What agent and shim say to each other: frames of a 32-bit little-endian length and JSON over a
//! Unix stream socket. It only ever grows: an agent meets shims of every version released so far,
//! since binaries are replaced under running pods. Unknown fields are ignored; an unknown call is
//! answered with [`FaultKind::Unsupported`].

use crate::error::RuntimeError;
use crate::spec::{ContainerInfo, ContainerSpec, ExecSpec, ExitStatus, SandboxSpec};
use serde::{Deserialize, Serialize};

/// The newest dialect.
pub(crate) const VERSION: u32 = 1;
/// Longest frame either side accepts.
pub(crate) const MAX_FRAME: usize = 8 << 20;
/// Most descriptors that come with one frame.
pub(crate) const MAX_FDS: usize = 4;
/// Name of the shim's listening socket in the sandbox's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// What the agent asks a new shim for, in the sandbox's directory.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// How to find the shim again, in the sandbox's directory, written by the shim.
pub(crate) const STATE_FILE: &str = "state.json";

/// Contents of [`SANDBOX_FILE`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxFile {
    pub(crate) spec: SandboxSpec,
    /// Prefix of every cgroup path.
    pub(crate) cgroup_root: Option<String>,
}

/// Contents of [`STATE_FILE`]. Boot id and start time tell a live shim from a process that was
/// given the same number later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateFile {
    pub(crate) version: u32,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
    /// The process whose namespaces are the sandbox's.
    pub(crate) holder_pid: u32,
    pub(crate) created_at_ns: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    /// First on every connection; events flow after it.
    Hello {
        version: u32,
    },
    Create {
        spec: Box<ContainerSpec>,
    },
    Start {
        container: String,
    },
    Signal {
        container: String,
        signal: i32,
    },
    Remove {
        container: String,
    },
    /// Answered with descriptors: stdin (if asked for), stdout, stderr, or the terminal alone.
    Exec {
        spec: Box<ExecSpec>,
    },
    KillExec {
        exec: u64,
    },
    ReopenLog {
        container: String,
    },
    /// Answered with descriptors, see [`Answer::Attached`].
    Attach {
        container: String,
    },
    /// Ends the container's standard input, once every other writer has gone.
    CloseStdin {
        container: String,
    },
    /// Kill everything and exit.
    Stop {},
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Reply {
        id: u64,
        #[serde(default)]
        fds: usize,
        result: Result<Answer, Fault>,
    },
    Exit {
        container: String,
        status: ExitStatus,
    },
    ExecExit {
        exec: u64,
        exit_code: i32,
    },
    /// From a newer shim.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Hello {
        version: u32,
        containers: Vec<ContainerInfo>,
    },
    Container(Box<ContainerInfo>),
    Exec {
        exec: u64,
    },
    /// With a terminal: its master, for input and its size, then a pipe of output. Without: a pipe of
    /// input if the container has one, then output and error output.
    Attached {
        tty: bool,
        stdin: bool,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    NoContainer,
    Exists,
    Invalid,
    Start,
    NotRunning,
    Unsupported,
    #[serde(other)]
    Failed,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(FaultKind::Failed, text)
    }
}

impl From<Fault> for RuntimeError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::NoContainer => Self::NoContainer(fault.text),
            FaultKind::Exists => Self::Exists(fault.text),
            FaultKind::Invalid | FaultKind::Unsupported => Self::Invalid(fault.text),
            FaultKind::Start => Self::Start(fault.text),
            FaultKind::NotRunning => Self::NotRunning(fault.text),
            FaultKind::Failed => Self::Failed(fault.text),
        }
    }
}

/// A frame ready to be sent.
pub(crate) fn frame<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Length of the first frame's body in `buffer`, if its header is there; an error if too long.
pub(crate) fn frame_length(buffer: &[u8]) -> Result<Option<usize>, FrameTooLong> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    if length > MAX_FRAME { Err(FrameTooLong(length)) } else { Ok(Some(length)) }
}

/// The other side sends nonsense.
#[derive(Debug, thiserror::Error)]
#[error("frame of {0} bytes is too long")]
pub(crate) struct FrameTooLong(usize);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_newer_shim_is_tolerated() {
        let message: Message = serde_json::from_str(r#"{"paused":{"container":"a"}}"#).unwrap_or(Message::Unknown);
        assert!(matches!(message, Message::Unknown));
        let fault: Fault = serde_json::from_str(r#"{"kind":"novel","text":"x"}"#).unwrap();
        assert_eq!(fault.kind, FaultKind::Failed);
    }

    #[test]
    fn frames_carry_their_length_and_are_bounded() {
        let bytes = frame(&Request { id: 7, call: Call::Stop {} }).unwrap();
        assert_eq!(frame_length(&bytes).unwrap(), Some(bytes.len() - 4));
        assert_eq!(frame_length(&bytes[..3]).unwrap(), None);
        assert!(frame_length(&[0xff; 4]).is_err());
    }
}
