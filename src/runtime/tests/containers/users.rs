//! Sandboxes whose users are not the host's.

use crate::fixture::{Fixture, exit_of};
use crate::scenarios::started;
use naru_runtime::{ExecSpec, Mount, SandboxSpec, SeccompProfile};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::Duration;

/// What is root in the sandboxes.
const FIRST: u32 = 5 * naru_runtime::idmap::IDS;

/// A sandbox with users of its own, to whose root the root file system is given, as a snapshot would show it.
fn prepared(fixture: &Fixture) -> SandboxSpec {
    fn give(path: &Path) {
        std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).unwrap();
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => give(&entry.path()),
                false => std::os::unix::fs::lchown(entry.path(), Some(FIRST), Some(FIRST)).unwrap(),
            }
        }
    }
    give(&fixture.path("rootfs"));
    SandboxSpec { first_host_id: Some(FIRST), ..fixture.sandbox("a") }
}

/// Who a process of the host is, and the ids that its namespace has.
fn host_view(pid: u32) -> (u32, String) {
    let data = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    (data.uid(), map.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

pub(crate) async fn own_users(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let volume = fixture.path("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("given"), "text").unwrap();
    chown(volume.join("given"), Some(33), Some(7)).unwrap();
    let mut sandbox = prepared(&fixture);
    sandbox.sysctls.insert("net.ipv4.ip_local_port_range".into(), "40000 50000".into());
    runtime.create_sandbox(sandbox).await.unwrap();

    // Root, with the usual capabilities; its files are the host's root's in the volume and its own elsewhere.
    let script = "id -u; cat /proc/self/uid_map; ls -ln /v/given; echo x > /v/made; echo x > /mine; ls -ln /mine; \
                  ls -ldn /dev/shm; echo x > /dev/shm/x && echo shm; hostname; echo y > /dev/stdout; \
                  cat /proc/sys/net/ipv4/ip_local_port_range; echo 1 > /proc/sys/kernel/panic; \
                  ls -ldn /proc/1/root /sys/class/net; echo end; sleep 1020";
    let mut spec = fixture.shell("c", script);
    spec.cwd = "/made/for/it".into();
    spec.seccomp = SeccompProfile::RuntimeDefault;
    spec.mounts = vec![Mount { source: volume.clone(), destination: "/v".into(), ..Mount::default() }];
    started(&runtime, "a", spec).await;
    fixture.log_says("c", "F end\n").await;
    let log = fixture.log("c");
    let words = log.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["stdout F 0 ", &format!("F 0 {FIRST} 65536 "), "33 7 4", "F shm", "F host-a", "F y", "40000 50000"] {
        assert!(words.contains(text), "{text:?} not in {log}");
    }
    assert!(log.contains("can't create /proc/sys/kernel/panic"), "{log}");
    let pid = runtime.container("c").unwrap().pid;
    assert_eq!(host_view(pid), (FIRST, format!("0 {FIRST} 65536")));
    assert_eq!(std::fs::metadata(volume.join("made")).unwrap().uid(), 0);
    assert_eq!(std::fs::metadata(fixture.path("rootfs/made/for/it")).unwrap().uid(), FIRST);

    // Commands join it as who they ask to be.
    let ids = ExecSpec { container: "c".into(), uid: Some(33), gid: Some(33), ..ExecSpec::default() };
    let probe = runtime.exec_probe("c", &["id".into(), "-u".into()], Duration::from_secs(60)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&probe.output), "0\n");
    let mut tty = ids.clone();
    (tty.tty, tty.args) = (true, ["sh", "-c", "id -u; tty; cat /v/given"].map(String::from).into());
    let mut session = runtime.exec(tty).await.unwrap();
    let mut said = String::new();
    let _ = tokio::io::AsyncReadExt::read_to_string(session.stdout.as_mut().unwrap(), &mut said).await;
    assert!(said.contains("33") && said.contains("/dev/pts/") && said.contains("text"), "{said}");

    // Somebody else, with a terminal and a read-only root.
    let mut other = fixture.shell("d", "id -u; tty; echo x > /v/made; echo x > /refused; exit 4");
    (other.uid, other.gid, other.tty, other.readonly_rootfs) = (33, 33, true, true);
    other.mounts = vec![Mount { source: volume.clone(), destination: "/v".into(), readonly: true, ..Mount::default() }];
    started(&runtime, "a", other).await;
    assert_eq!(exit_of(&mut events, "d").await.status.exit_code, 4);
    let log = fixture.log("d");
    assert!(log.contains("F 33\n") && log.contains("F /dev/pts/0\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");

    // What the kernel cannot translate is an error that says so, and nothing is left of it.
    let mut wrong = fixture.shell("e", "true");
    wrong.mounts = vec![Mount { source: "/proc".into(), destination: "/p".into(), ..Mount::default() }];
    let error = runtime.create_container("a", wrong).await.unwrap_err().to_string();
    assert!(error.contains("failed to set MOUNT_ATTR_IDMAP on /proc") && error.contains("hostUsers"), "{error}");
    drop(runtime);

    // The agent that comes next finds it as it is.
    let runtime = fixture.open().await;
    assert_eq!(runtime.container("c").unwrap().pid, pid);
    runtime.remove_sandbox("a").await.unwrap();
}

pub(crate) async fn own_users_share_processes(fixture: Fixture) {
    let runtime = fixture.open().await;
    let mut events = runtime.events();
    let sandbox = SandboxSpec { share_pid: true, ..prepared(&fixture) };
    runtime.create_sandbox(sandbox).await.unwrap();
    started(&runtime, "a", fixture.shell("one", "sleep 1021")).await;
    started(&runtime, "a", fixture.shell("two", "ps; kill -9 1; sleep 0.01")).await;
    assert_eq!(exit_of(&mut events, "two").await.status.exit_code, 0);
    let log = fixture.log("two");
    assert!(log.contains("sleep 1021") && log.contains("pause"), "{log}");
    runtime.remove_sandbox("a").await.unwrap();
}
