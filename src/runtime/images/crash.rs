//! Places where tests end the process, as `kill -9` would. Nothing in the program itself.

/// Between two steps of which a crash may come.
#[cfg(not(test))]
#[inline]
pub(crate) fn point(_name: &str) {}

/// Ends the process if this is where it is to die.
#[cfg(test)]
pub(crate) fn point(name: &str) {
    if std::env::var("NARU_TEST_DIES_AT").is_ok_and(|wanted| wanted == name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // It takes effect before anything else of this process does.
        loop {
            std::thread::park();
        }
    }
}
