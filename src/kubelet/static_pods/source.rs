//! The pods that files describe: decoded, completed and checked as the API server would do it.

use super::{HASH, SEEN, SOURCE};
use crate::pod::start::hex;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use naru_api::codec::{self, DecodeError};
use naru_api::core::pod::references;
use naru_api::facts::type_by_gvk;
use naru_api::registry::PODS;
use naru_api::status::FieldErrors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Larger than any sensible pod.
const MAX_BYTES: u64 = 1 << 20;
/// Files that are looked at.
const MAX_FILES: usize = 256;

/// Why a file is no static pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("holds no Pod of version v1")]
    NoPod,
    #[error("invalid pod: {}", .0.join(", "))]
    Invalid(Vec<String>),
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
    #[error("not understood: {0}")]
    Shape(#[from] serde_json::Error),
}

/// The files of `path`, a directory or a single file; names that begin with a dot are left out.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.len() > MAX_FILES {
        tracing::warn!(path = %path.display(), "more than {MAX_FILES} files of static pods: the rest is left out");
        found.truncate(MAX_FILES);
    }
    Ok(found)
}

/// Looks at all files; one that cannot be used now keeps the pod that it had `before`.
pub(super) fn read(path: &Path, node: &str, before: &BTreeMap<PathBuf, Pod>) -> io::Result<BTreeMap<PathBuf, Pod>> {
    let mut pods = BTreeMap::new();
    for file in files(path)? {
        match read_file(&file, node) {
            Ok(pod) => drop(pods.insert(file, pod)),
            // Gone since it was found.
            Err(Unusable::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "static pod not read");
                if let Some(pod) = before.get(&file) {
                    pods.insert(file, pod.clone());
                }
            }
        }
    }
    Ok(pods)
}

fn read_file(file: &Path, node: &str) -> Result<Pod, Unusable> {
    if fs::metadata(file)?.len() > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    pod(&fs::read(file)?, file, node)
}

/// The pod of a file. Its uid is a checksum of what it says and where, so that a change makes another pod.
fn pod(text: &[u8], file: &Path, node: &str) -> Result<Pod, Unusable> {
    let ty = type_by_gvk("", "v1", "Pod").ok_or(Unusable::NoPod)?;
    let mut pod = codec::decode_yaml(text, ty)?.value;
    if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" || !pod["metadata"].is_object() || !pod["spec"].is_object() {
        return Err(Unusable::NoPod);
    }
    let name = format!("{}-{}", pod["metadata"]["name"].as_str().unwrap_or_default(), node.to_lowercase());
    pod["metadata"]["name"] = name.into();
    if pod["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        pod["metadata"]["namespace"] = "default".into();
    }
    pod["spec"]["nodeName"] = node.into();
    let digest = Sha256::new()
        .chain_update(codec::canonical(&pod))
        .chain_update(format!("host:{node}file:{}", file.display()))
        .finalize();
    let uid = hex(&digest[..16]);
    let now = jiff::Timestamp::now().to_string();
    for (name, value) in [(HASH, uid.as_str()), (SOURCE, "file"), (SEEN, &now)] {
        pod["metadata"]["annotations"][name] = value.into();
    }
    pod["metadata"]["uid"] = uid.into();
    complete(&mut pod, ty);
    check(&pod)?;
    let mut pod: Pod = serde_json::from_value(pod)?;
    tolerate(&mut pod);
    Ok(pod)
}

fn complete(pod: &mut Value, ty: &'static naru_api::facts::Type) {
    codec::apply_constant_defaults(pod, ty);
    (PODS.rules.default)(pod);
    (PODS.rules.prepare_create)(pod);
    pod["status"] = json!({"phase": "Pending", "qosClass": pod["status"]["qosClass"]});
}

fn check(pod: &Value) -> Result<(), Unusable> {
    let mut errors = FieldErrors::default();
    naru_api::meta::validate::metadata(&PODS, pod, &mut errors);
    (PODS.rules.validate)(pod, &mut errors);
    (PODS.rules.validate_create)(pod, &mut errors);
    if !errors.is_empty() {
        return Err(Unusable::Invalid(errors.messages()));
    }
    let spec = &pod["spec"];
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let sources = || volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let found = [
        ("serviceaccounts", spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty())),
        ("secrets", references::secrets(pod).next().is_some()),
        ("configmaps", references::config_maps(pod).next().is_some()),
        (
            "persistentvolumeclaims",
            volumes().any(|v| v["persistentVolumeClaim"].is_object() || v["ephemeral"].is_object()),
        ),
        ("serviceaccounts", sources().any(|source| source["serviceAccountToken"].is_object())),
        ("clustertrustbundles", sources().any(|source| source["clusterTrustBundle"].is_object())),
        ("resourceclaims", spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty())),
    ];
    match found.iter().find(|(_, holds)| *holds) {
        Some((what, _)) => Err(Unusable::Reference(what)),
        None => Ok(()),
    }
}

/// Trouble of the node is no reason to evict what the node itself is told to run.
fn tolerate(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    let tolerations = spec.tolerations.get_or_insert_default();
    let wanted =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    if !tolerations.contains(&wanted) {
        tolerations.push(wanted);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: a}]}\n";

    fn of(text: &str) -> Result<Pod, Unusable> {
        pod(text.as_bytes(), Path::new("/etc/pods/web.yaml"), "node1")
    }

    #[test]
    fn a_file_becomes_a_complete_pod_of_this_node() {
        let pod = of(POD).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        let annotations = pod.metadata.annotations.clone().unwrap();
        assert_eq!(annotations.get(HASH), pod.metadata.uid.as_ref());
        assert_eq!(annotations[SOURCE], "file");
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("node1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.tolerations.unwrap()[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("BestEffort"));
    }

    #[test]
    fn only_another_text_makes_another_pod() {
        let uid = |text: &str| of(text).unwrap().metadata.uid.unwrap();
        assert_eq!(uid(POD), uid(&POD.replace("{name: web}", "{ name:   web }")));
        assert_ne!(uid(POD), uid(&POD.replace("image: a", "image: b")));
    }

    #[test]
    fn what_cannot_run_without_the_api_server_is_refused() {
        let refused = |more: &str| of(&POD.replace("spec: {", &format!("spec: {{{more}, "))).unwrap_err().to_string();
        assert_eq!(refused("serviceAccountName: x"), "static pods may not reference serviceaccounts");
        let volume = "volumes: [{name: v, secret: {secretName: s}}]";
        assert_eq!(refused(volume), "static pods may not reference secrets");
        assert_eq!(refused("restartPolicy: Sometimes").split(':').next(), Some("invalid pod"));
        assert_eq!(of("kind: ConfigMap\napiVersion: v1\n").unwrap_err().to_string(), "holds no Pod of version v1");
    }

    #[test]
    fn a_broken_edit_leaves_the_pod_and_a_removed_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.yaml");
        fs::write(&file, POD).unwrap();
        fs::write(dir.path().join(".web.yaml.swp"), POD).unwrap();
        let first = read(dir.path(), "n", &BTreeMap::new()).unwrap();
        assert_eq!(first.len(), 1);
        fs::write(&file, "kind: Pod: x").unwrap();
        let second = read(dir.path(), "n", &first).unwrap();
        assert_eq!(second[&file].metadata.uid, first[&file].metadata.uid);
        fs::remove_file(&file).unwrap();
        assert!(read(dir.path(), "n", &second).unwrap().is_empty());
    }
}
