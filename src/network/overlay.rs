//! The pod network between nodes: each other node's range of pods is reached through a VXLAN device, or directly
//! where all nodes share one network segment.
//!
//! All that a peer needs to know of a node follows from its Node object: the address of its VXLAN device is the
//! first of its range, and the hardware address follows from that. So nothing is stored or exchanged.

use crate::proxy::Ipv4Cidr;
use futures::TryStreamExt;
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::Informer;
use naru_client::projections::NodeView;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The VXLAN device.
const DEVICE: &str = "naru-vxlan";
/// The network identifier and port that flannel uses on Linux: firewalls of k3s' users let them pass.
const VNI: u32 = 1;
const PORT: u16 = 8472;
/// Bytes that VXLAN over IPv4 takes from each packet.
const OVERHEAD: u32 = 50;
/// Who made a route, so that only ours is ever deleted.
const ORIGIN: RouteProtocol = RouteProtocol::Other(111);

/// How packets reach pods on other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// In UDP, over any network.
    Vxlan,
    /// By routes through the nodes' addresses, which must be in one segment.
    HostGateway,
    /// Somebody else sees to it.
    None,
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vxlan" => Ok(Self::Vxlan),
            "host-gw" => Ok(Self::HostGateway),
            "none" => Ok(Self::None),
            other => Err(format!("{other:?} is not known: there are vxlan, host-gw and none")),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::HostGateway => "host-gw",
            Self::None => "none",
        })
    }
}

/// Why the kernel does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// No netlink socket.
    #[error("netlink is not available: {0}")]
    Unavailable(#[from] std::io::Error),
    /// The kernel refused.
    #[error("the kernel refused to {what}: {error}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// Its answer.
        error: rtnetlink::Error,
    },
    /// The node's own address is on no interface.
    #[error("no interface has the node's address {0}: correct it with --node-ip")]
    NoInterface(IpAddr),
}

/// Another node, or this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    address: Ipv4Addr,
    pods: Ipv4Cidr,
}

impl Peer {
    fn of(node: &NodeView) -> Option<Self> {
        let internal = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let address = internal.filter_map(|address| address.address.parse().ok()).next()?;
        Some(Self { address, pods: node.spec.pod_cidr.parse().ok()? })
    }

    /// The address of its VXLAN device.
    fn device_address(&self) -> Ipv4Addr {
        self.pods.address
    }

    /// The hardware address of its VXLAN device: locally administered, and unique since ranges are.
    fn hardware_address(&self) -> [u8; 6] {
        let [a, b, c, d] = self.pods.address.octets();
        [0x0a, 0x58, a, b, c, d]
    }
}

/// Bytes that a pod's packet may have: what the node's interface takes, less the overlay's own. `None` if the
/// kernel need not be told.
pub async fn pod_mtu(node: IpAddr, backend: Backend) -> Option<u32> {
    if backend != Backend::Vxlan {
        return None;
    }
    let network = Network::open().ok()?;
    let (_, mtu) = network.interface_of(node).await.ok()?;
    Some(mtu.saturating_sub(OVERHEAD))
}

/// Keeps the ways to all other nodes' pods in step with the Nodes until the shutdown.
pub fn start(nodes: Informer<NodeView>, node_name: String, backend: Backend, shutdown: &Shutdown) {
    if backend == Backend::None {
        return;
    }
    let shutdown = shutdown.clone();
    spawn("overlay", async move { shutdown.guard(follow(nodes, node_name, backend)).await });
}

/// Removes the device and the routes when the node is taken apart.
///
/// # Errors
/// The kernel refused.
pub async fn remove() -> Result<(), OverlayError> {
    let network = Network::open()?;
    for route in network.own_routes().await? {
        network.delete_route(route).await?;
    }
    network.delete_device().await
}

async fn follow(nodes: Informer<NodeView>, node_name: String, backend: Backend) {
    nodes.synced().await;
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.subscribe(move |change| {
        let peer = |node: &Option<Arc<NodeView>>| node.as_deref().and_then(Peer::of);
        if peer(&change.old) != peer(&change.new) {
            wake.notify_one();
        }
    });
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    let mut applied: Option<BTreeMap<String, Peer>> = None;
    loop {
        let mut wanted: BTreeMap<String, Peer> =
            nodes.list().iter().filter_map(|node| Some((node.metadata.name.clone(), Peer::of(node)?))).collect();
        let own = wanted.remove(&node_name);
        if let Some(own) = own.filter(|_| applied.as_ref() != Some(&wanted)) {
            match apply(own, &wanted, backend).await {
                Ok(()) => {
                    backoff.reset();
                    applied = Some(wanted);
                }
                Err(error) => {
                    tracing::warn!("the way to other nodes' pods is not complete, trying again: {error}");
                    tokio::time::sleep(backoff.next_delay()).await;
                    continue;
                }
            }
        }
        changed.notified().await;
    }
}

