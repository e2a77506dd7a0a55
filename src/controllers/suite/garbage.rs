//! What becomes of objects whose owners are deleted, absent, elsewhere, or each other's.

use super::{Cluster, find};
use crate::ownership::Claimant;
use naru_api::registry::{CONFIG_MAPS, EVENTS, NAMESPACES};
use naru_client::projections::Meta;
use naru_client::{DeleteOptions, Informer, ListParams, ObjectKey, PatchKind, Propagation};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// An owner reference to a ConfigMap.
fn owner(object: &Value) -> Value {
    let meta = &object["metadata"];
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"], "blockOwnerDeletion": true})
}

impl Cluster {
    async fn map(&self, namespace: &str, name: &str, owners: &[Value]) -> Value {
        let map = json!({"metadata": {"name": name, "ownerReferences": owners}});
        self.client.create(&CONFIG_MAPS, Some(namespace), &map).await.unwrap()
    }

    async fn remove(&self, name: &str, propagation: Propagation) {
        let options = DeleteOptions::default().propagation(propagation);
        self.client.delete(&CONFIG_MAPS, Some("default"), name, &options).await.unwrap();
    }
}

fn has(all: &[Arc<Value>], names: &[&str]) -> bool {
    let ours = all.iter().filter(|map| map["metadata"]["name"] != "kube-root-ca.crt");
    ours.count() == names.len() && names.iter().all(|name| find(all, name).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_or_stay_as_their_owners_deletion_says() {
    let cluster = Cluster::start().await;
    for (name, propagation) in [("a", Propagation::Background), ("b", Propagation::Foreground)] {
        let top = cluster.map("default", name, &[]).await;
        let middle = cluster.map("default", &format!("{name}1"), &[owner(&top)]).await;
        cluster.map("default", &format!("{name}2"), &[owner(&middle)]).await;
        cluster.remove(name, propagation).await;
        cluster.until(&CONFIG_MAPS, "all gone", |all| has(all, &[])).await;
    }
    let top = cluster.map("default", "c", &[]).await;
    let other = cluster.map("default", "d", &[]).await;
    cluster.map("default", "c1", &[owner(&top)]).await;
    cluster.map("default", "c2", &[owner(&top), owner(&other)]).await;
    cluster.remove("c", Propagation::Orphan).await;
    cluster
        .until(&CONFIG_MAPS, "dependents without their owner", |all| {
            let owners = |name: &str| find(all, name).unwrap()["metadata"]["ownerReferences"].clone();
            has(all, &["c1", "c2", "d"]) && owners("c1").is_null() && owners("c2") == json!([owner(&other)])
        })
        .await;
    // An owner that never was, beside one that is there, is only taken off.
    let ghost = json!({"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}});
    cluster.map("default", "e", &[owner(&ghost), owner(&other)]).await;
    cluster.map("default", "f", &[owner(&ghost)]).await;
    cluster
        .until(&CONFIG_MAPS, "the ghost's to go", |all| {
            has(all, &["c1", "c2", "d", "e"])
                && find(all, "e").unwrap()["metadata"]["ownerReferences"] == json!([owner(&other)])
        })
        .await;
}

/// An object of which only metadata matters.
#[derive(Debug, Deserialize)]
struct Anything {
    metadata: Meta,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_a_stale_cache_shows_adopts_nothing() {
    let cluster = Cluster::well_connected().await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}});
    let held: Value = cluster.client.create(&CONFIG_MAPS, Some("default"), &held).await.unwrap();
    let gone = cluster.map("default", "gone", &[]).await;
    let again = cluster.map("default", "again", &[]).await;
    let stays = cluster.map("default", "stays", &[]).await;
    for name in ["held", "gone", "again"] {
        cluster.remove(name, Propagation::Orphan).await;
    }
    cluster.until(&CONFIG_MAPS, "what is not held to go", |all| has(all, &["held", "stays"])).await;
    cluster.map("default", "again", &[]).await;
    let orphan: Anything = serde_json::from_value(cluster.map("default", "orphan", &[]).await).unwrap();

    let cache: Informer<Anything> = Informer::detached();
    let by_controller = cache.index(|_| vec!["/default".to_owned()]);
    cache.apply(ObjectKey::new("default", "orphan"), orphan.metadata.resource_version.clone(), Some(orphan));
    for (owner, adopted) in [(held, None), (gone, None), (again, None), (stays, Some(1))] {
        // As it was before anybody deleted it.
        let owner: Anything = serde_json::from_value(owner).unwrap();
        let claimant = Claimant {
            client: &cluster.client,
            resource: &CONFIG_MAPS,
            cache: &cache,
            by_controller,
            meta: |any| &any.metadata,
            kind: &CONFIG_MAPS,
            owner: &owner.metadata,
        };
        let name = &owner.metadata.name;
        let claimed = claimant.claim(|_| true, |_| true).await;
        assert_eq!(claimed.ok().map(|claimed| claimed.len()), adopted, "by {name}");
        let orphan: Value = cluster.client.get(&CONFIG_MAPS, Some("default"), "orphan").await.unwrap();
        let owners = orphan["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        assert_eq!(owners, adopted.unwrap_or_default(), "after {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_wait_for_each_other_let_go() {
    let cluster = Cluster::start().await;
    let first = cluster.map("default", "a", &[]).await;
    let second = cluster.map("default", "b", &[owner(&first)]).await;
    let third = cluster.map("default", "c", &[owner(&second)]).await;
    let circle = json!({"metadata": {"ownerReferences": [owner(&third)]}});
    cluster.merge(&CONFIG_MAPS, "a", circle).await;
    cluster.remove("a", Propagation::Foreground).await;
    cluster.until(&CONFIG_MAPS, "all gone", |all| has(all, &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_none() {
    let cluster = Cluster::start().await;
    let away = json!({"metadata": {"name": "away"}});
    cluster.client.create::<Value>(&NAMESPACES, None, &away).await.unwrap();
    let top = cluster.map("away", "top", &[]).await;
    cluster.map("default", "lost", &[owner(&top)]).await;
    let message = format!(
        "ownerRef [v1/ConfigMap, namespace: default, name: top, uid: {}] does not exist in namespace \"default\"",
        top["metadata"]["uid"].as_str().unwrap()
    );
    cluster
        .until(&EVENTS, "the event", |all| {
            all.iter().any(|event| {
                event["reason"] == "OwnerRefInvalidNamespace"
                    && event["message"] == message.as_str()
                    && event["involvedObject"]["name"] == "lost"
            })
        })
        .await;
    cluster.until(&CONFIG_MAPS, "it to be gone", |all| has(all, &[])).await;
    // A namespace cannot be owned by what is in one, and is left alone.
    let owned = json!({"metadata": {"ownerReferences": [owner(&top)]}});
    let kind = PatchKind::Merge;
    cluster.client.patch::<Value>(&NAMESPACES, None, "away", None, kind, &owned).await.unwrap();
    cluster.map("default", "lost", &[owner(&top)]).await;
    cluster.until(&CONFIG_MAPS, "it to be gone", |all| has(all, &[])).await;
    let left = cluster.client.list::<Value>(&NAMESPACES, &ListParams::all()).await.unwrap().items;
    assert!(left.iter().any(|namespace| {
        namespace["metadata"]["name"] == "away" && namespace["metadata"]["deletionTimestamp"].is_null()
    }));
}
