//! Contents of ConfigMap, Secret, downward API and projected volumes: pure, from objects to files.

use crate::pod::fields::{self, NodeFacts};
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection};
use std::collections::{BTreeMap, HashMap};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it, if not root.
    pub owner: Option<u32>,
}

impl File {
    fn new(data: Vec<u8>, mode: i32) -> Self {
        Self { data, mode: mode as u32, owner: None }
    }
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// A token that a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenRequest {
    /// Audience, empty for the API server's.
    pub audience: String,
    /// Seconds it should hold.
    pub expiration_seconds: i64,
}

/// What volumes are made of. A name that maps to `None` was looked up and does not exist.
#[derive(Debug, Default)]
pub struct Sources {
    /// ConfigMaps of the pod's namespace.
    pub config_maps: HashMap<String, Option<ConfigMap>>,
    /// Secrets of the pod's namespace.
    pub secrets: HashMap<String, Option<Secret>>,
    /// Tokens.
    pub tokens: HashMap<TokenRequest, String>,
    /// Addresses and allocatable resources.
    pub facts: NodeFacts,
}

/// Why a volume cannot be filled; the text follows `MountVolume.SetUp failed for volume "x" : `.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// A ConfigMap does not exist.
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    /// A Secret does not exist.
    #[error("secret {0:?} not found")]
    NoSecret(String),
    /// An item names a key that is not there.
    #[error("references non-existent {kind} key: {key}")]
    NoKey {
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A field has no value.
    #[error(transparent)]
    Field(#[from] fields::FieldError),
    /// A token has not been issued.
    #[error("failed to fetch token: {0}")]
    NoToken(String),
    /// A projection of a kind that is not there yet.
    #[error("unsupported projection")]
    Unsupported,
}

const DEFAULT_MODE: i32 = 0o644;

/// Whether `volume` is filled from a payload.
pub fn is_payload(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// Names of ConfigMaps and Secrets that `volume` is made of.
pub fn references(volume: &Volume) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
    secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
    for source in projections(volume) {
        maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
        secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
    }
    (maps, secrets)
}

/// Tokens that `volume` asks for.
pub fn tokens(volume: &Volume) -> Vec<TokenRequest> {
    projections(volume)
        .filter_map(|p| p.service_account_token.as_ref())
        .map(|t| TokenRequest {
            audience: t.audience.clone().unwrap_or_default(),
            expiration_seconds: t.expiration_seconds.unwrap_or(3600),
        })
        .collect()
}

fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().flat_map(|p| p.sources.iter().flatten())
}

/// Computes the files of a volume; `None` if the volume is not of this sort.
pub fn payload(pod: &Pod, volume: &Volume, sources: &Sources) -> Result<Option<Payload>, PayloadError> {
    let mut out = Payload::new();
    if let Some(v) = &volume.config_map {
        let optional = v.optional == Some(true);
        let pick = Pick { name: &v.name, items: v.items.as_deref(), mode: v.default_mode, optional };
        config_map(&mut out, &pick, sources)?;
    } else if let Some(v) = &volume.secret {
        let name = v.secret_name.as_deref().unwrap_or_default();
        let optional = v.optional == Some(true);
        secret(&mut out, &Pick { name, items: v.items.as_deref(), mode: v.default_mode, optional }, sources)?;
    } else if let Some(v) = &volume.downward_api {
        downward(&mut out, pod, v.items.as_deref(), v.default_mode, sources)?;
    } else if let Some(v) = &volume.projected {
        for source in v.sources.iter().flatten() {
            projection(&mut out, pod, source, v.default_mode, sources)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn projection(
    out: &mut Payload,
    pod: &Pod,
    source: &VolumeProjection,
    mode: Option<i32>,
    sources: &Sources,
) -> Result<(), PayloadError> {
    if let Some(c) = &source.config_map {
        let optional = c.optional == Some(true);
        config_map(out, &Pick { name: &c.name, items: c.items.as_deref(), mode, optional }, sources)
    } else if let Some(s) = &source.secret {
        let optional = s.optional == Some(true);
        secret(out, &Pick { name: &s.name, items: s.items.as_deref(), mode, optional }, sources)
    } else if let Some(d) = &source.downward_api {
        downward(out, pod, d.items.as_deref(), mode, sources)
    } else if let Some(t) = &source.service_account_token {
        let request = TokenRequest {
            audience: t.audience.clone().unwrap_or_default(),
            expiration_seconds: t.expiration_seconds.unwrap_or(3600),
        };
        let token = sources.tokens.get(&request).ok_or_else(|| PayloadError::NoToken("not issued yet".into()))?;
        let fs_group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
        let owner = only_user(pod);
        let private = fs_group.is_some() || owner.is_some();
        let mode = if private { 0o600 } else { mode.unwrap_or(DEFAULT_MODE) as u32 };
        out.insert(t.path.clone(), File { data: token.clone().into_bytes(), mode, owner });
        Ok(())
    } else {
        Err(PayloadError::Unsupported)
    }
}

/// The user that all of a pod's containers are told to run as, if it is one.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| container.security_context.as_ref().and_then(|c| c.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// How the keys of a ConfigMap or Secret become files.
struct Pick<'a> {
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
}

fn config_map(out: &mut Payload, pick: &Pick<'_>, sources: &Sources) -> Result<(), PayloadError> {
    let map = sources.config_maps.get(pick.name).and_then(Option::as_ref);
    let data = map.map(|map| {
        let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
        text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()))).collect()
    });
    keys(out, data, pick, "config", PayloadError::NoConfigMap)
}

