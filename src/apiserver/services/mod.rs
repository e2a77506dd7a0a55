//! Cluster addresses and node ports of Services: reserved before a write is validated, kept when it succeeds.

mod addresses;
mod ports;
mod repair;

pub(crate) use repair::repair;

use crate::cache::Cache;
use crate::config::{Config, StartError};
use crate::objects::Put;
use crate::pipeline::State;
use crate::response::Failure;
use addresses::{Addresses, Why};
use naru_api::address::{Cidr, parse_cidr};
use naru_api::core::service::{families, needs_health_port, needs_node_port};
use naru_api::meta;
use naru_api::registry::{self, Resource};
use naru_api::status::{FieldErrors, Status};
use ports::{PortError, Ports};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Hands out addresses and ports.
#[derive(Debug)]
pub(crate) struct ServiceAllocator {
    /// The ranges that the server was started with, the cluster's own family first.
    configured: Vec<Cidr>,
    addresses: Addresses,
    ports: Ports,
}

/// What was taken for one write; given back unless the write succeeds.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    allocator: &'a ServiceAllocator,
    addresses: Vec<IpAddr>,
    /// Those that have an IPAddress object by now.
    written: Vec<IpAddr>,
    ports: Vec<u16>,
    dry_run: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.allocator.addresses.forget(&self.addresses);
        self.allocator.ports.give_back(&self.ports);
    }
}

impl ServiceAllocator {
    /// Reads the ranges and takes the ports that existing Services have.
    pub(crate) fn new(config: &Config, cache: &Cache) -> Result<Self, StartError> {
        let configured =
            configured(&config.service_cidr).map_err(|reason| StartError::Config { what: "service cidr", reason })?;
        let ports = Ports::new(config.node_ports.clone());
        for service in cache.objects(&registry::SERVICES) {
            if let Ok(service) = serde_json::from_slice::<Value>(&service.json()) {
                ports.take_all(held_ports(&service));
            }
        }
        Ok(Self { configured, addresses: Addresses::default(), ports })
    }

    /// The families of the ranges that the server was started with.
    fn families(&self) -> Vec<&'static str> {
        self.configured.iter().map(|range| family(range.network)).collect()
    }

    /// The ranges that the server was started with, as a ServiceCIDR names them.
    pub(crate) fn ranges(&self) -> Vec<String> {
        self.configured.iter().map(Cidr::to_string).collect()
    }

    /// The first address of the first range: the `kubernetes` Service's.
    pub(crate) fn first_address(&self) -> IpAddr {
        addresses::bounds(self.configured[0]).0
    }
}

/// One range, or one of each family.
fn configured(text: &str) -> Result<Vec<Cidr>, String> {
    let mut ranges: Vec<Cidr> = Vec::new();
    for part in text.split(',') {
        let range = parse_cidr(part.trim()).ok_or_else(|| format!("{part:?} is no range such as 10.43.0.0/16"))?;
        let usable = if range.network.is_ipv4() { 8..=30 } else { 64..=126 };
        if !usable.contains(&range.bits) {
            return Err(format!("{part:?}: prefixes from {} to {} can be used", usable.start(), usable.end()));
        }
        ranges.push(range);
    }
    match ranges.as_slice() {
        [_] => Ok(ranges),
        [a, b] if a.network.is_ipv4() != b.network.is_ipv4() => Ok(ranges),
        _ => Err(format!("{text:?} is neither one range nor one of each family")),
    }
}

pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Completes a new or changed Service with its families, addresses and ports. `old` is its state before
/// an update. Nothing is done for other resources.
pub(crate) fn reserve<'a>(
    state: &'a State,
    resource: &Resource,
    service: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Option<Reservation<'a>>, Failure> {
    if !std::ptr::eq(resource, &registry::SERVICES) {
        return Ok(None);
    }
    let allocator = &state.services;
    let errors = families::complete(service, old, &allocator.families());
    refuse(service, errors)?;
    let mut reservation =
        Reservation { allocator, addresses: Vec::new(), written: Vec::new(), ports: Vec::new(), dry_run };
    reservation.take_addresses(&state.cache, service, old)?;
    match old {
        None => reservation.new_node_ports(service)?,
        Some(old) => reservation.changed_node_ports(service, old)?,
    }
    reservation.health_port(service, old)?;
    Ok(Some(reservation))
}

