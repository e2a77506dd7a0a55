//! A runtime in a directory of its own, with a root file system of busybox, and the check that it
//! leaves nothing behind.

use naru_runtime::{ContainerSpec, Event, Exit, Runtime, RuntimeConfig, SandboxSpec};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::broadcast;

/// More than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A test.
pub(crate) type Scenario = fn(Fixture) -> Pin<Box<dyn Future<Output = ()>>>;

/// Where a test works.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) directory: PathBuf,
    pub(crate) cgroup_root: String,
}

/// Runs a test and checks that nothing is left.
pub(crate) fn run(scenario: Scenario) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let fixture = Fixture::new(&path);
    let cgroup_root = fixture.cgroup_root.clone();
    let config = fixture.config();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let passed = std::panic::catch_unwind(AssertUnwindSafe(|| {
        tokio.block_on(async { tokio::time::timeout(PATIENCE, scenario(fixture)).await.expect("the test hangs") });
    }));
    if passed.is_err() {
        // Whatever a failed test has left is not the next one's problem.
        tokio.block_on(async {
            let runtime = Runtime::open(config).await.unwrap();
            for sandbox in runtime.sandboxes() {
                runtime.remove_sandbox(&sandbox.id).await.unwrap();
            }
        });
    }
    tokio.shutdown_timeout(Duration::from_secs(20));
    assert_nothing_left(&path, &cgroup_root);
    passed.unwrap();
}

fn assert_nothing_left(path: &Path, cgroup_root: &str) {
    let path = path.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(path), "a mount is left below {path}");
    for pid in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(pid.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(path), "process {:?} is left", pid.file_name());
    }
    let left: Vec<PathBuf> = cgroup_directories(cgroup_root).into_iter().filter(|d| d.exists()).collect();
    let inner: Vec<PathBuf> = left
        .iter()
        .flat_map(|d| std::fs::read_dir(d).unwrap().flatten())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.path())
        .collect();
    for directory in left {
        let _ = std::fs::remove_dir(directory);
    }
    assert!(inner.is_empty(), "cgroups are left: {inner:?}");
}

fn cgroup_directories(root: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts.lines().filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")));
    cgroups.map(|line| Path::new(line.split(' ').nth(1).unwrap()).join(root)).collect()
}

impl Fixture {
    fn new(directory: &Path) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let bin = directory.join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for inner in ["etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(directory.join("rootfs").join(inner)).unwrap();
        }
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in ["sh", "cat", "echo", "sleep", "id", "tty", "stty", "ls", "hostname", "kill", "nc", "ps", "env"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        std::fs::write(directory.join("rootfs/bin/badinterp"), "#!/nowhere\n").unwrap();
        make_executable(&directory.join("rootfs/bin/badinterp"));
        std::fs::write(directory.join("rootfs/etc/passwd"), "web:x:33:33::/var/www:/bin/sh\n").unwrap();
        Self { directory: directory.to_owned(), cgroup_root: format!("naru-test-{name}") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn config(&self) -> RuntimeConfig {
        let this = std::env::current_exe().unwrap();
        RuntimeConfig {
            data_dir: self.path("data"),
            run_dir: self.path("run"),
            cgroup_root: Some(self.cgroup_root.clone()),
            shim_exe: this.clone(),
            self_exe: this,
        }
    }

    pub(crate) async fn open(&self) -> Runtime {
        Runtime::open(self.config()).await.unwrap()
    }

    pub(crate) fn sandbox(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            hostname: format!("host-{id}"),
            labels: [("pod".to_owned(), id.to_owned())].into(),
            cgroup_parent: format!("pod{id}"),
            ..SandboxSpec::default()
        }
    }

    /// A container that runs a shell script and logs to `<id>.log`.
    pub(crate) fn shell(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            name: id.into(),
            rootfs: self.path("rootfs"),
            args: ["sh", "-c", script].map(String::from).into(),
            env: vec!["PATH=/bin".into()],
            log_path: Some(self.path(&format!("{id}.log"))),
            ..ContainerSpec::default()
        }
    }

    /// The text of a container's log, stream and tag included, times left out.
    pub(crate) fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{id}.log"))).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }

    /// Waits until the log says something.
    pub(crate) async fn log_says(&self, id: &str, text: &str) {
        while !self.log(id).contains(text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for the end of a container.
pub(crate) async fn exit_of(events: &mut broadcast::Receiver<Event>, id: &str) -> Exit {
    loop {
        match events.recv().await.unwrap() {
            Event::Exit(exit) if exit.container == id => return exit,
            _ => {}
        }
    }
}
