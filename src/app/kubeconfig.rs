//! The administrator's kubeconfig.

use crate::files::write_atomic;
use crate::pki::Identity;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// Writes a kubeconfig with one cluster, one user and one context, all called `default`.
pub(crate) fn write(path: &Path, mode: u32, server: &str, ca_pem: &str, user: &Identity) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create the directory {}", parent.display()))?;
    }
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: default
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
preferences: {{}}
",
        ca = STANDARD.encode(ca_pem),
        cert = STANDARD.encode(&user.cert_pem),
        key = STANDARD.encode(&user.key_pem),
    );
    write_atomic(path, text.as_bytes(), mode)
}
