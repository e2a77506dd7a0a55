//! Exports are read by others, and by us as what they were.

use super::super::layer::sha256;
use super::{Bench, manifest, tar_of, write};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Two layers with everything that layers may hold, as a docker-archive.
fn rich() -> Vec<u8> {
    let mut low = Builder::new(Vec::new());
    let mut add = |path: &str, kind: EntryType, mode: u32, link: &str, data: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        if link.is_empty() {
            low.append_data(&mut header, path, data).unwrap();
        } else {
            low.append_link(&mut header, path, link).unwrap();
        }
    };
    let long = format!("dir/{}/{}", "n".repeat(150), "m".repeat(200));
    add("./", EntryType::dir(), 0o1777, "", b"");
    add("dir", EntryType::dir(), 0o2750, "", b"");
    add("dir/suid", EntryType::file(), 0o4755, "", b"run");
    add("dir/hard", EntryType::hard_link(), 0o4755, "dir/suid", b"");
    add("dir/soft", EntryType::symlink(), 0o777, "/etc/../dir/suid", b"");
    add(&long, EntryType::file(), 0o600, "", b"long");
    add("pipe", EntryType::fifo(), 0o644, "", b"");
    let low = low.into_inner().unwrap();
    let high = tar_of(&[("dir/.wh.suid", b""), ("other/.wh..wh..opq", b""), ("other/new", b"new")]);
    let config = serde_json::json!({
        "architecture": manifest::architecture(), "os": "linux",
        "config": {"Cmd": ["/dir/hard"], "Env": ["A=b"], "User": "7", "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&low), sha256(&high)]},
    });
    let list = serde_json::json!([{"Config": "c.json", "RepoTags": ["rich:1"], "Layers": ["0.tar", "1.tar"]}]);
    tar_of(&[
        ("manifest.json", list.to_string().as_bytes()),
        ("c.json", config.to_string().as_bytes()),
        ("0.tar", &low),
        ("1.tar", &high),
    ])
}

/// What is in a directory: kind and mode, owner, time, device, names of the same file, contents.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let contents = match meta.file_type() {
            kind if kind.is_symlink() => std::fs::read_link(&path).unwrap().display().to_string(),
            kind if kind.is_file() => std::fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        };
        let mut opaque = [0; 1];
        let opaque = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut opaque).is_ok();
        if meta.rdev() == 0 && (meta.mode() & 0o170_000) == 0o020_000 {
            out.insert(path.strip_prefix(root).unwrap().display().to_string(), "whiteout".to_owned());
            continue;
        }
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let text = format!(
            "{:o} {}:{} {}.{} {} {links} {opaque} {contents}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        out.insert(path.strip_prefix(root).unwrap().display().to_string(), text);
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    out
}

async fn export(bench: &Bench, name: &str) -> Vec<u8> {
    let path = bench.dir.path().join("out.tar");
    bench.store.export(&[name.to_owned()], std::fs::File::create(&path).unwrap()).await.unwrap();
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn an_export_comes_back_as_what_it_was() {
    let (first, second) = (Bench::new(), Bench::new());
    first.store.import(&write(&first, "rich.tar", &rich())).await.unwrap();
    let bytes = export(&first, "rich:1").await;
    assert_eq!(second.store.import(&write(&second, "in.tar", &bytes)).await.unwrap(), ["docker.io/library/rich:1"]);
    let (old, new) = (first.store.resolve("rich:1").unwrap(), second.store.resolve("rich:1").unwrap());
    assert_eq!((&new.config, new.layers.len()), (&old.config, 2));
    for (old, new) in old.layers.iter().zip(&new.layers) {
        assert_eq!(tree(new), tree(old));
    }
    assert!(export(&second, "rich:1").await == bytes, "the same bytes");
    assert_eq!(second.count("ingest"), 0);
    let missing = second.store.export(&["nope:1".to_owned()], std::io::sink()).await.unwrap_err();
    assert_eq!(missing.to_string(), "image \"nope:1\": not found");
}

/// What `docker load`, `skopeo` and `ctr` look for.
#[tokio::test]
async fn an_export_is_both_a_docker_archive_and_an_oci_layout() {
    let bench = Bench::new();
    bench.store.import(&write(&bench, "rich.tar", &rich())).await.unwrap();
    let bytes = export(&bench, "rich:1").await;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), data);
    }
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name]).unwrap();
    let path = |digest: &serde_json::Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    for (name, data) in files.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        assert_eq!(name.replace("blobs/sha256/", "sha256:"), sha256(data));
    }
    let entry = &json("index.json")["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/library/rich:1");
    let manifest = json(&path(&entry["digest"]));
    let config = path(&manifest["config"]["digest"]);
    let layers: Vec<String> =
        manifest["layers"].as_array().unwrap().iter().map(|layer| path(&layer["digest"])).collect();
    let docker = &json("manifest.json")[0];
    assert_eq!(
        docker,
        &serde_json::json!({"Config": config, "RepoTags": ["docker.io/library/rich:1"], "Layers": layers})
    );
    assert_eq!(json(&config)["config"]["User"], "7");
}
