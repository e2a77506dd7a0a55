//! Images that want to do harm: limits are clear errors, and nothing is left.

use super::super::layer::{sha256, unpack_within};
use super::super::unpack::Limits;
use super::flaky::{Flaky, Manners};
use super::{Bench, gzip, manifest, tar_of, write};
use crate::images::PullOptions;
use std::collections::HashMap;

const LIMITS: Limits = Limits { bytes: 1 << 20, members: 1000, names: 1 << 20 };

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(data, 1).unwrap()
}

fn unpack(blob: &[u8], diff_id: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = unpack_within(LIMITS, blob, Some(&sha256(blob)), diff_id, dir.path()).unwrap_err();
    error.to_string()
}

#[test]
fn bombs_are_found_before_they_fill_the_disk() {
    let member = tar_of(&[("zeros", &vec![0; 8 << 20])]);
    // Data beyond the archive's end, which belongs to no member and still has to be read for the digest.
    let mut trailing = tar_of(&[("x", b"")]);
    trailing.resize(8 << 20, 0);
    for compress in [gzip as fn(&[u8]) -> Vec<u8>, zstd] {
        assert_eq!(unpack(&compress(&member), &sha256(&member)), "\"zeros\": unpacks to more than 1048576 bytes");
        assert_eq!(unpack(&compress(&trailing), &sha256(&trailing)), "decompresses without end");
    }
    // A window of 2 GiB, as its header says; the decoder would reserve it at once.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0, 0];
    assert!(unpack(&window, &sha256(b"")).contains("too much memory"));
}

/// A header may say anything.
#[test]
fn sizes_that_lie_are_errors() {
    let mut header = tar::Header::new_gnu();
    header.set_path("liar").unwrap();
    header.set_size(u64::MAX >> 2);
    header.set_cksum();
    let archive = header.as_bytes().to_vec();
    assert!(unpack(&archive, &sha256(&archive)).contains("unpacks to more than 1048576 bytes"));
    header.set_size(4096);
    header.set_cksum();
    let archive = header.as_bytes().to_vec();
    assert_eq!(unpack(&archive, &sha256(&archive)), "\"liar\": unexpected end of archive");
}

#[test]
fn names_may_be_neither_too_long_nor_too_deep() {
    let named = |name: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", name.as_bytes())]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
        let archive = builder.into_inner().unwrap();
        unpack(&archive, &sha256(&archive))
    };
    assert!(named(&"n".repeat(300)).ends_with("File name too long (os error 36)"));
    assert!(named(&"n".repeat(5000)).ends_with("path of 5000 bytes"));
    assert!(named(&"d/".repeat(300)).ends_with("path of more than 255 directories"));
    // As deep as is allowed: it can be unpacked, and removed again.
    let deep = tar_of(&[(&("d/".repeat(250) + "f"), b"x")]);
    let dir = tempfile::tempdir().unwrap();
    unpack_within(LIMITS, deep.as_slice(), None, &sha256(&deep), dir.path()).unwrap();
    dir.close().unwrap();
}

#[test]
fn a_link_to_itself_leads_nowhere() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::symlink());
    header.set_size(0);
    builder.append_link(&mut header, "loop", "loop").unwrap();
    let mut archive = builder.into_inner().unwrap();
    archive.truncate(512);
    archive.extend(tar_of(&[("loop/x", b"1")]));
    assert!(unpack(&archive, &sha256(&archive)).contains("symbolic links"));
}

fn describe(data: &[u8]) -> serde_json::Value {
    serde_json::json!({"digest": sha256(data), "size": data.len()})
}

