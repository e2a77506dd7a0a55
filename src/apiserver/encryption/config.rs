//! The EncryptionConfiguration: read strictly, judged in upstream's words.

use super::cipher::{Cipher, Kind};
use super::{Key, Keyring, Provider, Target};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naru_api::codec;
use naru_api::status::{FieldErrors, Path, Shown};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

const REDACTED: &str = "REDACTED";
const NO_PROVIDER: &str =
    "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
const TWO_PROVIDERS: &str =
    "more than one provider specified in a single element, should split into different list elements";
const OVERLAP: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
const DUPLICATE: &str = "the same resource cannot be specified multiple times";
const CAPITALS: &str = "resource name should not contain capital letters";
const STAR: &str = "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources";
const NO_REST: &str = "resources which do not have REST API/s cannot be encrypted";
const EVENTS_GROUP: &str = "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file";
const EXTENSIONS_GROUP: &str = "'extensions' group has been removed and cannot be used for encryption";
const ACROSS_GROUPS: &str = "encrypting the same resource across groups is not supported";

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("is empty")]
    Empty,
    #[error("cannot be decoded: {0}")]
    Decode(String),
    #[error("got unexpected config type: {0}")]
    Kind(String),
    #[error("{0}")]
    Invalid(String),
    #[error("resource {resource:?} is masked by earlier rule {rule:?}")]
    Masked {
        /// The later resource.
        resource: String,
        /// The wildcard that covers it.
        rule: String,
    },
    #[error("{0}: providers of kind kms are not supported, use aescbc, aesgcm or secretbox")]
    Kms(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

impl std::fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Entry {
    fn keys(&self) -> Option<(Kind, &Keys)> {
        let with = |kind, keys: &'_ Option<Keys>| keys.as_ref().map(|_| kind);
        let kind = with(Kind::AesGcm, &self.aesgcm)
            .or(with(Kind::AesCbc, &self.aescbc))
            .or(with(Kind::Secretbox, &self.secretbox))?;
        let keys = match kind {
            Kind::AesGcm => &self.aesgcm,
            Kind::AesCbc => &self.aescbc,
            Kind::Secretbox => &self.secretbox,
        };
        keys.as_ref().map(|keys| (kind, keys))
    }

    fn count(&self) -> usize {
        [
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.identity.is_some(),
            self.kms.is_some(),
        ]
        .iter()
        .filter(|given| **given)
        .count()
    }

    /// Which providers are named, for an error that must not show their keys.
    fn shown(&self) -> String {
        let names = [
            ("aesgcm", self.aesgcm.is_some()),
            ("aescbc", self.aescbc.is_some()),
            ("secretbox", self.secretbox.is_some()),
            ("identity", self.identity.is_some()),
            ("kms", self.kms.is_some()),
        ];
        let given: Vec<&str> = names.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        format!("{{{}}}", given.join(", "))
    }
}

/// Reads a configuration, YAML or JSON.
pub(super) fn parse(text: &[u8]) -> Result<Keyring, ConfigError> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(ConfigError::Empty);
    }
    let value = codec::parse_yaml(text).map_err(|error| ConfigError::Decode(error.to_string()))?;
    let document: Document = serde_json::from_value(value).map_err(|error| ConfigError::Decode(error.to_string()))?;
    if (document.api_version.as_str(), document.kind.as_str())
        != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
    {
        return Err(ConfigError::Kind(format!("{}, Kind={}", document.api_version, document.kind)));
    }
    let mut errors = FieldErrors::default();
    validate(&document, &mut errors);
    if let Some(text) = errors.aggregate() {
        return Err(ConfigError::Invalid(text));
    }
    build(document)
}

fn validate(document: &Document, errors: &mut FieldErrors) {
    let root = Path::root("resources");
    if document.resources.is_empty() {
        return errors.required(root, "at least one resources is required");
    }
    for (i, rule) in document.resources.iter().enumerate() {
        let at = root.index(i);
        let (resources, providers) = (at.child("resources"), at.child("providers"));
        if rule.resources.is_empty() {
            errors.required(resources, &format!("at least one {resources} is required"));
        }
        validate_overlap(&rule.resources, resources, errors);
        for (j, resource) in rule.resources.iter().enumerate() {
            if let Some(why) = wrong_name(resource) {
                errors.invalid(resources.index(j), resource.as_str(), why);
            }
        }
        if rule.providers.is_empty() {
            errors.required(providers, &format!("at least one {providers} is required"));
        }
        for (j, entry) in rule.providers.iter().enumerate() {
            let at = providers.index(j);
            match entry.count() {
                0 => errors.invalid(at, Shown(entry.shown()), NO_PROVIDER),
                1 => {}
                _ => errors.invalid(at, Shown(entry.shown()), TWO_PROVIDERS),
            }
            if let Some((kind, keys)) = entry.keys() {
                validate_keys(kind, keys, at.child(kind.field()).child("keys"), errors);
            }
        }
    }
}

