//! Empties a namespace that is being deleted, pods first, and then lets it go.

use crate::Context;
use naru_api::meta::Verb;
use naru_api::meta::time::Timestamp;
use naru_api::registry::{self, RESOURCES, Resource, Scope};
use naru_client::projections::{Condition, NamespaceView, ObjectView, condition};
use naru_client::{Client, DeleteOptions, Error, ListParams, Next, Propagation, WorkQueue, is_not_found};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const FINALIZER: &str = "kubernetes";
/// How soon to look again while something that nobody watches for us is left.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn start(ctx: &Context) {
    let namespaces = ctx.informers.namespaces();
    let pods = ctx.informers.pods();
    let queue = WorkQueue::new();
    let wake = queue.clone();
    namespaces.subscribe(move |change| {
        if change.new.as_ref().is_some_and(|view| view.metadata.is_deleting()) {
            wake.add(change.key.name.clone());
        }
    });
    let (wake, all) = (queue.clone(), namespaces.clone());
    pods.subscribe(move |change| {
        let terminating = || all.get("", &change.key.namespace).is_some_and(|view| view.metadata.is_deleting());
        if change.new.is_none() && terminating() {
            wake.add(change.key.namespace.clone());
        }
    });
    let synced = {
        let namespaces = namespaces.clone();
        async move { namespaces.synced().await }
    };
    let client = ctx.client.clone();
    ctx.run(&queue, 2, synced, move |name: String| {
        let (client, view) = (client.clone(), namespaces.get("", &name));
        async move {
            match view {
                Some(view) if view.metadata.is_deleting() => reconcile(&client, &view).await,
                _ => Ok(Next::Done),
            }
        }
    });
}

async fn reconcile(client: &Client, namespace: &Arc<NamespaceView>) -> Result<Next, Error> {
    let name = namespace.metadata.name.as_str();
    if !namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Next::Done);
    }
    let mut left = Left::default();
    // Nothing that a pod may still need goes before the pods.
    left.empty(client, &registry::PODS, name).await;
    if left.is_empty() {
        for resource in RESOURCES.iter().filter(|resource| is_content(resource)) {
            left.empty(client, resource, name).await;
        }
    }
    report(client, namespace, &left).await?;
    if !left.is_empty() {
        return Ok(Next::After(AGAIN));
    }
    let finalizers: Vec<_> = namespace.spec.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "uid": namespace.metadata.uid},
        "spec": {"finalizers": finalizers},
    });
    let done: Result<Value, Error> =
        client.update_sub(&registry::NAMESPACES, None, name, Some("finalize"), &body).await;
    match done {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(Next::Done),
    }
}

/// Resources whose objects make up a namespace's content.
fn is_content(resource: &Resource) -> bool {
    resource.scope == Scope::Namespaced
        && resource.is_storage()
        && resource.verbs.contains(&Verb::DeleteCollection)
        && resource.plural != registry::PODS.plural
}