fn refuse(service: &Value, errors: FieldErrors) -> Result<(), Failure> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Box::new(Status::invalid("", "Service", meta::name(service), errors)))
}

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    service["spec"][field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

impl<'a> Reservation<'a> {
    fn take_addresses(&mut self, cache: &Cache, service: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
        if kind(service) == "ExternalName" || texts(service, "clusterIPs").first() == Some(&"None") {
            return Ok(());
        }
        let wanted: Vec<String> = texts(service, "ipFamilies").into_iter().map(str::to_owned).collect();
        let mut ips: Vec<String> = texts(service, "clusterIPs").into_iter().map(str::to_owned).collect();
        let from = match old.filter(|old| kind(old) != "ExternalName") {
            None => 0,
            Some(old) if texts(old, "clusterIPs").first() == Some(&"None") => return Ok(()),
            // Only a second family gets an address; what else changes is for validation to refuse.
            Some(old) if texts(old, "ipFamilies").len() < 2 && wanted.len() == 2 => 1,
            Some(_) => return Ok(()),
        };
        for (i, family) in wanted.iter().enumerate().skip(from) {
            let given = ips.get(i).cloned().unwrap_or_default();
            let taken = self.take_address(cache, family, &given);
            let address = taken.map_err(|why| self.no_address(service, &ips, &given, &why))?;
            if i < ips.len() {
                ips[i] = address;
            } else {
                ips.push(address);
            }
        }
        let spec = &mut service["spec"];
        spec["clusterIP"] = ips.first().cloned().unwrap_or_default().into();
        spec["clusterIPs"] = json!(ips);
        Ok(())
    }

    /// Takes this address, or any of the family when none is given.
    fn take_address(&mut self, cache: &Cache, family: &str, given: &str) -> Result<String, Why> {
        let addresses = &self.allocator.addresses;
        if given.is_empty() {
            let address = addresses.next(cache, family, self.dry_run)?;
            if !self.dry_run {
                self.addresses.push(address);
            }
            return Ok(address.to_string());
        }
        // Validation has read it already.
        let address = given.parse::<IpAddr>().map_err(|_| Why::Elsewhere)?;
        addresses.take(cache, address, self.dry_run)?;
        if !self.dry_run {
            self.addresses.push(address);
        }
        // As the user has spelled it.
        Ok(given.to_owned())
    }

    fn no_address(&self, service: &Value, ips: &[String], given: &str, why: &Why) -> Failure {
        if given.is_empty() {
            return Box::new(Status::internal(format!("failed to allocate a serviceIP: {why}")));
        }
        let mut errors = FieldErrors::default();
        errors.invalid("spec.clusterIPs", json!(ips), &format!("failed to allocate IP {given}: {why}"));
        Box::new(Status::invalid("", "Service", meta::name(service), errors))
    }

    fn take_port(&mut self, port: u16) -> Result<(), PortError> {
        if self.dry_run {
            return self.allocator.ports.check(port);
        }
        self.allocator.ports.take(port)?;
        self.ports.push(port);
        Ok(())
    }

    fn next_port(&mut self) -> Result<u16, PortError> {
        if self.dry_run {
            // A number that no Service gets.
            return Ok(32_769);
        }
        let port = self.allocator.ports.next()?;
        self.ports.push(port);
        Ok(port)
    }

    /// Ports of the nodes for a new Service; the same port of two protocols shares one.
    fn new_node_ports(&mut self, service: &mut Value) -> Result<(), Failure> {
        if !matches!(kind(service), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let wants = needs_node_port(&service["spec"]);
        let mut given: HashMap<u64, u16> = HashMap::new();
        let all: Vec<(u64, u16)> = port_numbers(service);
        for (i, (port, wanted)) in all.iter().enumerate() {
            if *wanted == 0 && !wants {
                continue;
            }
            let number = match given.get(port) {
                Some(number) if *wanted == 0 || wanted == number => *number,
                Some(_) => {
                    self.take_port(*wanted).map_err(|why| bad_port(service, i, *wanted, &why))?;
                    *wanted
                }
                None => {
                    // An entry further on may name the port.
                    let requested = all.iter().find(|(p, number)| p == port && *number != 0).map(|(_, number)| *number);
                    let number = match requested {
                        Some(number) => {
                            self.take_port(number).map_err(|why| bad_port(service, i, number, &why))?;
                            number
                        }
                        None => self.next_port().map_err(|why| no_port(&why))?,
                    };
                    given.insert(*port, number);
                    number
                }
            };
            service["spec"]["ports"][i]["nodePort"] = number.into();
        }
        Ok(())
    }

    fn changed_node_ports(&mut self, service: &mut Value, old: &Value) -> Result<(), Failure> {
        if !matches!(kind(service), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let wants = needs_node_port(&service["spec"]);
        let mut held: HashSet<u16> = node_ports(old).collect();
        let mut seen: HashSet<(String, u16)> = HashSet::new();
        for (i, (_, wanted)) in port_numbers(service).into_iter().enumerate() {
            if wanted == 0 && !wants {
                continue;
            }
            let number = match wanted {
                0 => self.next_port().map_err(|why| no_port(&why))?,
                held_before if held.contains(&held_before) => held_before,
                wanted => {
                    self.take_port(wanted).map_err(|why| bad_port(service, i, wanted, &why))?;
                    held.insert(wanted);
                    wanted
                }
            };
            let port = &mut service["spec"]["ports"][i];
            port["nodePort"] = number.into();
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let shown = format!("duplicate nodePort: {{{protocol} {number}}}");
            if !seen.insert((protocol, number)) {
                return Err(Box::new(Status::failure(500, "", shown)));
            }
        }
        Ok(())
    }

    /// The port on which nodes say whether they have endpoints.
    fn health_port(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
        let number = |service: &Value| {
            service["spec"]["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
        };
        let needed = old.filter(|old| needs_health_port(&old["spec"]));
        if !needs_health_port(&service["spec"]) {
            if needed.is_some()
                && let Some(spec) = service["spec"].as_object_mut()
            {
                spec.remove("healthCheckNodePort");
            }
            return Ok(());
        }
        let wanted = number(service);
        if let Some(old) = needed {
            let mut errors = FieldErrors::default();
            if number(old) != wanted {
                errors.immutable("spec.healthCheckNodePort", i64::from(wanted));
            }
            return refuse(service, errors);
        }
        let internal = |text: String| Box::new(Status::internal(text));
        if wanted != 0 {
            return self
                .take_port(wanted)
                .map_err(|why| internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}")));
        }
        let port =
            self.next_port().map_err(|why| internal(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?;
        service["spec"]["healthCheckNodePort"] = port.into();
        Ok(())
    }

    /// Writes the IPAddress objects, before the Service itself: a crash in between leaves an address too many,
    /// which the next start gives back, never one that two Services have.
    pub(crate) async fn write(&mut self, state: &State, service: &Value) -> Result<(), Failure> {
        for address in self.addresses.clone() {
            if addresses::create(state, address, service).await? {
                self.written.push(address);
                continue;
            }
            self.take_back(state).await;
            let given = address.to_string();
            let ips: Vec<String> = texts(service, "clusterIPs").into_iter().map(str::to_owned).collect();
            return Err(self.no_address(service, &ips, &given, &Why::Allocated));
        }
        Ok(())
    }

    async fn take_back(&mut self, state: &State) {
        for address in std::mem::take(&mut self.written) {
            addresses::delete(state, address, None).await;
        }
    }

    /// After the write: keeps what it succeeded with, gives the rest back. Whether it did.
    pub(crate) async fn settle(mut self, state: &State, put: &Result<Put, Failure>) -> bool {
        let done = matches!(put, Ok(Put::Done(_)));
        if done {
            self.ports.clear();
        } else {
            self.take_back(state).await;
        }
        done
    }
}

/// Gives back what a deleted Service had, or what a changed one no longer has.
pub(crate) async fn release(state: &State, old: &Value, new: Option<&Value>) {
    let kept: HashSet<u16> = new.into_iter().flat_map(held_ports).collect();
    let gone: Vec<u16> = held_ports(old).filter(|port| !kept.contains(port)).collect();
    state.services.ports.give_back(&gone);
    let kept: Vec<&str> = new.map(|new| texts(new, "clusterIPs")).unwrap_or_default();
    for ip in texts(old, "clusterIPs").into_iter().filter(|ip| !kept.contains(ip)) {
        if let Ok(address) = ip.parse::<IpAddr>() {
            addresses::delete(state, address, Some(old)).await;
        }
    }
}

fn bad_port(service: &Value, index: usize, port: u16, why: &PortError) -> Failure {
    let mut errors = FieldErrors::default();
    errors.invalid(format!("spec.ports[{index}].nodePort"), i64::from(port), &why.to_string());
    Box::new(Status::invalid("", "Service", meta::name(service), errors))
}

fn no_port(why: &PortError) -> Failure {
    Box::new(Status::internal(format!("failed to allocate a nodePort: {why}")))
}

/// Each entry's port and node port, 0 where there is none.
fn port_numbers(service: &Value) -> Vec<(u64, u16)> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.map(|port| (number(&port["port"]), u16::try_from(number(&port["nodePort"])).unwrap_or(u16::MAX))).collect()
}

fn node_ports(service: &Value) -> impl Iterator<Item = u16> + use<> {
    port_numbers(service).into_iter().map(|(_, number)| number).filter(|number| *number != 0)
}

/// All ports that a Service holds on the nodes.
fn held_ports(service: &Value) -> impl Iterator<Item = u16> + use<> {
    let health = service["spec"]["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    node_ports(service).chain(health.filter(|port| *port != 0))
}
