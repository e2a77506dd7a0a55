//! The process that is the parent of a pod's containers. Single-threaded, small, outlives the agent.

use std::ffi::OsString;
use std::process::ExitCode;

/// Entry point of `naru shim`; `args` are those after the word `shim`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
