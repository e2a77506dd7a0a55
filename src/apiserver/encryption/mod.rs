//! Encryption at rest: which objects' values are encrypted in the store, and with which keys.
//!
//! The store knows nothing of it: values are sealed and opened where this crate hands them over
//! (`storage.rs`). A value says by its prefix what it was written with, so that any mixture can be read.

mod cipher;
mod config;
mod reload;
mod rewrite;
#[cfg(test)]
mod tests;

pub(crate) use config::ConfigError;

use crate::config::{Config, StartError};
use crate::pipeline::State;
use crate::storage::Storage;
use bytes::Bytes;
use cipher::{Cipher, CipherError, Kind};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What every encrypted value starts with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A value that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// Nothing is configured that could.
    #[error("identity transformer tried to read encrypted data")]
    Encrypted,
    /// None of the providers writes such values.
    #[error("no matching prefix found")]
    NoProvider,
    /// Its provider could not.
    #[error("{0}")]
    Failed(String),
}

/// A resource in a configuration: `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    group: String,
    resource: String,
}

impl Target {
    fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }

    fn everything() -> Self {
        Self { group: "*".to_owned(), resource: "*".to_owned() }
    }

    fn is_everything(&self) -> bool {
        self.group == "*" && self.resource == "*"
    }

    /// What the storage keys of its objects start with.
    fn key_prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { &self.group };
        match (self.is_everything(), self.resource.as_str()) {
            (true, _) => "/registry/".to_owned(),
            (_, "*") => format!("/registry/{group}/"),
            (_, resource) => format!("/registry/{group}/{resource}/"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.group.as_str(), self.resource.as_str()) {
            ("", "*") => f.write_str("*."),
            ("", resource) => f.write_str(resource),
            (group, resource) => write!(f, "{resource}.{group}"),
        }
    }
}

/// A named key.
#[derive(Debug)]
struct Key {
    /// `k8s:enc:aescbc:v1:key1:`.
    prefix: Vec<u8>,
    cipher: Cipher,
}

/// One way of writing values.
#[derive(Debug)]
enum Provider {
    /// As they are.
    Identity,
    /// Encrypted by the first key, read with any.
    Keys { kind: Kind, keys: Vec<Key> },
}

impl Provider {
    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, CipherError> {
        let Provider::Keys { keys, .. } = self else { return Ok(value) };
        let first = keys.first().ok_or(CipherError::Key)?;
        let mut out = Vec::with_capacity(first.prefix.len() + value.len() + 64);
        out.extend_from_slice(&first.prefix);
        first.cipher.encrypt(&value, key, &mut out)?;
        Ok(out.into())
    }

    /// Whether this is how it would write the value.
    fn wrote(&self, value: &[u8]) -> bool {
        match self {
            Provider::Identity => !value.starts_with(ENCRYPTED),
            Provider::Keys { keys, .. } => keys.first().is_some_and(|key| value.starts_with(&key.prefix)),
        }
    }

    /// The value, or why not; `None` when it is none of this provider's.
    fn open(&self, key: &str, value: &Bytes) -> Option<Result<Bytes, String>> {
        let Provider::Keys { kind, keys } = self else {
            return (!value.starts_with(ENCRYPTED)).then(|| Ok(value.clone()));
        };
        if !value.starts_with(kind.prefix().as_bytes()) {
            return None;
        }
        let mut failure = None;
        for named in keys {
            let Some(data) = value.strip_prefix(named.prefix.as_slice()) else { continue };
            match named.cipher.decrypt(data, key) {
                Ok(plain) => return Some(Ok(plain.into())),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        Some(Err(failure.unwrap_or_else(|| kind.no_key().to_owned())))
    }
}

/// All keys, by what they are for. The default encrypts nothing.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    rules: BTreeMap<Target, Vec<Arc<Provider>>>,
}

impl Keyring {
    /// Reads a configuration, YAML or JSON.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        config::parse(text)
    }