fn validate_overlap(resources: &[String], at: Path<'_>, errors: &mut FieldErrors) {
    let targets: Vec<Target> = resources.iter().map(|text| Target::parse(text)).collect();
    let pairs = || {
        targets.iter().enumerate().flat_map(|(i, one)| {
            targets.iter().enumerate().filter(move |(j, _)| i != *j).map(move |(_, other)| (one, other))
        })
    };
    let list = || Value::from(resources.to_vec());
    if pairs().any(|(one, other)| one == other) {
        errors.invalid(at, list(), DUPLICATE);
    }
    let masks = |one: &Target, other: &Target| {
        one != other
            && (one.is_everything() || (one.group == other.group && (one.resource == "*" || other.resource == "*")))
    };
    if pairs().any(|(one, other)| masks(one, other)) {
        errors.invalid(at, list(), OVERLAP);
    }
}

fn wrong_name(resource: &str) -> Option<&'static str> {
    let target = Target::parse(resource);
    match resource {
        _ if resource.chars().any(char::is_uppercase) => Some(CAPITALS),
        "*" => Some(STAR),
        "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations" => Some(NO_REST),
        _ if target.group == "events.k8s.io" => Some(EVENTS_GROUP),
        _ if target.group == "extensions" => Some(EXTENSIONS_GROUP),
        _ if target.group == "*" && target.resource != "*" => Some(ACROSS_GROUPS),
        _ => None,
    }
}

fn validate_keys(kind: Kind, keys: &Keys, at: Path<'_>, errors: &mut FieldErrors) {
    if keys.keys.is_empty() {
        return errors.required(at, "at least one keys is required");
    }
    for (i, key) in keys.keys.iter().enumerate() {
        let at = at.index(i);
        if key.name.is_empty() {
            errors.required(at.child("name"), "name is a mandatory field for a key");
        }
        if key.secret.is_empty() {
            errors.required(at.child("secret"), "secret is a mandatory field for a key");
            continue;
        }
        match STANDARD.decode(&key.secret) {
            Err(_) => errors.invalid(at.child("secret"), REDACTED, "secrets must be base64 encoded"),
            Ok(secret) if !kind.key_lengths().contains(&secret.len()) => {
                let lengths: Vec<String> = kind.key_lengths().iter().map(ToString::to_string).collect();
                let why = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    lengths.join(" ")
                );
                errors.invalid(at.child("secret"), REDACTED, &why);
            }
            Ok(_) => {}
        }
    }
}

fn build(document: Document) -> Result<Keyring, ConfigError> {
    let mut keyring = Keyring::default();
    for (i, rule) in document.resources.into_iter().enumerate() {
        let mut providers = Vec::new();
        for (j, entry) in rule.providers.iter().enumerate() {
            if entry.kms.is_some() {
                return Err(ConfigError::Kms(format!("resources[{i}].providers[{j}].kms")));
            }
            providers.push(Arc::new(provider(entry)));
        }
        for text in &rule.resources {
            let target = Target::parse(text);
            let group = Target { group: target.group.clone(), resource: "*".to_owned() };
            for rule in [group, Target::everything()] {
                if keyring.has(&rule) {
                    return Err(ConfigError::Masked { resource: text.clone(), rule: rule.to_string() });
                }
            }
            keyring.add(target, &providers);
        }
    }
    Ok(keyring)
}

fn provider(entry: &Entry) -> Provider {
    let Some((kind, keys)) = entry.keys() else { return Provider::Identity };
    let keys = keys.keys.iter().filter_map(|key| {
        let cipher = Cipher::new(kind, &STANDARD.decode(&key.secret).ok()?)?;
        Some(Key { prefix: format!("{}{}:", kind.prefix(), key.name).into_bytes(), cipher })
    });
    Provider::Keys { kind, keys: keys.collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refused(resources: &str, expect: &str) {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n{resources}");
        assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), expect);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(parse(b" \n").unwrap_err(), ConfigError::Empty);
        let other = parse(b"apiVersion: v1\nkind: Secret\n").unwrap_err().to_string();
        assert_eq!(other, "got unexpected config type: v1, Kind=Secret");
        refused("resources: []", "resources: Required value: at least one resources is required");
        refused(
            "resources: [{resources: [secrets, '*.'], providers: [{identity: {}}]}]",
            &format!("resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: {OVERLAP}"),
        );
        refused(
            "resources: [{resources: [Secrets], providers: []}]",
            &format!(
                "[resources[0].resources[0]: Invalid value: \"Secrets\": {CAPITALS}, resources[0].providers: Required value: at least one resources[0].providers is required]"
            ),
        );
        refused(
            "resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}}]}]",
            "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]",
        );
        refused(
            "resources: [{resources: ['*.*'], providers: [{identity: {}}]}, {resources: [secrets], providers: [{identity: {}}]}]",
            "resource \"secrets\" is masked by earlier rule \"*.*\"",
        );
        refused(
            "resources: [{resources: [secrets], providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///x'}}]}]",
            "resources[0].providers[0].kms: providers of kind kms are not supported, use aescbc, aesgcm or secretbox",
        );
        let unknown = parse(
            b"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resource: [secrets]}]",
        );
        assert!(unknown.unwrap_err().to_string().contains("unknown field `resource`"));
    }
}