fn secret(out: &mut Payload, pick: &Pick<'_>, sources: &Sources) -> Result<(), PayloadError> {
    let secret = sources.secrets.get(pick.name).and_then(Option::as_ref);
    let data = secret.map(|s| s.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect());
    keys(out, data, pick, "secret", PayloadError::NoSecret)
}

fn keys(
    out: &mut Payload,
    data: Option<BTreeMap<&str, &[u8]>>,
    pick: &Pick<'_>,
    kind: &'static str,
    missing: fn(String) -> PayloadError,
) -> Result<(), PayloadError> {
    let &Pick { name, items, mode, optional } = pick;
    let Some(data) = data else {
        return if optional { Ok(()) } else { Err(missing(name.into())) };
    };
    let mode = mode.unwrap_or(DEFAULT_MODE);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        out.extend(data.iter().map(|(key, data)| ((*key).to_owned(), File::new(data.to_vec(), mode))));
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(data) => {
                out.insert(item.path.clone(), File::new(data.to_vec(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(PayloadError::NoKey { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn downward(
    out: &mut Payload,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    sources: &Sources,
) -> Result<(), PayloadError> {
    for item in items.unwrap_or_default() {
        let value = if let Some(selector) = &item.field_ref {
            fields::field_value(pod, &sources.facts, selector)?
        } else if let Some(selector) = &item.resource_field_ref {
            fields::resource_value(pod, &sources.facts, selector, None)?
        } else {
            continue;
        };
        let mode = item.mode.or(mode).unwrap_or(DEFAULT_MODE);
        out.insert(item.path.clone(), File::new(value.into_bytes(), mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "1"}}, "spec": {"containers": []}}),
        )
        .unwrap()
    }

    fn sources() -> Sources {
        Sources {
            config_maps: HashMap::from([
                (
                    "cm".into(),
                    Some(
                        serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}}))
                            .unwrap(),
                    ),
                ),
                ("gone".into(), None),
            ]),
            secrets: HashMap::from([(
                "s".into(),
                Some(serde_json::from_value(json!({"data": {"k": "dg=="}})).unwrap()),
            )]),
            tokens: HashMap::from([(
                TokenRequest { audience: String::new(), expiration_seconds: 3607 },
                "TOKEN".into(),
            )]),
            facts: NodeFacts::default(),
        }
    }

    fn of(volume: serde_json::Value) -> Result<Vec<(String, String, u32)>, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let files = payload(&pod(), &volume, &sources()).map_err(|e| e.to_string())?.unwrap();
        Ok(files.into_iter().map(|(path, f)| (path, String::from_utf8_lossy(&f.data).into_owned(), f.mode)).collect())
    }

    fn file(path: &str, data: &str, mode: u32) -> (String, String, u32) {
        (path.into(), data.into(), mode)
    }

    #[test]
    fn whole_objects_and_items() {
        assert_eq!(
            of(json!({"name": "v", "configMap": {"name": "cm"}})).unwrap(),
            [file("a", "1", 0o644), file("b", "2", 0o644), file("c", "\u{0}\u{1}", 0o644)]
        );
        assert_eq!(
            of(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400, "items": [
                {"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o777}]}}))
            .unwrap(),
            [file("x/y", "1", 0o400), file("z", "2", 0o777)]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let fail = |volume| of(volume).unwrap_err();
        assert_eq!(fail(json!({"name": "v", "configMap": {"name": "gone"}})), "configmap \"gone\" not found");
        assert_eq!(fail(json!({"name": "v", "secret": {"secretName": "none"}})), "secret \"none\" not found");
        assert_eq!(
            fail(json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "q", "path": "q"}]}})),
            "references non-existent config key: q"
        );
        assert!(of(json!({"name": "v", "configMap": {"name": "gone", "optional": true}})).unwrap().is_empty());
    }

    #[test]
    fn a_token_belongs_to_the_only_user() {
        let volume: Volume = serde_json::from_value(json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}))
        .unwrap();
        for (spec, expect) in [
            (json!({"containers": [{"name": "a"}]}), (0o644, None)),
            (
                json!({"securityContext": {"runAsUser": 5}, "containers": [{"name": "a"}, {"name": "b"}]}),
                (0o600, Some(5)),
            ),
            (
                json!({"securityContext": {"runAsUser": 5},
                    "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 6}}]}),
                (0o644, None),
            ),
            (json!({"securityContext": {"fsGroup": 7}, "containers": [{"name": "a"}]}), (0o600, None)),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let files = payload(&pod, &volume, &sources()).unwrap().unwrap();
            assert_eq!((files["token"].mode, files["token"].owner), expect);
        }
    }

    #[test]
    fn projections_share_one_tree() {
        let volume = json!({"name": "v", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"secret": {"name": "s"}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}});
        assert_eq!(
            of(volume.clone()).unwrap(),
            [
                file("ca.crt", "1", 0o644),
                file("k", "v", 0o644),
                file("namespace", "ns", 0o644),
                file("token", "TOKEN", 0o644)
            ]
        );
        let volume: Volume = serde_json::from_value(volume).unwrap();
        assert_eq!(references(&volume), (vec!["cm".into()], vec!["s".into()]));
        assert_eq!(tokens(&volume).len(), 1);
    }
}
