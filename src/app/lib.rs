//! The composition root: configuration, PKI, server, agent, operator's commands. Nothing imports it.

use anyhow::Result;
use clap::Parser;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

mod agent;
mod check;
pub mod cli;
mod config_file;
mod dns;
mod encryption;
mod files;
mod handlers;
mod hello;
mod host;
mod join;
mod kubeconfig;
mod layout;
mod log;
mod manifests;
mod memory;
mod metrics_reader;
mod node;
mod operator;
mod own_objects;
pub mod pki;
mod renewal;
mod secrets;
mod server;
mod signing;
mod token;
mod tunnel;

/// The version of Kubernetes that this release speaks, and the release.
pub const VERSION: &str = "v1.36.0+naru1";

/// Runs what the program's name (`argv[0]`) or its first argument asks for.
pub fn main(argv: Vec<OsString>) -> ExitCode {
    let name = argv.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default().to_os_string();
    match name.to_str() {
        Some("kubectl") => return naru_kubectl::main(argv.into_iter().skip(1).collect()),
        Some(plugin @ ("ptp" | "host-local" | "loopback")) => {
            let variable = |name: &str| std::env::var(name).ok();
            return naru_libcni::plugin_main(plugin, variable, std::io::stdin(), std::io::stdout());
        }
        _ => {}
    }
    if argv.get(1).is_some_and(|word| word == "shim") {
        // Not a command for people: one thread, no runtime, nothing read from the environment.
        return naru_runtime::shim::main(argv.into_iter().skip(2));
    }
    let argv = match config_file::expand(argv) {
        Ok(argv) => argv,
        Err(error) => return failed(&error),
    };
    let cli = match cli::Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing more can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        cli::Command::Server(args) => {
            log::init(args.debug);
            large_runtime().and_then(|runtime| runtime.block_on(server::run(*args)))
        }
        cli::Command::Agent(args) => {
            log::init(args.debug);
            large_runtime().and_then(|runtime| runtime.block_on(agent::run(*args)))
        }
        cli::Command::Kubectl { args } => return naru_kubectl::main(args),
        cli::Command::Image(command) => {
            log::init(false);
            large_runtime().and_then(|runtime| runtime.block_on(operator::image(command)))
        }
        cli::Command::Token(command) => {
            log::init(false);
            small_runtime().and_then(|runtime| runtime.block_on(token::run(command)))
        }
        cli::Command::SecretsEncrypt(command) => {
            log::init(false);
            encryption::command(command)
        }
        cli::Command::CheckConfig(args) => {
            log::init(args.flags.debug);
            small_runtime().and_then(|runtime| runtime.block_on(check::run(*args)))
        }
        cli::Command::Killall(args) => {
            log::init(false);
            large_runtime().and_then(|runtime| runtime.block_on(operator::killall(args)))
        }
        cli::Command::Hello(args) => small_runtime().and_then(|runtime| runtime.block_on(hello::run(args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn small_runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn large_runtime() -> Result<tokio::runtime::Runtime> {
    naru_runtime::allocator::bound_arenas();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("naru").build()?)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("naru: {error:#}");
    ExitCode::FAILURE
}
