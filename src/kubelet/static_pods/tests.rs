//! Static pods against a runtime and an API server that only remember.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::fake::World;
use naru_client::ObjectKey;
use serde_json::{Value, json};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: a}]}\n";

/// A node that reads static pods, with an API server whose pods the test itself gives.
struct Node {
    world: World,
    pods: Pods,
    informer: Informer<Pod>,
    dir: tempfile::TempDir,
}

impl Node {
    async fn start(text: Option<&str>) -> Self {
        let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
        if let Some(text) = text {
            std::fs::write(dir.path().join("web.yaml"), text).unwrap();
        }
        let informer = Informer::detached();
        let pods = Pods::new(world.shared.clone(), informer.clone(), &world.shutdown);
        let path = dir.path().to_owned();
        StaticPods::start(&world.shared, &pods, &informer, path, &world.shutdown).await.unwrap();
        spawn("pods", pods.clone().run());
        Self { world, pods, informer, dir }
    }

    /// What the API server would say once the mirror is there.
    fn show(&self, uid: &str, mirror: &Value) {
        let mut mirror: Pod = serde_json::from_value(mirror.clone()).unwrap();
        mirror.metadata.uid = Some(uid.into());
        self.informer.apply(ObjectKey::new("default", "web-n1"), uid.into(), Some(mirror));
    }

    fn posts(w: &World) -> Vec<Value> {
        let posts = w.api.sent("POST").into_iter().filter(|(uri, _)| uri.ends_with("/pods"));
        posts.map(|(_, body)| body).collect()
    }

    /// The first mirror that is made after `before` of them. Until the cache knows of one, it may be tried again.
    async fn created(&self, before: usize) -> Value {
        self.world.until("a mirror is made", |w| Self::posts(w).get(before).cloned()).await
    }

    /// The first mirror of this image.
    async fn created_of(&self, image: &str) -> Value {
        let of_image =
            |w: &World| Self::posts(w).into_iter().find(|pod| pod["spec"]["containers"][0]["image"] == image);
        self.world.until("a mirror of the image is made", of_image).await
    }

    async fn calls(&self, expect: &[&str]) {
        let made = |w: &World| (w.runtime.calls().len() >= expect.len()).then(|| w.runtime.calls());
        assert_eq!(self.world.until(&format!("{expect:?}"), made).await, expect);
    }
}

#[tokio::test]
async fn it_runs_without_an_api_server_and_is_mirrored_when_there_is_one() {
    let node = Node::start(Some(POD)).await;
    node.calls(&["create sandbox", "create c", "start c"]).await;
    assert!(node.world.api.sent("POST").is_empty(), "nobody was asked");
    let (found, _) = node.pods.find("default", "web-n1").unwrap();
    assert_eq!(found.metadata.uid.as_deref(), annotation(&found, HASH));

    node.informer.mark_synced();
    let mirror = node.created(0).await;
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations[MIRROR], annotations[HASH]);
    assert_eq!(annotations[SOURCE], "file");
    assert_eq!(mirror["metadata"].get("uid"), None);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["name"], "n1");
    assert!(node.world.api.sent("PATCH").is_empty(), "there is nothing yet that could have a status");

    node.show("m1", &mirror);
    let patched = |w: &World| w.api.sent("PATCH").into_iter().find(|(_, body)| body["status"]["phase"] == "Running");
    let (uri, body) = node.world.until("the mirror has a status", patched).await;
    assert!(uri.ends_with("/pods/web-n1/status"), "{uri}");
    assert_eq!(body["metadata"]["uid"], "m1");
    assert_eq!(node.pods.list().len(), 1, "the pod itself, not its mirror");
}

#[tokio::test]
async fn a_deleted_mirror_comes_again_and_the_pod_goes_on() {
    let node = Node::start(Some(POD)).await;
    node.informer.mark_synced();
    let mut mirror = node.created(0).await;
    mirror["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    node.show("m1", &mirror);
    node.world.until("it is let go", World::deleted).await;
    let before = Node::posts(&node.world).len();
    node.informer.apply(ObjectKey::new("default", "web-n1"), "2".into(), None);
    node.created(before).await;
    node.calls(&["create sandbox", "create c", "start c"]).await;
}

#[tokio::test]
async fn a_changed_file_ends_the_pod_before_the_new_one_begins() {
    let node = Node::start(Some(POD)).await;
    node.informer.mark_synced();
    node.show("m1", &node.created(0).await);
    node.calls(&["create sandbox", "create c", "start c"]).await;
    std::fs::write(node.dir.path().join(".new"), POD.replace("image: a", "image: b")).unwrap();
    std::fs::rename(node.dir.path().join(".new"), node.dir.path().join("web.yaml")).unwrap();
    let both = ["create sandbox", "create c", "start c", "signal c 15", "remove sandbox", "create sandbox", "create c"];
    node.calls(&[&both[..], &["start c"]].concat()).await;
    assert_eq!(node.world.until("the old mirror goes", World::deleted).await["preconditions"]["uid"], "m1");
    node.informer.apply(ObjectKey::new("default", "web-n1"), "2".into(), None);
    node.created_of("b").await;
}

#[tokio::test]
async fn a_removed_file_ends_the_pod_and_then_its_mirror() {
    let node = Node::start(Some(POD)).await;
    node.informer.mark_synced();
    node.show("m1", &node.created(0).await);
    node.calls(&["create sandbox", "create c", "start c"]).await;
    std::fs::remove_file(node.dir.path().join("web.yaml")).unwrap();
    node.calls(&["create sandbox", "create c", "start c", "signal c 15", "remove sandbox"]).await;
    node.world.until("the mirror goes", World::deleted).await;
    assert!(node.pods.list().is_empty());
}

#[tokio::test]
async fn a_mirror_that_nothing_stands_behind_is_removed() {
    let node = Node::start(None).await;
    node.informer.mark_synced();
    let mirror = json!({"metadata": {"name": "web-n1", "namespace": "default", "annotations": {MIRROR: "gone"}}});
    node.show("m1", &mirror);
    node.world.until("the mirror goes", World::deleted).await;
    assert!(node.world.runtime.calls().is_empty());
}
