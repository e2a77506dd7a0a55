//! Tests of root file systems with real mounts, in a mount namespace of their own.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::images::{ImageConfig, ImageStore};

/// Runs a test where its mounts vanish with it.
pub(crate) fn with_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread's mounts are separated, and it ends with the test.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
            let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            test();
        });
        thread.join().unwrap();
    });
}

fn in_own_mounts(test: impl FnOnce(&Path) + Send) {
    with_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        test(dir.path());
    });
}

fn image(dir: &Path, layers: usize) -> Image {
    let layer = |i: usize| {
        let fs = dir.join(format!("store/layers/{i:064}/fs"));
        std::fs::create_dir_all(&fs).unwrap();
        std::fs::write(fs.join("who"), i.to_string()).unwrap();
        std::fs::write(fs.join(format!("only-{i}")), "").unwrap();
        fs
    };
    let layers = (0..layers).map(layer).collect();
    Image {
        id: "sha256:x".to_owned(),
        names: Vec::new(),
        digests: Vec::new(),
        config: ImageConfig::default(),
        size: 0,
        layers,
    }
}

#[test]
fn the_highest_layer_wins_and_writes_stay_in_the_container() {
    in_own_mounts(|dir| {
        let snapshots = Snapshots::open(&dir.join("store"), &dir.join("run")).unwrap();
        // Once with readable options, once with more layers than those have room for.
        for (id, count) in [("few", 3), ("many", 120)] {
            let image = image(dir, count);
            let rootfs = snapshots.prepare_now(id, &image.layers, None).unwrap();
            assert_eq!(std::fs::read_to_string(rootfs.join("who")).unwrap(), (count - 1).to_string());
            assert!(rootfs.join("only-0").exists());
            std::fs::write(rootfs.join("who"), "container").unwrap();
            std::fs::remove_file(rootfs.join("only-0")).unwrap();
            assert!(image.layers[0].join("only-0").exists());
            // Again, as after a crash and after a reboot.
            assert_eq!(snapshots.prepare_now(id, &image.layers, None).unwrap(), rootfs);
            overlay::unmount(&rootfs).unwrap();
            assert!(!overlay::is_mounted(&rootfs).unwrap());
            snapshots.prepare_now(id, &image.layers, None).unwrap();
            assert_eq!(std::fs::read_to_string(rootfs.join("who")).unwrap(), "container");
            snapshots.remove_now(id).unwrap();
            assert!(!rootfs.exists() && !snapshots.upper(id).exists());
            snapshots.remove_now(id).unwrap();
        }
    });
}

#[test]
fn stale_ones_are_removed_and_others_kept() {
    in_own_mounts(|dir| {
        let snapshots = Snapshots::open(&dir.join("store"), &dir.join("run")).unwrap();
        let image = image(dir, 1);
        for id in ["kept", "stale"] {
            snapshots.prepare_now(id, &image.layers, None).unwrap();
        }
        std::fs::create_dir_all(dir.join("store/snapshots/half-made")).unwrap();
        for id in ["stale", "half-made"] {
            snapshots.remove_now(id).unwrap();
        }
        assert!(overlay::is_mounted(&snapshots.rootfs("kept")).unwrap());
        assert!(!snapshots.rootfs("stale").exists());
        snapshots.remove_now("kept").unwrap();
    });
}

#[test]
fn a_layer_in_use_survives_the_collection_of_garbage() {
    in_own_mounts(|dir| {
        let store = dir.join("store");
        let exe = dir.join("exe");
        std::fs::write(&exe, "binary").unwrap();
        ImageStore::open(&store, &exe).unwrap();
        let snapshots = Snapshots::open(&store, &dir.join("run")).unwrap();
        let image = image(dir, 2);
        snapshots.prepare_now("c", &image.layers[..1], None).unwrap();
        ImageStore::open(&store, &exe).unwrap();
        assert!(image.layers[0].exists() && !image.layers[1].exists());
        snapshots.remove_now("c").unwrap();
        ImageStore::open(&store, &exe).unwrap();
        assert!(!image.layers[0].exists());
    });
}

#[test]
fn ids_cannot_leave_the_directory() {
    for id in ["", "..", "a/b", "../x", ".hidden"] {
        assert!(checked(id).is_err(), "{id}");
    }
}

#[test]
fn a_view_shows_an_image_and_takes_nothing() {
    in_own_mounts(|dir| {
        let snapshots = Snapshots::open(&dir.join("store"), &dir.join("run")).unwrap();
        for count in [1, 3] {
            let (image, id) = (image(dir, count), format!("view-{count}"));
            // The work is done where the mounts are.
            let view = || {
                let target = snapshots.record(&id, &image.layers).unwrap();
                overlay::mount_view(&image.layers, &snapshots.upper(&id), &target).unwrap();
                target
            };
            let target = view();
            assert_eq!(std::fs::read_to_string(target.join("who")).unwrap(), (count - 1).to_string());
            let error = std::fs::write(target.join("new"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            assert!(layers_in_use(&dir.join("store")).unwrap().contains(&image.layers[0]));
            snapshots.remove_now(&id).unwrap();
            assert!(!target.exists());
        }
    });
}

#[test]
fn devices_of_an_image_cannot_be_used() {
    in_own_mounts(|dir| {
        let snapshots = Snapshots::open(&dir.join("store"), &dir.join("run")).unwrap();
        let image = image(dir, 1);
        let zero = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, image.layers[0].join("zero"), zero.0, mode, zero.1).unwrap();
        let rootfs = snapshots.prepare_now("c", &image.layers, None).unwrap();
        let error = std::fs::File::open(rootfs.join("zero")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        snapshots.remove_now("c").unwrap();
    });
}
