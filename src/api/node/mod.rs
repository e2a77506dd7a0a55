//! node.k8s.io/v1.

pub mod runtime_class;
