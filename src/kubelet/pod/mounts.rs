//! What is mounted into a container: its volumes and the files that the node manages.

use super::expand::expand;
use crate::volumes;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use naru_runtime::{Mount, Propagation};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

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

/// The mounts of `container`, outer ones first. An error names the mount.
pub(crate) fn mounts(
    pod: &Pod,
    container: &Container,
    pod_dir: &Path,
    env: &BTreeMap<String, String>,
    message_file: Option<&Path>,
) -> Result<Vec<Mount>, String> {
    let files = PodFiles::of(pod_dir);
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
    for mount in wanted {
        out.push(volume_mount(pod, mount, pod_dir, env)?);
    }
    if let Some(file) = message_file {
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
    mount: &VolumeMount,
    pod_dir: &Path,
    env: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let volume = volumes
        .iter()
        .find(|v| v.name == mount.name)
        .ok_or_else(|| format!("cannot find volume {:?} to mount into container", mount.name))?;
    let mut source = volumes::path(pod_dir, volume).ok_or_else(|| format!("volume {:?} is not mounted", mount.name))?;
    let sub_path = match mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
        Some(expression) => {
            let expanded = expand(expression, |name| env.get(name).cloned());
            if expanded.contains("$(") {
                return Err(format!("missing value for {expression:?}"));
            }
            Some(expanded)
        }
        None => mount.sub_path.clone().filter(|s| !s.is_empty()),
    };
    if let Some(sub_path) = sub_path {
        source = resolve_sub_path(&source, &sub_path).map_err(|error| {
            format!("failed to prepare subPath for volumeMount {:?} of container: {error}", mount.name)
        })?;
    }
    let readonly = mount.read_only == Some(true) || volumes::payload::is_payload(volume);
    let recursive = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Ok(Mount {
        source,
        destination: PathBuf::from(&mount.mount_path),
        readonly,
        recursive_readonly: readonly && recursive,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

/// The path below a volume, made if it is missing. A link that leads outside the volume is refused.
fn resolve_sub_path(volume: &Path, sub_path: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub_path);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("{sub_path:?} must be a relative path without '..'"));
    }
    let base = fs::canonicalize(volume).map_err(|error| error.to_string())?;
    let mut at = base.clone();
    for part in relative.components() {
        at.push(part);
        match fs::canonicalize(&at) {
            Ok(real) if real.starts_with(&base) => at = real,
            Ok(_) => return Err(format!("{sub_path:?} leads outside of the volume")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir(&at).map_err(|error| error.to_string())?;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn sub_paths_stay_inside_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        assert!(resolve_sub_path(&volume, "a/b").unwrap().ends_with("v/a/b"));
        assert!(volume.join("a/b").is_dir());
        assert!(resolve_sub_path(&volume, "../x").is_err());
        assert!(resolve_sub_path(&volume, "out").unwrap_err().contains("outside"));
        assert!(resolve_sub_path(&volume, "out/passwd").is_err());
    }

    #[test]
    fn managed_files_give_way_to_the_pods_own_mounts() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["etc-hosts", "resolv.conf", "hostname"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [{"name": "h", "hostPath": {"path": "/x"}}, {"name": "c", "configMap": {"name": "c"}}],
            "containers": [{"name": "m", "volumeMounts": [
                {"name": "h", "mountPath": "/etc/hosts"}, {"name": "c", "mountPath": "/data/c"}]}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let got = mounts(&pod, container, dir.path(), &BTreeMap::new(), Some(Path::new("/msg"))).unwrap();
        let at = |path: &str| got.iter().filter(|m| m.destination == Path::new(path)).collect::<Vec<_>>();
        assert_eq!(at("/etc/hosts").len(), 1);
        assert_eq!(at("/etc/hosts")[0].source, Path::new("/x"));
        assert!(!at("/etc/hosts")[0].readonly);
        assert!(at("/data/c")[0].readonly);
        assert_eq!(at("/dev/termination-log")[0].source, Path::new("/msg"));
    }
}
