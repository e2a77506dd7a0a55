//! Log lines for people: time, level where it matters, and the text.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

/// Installs the subscriber. `RUST_LOG` overrides the level; `debug` raises our own parts' level.
pub(crate) fn init(debug: bool) {
    let default = if debug {
        "warn,naru=debug,naru_app=debug,naru_apiserver=debug,naru_client=debug,naru_controllers=debug,naru_kubelet=debug,naru_libcni=debug,naru_network=debug,naru_runtime=debug,naru_scheduler=debug,naru_store=debug"
    } else {
        "warn,naru_app=info"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::stderr().is_terminal();
    // A second installation (tests) is harmless: the first one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(debug)
        .with_timer(Clock)
        .try_init();
}

/// Local clocks of home machines are often wrong or in odd zones: UTC, to the millisecond.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{:.3}", jiff::Timestamp::now())
    }
}
