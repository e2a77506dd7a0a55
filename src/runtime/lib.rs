//! The OCI side: shim, images, snapshots, sandboxes, cgroups. Sees OCI specs, never Pods.

#![allow(unsafe_code, reason = "namespaces, ptys and pidfds need the kernel directly")]
