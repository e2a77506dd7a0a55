//! What is mounted into a container: its volumes and the files that the node manages.

use super::expand::expand;
use crate::volumes;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use naru_runtime::{Mount, Propagation};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that the node makes for a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hostname: PathBuf,
}

impl PodFiles {
    pub(crate) fn of(pod_dir: &Path) -> Self {
        Self {
            hosts: pod_dir.join("etc-hosts"),
            resolv_conf: pod_dir.join("resolv.conf"),
            hostname: pod_dir.join("hostname"),
        }
    }
}

/// Where things of a pod are on the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    pub(crate) pod_dir: &'a Path,
    /// Images that are mounted, by the volume's name.
    pub(crate) views: &'a BTreeMap<String, PathBuf>,
    pub(crate) message_file: Option<&'a Path>,
}

/// The mounts of `container`, outer ones first. An error names the mount.
pub(crate) fn mounts(
    pod: &Pod,
    container: &Container,
    places: &Places<'_>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let files = PodFiles::of(places.pod_dir);
    let mut out = Vec::new();
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    let taken = |path: &str| wanted.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
    for (path, source) in
        [("/etc/hosts", &files.hosts), ("/etc/resolv.conf", &files.resolv_conf), ("/etc/hostname", &files.hostname)]
    {
        if !taken(path) && source.exists() {
            out.push(Mount { source: source.clone(), destination: path.into(), ..Default::default() });
        }
    }
    for (index, mount) in wanted.iter().enumerate() {
        out.push(volume_mount(pod, container, index, mount, places, env)?);
    }
    if let Some(file) = places.message_file {
        let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        if !taken(path) {
            out.push(Mount { source: file.into(), destination: path.into(), ..Default::default() });
        }
    }
    out.sort_by_key(|m| m.destination.components().count());
    Ok(out)
}

fn volume_mount(
    pod: &Pod,
    container: &Container,
    index: usize,
    mount: &VolumeMount,
    places: &Places<'_>,
    env: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let volume = volumes
        .iter()
        .find(|v| v.name == mount.name)
        .ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name))?;
    let is_image = volume.image.is_some();
    let source = match places.views.get(&volume.name) {
        Some(view) => Some(view.clone()),
        None => volumes::path(places.pod_dir, volume),
    };
    let mut source = source.ok_or_else(|| format!("volume {:?} is not mounted", mount.name))?;
    let fixed = is_image || volumes::payload::is_payload(volume);
    if let Some(part) = sub_path(mount, env)? {
        let target = volumes::sub_path_mount(places.pod_dir, &container.name, index);
        if let Err(error) = volumes::subpath::bind(&source, &part, &target, !fixed) {
            tracing::debug!(volume = mount.name, part, %error, "part of a volume not mounted");
            let (volume, name) = (&mount.name, &container.name);
            return Err(format!("failed to prepare subPath for volumeMount {volume:?} of container {name:?}"));
        }
        source = target;
    } else if volume.host_path.is_some() {
        volumes::host_path::make_missing(&source).map_err(|error| format!("failed to mkdir {source:?}: {error}"))?;
    }
    let readonly = mount.read_only == Some(true) || fixed;
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Ok(Mount {
        source,
        destination: PathBuf::from(&mount.mount_path),
        readonly,
        recursive_readonly: readonly && recursive,
        noexec: is_image,
        translated: is_image,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

/// The part of the volume that is to be mounted, with variables filled in.
fn sub_path(mount: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let part = match mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
        Some(expression) => {
            let missing = std::cell::Cell::new(false);
            let expanded = expand(expression, |name| {
                let value = env.get(name).cloned();
                missing.set(missing.get() || value.is_none());
                value
            });
            if missing.get() {
                return Err(format!("missing value for {expression:?}"));
            }
            expanded
        }
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if part.is_empty() {
        return Ok(None);
    }
    if part.starts_with('/') {
        return Err(format!("error SubPath {part:?} must not be an absolute path"));
    }
    if part.split('/').any(|name| name == "..") {
        return Err(format!("unable to provision SubPath {part:?}: must not contain '..'"));
    }
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn parts_of_volumes_are_named_with_variables() {
        let env = BTreeMap::from([("A".to_owned(), "a".to_owned()), ("B".to_owned(), "/b".to_owned())]);
        let of = |mount: serde_json::Value| sub_path(&serde_json::from_value(mount).unwrap(), &env);
        assert_eq!(of(json!({"subPath": "$(A)"})), Ok(Some("$(A)".into())));
        assert_eq!(of(json!({"subPathExpr": "$(A)/$$(A)/x"})), Ok(Some("a/$(A)/x".into())));
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(json!({"subPathExpr": "$(C)"})), Err("missing value for \"$(C)\"".into()));
        assert_eq!(of(json!({"subPathExpr": "$(B)"})), Err("error SubPath \"/b\" must not be an absolute path".into()));
        let text = "unable to provision SubPath \"a/../b\": must not contain '..'";
        assert_eq!(of(json!({"subPath": "a/../b"})), Err(text.into()));
    }

    #[test]
    fn images_are_mounted_for_reading_alone() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "i", "image": {"reference": "r"}}],
            "containers": [{"name": "m", "volumeMounts": [{"name": "i", "mountPath": "/i"}]}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let views = BTreeMap::from([("i".to_owned(), PathBuf::from("/view"))]);
        let places = Places { pod_dir: Path::new("/nowhere"), views: &views, message_file: None };
        let got = mounts(&pod, container, &places, &BTreeMap::new()).unwrap();
        assert_eq!(got[0].source, Path::new("/view"));
        assert!(got[0].readonly && got[0].noexec);
    }

    #[test]
    fn managed_files_give_way_to_the_pods_own_mounts() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["etc-hosts", "resolv.conf", "hostname"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let missing = dir.path().join("a/b");
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "h", "hostPath": {"path": missing}}, {"name": "c", "configMap": {"name": "c"}}],
            "containers": [{"name": "m", "volumeMounts": [
                {"name": "h", "mountPath": "/etc/hosts"}, {"name": "c", "mountPath": "/data/c"}]}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let views = BTreeMap::new();
        let places = Places { pod_dir: dir.path(), views: &views, message_file: Some(Path::new("/msg")) };
        let got = mounts(&pod, container, &places, &BTreeMap::new()).unwrap();
        let at = |path: &str| got.iter().filter(|m| m.destination == Path::new(path)).collect::<Vec<_>>();
        assert_eq!(at("/etc/hosts").len(), 1);
        assert_eq!(at("/etc/hosts")[0].source, missing);
        assert!(missing.is_dir(), "nothing was said of what it has to be");
        assert!(!at("/etc/hosts")[0].readonly);
        assert!(at("/data/c")[0].readonly);
        assert_eq!(at("/dev/termination-log")[0].source, Path::new("/msg"));
    }
}
