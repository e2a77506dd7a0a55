//! Real containers: needs root. The test program is its own shim, so it has no test harness: the
//! arguments, if any, select tests by a part of their name.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod fixture;
mod handlers;
mod hostile;
mod layout;
mod scenarios;
mod users;

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
    let failed: usize = layout::ALL.iter().map(|layout| layout::run_in(*layout, || run(layout.name, &words))).sum();
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the selected tests on one layout of cgroups and returns how many failed.
fn run(layout: &str, words: &[String]) -> usize {
    let mut failed = 0;
    for (name, scenario) in scenarios::ALL {
        let name = format!("{name} ({layout})");
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            let passed = std::panic::catch_unwind(|| fixture::run(*scenario)).is_ok();
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            failed += usize::from(!passed);
        }
    }
    failed
}
