//! Search lists, gone through here: a pod that looks for `www.example.org` asks for it in its namespace first, then in
//! every other domain of its list, and last for the name itself. Who asks is known by the address, so the first of
//! these questions is answered with what the last one would be; the others are never asked, nor sent to the network.

use hickory_proto::rr::Name;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// The namespaces of this node's pods whose resolv.conf is the usual one, by the pods' addresses.
pub type Namespaces = watch::Receiver<Arc<BTreeMap<IpAddr, String>>>;

/// Goes through clients' search lists.
#[derive(Debug)]
pub(super) struct Search {
    namespaces: Namespaces,
    /// `svc.` and the cluster's domain.
    services: Option<Name>,
    apex: Name,
}

impl Search {
    pub(super) fn new(namespaces: Namespaces, apex: &Name) -> Self {
        let services = Name::from_ascii("svc").ok().and_then(|svc| svc.append_domain(apex).ok());
        Self { namespaces, services, apex: apex.clone() }
    }

    /// What this client will ask next, and after that, when it learns that there is no such name; `searches` tells the
    /// domains of the node. Nothing if the name is not the first of a search.
    pub(super) fn after(&self, name: &Name, client: IpAddr, searches: impl FnOnce() -> Arc<Vec<Name>>) -> Vec<Name> {
        let Some(sought) = self.sought(name, client) else { return Vec::new() };
        let searches = searches();
        let domains = self.services.iter().chain([&self.apex]).chain(searches.iter());
        let mut names: Vec<Name> = domains.filter_map(|domain| sought.clone().append_domain(domain).ok()).collect();
        let mut itself = sought;
        itself.set_fqdn(true);
        names.push(itself);
        names
    }

    /// What the client looks for in its namespace.
    fn sought(&self, name: &Name, client: IpAddr) -> Option<Name> {
        let namespace = self.namespaces.borrow().get(&client)?.clone();
        let first = Name::from_ascii(namespace).ok()?.append_domain(self.services.as_ref()?).ok()?;
        let extra = usize::from(name.num_labels().checked_sub(first.num_labels())?);
        if extra == 0 || !first.zone_of(name) {
            return None;
        }
        Name::from_labels(name.iter().take(extra).map(<[u8]>::to_vec)).ok().map(|mut sought| {
            sought.set_fqdn(false);
            sought
        })
    }
}
