//! The servers that an agent knows: the one that it was given, and all that the cluster says it has. They are kept on
//! disk, so that an agent finds its cluster when the one that it was given is away.

use crate::files::{read_optional, write_atomic};
use anyhow::{Context, Result};
use naru_client::Informer;
use naru_client::https::{Server, Servers};
use naru_client::projections::EndpointSliceView;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file below the directory of certificates.
const FILE: &str = "servers.json";

/// The servers known from earlier starts, and the one that is given now.
pub(crate) fn known(dir: &Path, given: &str) -> Result<Arc<Servers>> {
    let wrong = || format!("--server {given}: not of the form https://HOST:6443");
    let given =
        Some(given).filter(|given| given.starts_with("https://")).and_then(Server::parse).with_context(wrong)?;
    let kept = read_optional(&dir.join(FILE))?.unwrap_or_default();
    // What cannot be read is asked for again.
    let kept: Vec<String> = serde_json::from_str(&kept).unwrap_or_default();
    let servers = Servers::new(vec![given.clone()]);
    servers.replace(with(kept.iter().filter_map(|text| Server::parse(text)).collect(), &given));
    Ok(Arc::new(servers))
}

/// Follows the endpoints of the Service `kubernetes`.
pub(crate) fn follow(servers: Arc<Servers>, slices: &Informer<EndpointSliceView>, dir: PathBuf, given: &str) {
    let (Some(given), all) = (Server::parse(given), slices.clone()) else { return };
    slices.subscribe(move |change| {
        if !change.latest().is_of_api() {
            return;
        }
        let found: Vec<Server> =
            all.by_namespace("default").iter().filter(|slice| slice.is_of_api()).flat_map(|slice| of(slice)).collect();
        let found = with(found, &given);
        let text: Vec<String> = found.iter().map(ToString::to_string).collect();
        servers.replace(found);
        let kept = serde_json::to_vec(&text).map_err(anyhow::Error::from);
        if let Err(error) = kept.and_then(|text| write_atomic(&dir.join(FILE), &text, 0o644)) {
            tracing::warn!("the servers of the cluster are not remembered: {error:#}");
        }
    });
}

/// The one that was given is another name of one of them, or a balancer: it is good when they cannot be reached.
fn with(mut found: Vec<Server>, given: &Server) -> Vec<Server> {
    if !found.contains(given) {
        found.push(given.clone());
    }
    found
}

trait OfApi {
    fn is_of_api(&self) -> bool;
}

impl OfApi for EndpointSliceView {
    fn is_of_api(&self) -> bool {
        self.metadata.namespace == "default" && self.service_name() == Some("kubernetes")
    }
}

fn of(slice: &EndpointSliceView) -> Vec<Server> {
    let port = slice.ports.iter().find(|port| port.name == "https").and_then(|port| port.port);
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.is_ready());
    let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
    port.map(|port| addresses.map(|address| Server::at(address, port)).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use naru_client::ObjectKey;
    use serde_json::json;

    fn texts(servers: &Servers) -> Vec<String> {
        servers.known().borrow().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_of_the_cluster_are_known_and_remembered() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let given = "https://balancer.example:6443";
        let servers = known(dir.path(), given)?;
        assert_eq!(texts(&servers), ["balancer.example:6443"]);
        let slices = Informer::detached();
        slices.mark_synced();
        follow(servers.clone(), &slices, dir.path().to_owned(), given);
        let slice = |name: &str, service: &str, addresses: &[&str]| {
            let endpoints: Vec<_> = addresses
                .iter()
                .map(|address| json!({ "addresses": [address], "conditions": { "ready": *address != "10.0.0.9" } }))
                .collect();
            serde_json::from_value::<EndpointSliceView>(json!({
                "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "https", "port": 6443 }],
            }))
        };
        let apply = |name: &str, slice| slices.apply(ObjectKey::new("default", name), "1".to_owned(), Some(slice));
        apply("kubernetes", slice("kubernetes", "kubernetes", &["10.0.0.1", "10.0.0.9", "10.0.0.2"])?);
        apply("other", slice("other", "other", &["10.0.0.7"])?);
        let all = ["10.0.0.1:6443", "10.0.0.2:6443", "balancer.example:6443"];
        assert_eq!(texts(&servers), all);
        assert_eq!(texts(&*known(dir.path(), given)?), all, "after a restart");
        for wrong in ["https://", "http://10.0.0.1:6443", "10.0.0.1:6443"] {
            assert!(known(dir.path(), wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
