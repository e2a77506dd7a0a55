//! CNI 1.1: configuration, invocation, results cache, and the built-in plugins.
