//! Keeps one object of a fixed name in each active namespace; shared by two controllers.

use crate::Context;
use naru_api::registry::Resource;
use naru_client::{Error, Informer, ListParams, Next, WorkQueue, is_already_exists, is_not_found};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// Creates `resource` named `name` wherever it is missing, and puts its content right wherever
/// `is_right` says no. Nothing is put into a namespace that is being deleted.
pub(crate) fn start<P: DeserializeOwned + Send + Sync + 'static>(
    ctx: &Context,
    resource: &'static Resource,
    name: &'static str,
    wanted: Value,
    is_right: fn(&P, &Value) -> bool,
) {
    let namespaces = ctx.informers.namespaces();
    let objects: Informer<P> = ctx.informers.start(resource, ListParams::all().fields(format!("metadata.name={name}")));
    let queue = WorkQueue::new();
    let wake = queue.clone();
    namespaces.subscribe(move |change| wake.add(change.key.name.clone()));
    let wake = queue.clone();
    objects.subscribe(move |change| wake.add(change.key.namespace.clone()));

    let synced = {
        let (namespaces, objects) = (namespaces.clone(), objects.clone());
        async move {
            namespaces.synced().await;
            objects.synced().await;
        }
    };
    let client = ctx.client.clone();
    let wanted = Arc::new(wanted);
    ctx.run(&queue, 1, synced, move |namespace: String| {
        let (client, wanted) = (client.clone(), wanted.clone());
        let active = namespaces
            .get("", &namespace)
            .is_some_and(|view| !view.metadata.is_deleting() && view.status.phase != "Terminating");
        let present = objects.get(&namespace, name);
        async move {
            match present {
                _ if !active => {}
                Some(object) if is_right(&object, &wanted) => {}
                Some(_) => {
                    let updated: Result<Value, Error> = client.update(resource, Some(&namespace), name, &*wanted).await;
                    ignore(updated, is_not_found)?;
                }
                None => {
                    let created: Result<Value, Error> = client.create(resource, Some(&namespace), &*wanted).await;
                    ignore(created, |error| is_already_exists(error) || is_not_found(error))?;
                }
            }
            Ok::<_, Error>(Next::Done)
        }
    });
}

/// Outcomes that a watch event will follow up are no failures.
fn ignore(outcome: Result<Value, Error>, harmless: impl Fn(&Error) -> bool) -> Result<(), Error> {
    match outcome {
        Err(error) if !harmless(&error) => Err(error),
        _ => Ok(()),
    }
}