/// Makes the kernel have exactly the ways to these peers.
async fn apply(own: Peer, peers: &BTreeMap<String, Peer>, backend: Backend) -> Result<(), OverlayError> {
    let network = Network::open()?;
    let device = match backend {
        Backend::Vxlan => Some(network.device(own).await?),
        _ => {
            network.delete_device().await?;
            None
        }
    };
    let known = network.own_routes().await?;
    for peer in peers.values() {
        match device {
            Some(device) => network.through_device(device, peer).await?,
            None => network.through_node(peer).await?,
        }
    }
    for route in known {
        if !peers.values().any(|peer| destination(&route) == Some(peer.pods)) {
            network.delete_route(route).await?;
        }
    }
    if let Some(device) = device {
        network.forget_others(device, peers).await?;
    }
    Ok(())
}

fn destination(route: &RouteMessage) -> Option<Ipv4Cidr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
            Some(Ipv4Cidr { address: *address, prefix: route.header.destination_prefix_length })
        }
        _ => None,
    })
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> OverlayError {
    |error| OverlayError::Refused { what: what.into(), error }
}

/// The kernel's side.
struct Network {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Network {
    fn open() -> Result<Self, OverlayError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: spawn("overlay-netlink", connection) })
    }

    /// Index and MTU of the interface that has an address.
    async fn interface_of(&self, address: IpAddr) -> Result<(u32, u32), OverlayError> {
        let request = self.handle.address().get().set_address_filter(address).execute();
        let found: Vec<_> = request.try_collect().await.map_err(refused("list addresses"))?;
        let has = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Address(found) | AddressAttribute::Local(found) if *found == address);
        let message = found.iter().find(|message| message.attributes.iter().any(has));
        let index = message.ok_or(OverlayError::NoInterface(address))?.header.index;
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(refused("show an interface"))?;
        let mtu = link.iter().flat_map(|link| &link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        Ok((index, mtu.unwrap_or(1500)))
    }

    async fn find_device(&self) -> Result<Option<u32>, OverlayError> {
        let mut links = self.handle.link().get().match_name(DEVICE.to_owned()).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -NO_DEVICE => Ok(None),
            Err(error) => Err(refused("show the VXLAN device")(error)),
        }
    }

    async fn delete_device(&self) -> Result<(), OverlayError> {
        match self.find_device().await? {
            Some(index) => self.handle.link().del(index).execute().await.map_err(refused("remove the VXLAN device")),
            None => Ok(()),
        }
    }

    /// The VXLAN device, made anew unless it is as it should be.
    async fn device(&self, own: Peer) -> Result<u32, OverlayError> {
        if let Some(index) = self.find_device().await? {
            if self.is_current(index, own).await? {
                return Ok(index);
            }
            self.delete_device().await?;
        }
        let (uplink, mtu) = self.interface_of(own.address.into()).await?;
        let message = LinkVxlan::new(DEVICE, VNI)
            .dev(uplink)
            .local(own.address)
            .port(PORT)
            .learning(false)
            .address(own.hardware_address().to_vec())
            .mtu(mtu.saturating_sub(OVERHEAD))
            .up()
            .build();
        let make = "make a VXLAN device (is the kernel module vxlan there? --flannel-backend=host-gw needs none)";
        self.handle.link().add(message).execute().await.map_err(refused(make))?;
        let index = self.find_device().await?.ok_or(OverlayError::NoInterface(own.address.into()))?;
        let address = self.handle.address().add(index, own.device_address().into(), 32).execute();
        address.await.map_err(refused("give the VXLAN device its address"))?;
        let up = self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute();
        up.await.map_err(refused("switch the VXLAN device on"))?;
        Ok(index)
    }

    /// Whether the device was made for this node's address and range.
    async fn is_current(&self, index: u32, own: Peer) -> Result<bool, OverlayError> {
        use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkInfo};
        let mut links = self.handle.link().get().match_index(index).execute();
        let Some(link) = links.try_next().await.map_err(refused("show the VXLAN device"))? else { return Ok(false) };
        let hardware = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Address(address) => address.as_slice() == own.hardware_address(),
            _ => false,
        };
        let local = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(data)) => data.contains(&InfoVxlan::Local(own.address)),
                _ => false,
            }),
            _ => false,
        };
        Ok(link.attributes.iter().any(hardware) && link.attributes.iter().any(local))
    }

    async fn through_device(&self, device: u32, peer: &Peer) -> Result<(), OverlayError> {
        let (gateway, hardware) = (peer.device_address(), peer.hardware_address());
        let neighbours = self.handle.neighbours();
        let neighbour = neighbours.add(device, gateway.into()).link_layer_address(&hardware);
        neighbour.state(NeighbourState::Permanent).replace().execute().await.map_err(refused("add a neighbour"))?;
        let forwarding = neighbours.add_bridge(device, &hardware).destination(peer.address.into());
        // The device's own table, not that of a bridge it might be part of.
        let forwarding = forwarding.flags(NeighbourFlags::Own).state(NeighbourState::Permanent).replace().execute();
        forwarding.await.map_err(refused("add a forwarding entry"))?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(peer.pods.address, peer.pods.prefix)
            .gateway(gateway)
            .output_interface(device)
            .onlink()
            .protocol(ORIGIN)
            .build();
        self.add_route(route, peer).await
    }

    async fn through_node(&self, peer: &Peer) -> Result<(), OverlayError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(peer.pods.address, peer.pods.prefix)
            .gateway(peer.address)
            .protocol(ORIGIN)
            .build();
        self.add_route(route, peer).await
    }

    async fn add_route(&self, route: RouteMessage, peer: &Peer) -> Result<(), OverlayError> {
        let what = format!("route {} through {}", peer.pods, peer.address);
        self.handle.route().add(route).replace().execute().await.map_err(refused(what))
    }

    async fn own_routes(&self) -> Result<Vec<RouteMessage>, OverlayError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let all: Vec<_> = all.try_collect().await.map_err(refused("list routes"))?;
        Ok(all.into_iter().filter(|route| route.header.protocol == ORIGIN).collect())
    }

    async fn delete_route(&self, route: RouteMessage) -> Result<(), OverlayError> {
        self.handle.route().del(route).execute().await.map_err(refused("remove a route"))
    }

    /// Removes the device's entries for nodes that are gone.
    async fn forget_others(&self, device: u32, peers: &BTreeMap<String, Peer>) -> Result<(), OverlayError> {
        let all: Vec<NeighbourMessage> =
            self.handle.neighbours().get().execute().try_collect().await.map_err(refused("list neighbours"))?;
        let known = |message: &NeighbourMessage| {
            message.attributes.iter().any(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                    peers.values().any(|peer| peer.device_address() == *address)
                }
                _ => false,
            })
        };
        for message in all.into_iter().filter(|message| message.header.ifindex == device && !known(message)) {
            if message.header.state == NeighbourState::Permanent {
                self.handle.neighbours().del(message).execute().await.map_err(refused("remove a neighbour"))?;
            }
        }
        Ok(())
    }
}

