//! The scheduler: queue, cache, cycle, plugins.
