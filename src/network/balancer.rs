//! This node as a load balancer: which Services of that type it can serve, said in an annotation of the node. A port
//! that a process of the host listens on is never taken; nor is one that an older Service has.

use naru_api::registry::{self, NODES};
use naru_base::Shutdown;
use naru_client::projections::{BALANCER_ANNOTATION, BALANCER_CLASS, NodeView, ServiceView, balancer_claim};
use naru_client::{Client, EventRecorder, Informer, ObjectReference, PatchKind};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the host's listeners are looked at while there are such Services: nobody tells of them.
const LOOK: Duration = Duration::from_secs(30);
/// Most Services that one node serves; its annotation has its limit.
const MOST: usize = 1000;

/// A port with its protocol, as `TCP`.
type Port = (u16, &'static str);

/// What the balancer of a node is given.
#[derive(Debug)]
pub struct Balancer {
    /// Acts as the node.
    pub client: Client,
    /// The node's name.
    pub node: String,
    /// All Services.
    pub services: Informer<ServiceView>,
    /// The nodes, this one among them.
    pub nodes: Informer<NodeView>,
    /// Where it is told why a Service is not served.
    pub recorder: EventRecorder,
}

impl Balancer {
    /// Runs until the shutdown.
    pub fn start(self, shutdown: &Shutdown) {
        let shutdown = shutdown.clone();
        naru_base::spawn("node-balancer", async move { shutdown.guard(self.run()).await });
    }

    async fn run(self) {
        self.services.synced().await;
        self.nodes.synced().await;
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        self.services.subscribe(move |_| wake.notify_one());
        let (wake, own) = (changed.clone(), self.node.clone());
        self.nodes.subscribe(move |change| {
            let addresses = |node: &Option<Arc<NodeView>>| node.as_ref().map(|node| node.status.addresses.clone());
            if change.key.name == own && addresses(&change.old) != addresses(&change.new) {
                wake.notify_one();
            }
        });
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let services = candidates(&self.services.list());
            let own = self.addresses();
            let busy = tokio::task::spawn_blocking(move || listening(&own)).await.unwrap_or_default();
            let (claims, refusals) = decide(&services, &busy);
            self.tell(&refusals, &mut told);
            let written = self.publish(&claims.join(";")).await;
            if services.is_empty() && written {
                changed.notified().await;
            } else {
                let _ = tokio::time::timeout(LOOK, changed.notified()).await;
            }
        }
    }

    /// The addresses by which this node is known, and balances.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let node = self.nodes.get("", &self.node);
        let all = node.iter().flat_map(|node| &node.status.addresses);
        all.filter_map(|address| address.address.parse().ok()).collect()
    }

    /// Says what is refused, once for each reason.
    fn tell(&self, refusals: &[(Arc<ServiceView>, String)], told: &mut BTreeMap<String, String>) {
        let now: BTreeMap<String, String> =
            refusals.iter().map(|(service, why)| (service.metadata.uid.clone(), why.clone())).collect();
        for (service, why) in refusals {
            if told.get(&service.metadata.uid) != Some(why) {
                let about = ObjectReference::of(&registry::SERVICES, &service.metadata);
                self.recorder.warning(&about, "PortInUse", format!("Node {} cannot balance: {why}", self.node));
            }
        }
        *told = now;
    }

    /// Whether the annotation is as it should be.
    async fn publish(&self, claims: &str) -> bool {
        let Some(node) = self.nodes.get("", &self.node) else { return true };
        let present = node.metadata.annotations.get(BALANCER_ANNOTATION).map_or("", String::as_str);
        if present == claims {
            return true;
        }
        let value = if claims.is_empty() { Value::Null } else { claims.into() };
        let patch = json!({"metadata": {"annotations": {BALANCER_ANNOTATION: value}}});
        let patched = self.client.patch::<Value>(&NODES, None, &self.node, None, PatchKind::Merge, &patch).await;
        if let Err(error) = &patched {
            tracing::warn!(%error, "the Services that this node can balance could not be published");
        }
        patched.is_ok()
    }
}

/// Services that the nodes balance, the oldest first.
fn candidates(services: &[Arc<ServiceView>]) -> Vec<Arc<ServiceView>> {
    let ours = |service: &&Arc<ServiceView>| {
        service.spec.kind == "LoadBalancer"
            && matches!(service.spec.load_balancer_class.as_str(), "" | BALANCER_CLASS)
            && !service.metadata.is_deleting()
    };
    let mut found: Vec<Arc<ServiceView>> = services.iter().filter(ours).cloned().collect();
    found.sort_by_cached_key(|service| {
        let meta = &service.metadata;
        (meta.creation_timestamp.clone(), meta.namespace.clone(), meta.name.clone())
    });
    found
}

fn ports(service: &ServiceView) -> Vec<Port> {
    let port = |port: &naru_client::projections::ServicePort| {
        let protocol = match port.protocol.as_str() {
            "UDP" => "UDP",
            "SCTP" => "SCTP",
            _ => "TCP",
        };
        (port.port, protocol)
    };
    service.spec.ports.iter().map(port).collect()
}

