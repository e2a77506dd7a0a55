//! The default pod network: a routed veth for each pod, addresses from the node's range.
//!
//! The pod has its address with a full-length prefix and a default route through a link-local address
//! that exists nowhere; neighbours are permanent on both sides, so nobody ever asks for one. The host
//! has a route for each pod's address. There is no bridge, so bridge filtering cannot get in the way.

use crate::cache::{Attached, Cache};
use crate::ipam::{HostLocal, Range};
use crate::netlink::Netlink;
use crate::types::{CniResult, Interface, IpConfig, Route};
use crate::{CniError, sysctl};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

/// What the names of the pods' interfaces on the host start with.
pub const HOST_INTERFACE_PREFIX: &str = "naru";

const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The same for every host side: each is alone on its link with its pod.
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const DEFAULT_MTU: u32 = 1500;
const VERSION: &str = "1.1.0";

/// The pod network of this node.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the network; leases and results are kept by it.
    pub name: String,
    /// Where leases and results are kept, such as `DATA_DIR/agent/cni`.
    pub state_dir: PathBuf,
    /// The node's ranges as CIDRs (one for each address family).
    pub pod_cidrs: Vec<String>,
    /// MTU of the pods' interfaces; that of the host's default route unless given.
    pub mtu: Option<u32>,
}

/// One pod's attachment to the network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The sandbox's id.
    pub container_id: String,
    /// File of the pod's network namespace.
    pub netns: PathBuf,
    /// Name of the interface in the pod, `eth0`.
    pub ifname: String,
}

/// The pod network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ipam: HostLocal,
    cache: Cache,
    mtu: Option<u32>,
}

