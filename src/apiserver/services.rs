//! Cluster addresses and node ports of Services. What is taken is worked out from the cache at start
//! and kept in memory: this server is the only one that hands them out.

use crate::cache::Cache;
use crate::config::{Config, StartError};
use naru_api::registry;
use naru_api::status::{FieldErrors, Status};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// Hands out addresses and ports.
#[derive(Debug)]
pub(crate) struct ServiceAllocator {
    network: u32,
    size: u32,
    ports: RangeInclusive<u16>,
    cidr: String,
    /// Leaf lock, never held across an await.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<u32>,
    /// Protocol and port: TCP and UDP may share a number.
    ports: HashSet<(String, u16)>,
}

/// What was taken for one write; given back unless the write succeeds.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    allocator: &'a ServiceAllocator,
    addresses: Vec<u32>,
    ports: Vec<(String, u16)>,
}

impl Reservation<'_> {
    /// Keeps what was taken.
    pub(crate) fn commit(mut self) {
        self.addresses.clear();
        self.ports.clear();
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut taken = self.allocator.lock();
        for address in &self.addresses {
            taken.addresses.remove(address);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

impl ServiceAllocator {
    /// Reads the range and takes what existing Services have.
    pub(crate) fn new(config: &Config, cache: &Cache) -> Result<Self, StartError> {
        let (network, size) = parse_cidr(&config.service_cidr).ok_or_else(|| StartError::Config {
            what: "service cidr",
            reason: format!("{:?} is not an IPv4 network such as 10.43.0.0/16", config.service_cidr),
        })?;
        let allocator = Self {
            network,
            size,
            ports: config.node_ports.clone(),
            cidr: config.service_cidr.clone(),
            taken: Mutex::default(),
        };
        for service in cache.objects(&registry::SERVICES) {
            if let Ok(service) = serde_json::from_slice::<Value>(&service.json()) {
                allocator.take_existing(&service);
            }
        }
        Ok(allocator)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_existing(&self, service: &Value) {
        let mut taken = self.lock();
        taken.addresses.extend(addresses(service));
        taken.ports.extend(node_ports(service));
    }

    /// Gives back what a deleted Service had.
    pub(crate) fn release(&self, service: &Value) {
        let mut taken = self.lock();
        for address in addresses(service) {
            taken.addresses.remove(&address);
        }
        for port in node_ports(service) {
            taken.ports.remove(&port);
        }
    }

    /// After an update: gives back what the new Service no longer has.
    pub(crate) fn release_difference(&self, old: &Value, new: &Value) {
        let kept: HashSet<u32> = addresses(new).collect();
        let kept_ports: HashSet<(String, u16)> = node_ports(new).collect();
        let mut taken = self.lock();
        for address in addresses(old).filter(|address| !kept.contains(address)) {
            taken.addresses.remove(&address);
        }
        for port in node_ports(old).filter(|port| !kept_ports.contains(port)) {
            taken.ports.remove(&port);
        }
    }

    /// The first address of the range: the `kubernetes` Service's.
    pub(crate) fn first_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    /// Fills in addresses and ports of a new or changed Service. `old` is its state before an update.
    pub(crate) fn reserve<'a>(
        &'a self,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation<'a>, Box<Status>> {
        let mut reservation = Reservation { allocator: self, addresses: Vec::new(), ports: Vec::new() };
        let mut errors = FieldErrors::default();
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            if let Some(spec) = service["spec"].as_object_mut() {
                // What another type had goes with it.
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
                    spec.remove(field);
                }
            }
        } else {
            self.reserve_address(service, old, &mut reservation, &mut errors);
        }
        let wants_ports = kind == "NodePort"
            || (kind == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true));
        self.reserve_ports(service, old, wants_ports, kind == "LoadBalancer", &mut reservation, &mut errors);
        if errors.is_empty() {
            Ok(reservation)
        } else {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            Err(Box::new(Status::invalid("", "Service", name, errors)))
        }
    }

    fn reserve_address(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        reservation: &mut Reservation<'_>,
        errors: &mut FieldErrors,
    ) {
        let held = old.and_then(|old| old["spec"]["clusterIP"].as_str()).unwrap_or_default();
        let mut wanted = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if wanted.is_empty() {
            wanted = service["spec"]["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        }
        if wanted.is_empty() {
            held.clone_into(&mut wanted);
        }
        if wanted != "None" && (wanted.is_empty() || wanted != held) {
            match self.take_address(&wanted) {
                Ok(address) => {
                    reservation.addresses.push(address);
                    wanted = Ipv4Addr::from(address).to_string();
                }
                Err(why) => return errors.invalid("spec.clusterIPs", json!([wanted]), &why),
            }
        }
        let spec = &mut service["spec"];
        spec["clusterIPs"] = json!([wanted]);
        spec["clusterIP"] = wanted.into();
        if !spec["ipFamilies"].is_array() {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if !spec["ipFamilyPolicy"].is_string() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
    }

    /// Takes this address, or any when none is wanted.
    fn take_address(&self, wanted: &str) -> Result<u32, String> {
        let mut taken = self.lock();
        if !wanted.is_empty() {
            let address = u32::from(wanted.parse::<Ipv4Addr>().map_err(|_| "must be a valid IP address".to_owned())?);
            let offset = address.wrapping_sub(self.network);
            if offset == 0 || offset >= self.size - 1 {
                return Err(format!(
                    "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {}",
                    self.cidr
                ));
            }
            if !taken.addresses.insert(address) {
                return Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"));
            }
            return Ok(address);
        }
        // Low addresses are left to those who ask for one, as long as there are others.
        let usable = self.size.saturating_sub(2);
        let reserved = (usable / 16).clamp(16, 256).min(usable);
        let start = rand::random_range(0..usable.max(1));
        let ordered = (0..usable).map(|step| 1 + (start + step) % usable);
        let free = |taken: &Taken, offset: u32| !taken.addresses.contains(&(self.network + offset));
        let offset = ordered
            .clone()
            .find(|&offset| offset > reserved && free(&taken, offset))
            .or_else(|| ordered.clone().find(|&offset| free(&taken, offset)))
            .ok_or_else(|| "failed to allocate a serviceIP: range is full".to_owned())?;
        taken.addresses.insert(self.network + offset);
        Ok(self.network + offset)
    }

    fn reserve_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        wants: bool,
        may_have: bool,
        reservation: &mut Reservation<'_>,
        errors: &mut FieldErrors,
    ) {
        let held: HashSet<(String, u16)> = old.into_iter().flat_map(node_ports).collect();
        let old_ports = old.and_then(|old| old["spec"]["ports"].as_array()).cloned().unwrap_or_default();
        let Some(ports) = service["spec"]["ports"].as_array_mut() else { return };
        // The same number may serve TCP and UDP of one Service.
        let mut own: HashSet<(String, u16)> = HashSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let wanted = port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if wanted == 0 && !wants {
                continue;
            }
            if !wants && !may_have {
                // Left over from another type.
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
                continue;
            }
            let wanted = if wanted == 0 { held_port(&old_ports, port) } else { wanted };
            if wanted != 0 && held.contains(&(protocol.clone(), wanted)) {
                port["nodePort"] = wanted.into();
                own.insert((protocol, wanted));
                continue;
            }
            match self.take_port(&protocol, wanted) {
                Ok(number) => {
                    port["nodePort"] = number.into();
                    own.insert((protocol.clone(), number));
                    reservation.ports.push((protocol, number));
                }
                Err(why) => errors.invalid(format!("spec.ports[{index}].nodePort"), i64::from(wanted), &why),
            }
        }
    }

    fn take_port(&self, protocol: &str, wanted: u16) -> Result<u16, String> {
        let mut taken = self.lock();
        if wanted != 0 {
            if !self.ports.contains(&wanted) {
                return Err(format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.ports.start(),
                    self.ports.end()
                ));
            }
            if !taken.ports.insert((protocol.to_owned(), wanted)) {
                return Err("provided port is already allocated".to_owned());
            }
            return Ok(wanted);
        }
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let count = last - first + 1;
        let start = rand::random_range(0..count);
        for step in 0..count {
            let port = first + (start + step) % count;
            // A number that no protocol has is the least surprising.
            let free = ["TCP", "UDP", "SCTP"].iter().all(|p| !taken.ports.contains(&((*p).to_owned(), port)));
            if free {
                taken.ports.insert((protocol.to_owned(), port));
                return Ok(port);
            }
        }
        Err("failed to allocate a nodePort: range is full".to_owned())
    }
}

/// The port that the same entry had before, found by name, else by number and protocol.
fn held_port(old_ports: &[Value], port: &Value) -> u16 {
    old_ports
        .iter()
        .find(|old| old["protocol"] == port["protocol"] && old["port"] == port["port"] && old["name"] == port["name"])
        .and_then(|old| old["nodePort"].as_u64())
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(0)
}

fn addresses(service: &Value) -> impl Iterator<Item = u32> + '_ {
    service["spec"]["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse::<Ipv4Addr>().ok())
        .map(u32::from)
}

fn node_ports(service: &Value) -> impl Iterator<Item = (String, u16)> + '_ {
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let number = u16::try_from(port["nodePort"].as_u64()?).ok()?;
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        (number != 0).then_some((protocol, number))
    })
}

/// Network address and size.
fn parse_cidr(cidr: &str) -> Option<(u32, u32)> {
    let (address, bits) = cidr.split_once('/')?;
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    let bits: u32 = bits.parse().ok()?;
    if !(8..=30).contains(&bits) {
        return None;
    }
    let size = 1_u32 << (32 - bits);
    Some((address & !(size - 1), size))
}