/// ENODEV.
const NO_DEVICE: i32 = 19;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_says_all_that_is_needed() {
        let node: NodeView = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"podCIDR": "10.42.3.0/24"},
            "status": {"addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.3"}]},
        }))
        .unwrap();
        let peer = Peer::of(&node).unwrap();
        assert_eq!(peer.address, Ipv4Addr::new(192, 0, 2, 3));
        assert_eq!(peer.device_address(), Ipv4Addr::new(10, 42, 3, 0));
        assert_eq!(peer.hardware_address(), [0x0a, 0x58, 10, 42, 3, 0]);
        assert_eq!(Peer::of(&NodeView::default()), None);
    }

    fn peer(address: [u8; 4], pods: &str) -> Peer {
        Peer { address: address.into(), pods: pods.parse().unwrap() }
    }

    async fn routes() -> Vec<String> {
        let mut routes: Vec<String> = Network::open()
            .unwrap()
            .own_routes()
            .await
            .unwrap()
            .iter()
            .filter_map(destination)
            .map(|cidr| cidr.to_string())
            .collect();
        routes.sort();
        routes
    }

    /// In a network namespace of its own, where the node's address is on the loopback device.
    #[test]
    fn the_kernel_has_what_the_nodes_say_and_nothing_is_left() {
        let alone = || {
            #[allow(deprecated, reason = "only file descriptors make it unsafe, and those are not unshared")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("these tests need root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::open().unwrap();
                let own = peer([192, 0, 2, 1], "10.42.0.0/24");
                network.handle.address().add(1, own.address.into(), 24).execute().await.unwrap();
                let up = LinkUnspec::new_with_index(1).up().build();
                network.handle.link().set(up).execute().await.unwrap();
                let mut peers = BTreeMap::from([
                    ("b".to_owned(), peer([192, 0, 2, 2], "10.42.1.0/24")),
                    ("c".to_owned(), peer([192, 0, 2, 3], "10.42.2.0/24")),
                ]);
                for backend in [Backend::Vxlan, Backend::HostGateway, Backend::Vxlan] {
                    apply(own, &peers, backend).await.unwrap();
                    apply(own, &peers, backend).await.unwrap();
                    assert_eq!(routes().await, ["10.42.1.0/24", "10.42.2.0/24"]);
                    assert_eq!(network.find_device().await.unwrap().is_some(), backend == Backend::Vxlan);
                }
                peers.remove("b");
                apply(own, &peers, Backend::Vxlan).await.unwrap();
                assert_eq!(routes().await, ["10.42.2.0/24"]);
                remove().await.unwrap();
                remove().await.unwrap();
                assert!(routes().await.is_empty() && network.find_device().await.unwrap().is_none());
            });
        };
        std::thread::spawn(alone).join().unwrap();
    }

    #[test]
    fn backends_are_known_by_their_names() {
        for backend in [Backend::Vxlan, Backend::HostGateway, Backend::None] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert!("wireguard".parse::<Backend>().is_err());
    }
}
