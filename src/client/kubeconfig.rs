//! Reads kubeconfig files.

use crate::https::{Credentials, HttpConfig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No YAML, or not of this shape.
    #[error("kubeconfig: {0}")]
    Syntax(String),
    /// Something is named that is not there.
    #[error("kubeconfig has no {what} {name:?}")]
    Missing {
        /// `context`, `cluster` or `user`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A `*-data` field is no base64.
    #[error("kubeconfig: {field}: {source}")]
    Base64 {
        /// Which.
        field: &'static str,
        /// Why.
        source: base64::DecodeError,
    },
    /// Something that this client does not do.
    #[error("kubeconfig: {0} is not supported")]
    Unsupported(&'static str),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Document {
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
    current_context: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
}

/// What a kubeconfig says about one context.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// How to reach the server.
    pub http: HttpConfig,
    /// The context's namespace, if it has one.
    pub namespace: Option<String>,
}

/// Reads a kubeconfig file; `context` overrides its current context.
pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Kubeconfig, KubeconfigError> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    parse(&text, context, path.parent().unwrap_or(Path::new(".")))
}

/// Reads a kubeconfig's text; relative file names start at `directory`.
pub fn parse(text: &str, context: Option<&str>, directory: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let document: Document =
        serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Syntax(error.to_string()))?;
    let name = context.unwrap_or(&document.current_context);
    let context = document.contexts.iter().find(|entry| entry.name == name);
    let context = &context.ok_or_else(|| missing("context", name))?.context;
    let cluster = document.clusters.iter().find(|entry| entry.name == context.cluster);
    let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    if cluster.insecure_skip_tls_verify {
        return Err(KubeconfigError::Unsupported("insecure-skip-tls-verify"));
    }
    let credentials = match document.users.iter().find(|entry| entry.name == context.user) {
        Some(entry) => credentials(&entry.user, directory)?,
        None if context.user.is_empty() => Credentials::Anonymous,
        None => return Err(missing("user", &context.user)),
    };
    let data = cluster.certificate_authority_data.as_deref();
    let file = cluster.certificate_authority.as_deref();
    let ca = data_or_file("certificate-authority-data", data, file, directory)?;
    Ok(Kubeconfig {
        http: HttpConfig {
            server: cluster.server.clone(),
            ca_pem: ca.unwrap_or_default(),
            tls_server_name: cluster.tls_server_name.clone(),
            credentials,
        },
        namespace: context.namespace.clone(),
    })
}

fn missing(what: &'static str, name: &str) -> KubeconfigError {
    KubeconfigError::Missing { what, name: name.to_owned() }
}

fn credentials(user: &User, directory: &Path) -> Result<Credentials, KubeconfigError> {
    if user.exec.is_some() {
        return Err(KubeconfigError::Unsupported("exec"));
    }
    let data = user.client_certificate_data.as_deref();
    let file = user.client_certificate.as_deref();
    let cert = data_or_file("client-certificate-data", data, file, directory)?;
    let data = user.client_key_data.as_deref();
    let key = data_or_file("client-key-data", data, user.client_key.as_deref(), directory)?;
    if let (Some(cert_pem), Some(key_pem)) = (cert, key) {
        return Ok(Credentials::Certificate { cert_pem, key_pem });
    }
    if let Some(file) = &user.token_file {
        let token = read(&directory.join(file))?;
        return Ok(Credentials::Token(String::from_utf8_lossy(&token).trim().to_owned()));
    }
    Ok(user.token.clone().map_or(Credentials::Anonymous, Credentials::Token))
}

fn data_or_file(
    field: &'static str,
    data: Option<&str>,
    file: Option<&Path>,
    directory: &Path,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    match (data, file) {
        (Some(data), _) => {
            let data: String = data.split_whitespace().collect();
            let decoded = STANDARD.decode(data);
            decoded.map(Some).map_err(|source| KubeconfigError::Base64 { field, source })
        }
        (None, Some(file)) => read(&directory.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEXT: &str = "\
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c
  cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Y2E=}
contexts:
- {name: one, context: {cluster: c, user: cert}}
- {name: two, context: {cluster: c, user: token, namespace: kube-system}}
- {name: bad, context: {cluster: x, user: token}}
users:
- {name: cert, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}
- {name: token, user: {token: abc}}
";

    #[test]
    fn contexts_choose_cluster_user_and_namespace() {
        let one = parse(TEXT, None, Path::new(".")).unwrap();
        assert_eq!(one.http.server, "https://127.0.0.1:6443");
        assert_eq!(one.http.ca_pem, b"ca");
        assert_eq!(one.namespace, None);
        let Credentials::Certificate { cert_pem, key_pem } = one.http.credentials else {
            panic!("a certificate was expected")
        };
        assert_eq!((cert_pem.as_slice(), key_pem.as_slice()), (&b"cert"[..], &b"key"[..]));
        let two = parse(TEXT, Some("two"), Path::new(".")).unwrap();
        assert_eq!(two.namespace.as_deref(), Some("kube-system"));
        assert!(matches!(two.http.credentials, Credentials::Token(token) if token == "abc"));
    }

    #[test]
    fn errors_name_what_is_missing() {
        let check = |context, expected: &str| {
            let error = parse(TEXT, Some(context), Path::new(".")).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("three", "kubeconfig has no context \"three\"");
        check("bad", "kubeconfig has no cluster \"x\"");
    }
}
