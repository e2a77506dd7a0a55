//! Objects that the server itself keeps in the cluster: made when missing, made anew when they are not as they
//! should be, and left alone once somebody has taken them over (by removing the label).

use naru_api::meta;
use naru_api::registry::Resource;
use naru_base::Backoff;
use naru_client::{Client, DeleteOptions, Error, is_not_found};
use serde_json::Value;
use std::time::Duration;

/// Says that an object is the server's.
const LABEL: &str = "app.kubernetes.io/managed-by";
const OURS: &str = "naru";

/// Sees to all of them, and tries again until all are there.
pub(crate) async fn publish(client: Client, objects: Vec<(&'static Resource, Value)>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    for (resource, mut object) in objects {
        object["metadata"]["labels"][LABEL] = OURS.into();
        while let Err(error) = ensure(&client, resource, &object).await {
            let name = meta::name(&object);
            tracing::warn!("{} {name} could not be made, trying again: {error}", resource.kind);
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

async fn ensure(client: &Client, resource: &'static Resource, object: &Value) -> Result<(), Error> {
    let namespace = Some(meta::namespace(object)).filter(|namespace| !namespace.is_empty());
    match client.get::<Value>(resource, namespace, meta::name(object)).await {
        Ok(found) if found["metadata"]["labels"][LABEL] != OURS || contains(&found, object) => return Ok(()),
        // Some of it may be unchangeable, such as a Service's address.
        Ok(_) => client.delete(resource, namespace, meta::name(object), &DeleteOptions::default()).await?,
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error),
    }
    client.create::<Value>(resource, namespace, object).await.map(drop)
}

/// Whether all that is wanted is there; more may be.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wanted_may_be_part_of_more() {
        let found = json!({"spec": {"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}});
        assert!(contains(&found, &json!({"spec": {"ports": [{"port": 53}]}})));
        assert!(!contains(&found, &json!({"spec": {"ports": [{"port": 53}, {"port": 54}]}})));
        assert!(!contains(&found, &json!({"spec": {"clusterIP": "10.43.0.11"}})));
    }
}
