//! Tests of the store: pulls from a registry on this machine, archives, removal, crashes.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests start a registry")]

mod airgap;
mod crash;
mod export;
mod flaky;
mod hostile;
mod private;

use super::layer::sha256;
use super::*;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Bench {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("exe"), "#!naru").unwrap();
        let store = ImageStore::open(&dir.path().join("store"), &dir.path().join("exe")).unwrap();
        Self { dir, store }
    }
    fn reopen(&mut self) {
        self.store = ImageStore::open(&self.dir.path().join("store"), &self.dir.path().join("exe")).unwrap();
    }
    fn count(&self, what: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("store").join(what)).unwrap().count()
    }
}

/// Debian's docker-registry on a port of its own choosing.
struct TestRegistry {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl TestRegistry {
    fn start() -> Self {
        Self::serve(tempfile::tempdir().unwrap(), "{addr: '127.0.0.1:0'}", "{}")
    }

    /// The same images with other settings, of HTTP and of who may pull.
    fn restart(self, http: &str, auth: &str) -> Self {
        let mut this = self;
        let dir = std::mem::replace(&mut this.dir, tempfile::tempdir().unwrap());
        drop(this);
        Self::serve(dir, http, auth)
    }

    fn serve(dir: tempfile::TempDir, http: &str, auth: &str) -> Self {
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {http}\nauth: {auth}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (package docker-registry)");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .find_map(|line| line.ok().filter(|line| line.contains("listening on")))
            .expect("the registry listens");
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.split("listening on ").nth(1).unwrap().split(['"', ',', ' ']).next().unwrap().to_owned();
        Self { child, address, dir }
    }

