//! What of this host would keep pods and Services from working, and what to do about it. Read, never changed.

use crate::nft::{self, Family, attribute, octets};
use crate::overlay::{self, Backend};
use crate::proxy::Proxy;
use futures::TryStreamExt;
use naru_api::address::Cidr;
use naru_api::registry::NODES;
use naru_base::{Shutdown, spawn};
use naru_client::https::HttpTransport;
use naru_client::projections::NodeView;
use naru_client::{Client, Informer, PatchKind};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a running node is looked at again: nobody tells of routes, MTUs and rules that change.
const AGAIN: Duration = Duration::from_secs(600);
/// The same when the finding could not be written.
const RETRY: Duration = Duration::from_secs(10);
/// The conditions of a node that say what was found.
const CONDITION: &str = "NetworkProblem";
const CLOCK_CONDITION: &str = "ClockProblem";
/// Clocks that differ by more seconds make tokens and certificates invalid, and leases look expired.
const MAX_SKEW: u64 = 60;
/// Interfaces of ours begin with it.
const OUR_INTERFACES: &str = "naru";
/// Origins of routes that are ours: Services', and those to other nodes' pods.
const OUR_ORIGINS: [RouteProtocol; 2] = [RouteProtocol::Other(110), RouteProtocol::Other(111)];

/// What a node is to do.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pods' ranges.
    pub cluster_cidrs: Vec<Cidr>,
    /// The Services' ranges.
    pub service_cidrs: Vec<Cidr>,
    /// The node's own addresses, as they are now.
    pub node: watch::Receiver<Vec<IpAddr>>,
    /// How pods of other nodes are reached.
    pub backend: Backend,
}

/// Something that somebody must mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// One word, for the condition.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// All that is wrong now.
pub async fn problems(setup: &Setup) -> Vec<Problem> {
    let mut found = overlaps(setup).await;
    let node = setup.node.borrow().first().copied();
    let mtu = match node {
        Some(node) => overlay::mtu_problem(node, setup.backend).await,
        None => None,
    };
    if let Some(message) = mtu {
        found.push(Problem { reason: "SmallMTU", message });
    }
    found.extend(settings(setup));
    let setup = setup.clone();
    found.extend(tokio::task::spawn_blocking(move || firewalls(&setup)).await.unwrap_or_default());
    found
}

/// What is wrong with a clock that is so many seconds ahead of the server's.
pub fn clock_problem(ahead: i64) -> Option<Problem> {
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let seconds = ahead.unsigned_abs();
    let message = format!(
        "this machine's clock is {seconds} s {direction} the server's, so that tokens and certificates count as not \
         valid yet or any more: switch on time synchronisation on both (timedatectl set-ntp true)"
    );
    (seconds > MAX_SKEW).then_some(Problem { reason: "ClockSkew", message })
}

/// Whether a kernel setting that is wrong could be set.
pub fn can_be_set(problem: &Problem) -> bool {
    let setting = SETTINGS.iter().find(|(_, name)| problem.message.starts_with(&name.replace('/', ".")));
    setting.is_none_or(|(_, name)| writable(name).is_ok())
}

/// Says what is wrong in the log and on the node, as soon as the proxy has set what can be set, and whenever it
/// changes, until the shutdown.
///
/// Of a server elsewhere, `server` knows the clock.
pub fn watch(watched: Watched, setup: Setup, proxy: Proxy, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    spawn("network-diagnosis", async move {
        let following = async {
            proxy.synced().await;
            follow(watched, setup).await;
        };
        shutdown.guard(following).await;
    });
}

/// Whose conditions are written, and how.
#[derive(Debug)]
pub struct Watched {
    /// May patch the node's status.
    pub client: Client,
    /// Has the node.
    pub nodes: Informer<NodeView>,
    /// The node's name.
    pub node: String,
    /// The way to a server on another machine, whose clock is compared.
    pub server: Option<Arc<HttpTransport>>,
}

