//! The servers of a cluster, any of which will do: which one is used, and where to go when it is away.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Servers that are known at the same time; a cluster has three or five.
const MAX_SERVERS: usize = 16;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Server {
    /// Reads `https://HOST:PORT` or `HOST:PORT`.
    pub fn parse(text: &str) -> Option<Self> {
        let authority: http::uri::Authority =
            text.trim().trim_start_matches("https://").trim_end_matches('/').parse().ok()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        (!host.is_empty()).then(|| Self { host, port: authority.port_u16().unwrap_or(443) })
    }

    /// A server at an address.
    pub fn at(address: IpAddr, port: u16) -> Self {
        Self { host: address.to_string(), port }
    }
}

/// What all connections of one process to its cluster share.
#[derive(Debug)]
pub struct Servers {
    /// Leaf lock. The first is the one in use.
    order: Mutex<Vec<Server>>,
    known: watch::Sender<Arc<[Server]>>,
}

impl Servers {
    /// Knows these, the first of which is tried first.
    pub fn new(servers: Vec<Server>) -> Self {
        let known = watch::Sender::new(Arc::from(servers.as_slice()));
        Self { order: Mutex::new(servers), known }
    }

    /// All that are known, as they were given, and each change of them.
    pub fn known(&self) -> watch::Receiver<Arc<[Server]>> {
        self.known.subscribe()
    }

    /// These are the servers from now on. The one in use stays so if it is among them; nothing is changed by none.
    pub fn replace(&self, mut servers: Vec<Server>) {
        servers.truncate(MAX_SERVERS);
        if servers.is_empty() {
            return;
        }
        let changed = self.known.send_if_modified(|known| {
            let changed = **known != *servers;
            if changed {
                *known = Arc::from(servers.as_slice());
            }
            changed
        });
        if !changed {
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let used = order.first().cloned();
        // The others in an order of each machine's own, so that not all of them go to the same one.
        let start = rand::random_range(0..servers.len());
        servers.rotate_left(start);
        if let Some(at) = used.and_then(|used| servers.iter().position(|server| *server == used)) {
            let used = servers.remove(at);
            servers.insert(0, used);
        }
        *order = servers;
    }

    /// The servers in the order in which they are to be tried.
    pub(super) fn order(&self) -> Vec<Server> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody answers there: it is tried last.
    pub(super) fn failed(&self, server: &Server) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = order.iter().position(|other| other == server) {
            let last = order.remove(at);
            order.push(last);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        Server::parse(text).unwrap()
    }

    #[test]
    fn servers_are_read_as_people_write_them() {
        assert_eq!(server("https://a.example:6443"), Server { host: "a.example".into(), port: 6443 });
        assert_eq!(server("https://[2001:db8::1]:6443/").to_string(), "[2001:db8::1]:6443");
        assert_eq!(server("10.0.0.1").to_string(), "10.0.0.1:443");
        assert_eq!(Server::parse("https://"), None);
    }

    #[test]
    fn the_one_in_use_stays_first_until_it_fails() {
        let [a, b, c] = ["a:1", "b:1", "c:1"].map(server);
        let servers = Servers::new(vec![b.clone()]);
        let mut known = servers.known();
        known.mark_unchanged();
        servers.replace(vec![a.clone(), b.clone(), c.clone()]);
        assert!(known.has_changed().unwrap());
        assert_eq!(servers.order()[0], b);
        servers.failed(&b);
        assert_eq!(servers.order().len(), 3);
        assert_eq!(servers.order()[2], b);
        let order = servers.order();
        servers.replace(vec![a.clone(), b, c]);
        assert_eq!(servers.order(), order, "the same again changes nothing");
        servers.replace(Vec::new());
        assert_eq!(servers.order(), order, "a cluster without servers is none");
        servers.replace(vec![a.clone()]);
        assert_eq!(servers.order(), [a]);
    }
}
