//! The OCI runtime configuration of a container.

use super::capability;
use crate::spec::{ContainerSpec, Device, Mount, Propagation, SandboxSpec};
use serde_json::{Value, json};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where containers look for cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the configuration depends on beside the container's own description.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) sandbox: &'a SandboxSpec,
    /// The file of the process namespace to join, if there is one.
    pub(super) processes: Option<PathBuf>,
    pub(super) shm: &'a Path,
    /// The pod's own user namespace, as this process has it open.
    pub(super) users: Option<RawFd>,
    /// Absolute.
    pub(super) cgroup_path: String,
    /// Whether cgroup v2 is all there is.
    pub(super) unified_cgroups: bool,
    /// Else the container's group in every hierarchy, with the place of the hierarchy. These are bound, since a
    /// mount of version 1 of its own would be writable whatever is asked for.
    pub(super) cgroup_places: Vec<(PathBuf, PathBuf)>,
    /// Held while the process is set up.
    pub(super) capabilities: capability::Set,
    /// Kept as bound for the program.
    pub(super) bounding: capability::Set,
}

/// A device node for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) block: bool,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) permissions: String,
}

impl Node {
    /// Looks a device up on the host; `None` if it is not one.
    fn of(device: &Device) -> Option<Self> {
        let data = std::fs::metadata(&device.host_path).ok()?;
        let block = data.file_type().is_block_device();
        if !block && !data.file_type().is_char_device() {
            return None;
        }
        let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        Some(Self {
            path: device.container_path.clone(),
            block,
            major: libc::major(data.rdev()),
            minor: libc::minor(data.rdev()),
            mode: data.mode() & 0o7777,
            uid: data.uid(),
            gid: data.gid(),
            permissions: permissions.to_owned(),
        })
    }

    /// In the form of `devices.allow`.
    pub(super) fn rule(&self) -> String {
        let kind = if self.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", self.major, self.minor, self.permissions)
    }

    fn json(&self) -> Value {
        json!({
            "path": self.path, "type": if self.block { "b" } else { "c" },
            "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }
}

/// The devices of a container beyond the usual ones.
pub(super) fn devices(spec: &ContainerSpec) -> Vec<Node> {
    let mut nodes: Vec<Node> = if spec.privileged { host_devices(Path::new("/dev"), 0) } else { Vec::new() };
    for node in spec.devices.iter().filter_map(Node::of) {
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    nodes
}

/// Every device node of the host but those that a container has its own of.
fn host_devices(directory: &Path, depth: usize) -> Vec<Node> {
    const OWN: [&str; 10] = ["console", "fd", "full", "null", "ptmx", "random", "stdin", "tty", "urandom", "zero"];
    const ELSEWHERE: [&str; 5] = ["pts", "shm", "mqueue", ".udev", "fd"];
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut nodes = Vec::new();
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        let name = entry.file_name();
        if kind.is_dir() && depth < 4 && ELSEWHERE.iter().all(|skip| name != *skip) {
            nodes.extend(host_devices(&path, depth + 1));
        } else if (kind.is_char_device() || kind.is_block_device()) && (depth > 0 || OWN.iter().all(|own| name != *own))
        {
            let device = Device { host_path: path.clone(), container_path: path, permissions: String::new() };
            nodes.extend(Node::of(&device));
        }
    }
    nodes
}

/// The whole configuration, as `config.json` has it.
pub(super) fn config(spec: &ContainerSpec, nodes: &[Node], context: &Context<'_>) -> Value {
    let mut namespaces = vec![json!({"type": "mount"})];
    if let Some(users) = context.users {
        namespaces.push(json!({"type": "user", "path": format!("/proc/self/fd/{users}")}));
    }
    if let Some(path) = &context.processes {
        namespaces.push(json!({"type": "pid", "path": path}));
    } else if !context.sandbox.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    if context.unified_cgroups && !spec.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let capabilities = context.capabilities.names();
    let (masked, readonly): (&[String], &[String]) =
        if spec.privileged { (&[], &[]) } else { (&spec.masked_paths, &spec.readonly_paths) };
    let shared = spec.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.tty,
            "user": {"uid": spec.uid, "gid": spec.gid, "umask": 0o022, "additionalGids": groups(spec)},
            "args": spec.args,
            // The program gets its environment from us. Without a HOME here, libcontainer would ask the
            // C library for it, which loads name service modules from the container's own files.
            "env": ["HOME=/"],
            "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
            "capabilities": {
                "bounding": context.bounding.names(),
                "effective": capabilities,
                "permitted": capabilities,
                "inheritable": [],
            },
        },
        "root": {"path": spec.rootfs, "readonly": spec.readonly_rootfs},
        "mounts": mounts(spec, context),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": context.cgroup_path,
            "devices": nodes.iter().map(Node::json).collect::<Vec<_>>(),
            "maskedPaths": masked,
            "readonlyPaths": readonly,
            "rootfsPropagation": if shared { "shared" } else { "slave" },
        },
    });
    if let Some(profile) = &spec.apparmor {
        config["process"]["apparmorProfile"] = profile.as_str().into();
    }
    config
}

