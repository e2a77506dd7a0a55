//! An agent that dies anywhere between two steps of a pod's volumes leaves what the next one puts right.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::payload::{File, Payload};
use super::{atomic, path, set_up, sub_path_mount, subpath, tear_down};
use k8s_openapi::api::core::v1::{Pod, Volume};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everywhere that something is done and not yet the next.
const POINTS: [&str; 13] = [
    "directory made",
    "directory set",
    "memory made",
    "memory mounted",
    "files written",
    "link written",
    "data replaced",
    "links set",
    "part found",
    "part's place made",
    "part mounted",
    "mount gone",
    "mounts gone",
];
const GROUP: u32 = 4242;

fn files(list: &[(&str, &str)]) -> Payload {
    list.iter()
        .map(|(path, text)| ((*path).to_owned(), File { data: text.as_bytes().to_vec(), mode: 0o644, owner: None }))
        .collect()
}

fn live(pod_dir: &Path, look: impl FnOnce(&[PathBuf; 3], &Path)) {
    let pod: Pod =
        serde_json::from_value(json!({"spec": {"containers": [], "securityContext": {"fsGroup": GROUP}}})).unwrap();
    let volume = |source: serde_json::Value| -> Volume { serde_json::from_value(source).unwrap() };
    let volumes = [
        volume(json!({"name": "data", "emptyDir": {}})),
        volume(json!({"name": "memory", "emptyDir": {"medium": "Memory"}})),
        volume(json!({"name": "settings", "configMap": {"name": "settings"}})),
    ];
    for volume in &volumes {
        set_up(&pod, pod_dir, volume, 1 << 20).unwrap();
    }
    let places = volumes.map(|volume| path(pod_dir, &volume).unwrap());
    for payload in [&[("a", "1"), ("sub/b", "2")], &[("a", "3"), ("c", "4")]] {
        atomic::write(&places[2], &files(payload), Some(GROUP)).unwrap();
    }
    let part = sub_path_mount(pod_dir, "c", 0);
    subpath::bind(&places[0], "part/inner", &part, true).unwrap();
    look(&places, &part);
    tear_down(pod_dir).unwrap();
}

/// Does nothing unless it is run by [`bench`], in a process of its own.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os("NARU_TEST_VICTIM") else { return };
    live(Path::new(&dir), |_, _| {});
}

/// Does nothing unless it is run by the test below, among mounts of its own.
#[test]
fn bench() {
    if std::env::var_os("NARU_TEST_BENCH").is_none() {
        return;
    }
    for point in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("pod");
        let mut victim = Command::new(std::env::current_exe().unwrap());
        victim.args(["volumes::deaths::victim", "--exact", "--quiet"]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = victim.env("NARU_TEST_VICTIM", &pod_dir).env("NARU_TEST_DIES_AT", point).status().unwrap();
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        live(&pod_dir, |[data, memory, settings], part| {
            for place in [data, memory, settings] {
                let meta = fs::metadata(place).unwrap();
                assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o2777, GROUP), "{point}: {}", place.display());
            }
            let shown = |name: &str| fs::read_to_string(settings.join(name)).ok();
            assert_eq!((shown("a"), shown("c"), shown("sub/b")), (Some("3".into()), Some("4".into()), None), "{point}");
            // The data, its name, and the names of two files.
            assert_eq!(fs::read_dir(settings).unwrap().count(), 4, "{point}");
            assert_eq!(fs::read_dir(data.parent().unwrap()).unwrap().count(), 2, "{point}");
            fs::write(part.join("file"), "x").unwrap();
            assert_eq!(fs::read_to_string(data.join("part/inner/file")).unwrap(), "x", "{point}");
        });
        assert!(!pod_dir.exists(), "{point}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()), "{point}: {mounts}");
    }
}

#[test]
fn death_at_each_point_is_put_right() {
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(std::env::current_exe().unwrap()).args([
        "volumes::deaths::bench",
        "--exact",
        "--nocapture",
    ]);
    let output = command.env("NARU_TEST_BENCH", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
