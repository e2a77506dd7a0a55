//! Places where a test may have the process die, to see that the next one puts right what was left.

/// Nothing outside of tests.
#[cfg(not(test))]
pub(super) fn point(_name: &str) {}

/// Ends the process if this is where it is to die.
#[cfg(test)]
pub(super) fn point(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    if std::env::var("NARU_TEST_DIES_AT").is_ok_and(|wanted| wanted == name) {
        let _ = kill_process(getpid(), Signal::KILL);
        // It takes effect before anything else of this process does.
        loop {
            std::thread::park();
        }
    }
}