/// What is still in a namespace.
#[derive(Debug, Default)]
struct Left {
    /// How many objects of each resource.
    objects: BTreeMap<String, usize>,
    /// How many objects hold each finalizer.
    finalizers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
    }

    /// Deletes all objects of a resource and notes those that stay for a while.
    async fn empty(&mut self, client: &Client, resource: &'static Resource, namespace: &str) {
        if let Err(error) = self.try_empty(client, resource, namespace).await {
            self.failures.push(error.to_string());
        }
    }

    async fn try_empty(&mut self, client: &Client, resource: &'static Resource, namespace: &str) -> Result<(), Error> {
        let params = ListParams::namespace(namespace);
        let found = client.list::<ObjectView>(resource, &params).await?;
        if found.items.is_empty() {
            return Ok(());
        }
        client
            .delete_collection(resource, &params, &DeleteOptions::default().propagation(Propagation::Background))
            .await?;
        let rest = client.list::<ObjectView>(resource, &params).await?;
        if rest.items.is_empty() {
            return Ok(());
        }
        let name = match resource.group {
            "" => resource.plural.to_owned(),
            group => format!("{}.{group}", resource.plural),
        };
        self.objects.insert(name, rest.items.len());
        for finalizer in rest.items.into_iter().flat_map(|item| item.metadata.finalizers) {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
        Ok(())
    }

    /// The conditions by which upstream reports the progress of a deletion.
    fn conditions(&self) -> Vec<Condition> {
        let list = |counts: &BTreeMap<String, usize>, of: &str, how: &str| -> String {
            counts
                .iter()
                .map(|(name, count)| format!("{name}{of} {how} {count} resource instances"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let make = |kind: &str, problem: Option<(&str, String)>, fine: (&str, &str)| {
            let (status, reason, message) = match problem {
                Some((reason, message)) => ("True", reason.to_owned(), message),
                None => ("False", fine.0.to_owned(), fine.1.to_owned()),
            };
            Condition { kind: kind.into(), status: status.into(), reason, message, ..Condition::default() }
        };
        let failed = (!self.failures.is_empty()).then(|| {
            let mut failures: Vec<&str> = self.failures.iter().map(String::as_str).collect();
            failures.sort_unstable();
            let (count, all) = (failures.len(), failures.join(", "));
            ("ContentDeletionFailed", format!("Failed to delete all resource types, {count} remaining: {all}"))
        });
        let objects = (!self.objects.is_empty()).then(|| {
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&self.objects, ".", "has")))
        });
        let finalizers = (!self.finalizers.is_empty()).then(|| {
            (
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", list(&self.finalizers, "", "in")),
            )
        });
        vec![
            make(
                "NamespaceDeletionDiscoveryFailure",
                None,
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
            make(
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            make(
                "NamespaceDeletionContentFailure",
                failed,
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
            make("NamespaceContentRemaining", objects, ("ContentRemoved", "All content successfully removed")),
            make(
                "NamespaceFinalizersRemaining",
                finalizers,
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ]
    }
}

/// Writes the conditions where they differ from those published.
async fn report(client: &Client, namespace: &NamespaceView, left: &Left) -> Result<(), Error> {
    let now = Timestamp::from_system(SystemTime::now()).to_seconds();
    let mut changed = false;
    let conditions: Vec<Condition> = left
        .conditions()
        .into_iter()
        .map(|mut new| {
            let old = condition(&namespace.status.conditions, &new.kind);
            if old
                .is_some_and(|old| (&old.status, &old.reason, &old.message) == (&new.status, &new.reason, &new.message))
            {
                return old.cloned().unwrap_or(new);
            }
            changed = true;
            new.last_transition_time = match old {
                Some(old) if old.status == new.status => old.last_transition_time.clone(),
                _ => now.clone(),
            };
            new
        })
        .collect();
    if !changed {
        return Ok(());
    }
    // The controller's role has `update` of the status, as upstream's has, and no `patch`.
    let name = &namespace.metadata.name;
    let patched = async {
        let mut object: Value = client.get(&registry::NAMESPACES, None, name).await?;
        if object["metadata"]["uid"] != namespace.metadata.uid.as_str() {
            return Ok(());
        }
        object["status"]["conditions"] = json!(conditions);
        client.update_status::<Value>(&registry::NAMESPACES, None, name, &object).await.map(drop)
    };
    match patched.await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_count_what_is_left() {
        let mut left = Left::default();
        assert!(left.conditions().iter().all(|condition| condition.status == "False"));
        left.objects.insert("pods".into(), 2);
        left.finalizers.insert("example.com/hold".into(), 1);
        let conditions = left.conditions();
        let message = |kind: &str| condition(&conditions, kind).map_or_else(String::new, |found| found.message.clone());
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        left.failures = vec!["no b".into(), "no a".into()];
        let failure = condition(&left.conditions(), "NamespaceDeletionContentFailure").cloned().unwrap_or_default();
        assert_eq!((failure.status.as_str(), failure.reason.as_str()), ("True", "ContentDeletionFailed"));
        assert_eq!(failure.message, "Failed to delete all resource types, 2 remaining: no a, no b");
    }
}