    async fn push(&self, repository: &str, layers: &[(Vec<u8>, &str)], config: serde_json::Value) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let reference: oci_client::Reference = format!("{}/{repository}", self.address).parse().unwrap();
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
        let layers: Vec<ImageLayer> = layers
            .iter()
            .map(|(tar, kind)| {
                let (data, suffix) = match *kind {
                    "gzip" => (gzip(tar), "tar+gzip"),
                    "zstd" => (zstd::stream::encode_all(tar.as_slice(), 1).unwrap(), "tar+zstd"),
                    _ => (tar.clone(), "tar"),
                };
                ImageLayer::new(data, format!("application/vnd.oci.image.layer.v1.{suffix}"), None)
            })
            .collect();
        let config = serde_json::json!({"architecture": manifest::architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = Config::oci_v1(serde_json::to_vec(&config).unwrap(), None);
        client.push(&reference, &layers, config, &RegistryAuth::Anonymous, None).await.unwrap();
        reference.to_string()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_from_a_registry_once_and_removed() {
    let (registry, mut bench) = (TestRegistry::start(), Bench::new());
    let big = vec![7; 3 << 20];
    let layers = [
        (tar_of(&[("etc/base", b"base"), ("etc/passwd", b"web:x:5:6::/home/web:/bin/sh\n")]), "gzip"),
        (tar_of(&[("big", &big)]), "zstd"),
        (tar_of(&[("etc/.wh.base", b""), ("top", b"top")]), "none"),
    ];
    let config = serde_json::json!({"Env": ["A=b"], "Cmd": ["/top"], "User": "web"});
    let name = registry.push("team/app:v1", &layers, config).await;
    let received = Arc::new(AtomicU64::new(0));
    let seen = received.clone();
    let options = PullOptions {
        progress: Some(Arc::new(move |progress| {
            assert!(progress.received <= progress.total);
            seen.store(progress.received, Ordering::Relaxed);
        })),
        ..PullOptions::default()
    };
    // Two at once are one pull.
    let (image, same) = tokio::join!(bench.store.pull(&name, options.clone()), bench.store.pull(&name, options));
    let image = image.unwrap();
    assert!(Arc::ptr_eq(&image, &same.unwrap()));
    assert_eq!(received.load(Ordering::Relaxed), image.size);
    assert_eq!(image.names, std::slice::from_ref(&name));
    assert!(image.repo_digest(&name).starts_with(&format!("{}/team/app@sha256:", registry.address)));
    assert_eq!((image.config.cmd.as_slice(), image.config.user.as_str()), (&["/top".to_owned()][..], "web"));
    assert_eq!(std::fs::read(image.layers[1].join("big")).unwrap(), big);
    assert_eq!(lookup_user(&image.layers[0], "web").unwrap().uid, 5);
    for reference in [&name, &image.id, &image.digests[0], &image.id["sha256:".len()..].to_owned()] {
        assert_eq!(bench.store.resolve(reference).unwrap().id, image.id, "{reference}");
    }
    // By digest, from a store that was opened again; nothing is fetched twice.
    bench.reopen();
    assert_eq!(bench.store.pull(&image.digests[0], PullOptions::default()).await.unwrap().id, image.id);
    assert_eq!((bench.count("layers"), bench.count("ingest")), (3, 0));
    // A second image shares a layer and keeps it when the first one goes.
    let other = registry.push("other:1", &layers[..1], serde_json::json!({})).await;
    bench.store.pull(&other, PullOptions::default()).await.unwrap();
    bench.store.remove(&name).await.unwrap();
    assert!(bench.store.resolve(&name).is_none() && bench.store.resolve(&image.digests[0]).is_none());
    assert_eq!((bench.count("layers"), bench.count("images"), bench.count("names")), (1, 1, 2));
    let error = bench.store.remove(&name).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_the_words_that_users_know() {
    let (registry, bench) = (TestRegistry::start(), Bench::new());
    let address = &registry.address;
    registry.push("there:1", &[(tar_of(&[("x", b"")]), "gzip")], serde_json::json!({})).await;
    for (reference, reason) in [("nope:1", "manifest unknown"), ("there:2", "manifest unknown")] {
        let reference = format!("{address}/{reference}");
        let error = bench.store.pull(&reference, PullOptions::default()).await.unwrap_err();
        let expect = format!(
            "failed to pull and unpack image \"{reference}\": failed to resolve reference \"{reference}\": {reference}: not found ({reason})"
        );
        assert_eq!((error.kind, error.message), (PullErrorKind::NotFound, expect));
    }
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = bench.store.pull(&format!("127.0.0.1:{port}/x"), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::Unavailable);
    assert!(error.message.ends_with(&format!("dial tcp 127.0.0.1:{port}: connect: connection refused")), "{error}");
    let error = bench.store.pull("Bad Name", PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::InvalidArgument);
    assert_eq!((bench.count("layers"), bench.count("ingest")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_or_lying_layer_fails_and_leaves_nothing() {
    let (registry, bench) = (TestRegistry::start(), Bench::new());
    let mut evil = tar_of(&[("good", b""), ("aaaa", b"dead")]);
    let at = evil.windows(4).position(|window| window == b"aaaa").unwrap();
    evil[at..at + 4].copy_from_slice(b"../x");
    let sum: u32 = evil[at..at + 512]
        .iter()
        .enumerate()
        .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
        .sum();
    evil[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let name =
        registry.push("evil:1", &[(tar_of(&[("ok", b"")]), "gzip"), (evil, "gzip")], serde_json::json!({})).await;
    let error = bench.store.pull(&name, PullOptions::default()).await.unwrap_err();
    assert!(error.message.contains("failed to extract layer sha256:"), "{error}");
    assert!(error.message.ends_with("\"../x\": path leads out of the image"), "{error}");
    assert!(bench.store.resolve(&name).is_none());
    assert_eq!((bench.count("layers"), bench.count("ingest")), (0, 0));
}

#[tokio::test]
async fn the_self_image_is_always_there() {
    let mut bench = Bench::new();
    for reference in ["naru.local/self", "naru.local/self:latest", "naru.local/self:v9"] {
        let image = bench.store.resolve(reference).unwrap();
        assert_eq!(bench.store.pull(reference, PullOptions::default()).await.unwrap().id, image.id);
        assert_eq!(std::fs::read_to_string(image.layers[0].join("naru")).unwrap(), "#!naru");
        assert_eq!(image.config.entrypoint, ["/naru"]);
    }
    assert!(bench.store.resolve("naru.local/selfish").is_none());
    let old = bench.store.resolve(SELF_IMAGE).unwrap();
    // An upgrade: another file under the same name. An import by the new binary leaves the old server its image.
    let exe = bench.dir.path().join("exe");
    std::fs::write(exe.with_extension("new"), "#!newer naru").unwrap();
    std::fs::rename(exe.with_extension("new"), &exe).unwrap();
    let beside = ImageStore::open(&bench.dir.path().join("store"), &exe).unwrap();
    let new = beside.resolve(SELF_IMAGE).unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(std::fs::read_to_string(new.layers[0].join("naru")).unwrap(), "#!newer naru");
    assert!(old.layers[0].exists());
    // The old server ends.
    bench.store = beside;
    bench.reopen();
    assert!(!old.layers[0].exists());
    assert_eq!(bench.store.list().unwrap().len(), 1);
}

/// The names that the docker-archive has.
fn image_names() -> [&'static str; 2] {
    ["docker.io/library/busy:1", "docker.io/team/busy:2"]
}

/// Archives of one image with two layers, in both forms.
fn archives() -> (Vec<u8>, Vec<u8>) {
    let layers = [tar_of(&[("a", b"1")]), tar_of(&[("a", b"2")])];
    let config = serde_json::to_vec(
        &serde_json::json!({"architecture": manifest::architecture(), "os": "linux", "config": {"Cmd": ["/a"]},
        "rootfs": {"diff_ids": layers.iter().map(|layer| sha256(layer)).collect::<Vec<_>>()}}),
    )
    .unwrap();
    let docker = serde_json::json!([{"Config": "c.json", "RepoTags": ["busy:1", "team/busy:2"], "Layers": ["l0/layer.tar", "l1/layer.tar"]}]);
    let docker = tar_of(&[
        ("l0/layer.tar", &layers[0]),
        ("manifest.json", docker.to_string().as_bytes()),
        ("c.json", &config),
        ("l1/layer.tar", &layers[1]),
    ]);
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let describe = |data: &[u8]| serde_json::json!({"digest": sha256(data), "size": data.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "config": describe(&config), "layers": [describe(&blobs[0]), describe(&blobs[1])]}).to_string();
    let mut entry = describe(manifest.as_bytes());
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "quay.io/team/busy:3"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let path = |data: &[u8]| format!("blobs/{}", sha256(data).replace(':', "/"));
    let oci = tar_of(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&path(manifest.as_bytes()), manifest.as_bytes()),
        (&path(&config), &config),
        (&path(&blobs[0]), &blobs[0]),
        (&path(&blobs[1]), &blobs[1]),
    ]);
    (docker, oci)
}

fn write(bench: &Bench, name: &str, data: &[u8]) -> PathBuf {
    let path = bench.dir.path().join(name);
    std::fs::write(&path, data).unwrap();
    path
}

#[tokio::test]
async fn archives_of_both_kinds_are_imported_plain_and_compressed() {
    let (docker, oci) = archives();
    let bench = Bench::new();
    let names = ["docker.io/library/busy:1", "docker.io/team/busy:2"];
    for (name, data) in [("d.tar", docker.clone()), ("d.tar.gz", gzip(&docker))] {
        assert_eq!(bench.store.import(&write(&bench, name, &data)).await.unwrap(), names);
    }
    for (name, data) in [("o.tar", oci.clone()), ("o.tar.zst", zstd::stream::encode_all(oci.as_slice(), 1).unwrap())] {
        assert_eq!(bench.store.import(&write(&bench, name, &data)).await.unwrap(), ["quay.io/team/busy:3"]);
    }
    // The same image under three names, its layers unpacked once.
    let image = bench.store.resolve("busy:1").unwrap();
    assert_eq!(image.names.len(), 3);
    assert_eq!(std::fs::read_to_string(image.layers[1].join("a")).unwrap(), "2");
    assert_eq!((bench.count("layers"), bench.count("ingest")), (2, 0));
    // A directory works like the archive.
    let layout = bench.dir.path().join("layout");
    tar::Archive::new(oci.as_slice()).unpack(&layout).unwrap();
    assert_eq!(bench.store.import(&layout).await.unwrap(), ["quay.io/team/busy:3"]);
    // The image goes with its last name.
    for (reference, left) in [("busy:1", 1), ("team/busy:2", 1), ("quay.io/team/busy:3", 0)] {
        bench.store.remove(reference).await.unwrap();
        assert_eq!(bench.count("images"), left, "{reference}");
    }
    assert_eq!((bench.count("layers"), bench.count("names")), (0, 0));
}

#[tokio::test]
async fn broken_archives_are_explained() {
    let (docker, oci) = archives();
    let bench = Bench::new();
    let mut wrong_layer = docker.clone();
    // The last byte of layer 0's data is the "1" of its file.
    wrong_layer[1024] = b'9';
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("empty.tar", Vec::new(), "broken archive: empty"),
        ("text.tar", b"hello".repeat(200), "not a tar archive"),
        ("cut.tar", docker[..docker.len() / 2].to_vec(), "unexpected end of archive"),
        ("cut.tar.gz", gzip(&docker)[..200].to_vec(), "broken archive: "),
        (
            "other.tar",
            tar_of(&[("hello", b"")]),
            "neither a docker-archive (manifest.json) nor an OCI layout (index.json)",
        ),
        ("missing.tar", tar_of(&[("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#)]), "\"c.json\" is missing"),
        ("wrong.tar", wrong_layer, "wrong diff id: expected sha256:"),
    ];
    for (name, data, expect) in cases {
        let error = bench.store.import(&write(&bench, name, &data)).await.unwrap_err().to_string();
        assert!(error.contains(expect), "{name}: {error}");
    }
    let error = bench.store.import(Path::new("/nowhere.tar")).await.unwrap_err().to_string();
    assert!(error.starts_with("open /nowhere.tar: No such file"), "{error}");
    let mut changed = oci;
    let at = changed
        .windows(9)
        .position(|window| window == b"/a\"]},\"os")
        .or(changed.windows(4).position(|w| w == b"\"/a\""))
        .unwrap();
    changed[at + 2] = b'b';
    let error = bench.store.import(&write(&bench, "changed.tar", &changed)).await.unwrap_err().to_string();
    assert!(error.contains("wrong digest"), "{error}");
    assert_eq!((bench.count("layers"), bench.count("ingest")), (0, 0));
}

#[test]
fn what_a_crash_left_is_removed_at_open() {
    let mut bench = Bench::new();
    let store = bench.dir.path().join("store");
    std::fs::create_dir_all(store.join("ingest/1-1/0/fs/etc")).unwrap();
    std::fs::write(store.join("ingest/1-1/lock"), "").unwrap();
    std::fs::create_dir_all(store.join("layers/unreferenced/fs")).unwrap();
    std::fs::write(store.join("names/x.1-1.new"), "half").unwrap();
    std::fs::write(store.join("images/damaged.json"), "{").unwrap();
    let alive = ingest::Ingest::create(&store).unwrap();
    bench.reopen();
    assert_eq!((bench.count("layers"), bench.count("names"), bench.count("ingest")), (0, 0, 1));
    assert!(alive.path().exists());
    assert_eq!(bench.store.list().unwrap().len(), 1);
}