/// What this node serves, and what it does not, and why.
fn decide(services: &[Arc<ServiceView>], busy: &BTreeSet<Port>) -> (Vec<String>, Vec<(Arc<ServiceView>, String)>) {
    let mut taken: BTreeMap<Port, String> = BTreeMap::new();
    let (mut claims, mut refusals) = (Vec::new(), Vec::new());
    for service in services {
        let ports = ports(service);
        let trouble = ports.iter().find_map(|port| {
            let (number, protocol) = port;
            if let Some(other) = taken.get(port) {
                return Some(format!("port {number}/{protocol} is the Service {other}'s"));
            }
            busy.contains(port).then(|| format!("a process of the host listens on port {number}/{protocol}"))
        });
        match trouble {
            Some(why) => refusals.push((service.clone(), why)),
            None if claims.len() >= MOST => refusals.push((service.clone(), format!("it serves {MOST} already"))),
            None => {
                claims.push(balancer_claim(service));
                let name = format!("{}/{}", service.metadata.namespace, service.metadata.name);
                taken.extend(ports.into_iter().map(|port| (port, name.clone())));
            }
        }
    }
    (claims, refusals)
}

/// The ports on which processes of this host listen, on all addresses or on one of these.
fn listening(own: &BTreeSet<IpAddr>) -> BTreeSet<Port> {
    let mut found = BTreeSet::new();
    for (file, protocol) in [("tcp", "TCP"), ("tcp6", "TCP"), ("udp", "UDP"), ("udp6", "UDP")] {
        let table = std::fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        let sockets = table.lines().skip(1).filter_map(|line| open_socket(line, protocol));
        let in_the_way = sockets.filter(|socket| socket.ip().is_unspecified() || own.contains(&socket.ip()));
        found.extend(in_the_way.map(|socket| (socket.port(), protocol)));
    }
    found
}

/// Where a socket takes what comes, from a line of the kernel's table.
fn open_socket(line: &str, protocol: &str) -> Option<SocketAddr> {
    // Listening in TCP; a socket of UDP that is not bound to one peer.
    let wanted = if protocol == "TCP" { "0A" } else { "07" };
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let state = words.nth(1)?;
    // Words of four bytes in the machine's order.
    let word = |index: usize| -> Option<[u8; 4]> {
        let text = address.get(8 * index..8 * index + 8)?;
        Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        _ => {
            let octets = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()
        }
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == wanted).then_some(SocketAddr::new(address, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn service(name: &str, created: &str, ports: Value) -> Arc<ServiceView> {
        let value = json!({"metadata": {"namespace": "d", "name": name, "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "ports": ports}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn ports_of_the_host_and_of_older_services_are_not_taken() {
        let all = [
            service("late", "2026-01-02T00:00:00Z", json!([{"port": 80}])),
            service("early", "2026-01-01T00:00:00Z", json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])),
            service("shell", "2026-01-03T00:00:00Z", json!([{"port": 22}])),
            service("names", "2026-01-04T00:00:00Z", json!([{"port": 53}])),
        ];
        let (claims, refusals) = decide(&candidates(&all), &[(22, "TCP")].into());
        assert_eq!(claims, ["d/early=80/TCP,53/UDP", "d/names=53/TCP"]);
        let refusals: Vec<String> =
            refusals.iter().map(|(service, why)| format!("{}: {why}", service.metadata.name)).collect();
        assert_eq!(
            refusals,
            ["late: port 80/TCP is the Service d/early's", "shell: a process of the host listens on port 22/TCP"]
        );
    }

    #[test]
    fn other_classes_are_somebody_elses() {
        let value = json!({"metadata": {"name": "x"}, "spec": {"type": "LoadBalancer", "loadBalancerClass": "a/b"}});
        assert!(candidates(&[Arc::new(serde_json::from_value(value).unwrap())]).is_empty());
    }

    #[test]
    fn listeners_of_the_host_are_found() {
        let line =
            |local: &str, state: &str| format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000");
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let found = |line: String, protocol| open_socket(&line, protocol).map(|socket| socket.to_string());
        let any = "00000000";
        assert_eq!(found(line(&format!("{any}:0016"), "0A"), "TCP").unwrap(), "0.0.0.0:22");
        assert_eq!(found(line(&format!("{any}:0016"), "01"), "TCP"), None);
        assert_eq!(found(line(&format!("{}:0035", word([192, 0, 2, 1])), "07"), "UDP").unwrap(), "192.0.2.1:53");
        let zeros = any.repeat(3);
        assert_eq!(found(line(&format!("{zeros}{any}:1920"), "0A"), "TCP").unwrap(), "[::]:6432");
        assert_eq!(found(line(&format!("{zeros}{}:1920", word([0, 0, 0, 1])), "0A"), "TCP").unwrap(), "[::1]:6432");
        let mapped = format!("{any}{any}{}{}:0035", word([0, 0, 0xff, 0xff]), word([127, 0, 0, 53]));
        assert_eq!(found(line(&mapped, "07"), "UDP").unwrap(), "127.0.0.53:53");
    }

    #[test]
    fn what_listens_on_addresses_that_do_not_balance_is_not_in_the_way() {
        let anywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let here = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let port = |listener: &std::net::TcpListener| (listener.local_addr().unwrap().port(), "TCP");
        let busy = listening(&BTreeSet::new());
        assert!(busy.contains(&port(&anywhere)) && !busy.contains(&port(&here)));
        assert!(listening(&["127.0.0.2".parse().unwrap()].into()).contains(&port(&here)));
    }
}
