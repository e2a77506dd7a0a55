//! Every controller, one file each, one line each in `ALL`.
//!
//! A controller is a reconciler `(key, cached state) → actions`: level-triggered, one run per key at a
//! time, started once its caches are synced. A converged cluster makes it write nothing.

mod context;

pub use context::{ClientFor, Config, Context};

use naru_base::Shutdown;

/// One controller.
#[derive(Debug, Clone, Copy)]
pub struct Controller {
    /// Name; its writes come from the user `system:serviceaccount:kube-system:NAME`.
    pub name: &'static str,
    /// Starts it.
    pub start: fn(&Context),
}

/// All controllers.
pub static ALL: &[Controller] = &[];

/// Starts all controllers; they run until shutdown.
pub fn start_all(config: Config, shutdown: &Shutdown) {
    for controller in ALL {
        (controller.start)(&Context::new(&config, controller.name, shutdown));
    }
}
