//! Manifests and indexes, OCI and docker schema 2, as far as a pull needs them.

use super::error::PullErrorKind;
use super::failure::Failure;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A blob as manifests name it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

/// The manifest of one image.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A list of manifests for several platforms.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug)]
pub(super) enum Parsed {
    Image(Manifest),
    Index(Index),
}

/// Tells the kinds apart by their contents, since media types are often wrong or missing.
pub(super) fn parse_manifest(raw: &[u8]) -> Result<Parsed, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let bad = |error: serde_json::Error| Failure::new(PullErrorKind::Unknown, format!("invalid manifest: {error}"));
    let probe: Probe = serde_json::from_slice(raw).map_err(bad)?;
    if probe.schema_version != 2 {
        let version = probe.schema_version;
        return Err(Failure::new(PullErrorKind::Unknown, format!("unsupported manifest schema version {version}")));
    }
    if probe.manifests.is_some() {
        return serde_json::from_slice(raw).map(Parsed::Index).map_err(bad);
    }
    serde_json::from_slice(raw).map(Parsed::Image).map_err(bad)
}

/// What Go calls this machine's architecture.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Index {
    /// The digest of the manifest for this machine; an entry that names no platform serves as the last resort.
    pub(super) fn choose(&self) -> Option<String> {
        let rank = |descriptor: &Descriptor| match &descriptor.platform {
            Some(platform) if platform.os == "linux" && platform.architecture == architecture() => {
                match platform.variant.as_str() {
                    // Any x86-64 and arm64 runs these; higher levels of x86-64 are not for every machine.
                    "" | "v1" | "v8" => Some(0),
                    _ => Some(1),
                }
            }
            Some(_) => None,
            None => Some(2),
        };
        let ranked = self.manifests.iter().filter_map(|descriptor| Some((rank(descriptor)?, descriptor)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor.digest.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_machines_platform_is_chosen_and_attestations_are_not() {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"digest":"sha256:s","platform":{{"architecture":"s390x","os":"linux"}}}},
                {{"digest":"sha256:u","platform":{{"architecture":"unknown","os":"unknown"}}}},
                {{"digest":"sha256:v","platform":{{"architecture":"{0}","os":"linux","variant":"v3"}}}},
                {{"digest":"sha256:m","platform":{{"architecture":"{0}","os":"linux"}}}}]}}"#,
            architecture()
        );
        let Parsed::Index(index) = parse_manifest(index.as_bytes()).unwrap() else { panic!("an index") };
        assert_eq!(index.choose().as_deref(), Some("sha256:m"));
        let other = Index { manifests: index.manifests[..2].to_vec() };
        assert_eq!(other.choose(), None);
    }

    #[test]
    fn old_and_broken_manifests_are_refused() {
        for (raw, expect) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "unsupported manifest schema version 1"),
            (r#"{"schemaVersion":2}"#, "invalid manifest: missing field `config`"),
            ("not json", "invalid manifest: expected"),
        ] {
            let failure = parse_manifest(raw.as_bytes()).unwrap_err();
            assert!(failure.text.starts_with(expect), "{}", failure.text);
        }
    }
}