/// The supplementary groups: the primary one is among them, so that giving it up does not evade
/// the permissions that a file denies to it.
pub(super) fn groups(spec: &ContainerSpec) -> Vec<u32> {
    let mut groups = vec![spec.gid];
    groups.extend(spec.additional_gids.iter().filter(|gid| **gid != spec.gid));
    groups
}

fn mounts(spec: &ContainerSpec, context: &Context<'_>) -> Vec<Value> {
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({"type": kind, "source": source, "destination": destination, "options": options});
    let sys = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", sys]),
    ];
    if context.unified_cgroups {
        mounts.push(mount("cgroup", "cgroup", CGROUPS, &["nosuid", "noexec", "nodev", "relatime", sys]));
    } else if !context.cgroup_places.is_empty() {
        mounts.push(mount("tmpfs", "tmpfs", CGROUPS, &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]));
        for (group, place) in context.cgroup_places.iter().filter(|(_, place)| place.starts_with(CGROUPS)) {
            mounts.push(json!({
                "type": "bind", "source": group, "destination": place,
                "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", sys],
            }));
        }
    }
    if !spec.mounts.iter().any(|m| m.destination == Path::new("/dev/shm")) {
        let shm = Mount { source: context.shm.into(), destination: "/dev/shm".into(), ..Mount::default() };
        mounts.push(bind(&shm));
    }
    // What is mounted below something must come after it.
    let mut binds: Vec<&Mount> = spec.mounts.iter().collect();
    binds.sort_by_key(|m| m.destination.components().count());
    mounts.extend(binds.into_iter().map(bind));
    mounts
}

fn bind(mount: &Mount) -> Value {
    let access = match (mount.readonly, mount.recursive_readonly) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation, access];
    if mount.noexec {
        options.push("noexec");
    }
    json!({"type": "bind", "source": mount.source, "destination": mount.destination, "options": options})
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn with(spec: &ContainerSpec, unified: bool) -> Value {
        let sandbox = SandboxSpec::default();
        let context = Context {
            sandbox: &sandbox,
            processes: None,
            shm: Path::new("/run/x/shm"),
            users: None,
            cgroup_path: "/kubepods/pod1/c".into(),
            unified_cgroups: unified,
            cgroup_places: if unified {
                Vec::new()
            } else {
                vec![("/sys/fs/cgroup/cpu/kubepods/pod1/c".into(), "/sys/fs/cgroup/cpu".into())]
            },
            capabilities: capability::Set::from_names(["CHOWN"]),
            bounding: capability::Set::from_names(["CHOWN"]),
        };
        config(spec, &[], &context)
    }

    fn destinations(config: &Value) -> Vec<&str> {
        config["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_container_sees_its_own_cgroups() {
        let spec = ContainerSpec::default();
        assert!(destinations(&with(&spec, true)).contains(&"/sys/fs/cgroup"));
        let config = with(&spec, false);
        let bound = config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys/fs/cgroup/cpu");
        let bound = bound.unwrap();
        assert_eq!(bound["source"], "/sys/fs/cgroup/cpu/kubepods/pod1/c");
        assert!(bound["options"].as_array().unwrap().contains(&json!("ro")));
    }

    #[test]
    fn nobody_is_asked_for_a_home() {
        assert_eq!(with(&ContainerSpec::default(), true)["process"]["env"], json!(["HOME=/"]));
    }

    #[test]
    fn inner_mounts_follow_outer_ones() {
        let at = |path: &str| Mount { destination: path.into(), ..Mount::default() };
        let spec = ContainerSpec { mounts: vec![at("/data/inner/x"), at("/data")], ..ContainerSpec::default() };
        let config = with(&spec, true);
        let all = destinations(&config);
        let position = |path| all.iter().position(|d| *d == path).unwrap();
        assert!(position("/data") < position("/data/inner/x"));
    }

    #[test]
    fn privileged_containers_see_everything() {
        let spec = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        let config = with(&spec, true);
        assert_eq!(config["linux"]["maskedPaths"], json!([]));
        let sys = config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys").unwrap();
        assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
    }
}
