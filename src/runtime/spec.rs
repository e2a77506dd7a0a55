//! What callers ask for: sandboxes, containers and exec sessions, in OCI terms.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A group of containers that share network, IPC and host name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Unique name; becomes a directory name, so letters, digits, `-`, `_` and `.` only.
    pub id: String,
    /// Host name inside; ignored with `host_network`, where the host's is seen.
    pub hostname: String,
    /// Handed back unchanged in [`SandboxInfo`], after a restart as well.
    pub labels: BTreeMap<String, String>,
    /// Cgroup that holds the containers' cgroups, relative to the configured root,
    /// such as `kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits on `cgroup_parent` as a whole.
    pub resources: Resources,
    /// Use the host's network namespace.
    pub host_network: bool,
    /// Use the host's process namespace.
    pub host_pid: bool,
    /// Use the host's IPC namespace.
    pub host_ipc: bool,
    /// One process namespace for all containers (ignored with `host_pid`).
    pub share_pid: bool,
    /// Namespaced kernel parameters, in dotted form.
    pub sysctls: BTreeMap<String, String>,
    /// A user namespace of its own: the host's id that is root in it; [`crate::idmap::IDS`] of them follow.
    /// Not with any of the host's namespaces.
    pub first_host_id: Option<u32>,
    /// Another OCI runtime that makes the containers: a program with the command line of runc.
    pub handler: Option<PathBuf>,
}

/// A container in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Unique over all sandboxes; becomes a directory and cgroup name.
    pub id: String,
    /// Name inside the sandbox, for logs and labels only.
    pub name: String,
    /// Handed back unchanged in [`ContainerInfo`], after a restart as well.
    pub labels: BTreeMap<String, String>,
    /// A mounted root file system, usually from a snapshot.
    pub rootfs: PathBuf,
    /// The command: the first element is searched in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Working directory, created if missing; `/` if empty.
    pub cwd: String,
    /// User id of the process.
    pub uid: u32,
    /// Primary group id of the process.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// Give the process a terminal.
    pub tty: bool,
    /// Keep a standard input open for attaching; otherwise it reads end of file.
    pub stdin: bool,
    /// Bind mounts, after the default ones, in order.
    pub mounts: Vec<Mount>,
    /// Capabilities such as `CAP_CHOWN`. Those that naru itself lacks are left out.
    pub capabilities: Vec<String>,
    /// All devices and capabilities, nothing masked.
    pub privileged: bool,
    /// Mount the root file system read-only.
    pub readonly_rootfs: bool,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// AppArmor profile, which must be loaded; `None` leaves the program unconfined.
    pub apparmor: Option<String>,
    /// Paths hidden from the container; [`default_masked_paths`] unless changed.
    pub masked_paths: Vec<String>,
    /// Paths mounted read-only; [`default_readonly_paths`] unless changed.
    pub readonly_paths: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// Adjustment of the out-of-memory score (best effort when lower than naru's own).
    pub oom_score_adj: Option<i32>,
    /// Log file in the CRI format, appended to. `None` discards the output.
    pub log_path: Option<PathBuf>,
    /// Host devices to hand in.
    pub devices: Vec<Device>,
    /// A running container of the sandbox whose process namespace this one joins.
    pub processes_of: Option<String>,
}

impl Default for ContainerSpec {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            labels: BTreeMap::new(),
            rootfs: PathBuf::new(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            tty: false,
            stdin: false,
            mounts: Vec::new(),
            capabilities: default_capabilities(),
            privileged: false,
            readonly_rootfs: false,
            no_new_privileges: false,
            seccomp: SeccompProfile::Unconfined,
            apparmor: None,
            masked_paths: default_masked_paths(),
            readonly_paths: default_readonly_paths(),
            resources: Resources::default(),
            oom_score_adj: None,
            log_path: None,
            devices: Vec::new(),
            processes_of: None,
        }
    }
}

/// A bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path in the container; created if missing.
    pub destination: PathBuf,
    /// Read-only.
    pub readonly: bool,
    /// With `readonly`: mounts below the source as well.
    pub recursive_readonly: bool,
    /// Nothing in it can be run.
    pub noexec: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
    /// The owners of its files are translated already, where the sandbox has users of its own.
    pub translated: bool,
}

