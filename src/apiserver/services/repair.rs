//! What a start makes good: addresses of Services without an object, and objects without their Service.

use super::addresses::{self, MANAGED_BY, MANAGED_BY_LABEL};
use super::texts;
use crate::cache::{self, Cache};
use crate::objects;
use naru_api::meta;
use naru_api::registry::{IP_ADDRESSES, SERVICES};
use naru_store::{Durability, Expect, Write};
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;

/// The writes after which each address of a Service has its object, and no other address has one.
/// `more` are Services that are about to be written.
pub(crate) fn repair(cache: &Cache, more: &[Value]) -> Vec<Write> {
    let stored = cache.objects(&SERVICES);
    let stored = stored.iter().filter_map(|service| serde_json::from_slice::<Value>(&service.json()).ok());
    let services: Vec<Value> = stored.chain(more.iter().cloned()).collect();
    let mut holders: HashMap<IpAddr, &Value> = HashMap::new();
    for service in &services {
        for address in texts(service, "clusterIPs").into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            if let Some(other) = holders.insert(address, service) {
                tracing::error!(
                    %address,
                    "the Services {} and {} have the same address: delete one of them",
                    meta::name(other),
                    meta::name(service)
                );
            }
        }
    }
    let mut writes = Vec::new();
    for (address, service) in &holders {
        let name = address.to_string();
        if cache.get(&IP_ADDRESSES, None, &name).is_none() {
            let mut object = addresses::object(*address, service);
            objects::stamp_new(&mut object);
            writes.push(write(&name, Expect::Absent, Some(object)));
        }
    }
    for object in cache.objects(&IP_ADDRESSES) {
        let Ok(tree) = serde_json::from_slice::<Value>(&object.json()) else { continue };
        let ours = tree["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY;
        let holder = object.name().parse::<IpAddr>().ok().and_then(|address| holders.get_key_value(&address));
        match holder {
            Some((_, service)) if !ours || addresses::is_of(&tree, service) => {}
            None if !ours => {}
            Some((address, service)) => {
                let mut renewed = addresses::object(*address, service);
                objects::stamp_new(&mut renewed);
                writes.push(write(object.name(), Expect::Revision(object.revision()), Some(renewed)));
            }
            None => {
                tracing::info!(address = object.name(), "no Service has this address any more");
                writes.push(write(object.name(), Expect::Revision(object.revision()), None));
            }
        }
    }
    writes
}

fn write(name: &str, expect: Expect, object: Option<Value>) -> Write {
    let key = cache::storage_key(&IP_ADDRESSES, None, name).into();
    Write { key, expect, value: object.map(objects::encode), durability: Durability::Sync }
}
