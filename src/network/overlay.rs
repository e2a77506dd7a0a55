//! The pod network between nodes: each other node's range of pods is reached through a VXLAN device, or directly
//! where all nodes share one network segment.
//!
//! All that a peer needs to know of a node follows from its Node object: the addresses of its VXLAN device are the
//! first of its ranges, and the hardware address follows from those. So nothing is stored or exchanged. One device
//! carries both families, over whichever is the nodes' first.

use futures::TryStreamExt;
use naru_api::address::{Cidr, parse_cidr};
use naru_base::{Backoff, Shutdown, spawn};
use naru_client::Informer;
use naru_client::projections::NodeView;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The VXLAN device.
const DEVICE: &str = "naru-vxlan";
/// The network identifier and port that flannel uses on Linux: firewalls of k3s' users let them pass.
const VNI: u32 = 1;
const PORT: u16 = 8472;
/// Bytes that VXLAN takes from each packet, over IPv4 and over IPv6.
const OVERHEAD: (u32, u32) = (50, 70);
/// The smallest MTU with which IPv6 works at all; below it TCP over IPv4 crawls, too.
const SMALL_MTU: u32 = 1280;
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
    /// Two nodes have no family of addresses in common.
    #[error("node {peer} has no address of the family of {own}: give both nodes one with --node-ip")]
    NoAddress {
        /// The other node.
        peer: String,
        /// This node's address.
        own: IpAddr,
    },
}

/// Another node, or this one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    /// At least one; the first is the node's own choice.
    addresses: Vec<IpAddr>,
    /// Its pods' ranges, at least one and one of a family at most.
    pods: Vec<Cidr>,
}

impl Peer {
    fn of(node: &NodeView) -> Option<Self> {
        let internal = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let addresses: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
        let pods: Vec<Cidr> = match node.spec.pod_cidrs.as_slice() {
            [] => parse_cidr(&node.spec.pod_cidr).into_iter().collect(),
            all => all.iter().filter_map(|range| parse_cidr(range)).collect(),
        };
        (!addresses.is_empty() && !pods.is_empty()).then_some(Self { addresses, pods })
    }

    fn address(&self) -> IpAddr {
        self.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Its address of the family that another one has.
    fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().find(|address| address.is_ipv4() == other.is_ipv4()).copied()
    }

    /// The hardware address of its VXLAN device: locally administered, and unique since ranges are.
    fn hardware_address(&self) -> [u8; 6] {
        let first = self.pods.iter().min().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |range| range.network);
        let bits = self.pods.iter().min().map_or(0, |range| u32::from(range.bits));
        let [a, b, c, d] = match first {
            IpAddr::V4(address) => address.octets(),
            // What tells nodes apart is in the last bits of the prefix.
            IpAddr::V6(address) => {
                let prefix = address.to_bits().checked_shr(128 - bits).unwrap_or(0);
                let [.., a, b, c, d] = prefix.to_be_bytes();
                [a, b, c, d]
            }
        };
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
    Some(mtu.saturating_sub(overhead(node)))
}

/// What is wrong with the MTU that pods get, and what to do.
pub async fn mtu_problem(node: IpAddr, backend: Backend) -> Option<String> {
    let mtu = Network::open().ok()?.interface_of(node).await.ok()?.1;
    let left = if backend == Backend::Vxlan { mtu.saturating_sub(overhead(node)) } else { mtu };
    (left < SMALL_MTU).then(|| {
        format!(
            "the interface with {node} takes packets of {mtu} bytes only, which leaves pods {left}: raise its MTU to \
             {} or more, since IPv6 needs {SMALL_MTU}",
            SMALL_MTU + mtu - left
        )
    })
}