/// What is said when `manifest` is pulled, with these blobs and manifests beside it.
async fn pull(manifest: Vec<u8>, others: &[&[u8]]) -> String {
    let mut contents = HashMap::from([("/v2/app/manifests/1".to_owned(), manifest)]);
    for data in others {
        for kind in ["manifests", "blobs"] {
            contents.insert(format!("/v2/app/{kind}/{}", sha256(data)), data.to_vec());
        }
    }
    let (registry, bench) = (Flaky::serving(contents, Manners::default()), Bench::new());
    let error = bench.store.pull(&format!("{}/app:1", registry.address), PullOptions::default()).await.unwrap_err();
    assert_eq!((bench.count("layers"), bench.count("ingest"), bench.count("images")), (0, 0, 0));
    error.message
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_configurations_have_limits() {
    let huge = vec![b' '; (4 << 20) + 1];
    assert!(pull(huge, &[]).await.ends_with("the manifest is larger than 4194304 bytes"));
    let layer = gzip(&tar_of(&[("x", b"")]));
    let config = vec![b' '; (8 << 20) + 1];
    let of = |config: &[u8], layers: &[&[u8]]| {
        let layers: Vec<_> = layers.iter().map(|layer| describe(layer)).collect();
        serde_json::json!({"schemaVersion": 2, "config": describe(config), "layers": layers}).to_string().into_bytes()
    };
    assert!(pull(of(&config, &[&layer]), &[&config]).await.ends_with("is larger than 8388608 bytes"));
    let diff = sha256(&tar_of(&[("x", b"")]));
    let many = |count: usize| {
        serde_json::json!({"os": "linux", "rootfs": {"diff_ids": vec![diff.clone(); count]}}).to_string().into_bytes()
    };
    let config = many(501);
    assert!(pull(of(&config, &vec![layer.as_slice(); 501]), &[&config]).await.ends_with("501 layers, more than 500"));
    // Fewer layers than the configuration speaks of.
    let config = many(2);
    let text = pull(of(&config, &[&layer]), &[&config]).await;
    assert!(text.ends_with("mismatched image rootfs and manifest layers: 2 diff ids, 1 layers"), "{text}");
    // A layer that is something else than the manifest says.
    let (config, other) = (many(1), gzip(&tar_of(&[("y", b"")])));
    let mut contents = HashMap::from([("/v2/app/manifests/1".to_owned(), of(&config, &[&layer]))]);
    contents.insert(format!("/v2/app/blobs/{}", sha256(&config)), config);
    let mut padded = other;
    padded.resize(layer.len(), 0);
    contents.insert(format!("/v2/app/blobs/{}", sha256(&layer)), padded);
    let (registry, bench) = (Flaky::serving(contents, Manners::default()), Bench::new());
    let error = bench.store.pull(&format!("{}/app:1", registry.address), PullOptions::default()).await.unwrap_err();
    assert!(error.message.contains("failed to extract layer sha256:"), "{error}");
    assert_eq!((bench.count("layers"), bench.count("ingest")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_indexes_end_and_manifests_are_what_their_digests_say() {
    let index = |digest: &str| {
        let entry = serde_json::json!({"digest": digest, "platform": {"os": "linux", "architecture": manifest::architecture()}});
        serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes()
    };
    let inner = index(&sha256(b"nothing"));
    assert!(pull(index(&sha256(&inner)), &[&inner]).await.ends_with("index within an index"));
    // A registry that answers with itself for ever.
    let digest = sha256(b"myself");
    let mut contents = HashMap::from([("/v2/app/manifests/1".to_owned(), index(&digest))]);
    contents.insert(format!("/v2/app/manifests/{digest}"), index(&digest));
    let (registry, bench) = (Flaky::serving(contents, Manners::default()), Bench::new());
    let error = bench.store.pull(&format!("{}/app:1", registry.address), PullOptions::default()).await.unwrap_err();
    assert!(error.message.contains(&format!("wrong digest of the manifest: expected {digest}")), "{error}");
}

/// Members of archives lie beside one another, whatever they call themselves.
#[tokio::test]
async fn an_archive_reads_nothing_outside_of_itself() {
    let bench = Bench::new();
    std::fs::write(bench.dir.path().join("secret"), "{}").unwrap();
    let list = serde_json::json!([{"Config": "../secret", "Layers": []}]).to_string();
    let archive = tar_of(&[("manifest.json", list.as_bytes())]);
    let error = bench.store.import(&write(&bench, "a.tar", &archive)).await.unwrap_err();
    assert!(error.to_string().contains("\"../secret\" is missing"), "{error}");
    let dir = bench.dir.path().join("layout");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("manifest.json"), list).unwrap();
    let error = bench.store.import(&dir).await.unwrap_err();
    assert!(error.to_string().contains("\"../secret\" is missing"), "{error}");
}
