//! A process that is killed anywhere leaves a store and mounts that the next one puts right.

use super::{archives, image_names, write};
use crate::images::ImageStore;
use crate::snapshots::Snapshots;
use crate::snapshots::tests::with_own_mounts;
use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everywhere that a pull, an import, a removal or a mount has done one thing and not yet the next.
const POINTS: [&str; 13] = [
    "ingest made",
    "layer unpacked",
    "layers settled",
    "layers synced",
    "layer placed",
    "image recorded",
    "name recorded",
    "snapshot recorded",
    "root mounted",
    "root unmounted",
    "mount point removed",
    "image forgotten",
    "layer taken away",
];

fn open(dir: &Path) -> (ImageStore, Snapshots) {
    let store = ImageStore::open(&dir.join("store"), &dir.join("exe")).unwrap();
    (store, Snapshots::open(&dir.join("store"), &dir.join("run")).unwrap())
}

/// The life of an image and of a container made from it.
async fn live(dir: &Path) {
    let (store, snapshots) = open(dir);
    store.import(&dir.join("image.tar")).await.unwrap();
    let image = store.resolve("busy:1").unwrap();
    let rootfs = snapshots.prepare("c", &image, None).await.unwrap();
    assert_eq!(std::fs::read_to_string(rootfs.join("a")).unwrap(), "2");
    snapshots.view("view-1.v", &image, None).await.unwrap();
    snapshots.remove("c").await.unwrap();
    snapshots.remove("view-1.v").await.unwrap();
    for name in image_names() {
        store.remove(name).await.unwrap();
    }
}

/// Does nothing unless it is run by the tests below, in a process of its own.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os("NARU_TEST_VICTIM").map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rounds = if std::env::var_os("NARU_TEST_DIES_AT").is_some() { 1 } else { 10_000 };
    for _ in 0..rounds {
        runtime.block_on(live(&dir));
    }
}

fn start_victim(dir: &Path, point: Option<&str>) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["images::tests::crash::victim", "--exact", "--quiet"]).env("NARU_TEST_VICTIM", dir);
    if let Some(point) = point {
        command.env("NARU_TEST_DIES_AT", point);
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
}

/// Opens what was left and finds it in order; then everything works.
fn assert_repaired(dir: &Path, after: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let count = |what: &str| std::fs::read_dir(dir.join(what)).unwrap().count();
    let (store, snapshots) = open(dir);
    runtime.block_on(snapshots.retain(&HashSet::new())).unwrap();
    assert_eq!((count("store/ingest"), count("store/snapshots"), count("run")), (0, 0, 0), "{after}");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{after}: {mounts}");
    for image in store.list().unwrap() {
        assert!(image.layers.iter().all(|layer| layer.is_dir()), "{after}: {image:?}");
    }
    // Snapshots held layers until now.
    drop(store);
    let (store, _) = open(dir);
    let wanted = if store.list().unwrap().len() > 1 { 2 } else { 0 };
    assert_eq!(count("store/layers"), wanted, "{after}");
    for kind in ["store/names", "store/images"] {
        let left = std::fs::read_dir(dir.join(kind)).unwrap().filter_map(Result::ok);
        assert!(left.into_iter().all(|file| file.path().extension().is_some_and(|ext| ext == "json")), "{after}");
    }
    drop(store);
    runtime.block_on(live(dir));
    assert_eq!((count("store/layers"), count("store/images"), count("store/names")), (0, 0, 0), "{after}");
}

fn in_own_mounts(test: impl FnOnce(&Path) + Send) {
    with_own_mounts(|| {
        let bench = super::Bench::new();
        write(&bench, "image.tar", &archives().0);
        test(bench.dir.path());
    });
}

#[test]
fn death_at_each_point_is_put_right() {
    in_own_mounts(|dir| {
        for point in POINTS {
            let status = start_victim(dir, Some(point)).wait().unwrap();
            assert_eq!(status.signal(), Some(9), "{point}: {status}");
            assert_repaired_here(dir, point);
        }
    });
}

#[test]
fn death_at_any_time_is_put_right() {
    in_own_mounts(|dir| {
        let mut state = 1_u32;
        for round in 0..15 {
            let mut victim = start_victim(dir, None);
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(std::time::Duration::from_millis(u64::from(state >> 16) % 120));
            victim.kill().unwrap();
            victim.wait().unwrap();
            assert_repaired_here(dir, &format!("round {round}"));
        }
    });
}

/// In a process of this thread's mounts: those of other threads of a runtime are not separated.
fn assert_repaired_here(dir: &Path, after: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["images::tests::crash::heir", "--exact", "--nocapture"]).env("NARU_TEST_HEIR", dir);
    let output = command.env("NARU_TEST_AFTER", after).output().unwrap();
    assert!(output.status.success(), "{after}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Looks at what a victim left, when it is run by the tests above.
#[test]
fn heir() {
    let Some(dir) = std::env::var_os("NARU_TEST_HEIR").map(PathBuf::from) else { return };
    assert_repaired(&dir, &std::env::var("NARU_TEST_AFTER").unwrap_or_default());
}
