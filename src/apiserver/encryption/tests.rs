//! Encryption at rest over a whole server: what lies on the disk, and what becomes of it when keys change.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::Keyring;
use crate::suite::{CONFIG_MAPS, Server, key_pem};
use crate::{ApiServer, Config, EncryptionFlags};
use http::Method;
use naru_base::Shutdown;
use naru_store::{Options, Store};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// What must not be found: the value as it is in JSON.
const PLAIN: &str = "dGhlLXBsYWluLXNlY3JldA==";
const KEY_1: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const KEY_2: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// A server over a directory that outlives it.
async fn start(dir: &Path, encryption: Option<&str>) -> (Server, Store) {
    let store = Store::open(dir.join("db"), Options::default()).unwrap();
    let mut config = Config::new(store.clone(), key_pem(), [192, 0, 2, 1].into());
    if let Some(text) = encryption {
        let path = dir.join("encryption.yaml");
        std::fs::write(&path, text).unwrap();
        config.flags.encryption = EncryptionFlags { config: Some(path), automatic_reload: Some(true) };
    }
    let shutdown = Shutdown::new();
    let api = ApiServer::new(config, shutdown.clone()).await.unwrap();
    (Server::over(api, shutdown), store)
}

async fn stop((server, store): (Server, Store)) {
    server.shutdown.trigger();
    store.close().await.unwrap();
}

fn config(resources: &str, providers: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [{resources}], providers: [{providers}]}}]\n"
    )
}

fn keys(provider: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(name, secret)| format!("{{name: {name}, secret: {secret}}}")).collect();
    format!("{{{provider}: {{keys: [{}]}}}}", keys.join(", "))
}

fn secret(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "password": PLAIN } })
}