impl Network {
    /// Checks the configuration and sets what the kernel needs to route for pods.
    pub async fn open(config: NetworkConfig) -> Result<Self, CniError> {
        let ranges = config.pod_cidrs.iter().map(|cidr| Range::parse(cidr)).collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(CniError::Config("no pod CIDR".to_owned()));
        }
        let v6 = ranges.iter().any(Range::is_ipv6);
        let state = config.state_dir.join(&config.name);
        let inner = Inner {
            ipam: HostLocal::open(&state.join("leases"), ranges)?,
            cache: Cache::open(&state.join("results"))?,
            mtu: config.mtu,
        };
        sysctl::set("net/ipv4/ip_forward", "1")?;
        if v6 {
            sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Attaches a pod: loopback up, veth, address, routes. Repeating it for the same pod gives the same result.
    pub async fn add(&self, attachment: &Attachment) -> Result<CniResult, CniError> {
        check_names(attachment)?;
        if let Some(attached) = self.inner.cache.get(&attachment.container_id, &attachment.ifname) {
            if let Some(result) = attached.result
                && self.check(attachment).await.is_ok()
            {
                return Ok(result);
            }
            self.del(attachment).await?;
        }
        let host_name = host_name(attachment);
        // Before anything exists, so that a crash from here on leaves nothing unknown.
        let mut attached = Attached { attachment: attachment.into(), host_interface: host_name.clone(), result: None };
        self.inner.cache.put(&attached)?;
        let addresses = self.inner.ipam.allocate(&attachment.container_id, &attachment.ifname)?;
        let result = match self.connect(attachment, &host_name, &addresses).await {
            Ok(result) => result,
            Err(error) => {
                // The first error is the one that says what is wrong.
                if let Err(second) = self.del(attachment).await {
                    tracing::warn!(error = %second, "could not clean up after a failed attachment");
                }
                return Err(error);
            }
        };
        attached.result = Some(result.clone());
        self.inner.cache.put(&attached)?;
        Ok(result)
    }

    async fn connect(
        &self,
        attachment: &Attachment,
        host_name: &str,
        addresses: &[IpAddr],
    ) -> Result<CniResult, CniError> {
        let host = Netlink::here()?;
        let pod = Netlink::inside(&attachment.netns).await?;
        let mtu = match self.inner.mtu {
            Some(mtu) => mtu,
            None => host.default_route_mtu().await?.unwrap_or(DEFAULT_MTU),
        };
        let pod_mac = mac(&attachment.container_id, &attachment.ifname);
        pod.up("lo").await?;
        // What a crash left under this name belongs to this pod.
        host.delete(host_name).await?;
        pod.add_veth(&attachment.ifname, pod_mac, host_name, HOST_MAC, mtu).await?;
        let (inside, outside) = (pod.index(&attachment.ifname).await?, host.index(host_name).await?);
        self.tune_host_interface(host_name, addresses);
        host.up(host_name).await?;
        for &address in addresses {
            let gateway = gateway(address);
            pod.add_address(inside, address).await?;
            pod.add_neighbour(inside, gateway, HOST_MAC).await?;
            if address.is_ipv4() {
                pod.add_route(inside, gateway, full_prefix(gateway), None).await?;
            }
            pod.add_route(inside, unspecified(address), 0, Some(gateway)).await?;
            host.add_neighbour(outside, address, pod_mac).await?;
            host.add_route(outside, address, full_prefix(address), None).await?;
        }
        let sandbox = attachment.netns.display().to_string();
        Ok(CniResult {
            cni_version: VERSION.to_owned(),
            interfaces: vec![
                Interface {
                    name: host_name.to_owned(),
                    mac: mac_text(HOST_MAC),
                    mtu: Some(mtu),
                    sandbox: String::new(),
                },
                Interface { name: attachment.ifname.clone(), mac: mac_text(pod_mac), mtu: Some(mtu), sandbox },
            ],
            ips: addresses.iter().map(|&address| ip_config(address)).collect(),
            routes: addresses.iter().map(|&address| default_route(address)).collect(),
            dns: serde_json::Map::new(),
        })
    }

    fn tune_host_interface(&self, name: &str, addresses: &[IpAddr]) {
        let v4 = |key: &str, value: &str| sysctl::prefer(&format!("net/ipv4/conf/{name}/{key}"), value);
        // Loose: what a pod sends may come back another way. The pod's own address is checked by policy.
        v4("rp_filter", "2");
        v4("send_redirects", "0");
        // No address of its own, and no router advertisements to pods that have no use for them.
        if !addresses.iter().any(IpAddr::is_ipv6) && sysctl::exists("net/ipv6") {
            sysctl::prefer(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
    }

    /// Detaches a pod and frees its addresses. Idempotent, and content with a namespace that is gone.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        check_names(attachment)?;
        // Either end of the pair takes the other one and all routes with it.
        Netlink::here()?.delete(&host_name(attachment)).await?;
        self.inner.ipam.release(&attachment.container_id, &attachment.ifname)?;
        self.inner.cache.remove(&attachment.container_id, &attachment.ifname)
    }

    /// Checks that everything `add` made is still there.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        check_names(attachment)?;
        let (id, ifname) = (&attachment.container_id, &attachment.ifname);
        let recorded = self.inner.cache.get(id, ifname).and_then(|attached| attached.result);
        let recorded = recorded.ok_or_else(|| CniError::Check(format!("{id} is not attached")))?;
        let host = Netlink::here()?;
        let pod = Netlink::inside(&attachment.netns).await?;
        let outside = host.index(&host_name(attachment)).await?;
        let inside = pod.index(ifname).await?;
        let present = pod.addresses(inside).await?;
        let routed = host.routed_addresses(outside).await?;
        for address in recorded.addresses() {
            if !present.contains(&address) {
                return Err(CniError::Check(format!("{ifname} does not have the address {address}")));
            }
            if !routed.contains(&address) {
                return Err(CniError::Check(format!("the host has no route to {address}")));
            }
        }
        Ok(())
    }

    /// The addresses a pod was given, also after a restart.
    pub fn result(&self, container_id: &str, ifname: &str) -> Option<CniResult> {
        self.inner.cache.get(container_id, ifname)?.result
    }

    /// Detaches every pod whose sandbox id is not in `keep`: what a crash or a reboot left.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<(), CniError> {
        for attached in self.inner.cache.list()? {
            let attachment = Attachment::from(&attached.attachment);
            if !keep.contains(&attachment.container_id) {
                self.del(&attachment).await?;
            }
        }
        self.inner.ipam.retain(keep)
    }
}

fn check_names(attachment: &Attachment) -> Result<(), CniError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let id = &attachment.container_id;
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(fine) {
        return Err(CniError::Config(format!("invalid container id {id:?}")));
    }
    let name = &attachment.ifname;
    if name.is_empty() || name.len() > 15 || matches!(name.as_str(), "." | "..") || !name.bytes().all(fine) {
        return Err(CniError::Config(format!("invalid interface name {name:?}")));
    }
    Ok(())
}

/// FNV-1a: names and hardware addresses need spreading, not secrecy.
fn hash(text: &str, salt: &str) -> u64 {
    let bytes = text.bytes().chain([0]).chain(salt.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Kernel names have at most 15 characters.
fn host_name(attachment: &Attachment) -> String {
    let hash = hash(&attachment.container_id, &attachment.ifname) & 0xfff_ffff_ffff;
    format!("{HOST_INTERFACE_PREFIX}{hash:011x}")
}

/// Locally administered, and the same whenever the same pod is attached.
fn mac(container_id: &str, ifname: &str) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = hash(ifname, container_id).to_be_bytes();
    [(a & 0xfc) | 0x02, b, c, d, e, f]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

fn unspecified(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn ip_config(address: IpAddr) -> IpConfig {
    IpConfig {
        interface: Some(1),
        address: format!("{address}/{}", full_prefix(address)),
        gateway: Some(gateway(address)),
    }
}

fn default_route(address: IpAddr) -> Route {
    Route { dst: format!("{}/0", unspecified(address)), gw: Some(gateway(address)) }
}

#[cfg(test)]
mod tests;