async fn follow(watched: Watched, setup: Setup) {
    let Watched { client, nodes, node, server } = watched;
    nodes.synced().await;
    let mut said: Vec<Problem> = Vec::new();
    let mut written: Option<Vec<Problem>> = None;
    loop {
        let mut found = problems(&setup).await;
        let ahead = server.as_ref().and_then(|server| server.seconds_ahead());
        found.extend(ahead.and_then(clock_problem));
        for problem in found.iter().filter(|problem| !said.contains(problem)) {
            tracing::warn!("{}", problem.message);
        }
        said.clone_from(&found);
        if written.as_ref() != Some(&found) {
            let known = nodes.get("", &node).is_some();
            if known && publish(&client, &node, &found, server.is_some()).await {
                written = Some(found);
            } else {
                tokio::time::sleep(if known { RETRY } else { Duration::from_secs(1) }).await;
                continue;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn publish(client: &Client, node: &str, found: &[Problem], with_clock: bool) -> bool {
    let (clock, network): (Vec<&Problem>, Vec<&Problem>) =
        found.iter().partition(|problem| problem.reason == "ClockSkew");
    let network = condition(CONDITION, &network, "NetworkIsUsable", "nothing of this host is in the way of pods");
    let clock = condition(CLOCK_CONDITION, &clock, "ClockIsRight", "this machine's clock shows what the server's does");
    let conditions: Vec<Value> = [Some(network), with_clock.then_some(clock)].into_iter().flatten().collect();
    let patch = json!({ "status": { "conditions": conditions } });
    let patched = client.patch::<Value>(&NODES, None, node, Some("status"), PatchKind::Strategic, &patch).await;
    if let Err(error) = &patched {
        tracing::debug!(%error, "the node's condition could not be written");
    }
    patched.is_ok()
}

fn condition(kind: &str, found: &[&Problem], good: &str, good_message: &str) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, reason) = match found.first() {
        Some(first) => ("True", first.reason),
        None => ("False", good),
    };
    let messages: Vec<&str> = found.iter().map(|problem| problem.message.as_str()).collect();
    let message = if messages.is_empty() { good_message.to_owned() } else { messages.join("; ") };
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    })
}

/// Networks of this host that have addresses of pods or Services.
async fn overlaps(setup: &Setup) -> Vec<Problem> {
    let Ok((names, routes)) = routes().await else { return Vec::new() };
    let ranges =
        [(&setup.cluster_cidrs, "pods", "--cluster-cidr"), (&setup.service_cidrs, "Services", "--service-cidr")];
    let mut found = Vec::new();
    for route in routes {
        let Some((network, device)) = foreign(&route, &names) else { continue };
        for (ranges, whose, flag) in ranges {
            let clash = ranges.iter().find(|range| range.contains(network.network) || network.contains(range.network));
            if let Some(range) = clash {
                let message = format!(
                    "this host's network {network} ({device}) overlaps the {whose}' addresses {range}: start the \
                     cluster with another {flag}, or move this network",
                );
                found.push(Problem { reason: "OverlappingRanges", message });
            }
        }
    }
    found.sort_by(|a, b| a.message.cmp(&b.message));
    found.dedup();
    found
}

async fn routes() -> Result<(HashMap<u32, String>, Vec<RouteMessage>), rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|_| rtnetlink::Error::RequestFailed)?;
    let task = spawn("diagnosis-netlink", connection);
    let read = async {
        let links: Vec<_> = handle.link().get().execute().try_collect().await?;
        let names = links.into_iter().filter_map(|link| {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some((link.header.index, name?))
        });
        let mut routes = Vec::new();
        let (v4, v6) = (RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build());
        for family in [v4, v6] {
            routes.extend(handle.route().get(family).execute().try_collect::<Vec<_>>().await?);
        }
        Ok((names.collect(), routes))
    };
    let read = read.await;
    task.abort();
    read
}

/// Destination and device of a route that others made, unless it is for everything.
fn foreign(route: &RouteMessage, names: &HashMap<u32, String>) -> Option<(Cidr, String)> {
    const MAIN_TABLE: u8 = 254;
    let header = &route.header;
    if header.table != MAIN_TABLE || OUR_ORIGINS.contains(&header.protocol) || header.destination_prefix_length == 0 {
        return None;
    }
    let bits = header.destination_prefix_length;
    let network = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let device = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => names.get(index).cloned(),
        _ => None,
    });
    let device = device.unwrap_or_else(|| "no interface".to_owned());
    // Addresses of the host itself, the DNS' among them, are on the loopback device.
    (!device.starts_with(OUR_INTERFACES) && device != "lo").then_some((Cidr { network, bits }, device))
}