/// Whether the database's files hold this text.
fn on_disk(dir: &Path, text: &str) -> bool {
    let holds = |name: &str| {
        let bytes = std::fs::read(dir.join(name)).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    holds("db") || holds("db-wal")
}

async fn stored(store: &Store, name: &str) -> Vec<u8> {
    store.get(&format!("/registry/core/secrets/default/{name}")).await.unwrap().unwrap().value.to_vec()
}

/// Waits until a stored value starts like this.
async fn until_stored(store: &Store, name: &str, prefix: &str) {
    while !stored(store, name).await.starts_with(prefix.as_bytes()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_wildcard_covers_its_group_and_the_more_exact_rule_wins() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
                - {resources: [configmaps], providers: [{identity: {}}]}\n";
    let rule = |resource: &str, name: &str| {
        format!("- {{resources: ['{resource}'], providers: [{}]}}\n", keys("secretbox", &[(name, KEY_1)]))
    };
    let text = format!("{text}{}{}{}", rule("*.", "core"), rule("*.apps", "apps"), rule("*.*", "rest"));
    let keyring = Keyring::parse(text.as_bytes()).unwrap();
    let sealed = |key: &str| {
        let value = keyring.seal(key, "{}".into()).unwrap();
        assert_eq!(keyring.open(key, &value).unwrap(), "{}");
        String::from_utf8_lossy(&value).split(':').nth(4).unwrap_or("plain").to_owned()
    };
    assert_eq!(sealed("/registry/core/configmaps/a/b"), "plain");
    assert_eq!(sealed("/registry/core/secrets/a/b"), "core");
    assert_eq!(sealed("/registry/apps/deployments/a/b"), "apps");
    assert_eq!(sealed("/registry/example.com/widgets/a"), "rest");
}

#[tokio::test]
async fn no_secret_is_on_the_disk() {
    for provider in ["aescbc", "aesgcm", "secretbox"] {
        let dir = TempDir::new().unwrap();
        let text = config("secrets", &format!("{}, {{identity: {{}}}}", keys(provider, &[("key1", KEY_1)])));
        let running = start(dir.path(), Some(&text)).await;
        let (server, store) = &running;
        let created = server.post(SECRETS, secret("a")).await.ok();
        let created = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        server.merge(&format!("{SECRETS}/a"), json!({ "data": { "user": PLAIN } })).await.ok();
        server.post(CONFIG_MAPS, json!({ "metadata": { "name": "a" }, "data": { "k": "for-all-to-see" } })).await.ok();
        assert_eq!(server.get(&format!("{SECRETS}/a")).await.ok()["data"]["user"], PLAIN);
        let value = stored(store, "a").await;
        assert!(value.starts_with(format!("k8s:enc:{provider}:v1:key1:").as_bytes()));
        assert!(!on_disk(dir.path(), PLAIN), "{provider}");
        assert!(
            on_disk(dir.path(), "for-all-to-see"),
            "other kinds are left alone, and this test reads the right files"
        );
        stop(running).await;
        assert!(!on_disk(dir.path(), PLAIN), "{provider}");
        let again = start(dir.path(), Some(&text)).await;
        assert_eq!(again.0.get(&format!("{SECRETS}/a")).await.ok()["data"]["password"], PLAIN);
        let past = format!("{SECRETS}?resourceVersion={created}&resourceVersionMatch=Exact");
        let list = again.0.get(&past).await.ok();
        assert_eq!(list["items"][0]["data"], json!({ "password": PLAIN }), "the store's history is read as well");
        stop(again).await;
    }
}

#[tokio::test]
async fn switched_on_later_rotated_and_switched_off() {
    let dir = TempDir::new().unwrap();
    let plain = start(dir.path(), None).await;
    for name in ["a", "b"] {
        plain.0.post(SECRETS, secret(name)).await.ok();
    }
    stop(plain).await;
    assert!(on_disk(dir.path(), PLAIN));

    let first = keys("aescbc", &[("key1", KEY_1)]);
    let running = start(dir.path(), Some(&config("secrets", &format!("{first}, {{identity: {{}}}}")))).await;
    let (server, store) = &running;
    for name in ["a", "b"] {
        until_stored(store, name, "k8s:enc:aescbc:v1:key1:").await;
    }
    assert_eq!(server.get(&format!("{SECRETS}/a")).await.ok()["data"]["password"], PLAIN);
    store.compact(store.revision()).await.unwrap();
    assert!(store.rewrite().await.unwrap());
    assert!(!on_disk(dir.path(), PLAIN), "nothing is left of what was plain");

    // Another key first, while the server runs.
    let both = keys("secretbox", &[("key2", KEY_2)]);
    std::fs::write(dir.path().join("encryption.yaml"), config("secrets", &format!("{both}, {first}"))).unwrap();
    for name in ["a", "b"] {
        until_stored(store, name, "k8s:enc:secretbox:v1:key2:").await;
    }
    // What cannot be used changes nothing.
    std::fs::write(dir.path().join("encryption.yaml"), "resources: []").unwrap();
    server.post(SECRETS, secret("c")).await.ok();
    assert!(stored(store, "c").await.starts_with(b"k8s:enc:secretbox:v1:key2:"));

    std::fs::write(dir.path().join("encryption.yaml"), config("secrets", &format!("{{identity: {{}}}}, {both}")))
        .unwrap();
    for name in ["a", "b", "c"] {
        until_stored(store, name, "{").await;
    }
    stop(running).await;
    let plain = start(dir.path(), None).await;
    assert_eq!(plain.0.get(&format!("{SECRETS}/c")).await.ok()["data"]["password"], PLAIN);
    stop(plain).await;
}

#[tokio::test]
async fn what_no_key_fits_is_refused_and_comes_back_with_its_key() {
    let dir = TempDir::new().unwrap();
    let with = |name: &str, key: &str| config("secrets", &keys("aesgcm", &[(name, key)]));
    let running = start(dir.path(), Some(&with("key1", KEY_1))).await;
    running.0.post(SECRETS, secret("a")).await.ok();
    stop(running).await;

    let none = start(dir.path(), None).await;
    let text = "Internal error occurred: identity transformer tried to read encrypted data";
    none.0.get(&format!("{SECRETS}/a")).await.refused(500, text);
    none.0.delete(&format!("{SECRETS}/a")).await.refused(500, text);
    none.0.get(SECRETS).await.refused(
        500,
        "Internal error occurred: unable to transform key \"/registry/core/secrets/default/a\": identity transformer tried to read encrypted data",
    );
    none.0.get("/api/v1/namespaces/kube-system/secrets").await.ok();
    none.0.post(SECRETS, secret("a")).await.refused(409, "secrets \"a\" already exists");
    none.0.call(Method::GET, "/api/v1/namespaces/default/secrets/other", "", b"").await.code_is(404);
    stop(none).await;

    let other = start(dir.path(), Some(&config("secrets", &keys("aesgcm", &[("key2", KEY_2)])))).await;
    let text = "Internal error occurred: no matching key was found for the provided AES transformer";
    other.0.get(&format!("{SECRETS}/a")).await.refused(500, text);
    // The key comes back: what it fits is read again, without a restart, and written with the first one.
    let both = keys("aesgcm", &[("key2", KEY_2), ("key1", KEY_1)]);
    std::fs::write(dir.path().join("encryption.yaml"), config("secrets", &both)).unwrap();
    until_stored(&other.1, "a", "k8s:enc:aesgcm:v1:key2:").await;
    while other.0.get(&format!("{SECRETS}/a")).await.code != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(other.0.get(SECRETS).await.ok()["items"][0]["data"]["password"], PLAIN);
    stop(other).await;
}