    fn has(&self, target: &Target) -> bool {
        self.rules.contains_key(target)
    }

    fn add(&mut self, target: Target, providers: &[Arc<Provider>]) {
        self.rules.entry(target).or_default().extend_from_slice(providers);
    }

    /// The providers of a storage key: those of its resource, of its group, or of everything.
    fn providers(&self, key: &str) -> Option<&[Arc<Provider>]> {
        if self.rules.is_empty() {
            return None;
        }
        let mut parts = key.strip_prefix("/registry/")?.split('/');
        let group = parts.next().map(|group| if group == "core" { "" } else { group })?;
        let exact = Target { group: group.to_owned(), resource: parts.next()?.to_owned() };
        let of_group = Target { group: group.to_owned(), resource: "*".to_owned() };
        let found = [exact, of_group, Target::everything()].into_iter().find_map(|target| self.rules.get(&target));
        found.map(Vec::as_slice)
    }

    /// What the keys start with whose values may have to be rewritten.
    fn prefixes(&self) -> Vec<String> {
        self.rules.keys().map(Target::key_prefix).collect()
    }

    /// Whether anything is written encrypted.
    pub(crate) fn encrypts(&self) -> bool {
        self.rules.values().any(|providers| matches!(providers.first().map(|p| &**p), Some(Provider::Keys { .. })))
    }

    /// The value as it is stored under this key.
    pub(crate) fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, CipherError> {
        match self.providers(key).and_then(<[_]>::first) {
            Some(provider) => provider.seal(key, value),
            None => Ok(value),
        }
    }

    /// Whether a stored value is as it would be written now.
    fn is_current(&self, key: &str, value: &[u8]) -> bool {
        match self.providers(key).and_then(<[_]>::first) {
            Some(provider) => provider.wrote(value),
            None => true,
        }
    }

    /// The value that was stored under this key.
    pub(crate) fn open(&self, key: &str, value: &Bytes) -> Result<Bytes, OpenError> {
        let Some(providers) = self.providers(key) else {
            return if value.starts_with(ENCRYPTED) { Err(OpenError::Encrypted) } else { Ok(value.clone()) };
        };
        let mut failures: Vec<String> = Vec::new();
        for provider in providers {
            match provider.open(key, value) {
                Some(Ok(plain)) => return Ok(plain),
                Some(Err(why)) if !failures.contains(&why) => failures.push(why),
                _ => {}
            }
        }
        Err(crate::authz::aggregate(&failures).map_or(OpenError::NoProvider, OpenError::Failed))
    }
}

/// The encryption that a server was started with.
pub(crate) struct Started {
    path: PathBuf,
    text: Vec<u8>,
    reload: bool,
}

/// Reads the configured file and gives the storage its keys.
pub(crate) fn load(config: &Config, storage: &Storage) -> Result<Option<Started>, StartError> {
    let flags = &config.flags.encryption;
    let Some(path) = flags.config.clone() else { return Ok(None) };
    let wrong = |reason: String| StartError::Config {
        what: "encryption configuration",
        reason: format!("{}: {reason}", path.display()),
    };
    let text = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    storage.set_keyring(Keyring::parse(&text).map_err(|error| wrong(error.to_string()))?);
    Ok(Some(Started { path, text, reload: flags.automatic_reload.unwrap_or(false) }))
}

impl Started {
    /// Rewrites what is there, and follows the file, until the shutdown.
    pub(crate) fn start(self, state: &State) {
        let (storage, shutdown) = (state.store.clone(), state.shutdown.clone());
        naru_base::spawn("encryption-rewrite", rewrite::Rewriter::new(storage.clone(), shutdown.clone()).run());
        if self.reload {
            let following = reload::follow(self.path, storage, state.cache.clone(), self.text, shutdown);
            naru_base::spawn("encryption-reload", following);
        }
    }
}