fn overhead(node: IpAddr) -> u32 {
    if node.is_ipv4() { OVERHEAD.0 } else { OVERHEAD.1 }
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
    nodes.known().await;
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.subscribe(move |change| {
        let peer = |node: &Option<Arc<NodeView>>| node.as_deref().and_then(Peer::of);
        if peer(&change.old) != peer(&change.new) {
            wake.notify_one();
        }
    });
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    let mut applied: Option<(Peer, BTreeMap<String, Peer>)> = None;
    loop {
        let mut wanted: BTreeMap<String, Peer> =
            nodes.list().iter().filter_map(|node| Some((node.metadata.name.clone(), Peer::of(node)?))).collect();
        let own = wanted.remove(&node_name);
        // This node's own address counts as well: the device sends from it.
        if let Some(wanted) = own.map(|own| (own, wanted)).filter(|wanted| applied.as_ref() != Some(wanted)) {
            match apply(&wanted.0, &wanted.1, backend).await {
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

/// Makes the kernel have exactly the ways to these peers. One that cannot be had does not keep others from being made.
async fn apply(own: &Peer, peers: &BTreeMap<String, Peer>, backend: Backend) -> Result<(), OverlayError> {
    let network = Network::open()?;
    let device = match backend {
        Backend::Vxlan => Some(network.device(own).await?),
        _ => {
            network.delete_device().await?;
            None
        }
    };
    let mut known = Vec::new();
    for route in network.own_routes().await? {
        // What another way has left would be taken for the way to the device's own addresses.
        if device.is_some() && output(&route) != device {
            network.delete_route(route).await?;
        } else {
            known.push(route);
        }
    }
    let mut result = Ok(());
    for (name, peer) in peers {
        let made = match device {
            Some(device) => network.through_device(device, own, name, peer).await,
            None => network.through_node(name, peer).await,
        };
        result = result.and(made);
    }
    for route in known {
        if !peers.values().flat_map(|peer| &peer.pods).any(|pods| destination(&route) == Some(*pods)) {
            network.delete_route(route).await?;
        }
    }
    if let Some(device) = device {
        network.forget_others(device, peers).await?;
    }
    result
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    let bits = route.header.destination_prefix_length;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(Cidr { network: (*address).into(), bits }),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(Cidr { network: (*address).into(), bits }),
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
    async fn device(&self, own: &Peer) -> Result<u32, OverlayError> {
        let address = own.address();
        let (uplink, mtu) = self.interface_of(address).await?;
        let mtu = mtu.saturating_sub(overhead(address));
        let present = match self.find_device().await? {
            Some(index) if self.is_current(index, own, mtu).await? => Some(index),
            Some(_) => {
                self.delete_device().await?;
                None
            }
            None => None,
        };
        let index = match present {
            Some(index) => index,
            None => self.make_device(own, uplink, mtu).await?,
        };
        for pods in &own.pods {
            let bits = if pods.network.is_ipv4() { 32 } else { 128 };
            let mut request = self.handle.address().add(index, pods.network, bits).replace();
            if pods.network.is_ipv6() {
                // Nobody else can have it, so there is no duplicate to wait for.
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await.map_err(refused("give the VXLAN device its address"))?;
        }
        let up = self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute();
        up.await.map_err(refused("switch the VXLAN device on"))?;
        Ok(index)
    }

    async fn make_device(&self, own: &Peer, uplink: u32, mtu: u32) -> Result<u32, OverlayError> {
        let device = LinkVxlan::new(DEVICE, VNI).dev(uplink).port(PORT).learning(false);
        let device = match own.address() {
            IpAddr::V4(address) => device.local(address),
            IpAddr::V6(address) => device.local6(address),
        };
        let message = device.address(own.hardware_address().to_vec()).mtu(mtu).up().build();
        let make = "make a VXLAN device (is the kernel module vxlan there? --flannel-backend=host-gw needs none)";
        self.handle.link().add(message).execute().await.map_err(refused(make))?;
        self.find_device().await?.ok_or(OverlayError::NoInterface(own.address()))
    }

    /// Whether the device was made for this node's address, range and MTU.
    async fn is_current(&self, index: u32, own: &Peer, wanted: u32) -> Result<bool, OverlayError> {
        use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkInfo};
        let mut links = self.handle.link().get().match_index(index).execute();
        let Some(link) = links.try_next().await.map_err(refused("show the VXLAN device"))? else { return Ok(false) };
        let has = |wanted: &dyn Fn(&LinkAttribute) -> bool| link.attributes.iter().any(wanted);
        let local = match own.address() {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        };
        let made_for = |info: &LinkInfo| matches!(info, LinkInfo::Data(InfoData::Vxlan(data)) if data.contains(&local));
        Ok(has(&|attribute| matches!(attribute, LinkAttribute::Address(found) if *found == own.hardware_address()))
            && has(&|attribute| matches!(attribute, LinkAttribute::Mtu(found) if *found == wanted))
            && has(&|attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(made_for))))
    }

    async fn through_device(&self, device: u32, own: &Peer, name: &str, peer: &Peer) -> Result<(), OverlayError> {
        let no_address = || OverlayError::NoAddress { peer: name.to_owned(), own: own.address() };
        let address = peer.address_like(own.address()).ok_or_else(no_address)?;
        let hardware = peer.hardware_address();
        let neighbours = self.handle.neighbours();
        let forwarding = neighbours.add_bridge(device, &hardware).destination(address);
        // The device's own table, not that of a bridge it might be part of.
        let forwarding = forwarding.flags(NeighbourFlags::Own).state(NeighbourState::Permanent).replace().execute();
        forwarding.await.map_err(refused("add a forwarding entry"))?;
        for pods in &peer.pods {
            let neighbour = neighbours.add(device, pods.network).link_layer_address(&hardware);
            let neighbour = neighbour.state(NeighbourState::Permanent).replace().execute();
            neighbour.await.map_err(refused("add a neighbour"))?;
            self.add_route(*pods, pods.network, Some(device)).await?;
        }
        Ok(())
    }

    async fn through_node(&self, name: &str, peer: &Peer) -> Result<(), OverlayError> {
        for pods in &peer.pods {
            let no_address = || OverlayError::NoAddress { peer: name.to_owned(), own: pods.network };
            let gateway = peer.address_like(pods.network).ok_or_else(no_address)?;
            self.add_route(*pods, gateway, None).await?;
        }
        Ok(())
    }

    /// A route to pods, through the device if there is one.
    async fn add_route(&self, pods: Cidr, gateway: IpAddr, device: Option<u32>) -> Result<(), OverlayError> {
        let route = match (pods.network, gateway) {
            (IpAddr::V4(to), IpAddr::V4(gateway)) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, pods.bits).gateway(gateway);
                let route = route.protocol(ORIGIN);
                device.map_or(route.clone(), |device| route.output_interface(device).onlink()).build()
            }
            (IpAddr::V6(to), IpAddr::V6(gateway)) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, pods.bits).gateway(gateway);
                let route = route.protocol(ORIGIN);
                device.map_or(route.clone(), |device| route.output_interface(device).onlink()).build()
            }
            // Both are of one family wherever this is called.
            _ => return Ok(()),
        };
        let what = match device {
            Some(_) => format!("route {pods} through the VXLAN device"),
            None => {
                format!("route {pods} through {gateway} (nodes in different segments need --flannel-backend=vxlan)")
            }
        };
        self.handle.route().add(route).replace().execute().await.map_err(refused(what))
    }

    async fn own_routes(&self) -> Result<Vec<RouteMessage>, OverlayError> {
        let (v4, v6) = (RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build());
        let mut own = Vec::new();
        for family in [v4, v6] {
            let all = self.handle.route().get(family).execute();
            let all: Vec<_> = all.try_collect().await.map_err(refused("list routes"))?;
            own.extend(all.into_iter().filter(|route| route.header.protocol == ORIGIN));
        }
        Ok(own)
    }

    async fn delete_route(&self, route: RouteMessage) -> Result<(), OverlayError> {
        self.handle.route().del(route).execute().await.map_err(refused("remove a route"))
    }

    /// Removes the device's entries for nodes that are gone.
    async fn forget_others(&self, device: u32, peers: &BTreeMap<String, Peer>) -> Result<(), OverlayError> {
        let all: Vec<NeighbourMessage> =
            self.handle.neighbours().get().execute().try_collect().await.map_err(refused("list neighbours"))?;
        let is_peer = |address: IpAddr| peers.values().flat_map(|peer| &peer.pods).any(|pods| pods.network == address);
        let known = |message: &NeighbourMessage| {
            message.attributes.iter().any(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => is_peer((*address).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => is_peer((*address).into()),
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
        assert_eq!(peer.address(), IpAddr::from([192, 0, 2, 3]));
        assert_eq!(peer.pods, [parse_cidr("10.42.3.0/24").unwrap()]);
        assert_eq!(peer.hardware_address(), [0x0a, 0x58, 10, 42, 3, 0]);
        assert_eq!(Peer::of(&NodeView::default()), None);
        let six = self::peer(&["2001:db8::3"], &["fd00:42:0:7::/64"]);
        assert_eq!(six.hardware_address(), [0x0a, 0x58, 0, 0, 0, 7]);
        assert_eq!(six.address_like(IpAddr::from([192, 0, 2, 3])), None);
    }

    fn peer(addresses: &[&str], pods: &[&str]) -> Peer {
        Peer {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pods: pods.iter().map(|text| parse_cidr(text).unwrap()).collect(),
        }
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

    /// In a network namespace of its own.
    #[test]
    fn the_kernel_has_what_the_nodes_say_and_nothing_is_left() {
        let alone = || {
            #[allow(deprecated, reason = "only file descriptors make it unsafe, and those are not unshared")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("these tests need root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::open().unwrap();
                let own = peer(&["192.0.2.1", "2001:db8::1"], &["10.42.0.0/24", "fd00:42::/64"]);
                let wire = rtnetlink::LinkVeth::new("uplink", "wire").up().build();
                network.handle.link().add(wire).execute().await.unwrap();
                let index = |name: &'static str| {
                    let mut links = network.handle.link().get().match_name(name.to_owned()).execute();
                    async move { links.try_next().await.unwrap().unwrap().header.index }
                };
                let (uplink, wire) = (index("uplink").await, index("wire").await);
                for index in [1, wire] {
                    let up = LinkUnspec::new_with_index(index).up().build();
                    network.handle.link().set(up).execute().await.unwrap();
                }
                for (address, bits) in own.addresses.iter().zip([24, 64]) {
                    let mut request = network.handle.address().add(uplink, *address, bits);
                    request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                    request.execute().await.unwrap();
                }
                let mut peers = BTreeMap::from([
                    ("b".to_owned(), peer(&["192.0.2.2", "2001:db8::2"], &["10.42.1.0/24", "fd00:42:0:1::/64"])),
                    ("c".to_owned(), peer(&["192.0.2.3"], &["10.42.2.0/24"])),
                ]);
                for backend in [Backend::Vxlan, Backend::HostGateway, Backend::Vxlan] {
                    apply(&own, &peers, backend).await.unwrap();
                    apply(&own, &peers, backend).await.unwrap();
                    assert_eq!(routes().await, ["10.42.1.0/24", "10.42.2.0/24", "fd00:42:0:1::/64"]);
                    assert_eq!(network.find_device().await.unwrap().is_some(), backend == Backend::Vxlan);
                }
                peers.remove("b");
                apply(&own, &peers, Backend::Vxlan).await.unwrap();
                assert_eq!(routes().await, ["10.42.2.0/24"]);
                // Over IPv6; one that has no such address does not keep the others from being reached.
                let six = peer(&["2001:db8::1"], &["fd00:42::/64"]);
                peers.insert("d".to_owned(), peer(&["2001:db8::4"], &["fd00:42:0:4::/64"]));
                let missing = apply(&six, &peers, Backend::Vxlan).await.unwrap_err();
                assert_eq!(
                    missing.to_string(),
                    "node c has no address of the family of 2001:db8::1: give both nodes one with --node-ip"
                );
                assert!(routes().await.contains(&"fd00:42:0:4::/64".to_owned()));
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
