//! Real containers: needs root. The test program is its own shim, so it has no test harness: the
//! arguments, if any, select tests by a part of their name.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod fixture;
mod scenarios;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "shim" => return naru_runtime::shim::main(args),
        Some(word) if word == "agent" => return scenarios::agent_process(args),
        _ => {}
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let selected = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut failed = Vec::new();
    for (name, scenario) in scenarios::ALL.iter().filter(|(name, _)| selected(name)) {
        let passed = std::panic::catch_unwind(|| fixture::run(*scenario)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    println!("{} failed", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