/// Kernel settings without which nothing is forwarded, each with whether it is of IPv4.
const SETTINGS: [(bool, &str); 2] = [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")];

fn settings(setup: &Setup) -> Vec<Problem> {
    let found = forwarding_off(setup);
    // Where nothing can be set, that nothing has to be is luck.
    match writable(SETTINGS[0].1) {
        Err(error) if found.is_empty() => {
            let message = format!(
                "kernel settings of the network cannot be set ({error}): run naru as root where /proc/sys is writable \
                 (mount -o remount,rw /proc/sys), or pods' interfaces keep what the kernel gives them"
            );
            vec![Problem { reason: "SettingsNotWritable", message }]
        }
        _ => found,
    }
}

fn writable(setting: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(format!("/proc/sys/{setting}")).map(drop)
}

fn forwarding_off(setup: &Setup) -> Vec<Problem> {
    let off = SETTINGS.into_iter().filter(|(v4, name)| {
        let needed = setup.cluster_cidrs.iter().any(|range| range.network.is_ipv4() == *v4);
        needed && std::fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|value| value.trim() == "0")
    });
    off.map(|(_, name)| {
        let name = name.replace('/', ".");
        let message =
            format!("{name} is 0 and could not be set: run sysctl -w {name}=1, pods reach no other node before");
        Problem { reason: "ForwardingOff", message }
    })
    .collect()
}

/// Where others' rules can drop packets: forwarded ones (of pods), or arriving ones (of other nodes, and DNS).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    forward: bool,
}

const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// Chains of others whose policy is to drop, and which have no rule that names the pods' range.
fn firewalls(setup: &Setup) -> Vec<Problem> {
    let mut found = Vec::new();
    for (number, family) in FAMILIES {
        for chain in dropping_chains(number) {
            for range in &setup.cluster_cidrs {
                let of_family = match Family::of(range.network) {
                    Family::V4 => number != 10,
                    Family::V6 => number != 2,
                };
                if of_family && !names_range(&chain, *range) {
                    found.push(blocked(&chain, family, *range));
                }
            }
        }
    }
    found
}

fn blocked(chain: &Chain, family: &str, range: Cidr) -> Problem {
    let Chain { table, name, forward, .. } = chain;
    let what = if *forward { "packets that pods send and get" } else { "what pods ask of this host, such as names" };
    let ip = if range.network.is_ipv4() { "ip" } else { "ip6" };
    let mut command = format!("nft insert rule {family} {table} {name} {ip} saddr {range} accept");
    if *forward {
        command += &format!(" && nft insert rule {family} {table} {name} {ip} daddr {range} accept");
    }
    let message =
        format!("the firewall's chain {family} {table} {name} drops {what} unless a rule accepts them: {command}");
    Problem { reason: "FirewallDrops", message }
}

fn dropping_chains(family: u8) -> Vec<Chain> {
    const GET_CHAIN: u16 = 4;
    let mut found = Vec::new();
    let read = nft::dump(&nft::query(GET_CHAIN, family, true, &[]), &mut |body| found.extend(dropping(family, body)));
    if let Err(error) = read {
        tracing::debug!(%error, "other firewalls' chains could not be read");
    }
    found
}

/// Reads a chain, if it is of a hook that pods' packets pass and drops by itself.
fn dropping(family: u8, body: &[u8]) -> Option<Chain> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const HOOK_NUMBER: u16 = 1;
    const POLICY: u16 = 5;
    const DROP: u32 = 0;
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    let text = |kind| Some(String::from_utf8_lossy(attribute(body, kind)?.strip_suffix(&[0])?).into_owned());
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let hook = number(attribute(attribute(body, HOOK)?, HOOK_NUMBER)?)?;
    let policy = number(attribute(body, POLICY)?)?;
    (policy == DROP && [INPUT, FORWARD].contains(&hook)).then_some(())?;
    Some(Chain { family, table: text(TABLE)?, name: text(NAME)?, forward: hook == FORWARD })
}

/// Whether a rule of the chain compares with the range: whoever wrote it has thought of the pods.
fn names_range(chain: &Chain, range: Cidr) -> bool {
    const GET_RULE: u16 = 7;
    const RULE_TABLE: u16 = 1;
    const RULE_CHAIN: u16 = 2;
    let request = nft::query(GET_RULE, chain.family, true, &[(RULE_TABLE, &chain.table), (RULE_CHAIN, &chain.name)]);
    let mut named = false;
    let read = nft::dump(&request, &mut |body| {
        let of_chain =
            attribute(body, RULE_CHAIN).is_some_and(|name| name.strip_suffix(&[0]) == Some(chain.name.as_bytes()));
        named |= of_chain && contains_range(body, range);
    });
    read.is_ok() && named
}

