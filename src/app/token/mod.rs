//! The secret with which nodes join: `K10<sha256 of the authority>::server:<password>`, as k3s has it.

mod accepted;
mod command;

pub(crate) use accepted::Tokens;
pub(crate) use command::run;

use crate::files::{read_optional, write_atomic};
use anyhow::{Context, Result, bail};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use std::path::Path;

/// A token given by flag or in a file.
pub(crate) fn given(flag: &str, file: Option<&Path>, given: Option<&str>) -> Result<Option<String>> {
    match file {
        Some(path) => std::fs::read_to_string(path).map(Some).with_context(|| format!("{flag} {}", path.display())),
        None => Ok(given.map(str::to_owned)),
    }
}

/// The full token for an authority and a password. The hash lets a joining node check the server
/// before it trusts it with the password.
pub(crate) fn full(ca_pem: &str, password: &str) -> Result<String> {
    Ok(format!("K10{}::server:{password}", hash(ca_pem)?))
}

/// The hash by which a token knows its cluster's authority.
pub(crate) fn hash(ca_pem: &str) -> Result<String> {
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(hex(&Sha256::digest(&der)))
}

/// A token's hash of the authority, if it has one, and what is to be shown to the server: a password, or a
/// bootstrap token (`K10<hash>::<id>.<secret>`).
pub(crate) fn parts(token: &str) -> Result<(Option<&str>, &str)> {
    let token = token.trim();
    let Some(rest) = token.strip_prefix("K10") else { return Ok((None, password_of(token)?)) };
    let (hash, secret) = rest
        .split_once("::")
        .filter(|(hash, _)| hash.len() == 64)
        .context("the token starts with K10 but is not of the form K10<hash>::server:<password>: copy it whole")?;
    let secret = secret.split_once(':').map_or(secret, |(_, password)| password);
    Ok((Some(hash), password_of(secret)?))
}

/// The token of this server: given by flag, kept from the last start, or new. Kept in `path`.
pub(crate) fn load_or_create(path: &Path, given: Option<&str>, ca_pem: &str) -> Result<String> {
    let stored = read_optional(path)?.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
    let password = match (given, &stored) {
        (Some(given), _) => password_of(given)?.to_string(),
        (None, Some(stored)) => password_of(stored).with_context(|| path.display().to_string())?.to_string(),
        (None, None) => hex(&rand::random::<[u8; 16]>()),
    };
    let token = full(ca_pem, &password)?;
    if stored.as_deref() != Some(&token) {
        write_atomic(path, format!("{token}\n").as_bytes(), 0o600)?;
    }
    Ok(token)
}

/// The token of agents alone, if one is given. What agents are to be given is kept in `path`.
pub(crate) fn for_agents(path: &Path, given: Option<&str>, token: &str, ca_pem: &str) -> Result<Option<String>> {
    let password = given.map(parts).transpose()?.map(|(_, password)| password);
    if password == Some(parts(token)?.1) {
        bail!("--agent-token must differ from --token");
    }
    let hash = hash(ca_pem)?;
    let own = password.map(|password| format!("K10{hash}::node:{password}"));
    let text = format!("{}\n", own.as_deref().unwrap_or(token));
    if read_optional(path)?.as_deref() != Some(&text) {
        write_atomic(path, text.as_bytes(), 0o600)?;
    }
    Ok(own)
}

fn password_of(token: &str) -> Result<&str> {
    let token = token.trim();
    let password = match token.strip_prefix("K10") {
        Some(rest) => rest
            .split_once("::server:")
            .map(|(_, password)| password)
            .context("the token starts with K10 but is not of the form K10<hash>::server:<password>: copy it whole")?,
        None => token,
    };
    if password.is_empty() || password.chars().any(char::is_whitespace) {
        bail!("the token must not be empty or contain spaces");
    }
    Ok(password)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn a_token_survives_restarts_and_accepts_a_given_password() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let ca = Authority::load_or_create(dir.path(), "server-ca", "ca")?;
        let path = dir.path().join("token");
        let first = load_or_create(&path, None, &ca.cert_pem)?;
        assert_eq!(load_or_create(&path, None, &ca.cert_pem)?, first);
        let given = load_or_create(&path, Some("secret"), &ca.cert_pem)?;
        assert!(given.ends_with("::server:secret"));
        assert_eq!(load_or_create(&path, Some(&given), &ca.cert_pem)?, given);
        assert!(load_or_create(&path, Some("K10beef"), &ca.cert_pem).is_err());
        Ok(())
    }

    #[test]
    fn agents_may_have_a_token_of_their_own() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let ca = Authority::load_or_create(dir.path(), "server-ca", "ca")?;
        let token = load_or_create(&dir.path().join("token"), Some("secret"), &ca.cert_pem)?;
        let path = dir.path().join("node-token");
        assert_eq!(for_agents(&path, None, &token, &ca.cert_pem)?, None);
        assert_eq!(std::fs::read_to_string(&path)?.trim(), token);
        let own = for_agents(&path, Some("other"), &token, &ca.cert_pem)?.context("given")?;
        assert_eq!(parts(&own)?.1, "other");
        assert_eq!(std::fs::read_to_string(&path)?.trim(), own);
        assert_eq!(for_agents(&path, Some(&own), &token, &ca.cert_pem)?, Some(own));
        assert!(for_agents(&path, Some("secret"), &token, &ca.cert_pem).is_err());
        Ok(())
    }
}
