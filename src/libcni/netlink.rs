//! Links, addresses, routes and neighbours of one network namespace.

use crate::CniError;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use tokio::sync::oneshot;

/// A connection to the kernel in one network namespace.
pub(crate) struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn failed(action: impl Into<String>) -> impl FnOnce(Error) -> CniError {
    let action = action.into();
    move |error| CniError::Netlink { action, reason: reason(&error) }
}

fn reason(error: &Error) -> String {
    match error {
        Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

fn is(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -errno)
}

impl Netlink {
    /// In the namespace of this process.
    pub(crate) fn here() -> Result<Self, CniError> {
        Self::connect()
            .map_err(|error| CniError::Netlink { action: "open netlink".to_owned(), reason: error.to_string() })
    }

    fn connect() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: naru_base::spawn("netlink", connection) })
    }

    /// In the namespace of a file. A socket belongs to the namespace it was opened in, so only a short-lived
    /// thread has to go there.
    pub(crate) async fn inside(netns: &Path) -> Result<Self, CniError> {
        let failed = |source| CniError::Netns { path: netns.to_owned(), source };
        let file = File::open(netns).map_err(failed)?;
        let runtime = tokio::runtime::Handle::current();
        let (sender, receiver) = oneshot::channel();
        let open = move || {
            let _runtime = runtime.enter();
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            let moved = rustix::thread::move_into_link_name_space(file.as_fd(), network);
            let _ = sender.send(moved.map_err(std::io::Error::from).and_then(|()| Self::connect()));
        };
        std::thread::Builder::new().name("netns".to_owned()).spawn(open).map_err(failed)?;
        receiver.await.map_err(|_| failed(std::io::Error::other("the thread died")))?.map_err(failed)
    }

    async fn find(&self, name: &str) -> Result<Option<rtnetlink::packet_route::link::LinkMessage>, Error> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            result => result,
        }
    }

    /// The index of an interface.
    pub(crate) async fn index(&self, name: &str) -> Result<u32, CniError> {
        let action = || format!("find the interface {name}");
        let found = self.find(name).await.map_err(failed(action()))?;
        let missing = || CniError::Netlink { action: action(), reason: "it does not exist".to_owned() };
        Ok(found.ok_or_else(missing)?.header.index)
    }

    pub(crate) async fn up(&self, name: &str) -> Result<(), CniError> {
        let index = self.index(name).await?;
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
        self.handle.link().change(message).execute().await.map_err(failed(format!("set {name} up")))
    }

    /// Deletes an interface if it exists.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), CniError> {
        let action = || format!("delete the interface {name}");
        let Some(link) = self.find(name).await.map_err(failed(action()))? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            // Its namespace died meanwhile.
            Err(error) if is(&error, libc::ENODEV) => Ok(()),
            result => result.map_err(failed(action())),
        }
    }

    /// A pair with one end here and the other in the namespace of this process, which is
    /// still down: the kernel refuses to raise it before it knows the pair. Made in place:
    /// moving an interface between namespaces takes the kernel many milliseconds.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        mac: [u8; 6],
        host_name: &str,
        host_mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), CniError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let host = File::open(path).map_err(CniError::io("open", path))?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(host_name)
            .address(host_mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(host.as_raw_fd())
            .build();
        let message = LinkVeth::new(name, host_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(mac.to_vec())
            .mtu(mtu)
            .up()
            .build();
        let action = format!("create {name} in the pod and {host_name} on the host");
        self.handle.link().add(message).execute().await.map_err(failed(action))
    }

    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), CniError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, prefix).replace();
        if address.is_ipv6() {
            // Nobody else is on the link, so there is no duplicate to wait for.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(failed(format!("add the address {address}")))
    }

    pub(crate) async fn add_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), CniError> {
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac).replace();
        request.execute().await.map_err(failed(format!("add the neighbour {address}")))
    }

    /// A route to a network, through a gateway or straight to the link.
    pub(crate) async fn add_route(
        &self,
        index: u32,
        to: IpAddr,
        prefix: u8,
        via: Option<IpAddr>,
    ) -> Result<(), CniError> {
        let action = || format!("add the route to {to}/{prefix}");
        let build = |reason: String| CniError::Netlink { action: action(), reason };
        let mut builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index);
        builder = builder.destination_prefix(to, prefix).map_err(|error| build(format!("{error:?}")))?;
        builder = match via {
            Some(gateway) => builder.gateway(gateway).map_err(|error| build(format!("{error:?}")))?.onlink(),
            None => builder.scope(RouteScope::Link),
        };
        self.handle.route().add(builder.build()).replace().execute().await.map_err(failed(action()))
    }

    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, CniError> {
        let mut messages = self.handle.address().get().set_link_index_filter(index).execute();
        let mut found = Vec::new();
        while let Some(message) = messages.try_next().await.map_err(failed("list addresses"))? {
            found.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// The single addresses that are routed to an interface.
    pub(crate) async fn routed_addresses(&self, index: u32) -> Result<Vec<IpAddr>, CniError> {
        let mut found = Vec::new();
        for message in self.routes().await? {
            let to_link = message.attributes.contains(&RouteAttribute::Oif(index));
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                _ => None,
            });
            found.extend(address.filter(|_| to_link));
        }
        Ok(found)
    }

    async fn routes(&self) -> Result<Vec<rtnetlink::packet_route::route::RouteMessage>, CniError> {
        let mut all = Vec::new();
        for filter in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut messages = self.handle.route().get(filter).execute();
            while let Some(message) = messages.try_next().await.map_err(failed("list routes"))? {
                all.push(message);
            }
        }
        Ok(all)
    }

    /// The MTU of the interface that the default route leads to.
    pub(crate) async fn default_route_mtu(&self) -> Result<Option<u32>, CniError> {
        let routes = self.routes().await?;
        let default = routes.iter().find(|route| {
            route.header.destination_prefix_length == 0
                && route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)))
        });
        let index = default.and_then(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        });
        let Some(index) = index else { return Ok(None) };
        let link = self.handle.link().get().match_index(index).execute().try_next().await;
        let link = link.map_err(failed("look at the default route's interface"))?;
        Ok(link.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        }))
    }
}