/// How mounts made later on one side appear on the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device node of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Which system call filter to apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// None.
    #[default]
    Unconfined,
    /// The built-in default.
    RuntimeDefault,
    /// A profile file, in the format of the OCI runtime specification.
    Localhost(PathBuf),
}

/// Limits of a cgroup. `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight in the v1 scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs the tasks may run on, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes the tasks may use.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory.
    pub memory_limit: Option<i64>,
    /// Number of processes and threads.
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages by their size, as the kernel's files are named: `2MB`.
    pub huge_pages: BTreeMap<String, i64>,
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Container id.
    pub container: String,
    /// Command and arguments.
    pub args: Vec<String>,
    /// The whole environment, `NAME=value`; empty takes the container's.
    pub env: Vec<String>,
    /// Working directory; `None` takes the container's.
    pub cwd: Option<String>,
    /// User id; `None` takes the container's.
    pub uid: Option<u32>,
    /// Group id; `None` takes the container's.
    pub gid: Option<u32>,
    /// Give the command a terminal; output then comes on stdout only.
    pub tty: bool,
    /// First size of the terminal as (columns, rows).
    pub tty_size: Option<(u16, u16)>,
    /// Connect standard input; otherwise it reads end of file.
    pub stdin: bool,
}

/// A sandbox as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxInfo {
    /// As given at creation.
    pub id: String,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
    /// The process whose `/proc/<pid>/ns` are the sandbox's namespaces.
    pub pid: u32,
    /// Path of the network namespace.
    pub netns_path: PathBuf,
    /// A tmpfs to be bound at `/dev/shm` (done by the runtime itself for its containers).
    pub shm_path: PathBuf,
    /// When it was made, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Its shim has died: remove it and make a new one.
    pub lost: bool,
    /// Containers, oldest first, exited ones included until they are removed.
    pub containers: Vec<ContainerInfo>,
}

/// A container as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// As given at creation.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox: String,
    /// As given at creation.
    pub name: String,
    /// As given at creation.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Process id of its first process on the host, 0 once exited.
    pub pid: u32,
    /// When it was made, nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// When it was started, nanoseconds since the epoch.
    pub started_at_ns: Option<i64>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, its process waits for the start.
    Created,
    /// Started.
    Running,
    /// Ended; kept until removed.
    Exited(ExitStatus),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + n if killed by signal n.
    pub exit_code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel's out-of-memory killer struck in its cgroup.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
}

/// A container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The sandbox it was in.
    pub sandbox: String,
    /// Its id.
    pub container: String,
    /// How it ended.
    pub status: ExitStatus,
}

/// Something that happened by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container's first process ended.
    Exit(Exit),
    /// The sandbox's shim died; its containers are killed. Remove the sandbox and make a new one.
    SandboxLost {
        /// Which one.
        sandbox: String,
    },
}

/// What a cgroup has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// CPU time in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Bytes of memory charged, page cache included.
    pub memory_usage_bytes: u64,
    /// Bytes of memory that cannot be reclaimed easily.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory in bytes.
    pub memory_rss_bytes: u64,
    /// Bytes of the page cache.
    pub memory_cache_bytes: u64,
    /// Bytes that were swapped out.
    pub memory_swap_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Periods in which processor time was limited.
    pub cpu_periods: u64,
    /// Those of them in which it was used up.
    pub cpu_throttled_periods: u64,
    /// For how long processes waited for it, in nanoseconds.
    pub cpu_throttled_ns: u64,
}

/// What a cgroup has read from a disk and written to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// The device, such as `/dev/sda`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The capabilities that container engines give by default.
pub fn default_capabilities() -> Vec<String> {
    [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ]
    .map(String::from)
    .to_vec()
}

/// Paths that reveal or change the host and are hidden by default.
pub fn default_masked_paths() -> Vec<String> {
    [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]
    .map(String::from)
    .to_vec()
}

/// Paths that are read-only by default.
pub fn default_readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(String::from).to_vec()
}
