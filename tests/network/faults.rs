//! Kills under traffic, and rules that somebody removes.

use super::{Machines, bracketed, curl, output};
use crate::agents::{Traffic, eventually, ready};

/// The Service's address for clients within the cluster, and as a URL.
fn service(m: &Machines) -> (String, String) {
    let ip = m.c.get("service hello", "{.spec.clusterIPs[0]}");
    (ip.clone(), format!("http://{}/", bracketed(&ip)))
}

pub(super) fn agent_and_server_are_killed_under_traffic(m: &mut Machines) {
    let (ip, url) = service(m);
    // A machine asks by one address only: each writes into files of its own.
    let traffic = [
        Traffic::start(&m.agents[1].host, &url),
        Traffic::start(&m.agents[2].host, "http://192.0.2.11:30080/"),
        Traffic::start(&m.client, "http://[2001:db8::12]:30080/"),
    ];
    let go_on = |more| traffic.iter().for_each(|traffic| traffic.go_on(more));
    let connection = Traffic::over_one_connection(&m.agents[0].host, &ip);
    connection.go_on(5);
    go_on(20);
    m.agents[0].down();
    go_on(30);
    connection.go_on(5);
    m.agents[0].up(&m.token);
    let log = m.agents[0].host.dir.join("agent.log");
    eventually(&[&m.agents[0]], "the agent has started again", || {
        std::fs::read_to_string(&log).unwrap_or_default().matches(" is Ready after ").count() == 2
    });
    connection.go_on(5);
    m.c.down("-KILL");
    go_on(30);
    m.c.up();
    go_on(20);
    connection.go_on(5);
    assert_eq!(connection.count("failed"), 0, "a connection outlives agent and server");
    for traffic in &traffic {
        assert_eq!(traffic.count("failed"), 0, "of {} requests", traffic.count("ok"));
    }
    m.eventually("no node was given up", || super::NODES.iter().all(|node| ready(&m.c, node)));
    assert_eq!(m.c.get("pods -l app=hello", "{.items[*].status.containerStatuses[*].restartCount}"), "0 0 0 0");
}

pub(super) fn rules_that_somebody_removes_come_back(m: &Machines) {
    let ips = m.c.get("service hello", "{.spec.clusterIPs[*]}");
    let urls: Vec<String> = ips.split_whitespace().map(|ip| format!("http://{}/", bracketed(ip))).collect();
    let host = &m.agents[1].host;
    let others = output(host, "nft list table inet others");
    assert!(others.contains("tcp dport 9"), "{others}");
    let answers = || urls.iter().all(|url| curl(host, url).starts_with("Hello"));
    // What others have is left alone; what others remove of ours is put back. The last is what nftables.service does
    // when it is restarted.
    for line in
        ["nft delete table ip naru && nft delete table ip6 naru", "nft flush table ip naru", "nft flush ruleset"]
    {
        assert!(host.sh(line).status.success());
        m.eventually("the Service answers in both families", answers);
        assert_eq!(output(host, "nft list table inet others"), if line.ends_with("ruleset") { "" } else { &others });
    }
}
