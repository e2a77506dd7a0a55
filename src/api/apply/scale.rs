//! Ownership of `spec.replicas` between an object and its Scale.

use super::managers::{Entry, Managers};
use super::set::Set;
use serde_json::Value;

const SCALE: &str = "autoscaling/v1";
const REPLICAS: [&str; 2] = ["spec", "replicas"];

/// The managed fields of a Scale: the object's owners of `spec.replicas`.
pub fn to_scale(parent: &Value) -> Option<Value> {
    let mut managers = Managers::decode(parent).ok()?;
    managers.entries.retain_mut(|entry| {
        let owns = entry.set.has_fields(&REPLICAS);
        entry.set = Set::of_fields(&REPLICAS);
        SCALE.clone_into(&mut entry.api_version);
        owns
    });
    managers.encode()
}

/// The object's managed fields after those of its Scale have become these. New owners name the place in
/// `api_version`.
pub fn to_parent(parent: &Value, scale: &Value, api_version: &str) -> Option<Value> {
    let (Ok(mut managers), Ok(mut owners)) = (Managers::decode(parent), Managers::decode(scale)) else {
        return parent.is_array().then(|| parent.clone());
    };
    owners.entries.retain(|owner| owner.set.has_fields(&REPLICAS));
    let same =
        |a: &Entry, b: &Entry| (&a.manager, a.applied, &a.subresource) == (&b.manager, b.applied, &b.subresource);
    for entry in managers.entries.iter_mut().filter(|entry| entry.set.has_fields(&REPLICAS)) {
        match owners.entries.iter().position(|owner| same(owner, entry)) {
            Some(at) => {
                let owner = owners.entries.swap_remove(at);
                entry.time = owner.time;
            }
            // Somebody scaled it away.
            None => entry.set.subtract(&Set::of_fields(&REPLICAS)),
        }
    }
    for mut owner in owners.entries {
        api_version.clone_into(&mut owner.api_version);
        match managers.position(&owner) {
            Some(at) => managers.entries[at].set.add(&owner.set),
            None => managers.entries.push(owner),
        }
    }
    managers.encode()
}
