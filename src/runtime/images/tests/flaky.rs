//! A registry that breaks off, lies about sizes and asks for passwords.

use super::super::layer::sha256;
use super::super::*;
use super::{Bench, gzip, tar_of};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) struct Flaky {
    pub(super) address: String,
    cuts: Arc<AtomicUsize>,
}

/// How it misbehaves.
#[derive(Clone, Copy, Default)]
pub(super) struct Manners {
    /// How often a large blob breaks off halfway.
    cuts: usize,
    /// What the manifest says is missing from each layer's size.
    understated: usize,
    password: bool,
}

impl Flaky {
    fn start(layer: &[u8], manners: Manners) -> Self {
        let blob = gzip(layer);
        let config =
            serde_json::json!({"os": "linux", "rootfs": {"diff_ids": [sha256(layer)]}}).to_string().into_bytes();
        let describe =
            |data: &[u8], less: usize| serde_json::json!({"digest": sha256(data), "size": data.len() - less});
        let manifest = serde_json::json!({"schemaVersion": 2, "config": describe(&config, 0), "layers": [describe(&blob, manners.understated)]});
        let manifest = manifest.to_string().into_bytes();
        let mut contents = HashMap::from([("/v2/app/manifests/1".to_owned(), manifest)]);
        for data in [config, blob] {
            contents.insert(format!("/v2/app/blobs/{}", sha256(&data)), data);
        }
        Self::serving(contents, manners)
    }

    /// Serves anything, by path.
    pub(super) fn serving(contents: HashMap<String, Vec<u8>>, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::new(AtomicUsize::new(manners.cuts));
        let (contents, left) = (Arc::new(contents), cuts.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (contents, left) = (contents.clone(), left.clone());
                std::thread::spawn(move || serve(stream, &contents, &left, manners.password));
            }
        });
        Self { address, cuts }
    }
}

/// Answers one request and closes.
fn serve(mut stream: TcpStream, contents: &HashMap<String, Vec<u8>>, cuts: &AtomicUsize, password: bool) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let authorized = !password || headers.iter().any(|line| line == "authorization: basic bwu6c2vjcmv0");
    if !authorized {
        let challenge = "WWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(format!("HTTP/1.1 401 Unauthorized\r\n{challenge}").as_bytes()).ok();
    }
    let data = match contents.get(&path) {
        Some(data) => data.as_slice(),
        None if path == "/v2/" => b"{}",
        None => {
            return stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops").ok();
        }
    };
    let range =
        headers.iter().find_map(|line| line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let (status, data) = match range {
        Some(offset) => ("206 Partial Content", &data[offset..]),
        None => ("200 OK", data),
    };
    stream
        .write_all(
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", data.len()).as_bytes(),
        )
        .ok()?;
    let cut = data.len() > 10_000
        && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    stream.write_all(if cut { &data[..data.len() / 2] } else { data }).ok()
}

/// Does not compress, so that it can be cut.
fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let noise = noise();
    let registry = Flaky::start(&tar_of(&[("noise", &noise)]), Manners { cuts: 2, ..Manners::default() });
    let bench = Bench::new();
    let image = bench.store.pull(&format!("{}/app:1", registry.address), PullOptions::default()).await.unwrap();
    assert_eq!(registry.cuts.load(Ordering::SeqCst), 0);
    assert_eq!(std::fs::read(image.layers[0].join("noise")).unwrap(), noise);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_larger_than_stated_is_refused() {
    let registry = Flaky::start(&tar_of(&[("noise", &noise())]), Manners { understated: 1000, ..Manners::default() });
    let bench = Bench::new();
    let error = bench.store.pull(&format!("{}/app:1", registry.address), PullOptions::default()).await.unwrap_err();
    assert!(error.message.contains("is larger than the"), "{error}");
    assert_eq!((bench.count("layers"), bench.count("ingest")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_tried_in_turn() {
    let registry = Flaky::start(&tar_of(&[("x", b"")]), Manners { password: true, ..Manners::default() });
    let (bench, name) = (Bench::new(), format!("{}/app:1", registry.address));
    let error = bench.store.pull(&name, PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::PermissionDenied);
    assert!(
        error.message.contains("pull access denied, repository does not exist or may require authorization"),
        "{error}"
    );
    let basic =
        |password: &str| RegistryCredentials::Basic { username: "me".to_owned(), password: password.to_owned() };
    let credentials = vec![basic("wrong"), basic("secret")];
    bench.store.pull(&name, PullOptions { credentials, ..PullOptions::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_is_quoted() {
    let registry = Flaky::start(&tar_of(&[("x", b"")]), Manners::default());
    let bench = Bench::new();
    let error = bench.store.pull(&format!("{}/other:1", registry.address), PullOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::Unavailable);
    assert!(error.message.ends_with("/v2/other/manifests/1: 500: oops"), "{error}");
}
