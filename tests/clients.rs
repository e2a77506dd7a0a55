//! Clients that nobody here wrote, each through a create, watch, delete round trip.

use crate::cluster::Cluster;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::collections::BTreeMap;

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
        // Both providers may be compiled in; the client takes the process's default.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config).unwrap(), "default");
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

#[test]
fn the_python_client_makes_a_round_trip() {
    let mut c = Cluster::prepare("python", &["--disable-agent"]);
    c.up();
    let python = std::env::var("NARU_TEST_PYTHON").expect("scripts/test sets NARU_TEST_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/round_trip.py");
    let output = c.host.command(python).arg(script).arg(c.kubeconfig()).output().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), c.log());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ADDED 1\nMODIFIED 2\nDELETED 2\n");
}
