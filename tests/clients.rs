//! Libraries that nobody here wrote, each through creates, watches and deletes.

use crate::cluster::{Cluster, PATIENCE};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Runs `work` on a thread inside the cluster's network namespace.
fn inside<F: Future<Output = ()>>(c: &Cluster, work: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = std::fs::File::open(c.host.netns()).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
        });
        thread.join().unwrap();
    });
}

#[test]
fn the_rust_client_makes_a_round_trip() {
    let mut c = Cluster::prepare("kube", &["--disable-agent"]);
    c.up();
    let path = c.kubeconfig();
    inside(&c, || async move {
        let api: Api<ConfigMap> = Api::namespaced(client(path).await, "default");
        let mut object = ConfigMap::default();
        object.metadata.name = Some("round-trip".into());
        object.data = Some(BTreeMap::from([("a".into(), "1".into())]));
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        let version = created.metadata.resource_version.clone().unwrap();
        let params = WatchParams::default().fields("metadata.name=round-trip");
        let mut watch = api.watch(&params, &version).await.unwrap().boxed();
        let mut changed = created.clone();
        changed.data = Some(BTreeMap::from([("a".into(), "2".into())]));
        api.replace("round-trip", &PostParams::default(), &changed).await.unwrap();
        api.delete("round-trip", &DeleteParams::default()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Modified(object) => seen.push(format!("modified {}", object.data.unwrap()["a"])),
                WatchEvent::Deleted(object) => seen.push(format!("deleted {}", object.data.unwrap()["a"])),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(seen, ["modified 2", "deleted 2"]);
    });
}

/// A client of a kubeconfig.
async fn client(path: std::path::PathBuf) -> Client {
    // Both providers may be compiled in; the client takes the process's default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

/// A reconciler that keeps a Secret for each labelled ConfigMap, by server-side apply.
async fn copy(source: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let name = source.name_any();
    let copy = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "ownerReferences": [source.controller_owner_ref(&()).unwrap()]},
        "data": {"copied": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &source.data.as_ref().unwrap()["a"])},
    });
    let secrets: Api<Secret> = Api::namespaced(Client::clone(&client), "default");
    secrets.patch(&name, &PatchParams::apply("copier").force(), &Patch::Apply(&copy)).await?;
    Ok(Action::await_change())
}

#[test]
fn the_rust_controller_runtime_keeps_up() {
    let mut c = Cluster::prepare("runtime", &["--disable-agent"]);
    c.up();
    let path = c.kubeconfig();
    inside(&c, || async move {
        let client = client(path).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
        let make = |name: &str, value: &str| {
            let value = serde_json::json!({
                "metadata": {"name": name, "labels": {"copy": "yes"}}, "data": {"a": value},
            });
            serde_json::from_value::<ConfigMap>(value).unwrap()
        };
        maps.create(&PostParams::default(), &make("before", "1")).await.unwrap();
        // Both ways of getting the initial objects: a list, and a watch that begins with them.
        for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
            let events = watcher(maps.clone(), config.labels("copy=yes")).applied_objects();
            let first = Box::pin(events).next().await.unwrap().unwrap();
            assert_eq!(first.name_any(), "before");
        }
        let config = watcher::Config::default().labels("copy=yes");
        let controller = Controller::new(maps.clone(), config).owns(secrets.clone(), watcher::Config::default()).run(
            copy,
            |_, _, _| Action::requeue(Duration::from_millis(100)),
            Arc::new(client.clone()),
        );
        let drive = async {
            let reads = |name: &'static str, value: &'static str| {
                let secrets = secrets.clone();
                async move {
                    loop {
                        let found = secrets.get_opt(name).await.unwrap().and_then(|secret| secret.data);
                        if found.is_some_and(|data| data["copied"].0 == value.as_bytes()) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            };
            reads("before", "1").await;
            maps.create(&PostParams::default(), &make("after", "2")).await.unwrap();
            reads("after", "2").await;
            maps.replace("after", &PostParams::default(), &make("after", "3")).await.unwrap();
            reads("after", "3").await;
            // What it owns comes back.
            secrets.delete("after", &DeleteParams::default()).await.unwrap();
            reads("after", "3").await;
        };
        tokio::select! {
            () = controller.for_each(|_| std::future::ready(())) => panic!("the controller ended"),
            outcome = tokio::time::timeout(PATIENCE, drive) => outcome.unwrap(),
        }
    });
}

/// Runs a script of a client against the server; returns what it printed.
pub(crate) fn script(c: &Cluster, program: &str, name: &str, rest: &[&str]) -> String {
    let script = format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    let output = c.host.command(program).arg(script).arg(c.kubeconfig()).args(rest).output().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), c.log());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_javascript_informer_and_the_dynamic_python_client_see_everything() {
    let mut c = Cluster::prepare("informer", &["--disable-agent"]);
    c.up();
    let node = std::env::var("NARU_TEST_NODE").expect("scripts/test sets NARU_TEST_NODE");
    assert_eq!(script(&c, "node", "informer.mjs", &[&node]), "add 1\nupdate 2\ndelete 2\n");
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    let expect = "conflict 409\nADDED blue\nMODIFIED red\nMODIFIED green\nDELETED green\n\
                  scale Scale ['get', 'patch', 'update']\n";
    assert_eq!(script(&c, &python, "dynamic.py", &[]), expect);
}

#[test]
fn the_python_client_makes_a_round_trip() {
    let mut c = Cluster::prepare("python", &["--disable-agent"]);
    c.up();
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    assert_eq!(script(&c, &python, "round_trip.py", &[]), "ADDED 1\nMODIFIED 2\nDELETED 2\n");
}

#[test]
fn identities_are_as_the_conformance_suite_asks() {
    let mut c = Cluster::prepare("identity", &["--disable-agent"]);
    c.up();
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    let played = script(&c, &python, "identity.py", &[]);
    assert_eq!(played.matches("passed [sig-auth] ").count(), 7, "{played}");
}
