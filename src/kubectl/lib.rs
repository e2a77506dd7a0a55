//! The command-line client.

mod apply;
mod cli;
mod delete;
mod get;
mod logs;
pub mod manifests;
mod print;
mod resources;
mod session;
mod three_way;

use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Runs the client with the arguments after the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("kubectl")).chain(args);
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing more can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `kubectl get pods | head` is no failure worth a word.
        Err(error) if broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", session::explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let global = cli.global;
    match cli.command {
        cli::Command::Get(args) => get::run(&session::Session::open(&global)?, &args).await,
        cli::Command::Apply(args) => apply::apply(&session::Session::open(&global)?, &args).await,
        cli::Command::Create(args) => apply::create(&session::Session::open(&global)?, &args).await,
        cli::Command::Delete(args) => delete::run(&session::Session::open(&global)?, &args).await,
        cli::Command::Logs(args) => logs::run(&session::Session::open(&global)?, &args).await,
        cli::Command::Version(args) => get::version(&global, &args).await,
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