/// Whether a value in a rule is the range's address, whole or cut to the bytes of its prefix.
fn contains_range(rule: &[u8], range: Cidr) -> bool {
    let network = octets(range.network);
    let cut = network.get(..usize::from(range.bits.div_ceil(8))).unwrap_or_default();
    [&network[..], cut].iter().any(|value| {
        let Ok(length) = u16::try_from(value.len() + 4) else { return false };
        let attribute = [&length.to_ne_bytes()[..], &1_u16.to_ne_bytes(), value].concat();
        rule.windows(attribute.len()).any(|window| window == attribute)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use naru_api::address::parse_cidr;

    /// The findings of a host of its own, on which these commands were run.
    fn check(commands: &[&str], expect: &[(&str, &str)]) {
        let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
        let host = move || {
            #[allow(deprecated, reason = "only file descriptors make it unsafe, and those are not unshared")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("these tests need root");
            for command in ["ip link set lo up".to_owned()].into_iter().chain(commands) {
                #[allow(clippy::disallowed_methods, reason = "tests build their networks with programs")]
                let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
                assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            let setup = Setup {
                cluster_cidrs: vec![parse_cidr("10.42.0.0/16").unwrap()],
                service_cidrs: vec![parse_cidr("10.43.0.0/16").unwrap()],
                node: watch::channel(vec!["192.0.2.1".parse().unwrap()]).1,
                backend: Backend::Vxlan,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut found = runtime.block_on(overlaps(&setup));
            found.extend(
                runtime
                    .block_on(overlay::mtu_problem("192.0.2.1".parse().unwrap(), setup.backend))
                    .map(|message| Problem { reason: "SmallMTU", message }),
            );
            found.extend(settings(&setup));
            found.extend(firewalls(&setup));
            found
        };
        let found = std::thread::spawn(host).join().unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|problem| (problem.reason, problem.message.as_str())).collect();
        assert_eq!(found, expect);
    }

    const WIRE: &str = "ip link add eth0 type veth peer name wire && ip link set eth0 up && ip link set wire up";

    #[test]
    fn a_clock_that_differs_is_named_with_what_to_do() {
        assert_eq!(clock_problem(30), None);
        let said = |ahead| clock_problem(ahead).unwrap().message;
        assert!(
            said(-3600).starts_with("this machine's clock is 3600 s behind the server's")
                && said(-3600).contains("set-ntp")
        );
        assert!(said(90).starts_with("this machine's clock is 90 s ahead of the server's"));
    }

    #[test]
    fn a_plain_host_has_no_problem() {
        check(
            &[
                WIRE,
                "ip addr add 192.0.2.1/24 dev eth0",
                "ip route add default via 192.0.2.254",
                "ip addr add 10.43.0.10/32 dev lo",
            ],
            &[],
        );
    }

    #[test]
    fn networks_that_overlap_are_named_with_the_flag_that_helps() {
        check(
            &[
                WIRE,
                "ip addr add 192.0.2.1/24 dev eth0",
                "ip addr add 10.42.7.1/24 dev wire",
                "ip route add 10.0.0.0/8 via 192.0.2.2",
            ],
            &[
                (
                    "OverlappingRanges",
                    "this host's network 10.0.0.0/8 (eth0) overlaps the Services' addresses 10.43.0.0/16: start the \
                     cluster with another --service-cidr, or move this network",
                ),
                (
                    "OverlappingRanges",
                    "this host's network 10.0.0.0/8 (eth0) overlaps the pods' addresses 10.42.0.0/16: start the cluster \
                     with another --cluster-cidr, or move this network",
                ),
                (
                    "OverlappingRanges",
                    "this host's network 10.42.7.0/24 (wire) overlaps the pods' addresses 10.42.0.0/16: start the \
                     cluster with another --cluster-cidr, or move this network",
                ),
            ],
        );
    }

    #[test]
    fn a_small_mtu_is_named_with_the_one_that_is_enough() {
        check(
            &[WIRE, "ip addr add 192.0.2.1/24 dev eth0", "ip link set eth0 mtu 1300"],
            &[(
                "SmallMTU",
                "the interface with 192.0.2.1 takes packets of 1300 bytes only, which leaves pods 1250: raise its MTU to \
                 1330 or more, since IPv6 needs 1280",
            )],
        );
    }

    #[test]
    fn a_firewall_that_drops_is_named_with_the_command_that_helps() {
        let table = "nft add table ip filter && nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'";
        let command = "nft insert rule ip filter FORWARD ip saddr 10.42.0.0/16 accept && nft insert rule ip filter FORWARD \
                       ip daddr 10.42.0.0/16 accept";
        let expect = format!(
            "the firewall's chain ip filter FORWARD drops packets that pods send and get unless a rule accepts them: {command}"
        );
        let address = "ip addr add 192.0.2.1/24 dev eth0";
        check(&[WIRE, address, table], &[("FirewallDrops", &expect)]);
        // What is advised helps.
        check(&[WIRE, address, table, command], &[]);
    }
}
