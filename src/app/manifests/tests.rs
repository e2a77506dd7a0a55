//! Files against a whole API server.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use naru_apiserver::ApiServer;
use naru_client::ListParams;
use naru_store::{Options, Store};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

struct Server {
    dir: TempDir,
    client: Client,
    shutdown: Shutdown,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
        let key = crate::pki::load_or_create_key(&dir.path().join("key")).unwrap();
        let shutdown = Shutdown::new();
        let config = naru_apiserver::Config::new(store, key, [192, 0, 2, 1].into());
        let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
        let client = Client::new(api.in_process("admin", &["system:masters"]));
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        Self { dir, client, shutdown }
    }

    fn manifests(&self) -> Manifests {
        let recorder = EventRecorder::start(self.client.clone(), &registry::EVENTS, "manifests", None, &self.shutdown);
        Manifests::new(self.path(), self.client.clone(), recorder)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn write(&self, file: &str, names: &[&str]) {
        let documents: Vec<String> =
            names.iter().map(|name| format!("kind: ConfigMap\napiVersion: v1\nmetadata: {{name: {name}}}\n")).collect();
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, documents.join("---\n")).unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let maps = self.client.list::<Value>(&registry::CONFIG_MAPS, &ListParams::namespace("default")).await.unwrap();
        maps.items.iter().map(|map| map["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn revision(&self) -> String {
        self.client.list::<Value>(&registry::CONFIG_MAPS, &ListParams::all()).await.unwrap().metadata.resource_version
    }
}

#[tokio::test]
async fn what_is_in_files_is_there_and_what_leaves_a_file_goes() {
    let server = Server::start().await;
    let mut manifests = server.manifests();
    assert_eq!(manifests.round().await.unwrap(), Outcome::Done);
    server.write("a.yaml", &["one", "two"]);
    server.write("sub/b.yaml", &["three"]);
    server.write("off.yaml", &["off"]);
    std::fs::write(server.path().join("off.yaml.skip"), "").unwrap();
    server.write("note.txt", &["note"]);
    assert_eq!(manifests.round().await.unwrap(), Outcome::Done);
    assert_eq!(server.names().await, ["one", "three", "two"]);

    let before = server.revision().await;
    assert_eq!(server.manifests().round().await.unwrap(), Outcome::Done);
    assert_eq!(server.revision().await, before, "a new start finds nothing to write");

    // One leaves for good, the other for another file.
    server.write("a.yaml", &["four"]);
    server.write("sub/b.yaml", &["three", "two"]);
    let mut manifests = server.manifests();
    assert_eq!(manifests.round().await.unwrap(), Outcome::Done);
    assert_eq!(server.names().await, ["four", "three", "two"]);

    std::fs::remove_file(server.path().join("a.yaml")).unwrap();
    server.write("sub/b.yaml", &[]);
    assert_eq!(manifests.round().await.unwrap(), Outcome::Done);
    assert_eq!(server.names().await, ["four"], "a file that is gone leaves its objects");
}

#[tokio::test]
async fn errors_are_told_and_do_not_keep_other_files_back() {
    let server = Server::start().await;
    std::fs::write(server.path().join("a.yaml"), "kind: [").unwrap();
    std::fs::write(server.path().join("b.yaml"), "kind: Widget\napiVersion: example.com/v1\nmetadata: {name: w}\n")
        .unwrap();
    server.write("c.yaml", &["fine"]);
    let mut manifests = server.manifests();
    assert_eq!(manifests.round().await.unwrap(), Outcome::Again);
    assert_eq!(server.names().await, ["fine"]);
    let params = ListParams::namespace("kube-system");
    let told = async |reason: &str| {
        let events = server.client.list::<Value>(&registry::EVENTS, &params).await.unwrap().items;
        events.into_iter().find(|event| event["reason"] == reason)
    };
    let mut events = (None, None);
    while events.0.is_none() || events.1.is_none() {
        tokio::task::yield_now().await;
        events = (told("ParseManifestFailed").await, told("ApplyManifestFailed").await);
    }
    let message = events.1.unwrap()["message"].as_str().unwrap().to_owned();
    let expected =
        "Applying manifest at \"b.yaml\" failed: no matches for kind \"Widget\" in version \"example.com/v1\"";
    assert_eq!(message, expected);
    assert!(events.0.unwrap()["message"].as_str().unwrap().starts_with("Applying manifest at \"a.yaml\" failed: "));
}

#[tokio::test]
async fn a_change_wakes_the_watcher() {
    let dir = tempfile::tempdir().unwrap();
    let watch = DirectoryWatch::new().unwrap();
    watch.add(dir.path()).unwrap();
    std::fs::write(dir.path().join("a.yaml"), "x").unwrap();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
}
