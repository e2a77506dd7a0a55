//! The command-line client.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the client with the arguments after the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
