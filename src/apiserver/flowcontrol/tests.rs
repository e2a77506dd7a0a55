//! Flows, seats and queues, with objects as people write them.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::level::{Limits, Spec, deal, divide};
use super::rules::{Rules, Schema};
use super::seats::Seats;
use super::*;
use futures::FutureExt;
use http::Method;
use serde_json::{Value, json};

fn bootstrap(kind: &str) -> Vec<Value> {
    let lines = include_str!("../bootstrap/flowcontrol.jsonl").lines();
    let objects = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    objects
        .filter(|o| o["kind"] == kind)
        .map(|o| json!({ "metadata": { "name": o["name"] }, "spec": o["spec"] }))
        .collect()
}

fn schema_of(user: &User, method: Method, uri: &str) -> String {
    let rules = Rules::new(bootstrap("FlowSchema").iter().map(|object| Schema::of(object, "")).collect());
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let info = crate::request_info::parse(&method, path, &Query::parse(query));
    rules.find(user, &info).unwrap().name.to_string()
}

#[test]
fn requests_go_where_upstream_sends_them() {
    let user = |name: &str, group: &str| User::authenticated(name, [group.to_owned()]);
    let account = user("system:serviceaccount:kube-system:x", "system:serviceaccounts");
    let cases = [
        (user("a", "system:masters"), "/api/v1/pods", "exempt"),
        (User::anonymous(), "/readyz", "probes"),
        (User::anonymous(), "/version", "global-default"),
        (user("system:node:n", "system:nodes"), "/api/v1/nodes/n/status", "system-node-high"),
        (user("system:node:n", "system:nodes"), "/api/v1/pods", "system-nodes"),
        (user("system:kube-scheduler", "x"), "/api/v1/pods", "kube-scheduler"),
        (account.clone(), "/apis/coordination.k8s.io/v1/namespaces/a/leases/l", "system-leader-election"),
        (account, "/api/v1/pods", "kube-system-service-accounts"),
        (user("system:serviceaccount:a:b", "system:serviceaccounts"), "/api/v1/pods", "service-accounts"),
        (user("someone", "x"), "/api/v1/namespaces/a/pods/p", "global-default"),
    ];
    for (user, uri, expect) in cases {
        assert_eq!(schema_of(&user, Method::GET, uri), expect, "{} {uri}", user.name);
    }
}

#[test]
fn the_seats_are_divided_as_upstream_divides_them() {
    let specs: Vec<Spec> = bootstrap("PriorityLevelConfiguration").iter().map(Spec::of).collect();
    let limits = divide(600, &specs);
    let of = |name: &str| limits[specs.iter().position(|spec| &*spec.name == name).unwrap()];
    let nominal = ["catch-all", "exempt", "global-default", "leader-election", "node-high", "system", "workload-low"];
    assert_eq!(nominal.map(|name| of(name).nominal), [13, 0, 49, 25, 98, 74, 245]);
    assert_eq!(of("workload-low").lower, 245 - 221);
    assert_eq!(of("leader-election").lower, 25);
}

#[test]
fn a_hand_has_different_queues_and_is_dealt_again() {
    for hash in [0, 1, 77, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
        let mut hand = deal(hash, 64, 8);
        assert_eq!(hand, deal(hash, 64, 8));
        hand.sort_unstable();
        hand.dedup();
        assert_eq!(hand.len(), 8);
        assert!(hand.iter().all(|queue| *queue < 64));
    }
    assert_eq!(deal(5, 3, 3).len(), 3);
}

fn level(name: &str, shares: u32, lendable: u32, response: Value) -> Spec {
    Spec::of(&json!({ "metadata": { "name": name }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response } } }))
}

fn queues(queues: u32, hand: u32, length: u32) -> Value {
    json!({ "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": length } })
}

fn schema(level: &str) -> Arc<Schema> {
    let object = json!({ "metadata": { "name": format!("to-{level}") },
        "spec": { "priorityLevelConfiguration": { "name": level }, "distinguisherMethod": { "type": "ByUser" } } });
    Arc::new(Schema::of(&object, ""))
}

fn seats(total: u32, specs: Vec<Spec>) -> Arc<Seats> {
    let seats = Arc::new(Seats::new(total));
    seats.configure(specs);
    seats
}

async fn enter(seats: &Arc<Seats>, level: &str, user: &str) -> Result<Permit, Refusal> {
    Seats::enter(seats, &schema(level), user, 1, Duration::from_secs(15)).await
}

fn metrics(seats: &Seats) -> String {
    let mut out = Text::default();
    seats.render(&mut out);
    out.into_string()
}

#[tokio::test]
async fn without_queues_the_full_level_refuses() {
    let seats = seats(4, vec![level("a", 1, 0, json!({ "type": "Reject" })), level("b", 1, 0, queues(1, 1, 1))]);
    let held = [enter(&seats, "a", "x").await.unwrap(), enter(&seats, "a", "y").await.unwrap()];
    assert_eq!(enter(&seats, "a", "z").await.unwrap_err(), Refusal { retry_after_seconds: 1 });
    assert!(enter(&seats, "b", "z").await.is_ok(), "another level has its own");
    drop(held);
    assert!(enter(&seats, "a", "z").await.is_ok());
    let text = metrics(&seats);
    let refused = "rejected_requests_total{priority_level=\"a\",flow_schema=\"to-a\",reason=\"concurrency-limit\"} 1\n";
    assert!(text.contains(refused), "{text}");
    assert!(text.contains("current_executing_seats{priority_level=\"a\",flow_schema=\"to-a\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_flood_of_one_flow_does_not_keep_another_waiting() {
    let seats = seats(1, vec![level("a", 1, 0, queues(64, 1, 50))]);
    let mut held = enter(&seats, "a", "flood").await.unwrap();
    let mut flood: Vec<_> = (0..20).map(|_| Box::pin(enter(&seats, "a", "flood"))).collect();
    for waiting in &mut flood {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    // Users are dealt one queue each: take one who is not in the flood's.
    let mut others: Vec<_> =
        (0..8).map(|n| Box::pin(enter(&seats, "a", Box::leak(format!("u{n}").into_boxed_str())))).collect();
    for waiting in &mut others {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    let mut served = Vec::new();
    for _ in 0..12 {
        drop(held);
        let other = others.iter_mut().enumerate().find_map(|(n, w)| Some((n, w.as_mut().now_or_never()?.unwrap())));
        held = match other {
            Some((n, permit)) => {
                drop(others.remove(n));
                served.push("other");
                permit
            }
            None => {
                served.push("flood");
                let (n, permit) = flood
                    .iter_mut()
                    .enumerate()
                    .find_map(|(n, w)| Some((n, w.as_mut().now_or_never()?.unwrap())))
                    .unwrap();
                drop(flood.remove(n));
                permit
            }
        };
    }
    assert!(served.iter().filter(|who| **who == "other").count() >= 6, "{served:?}");
}

#[tokio::test]
async fn seats_are_lent_and_come_back_to_their_owner_first() {
    let seats = seats(8, vec![level("owner", 1, 50, queues(1, 1, 50)), level("guest", 1, 0, queues(1, 1, 50))]);
    let mut guests = Vec::new();
    for _ in 0..6 {
        guests.push(enter(&seats, "guest", "g").now_or_never().expect("four of its own and two borrowed").unwrap());
    }
    let mut guest = Box::pin(enter(&seats, "guest", "g"));
    assert!(guest.as_mut().now_or_never().is_none(), "two are never lent");
    let kept = [enter(&seats, "owner", "o").await.unwrap(), enter(&seats, "owner", "o").await.unwrap()];
    let mut owner = Box::pin(enter(&seats, "owner", "o"));
    assert!(owner.as_mut().now_or_never().is_none());
    guests.pop();
    assert!(guest.as_mut().now_or_never().is_none(), "the owner goes first");
    let third = owner.as_mut().now_or_never().unwrap().unwrap();
    drop((kept, third));
    assert!(guest.as_mut().now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_or_leaves_frees_the_place() {
    let seats = seats(1, vec![level("a", 1, 0, queues(1, 1, 1))]);
    let held = enter(&seats, "a", "x").await.unwrap();
    let mut leaves = Box::pin(enter(&seats, "a", "x"));
    assert!(leaves.as_mut().now_or_never().is_none());
    assert!(enter(&seats, "a", "x").now_or_never().unwrap().is_err(), "the queue is full");
    drop(leaves);
    assert!(enter(&seats, "a", "x").await.is_err(), "its time is over");
    let text = metrics(&seats);
    for (reason, count) in [("queue-full", 1), ("cancelled", 1), ("time-out", 1)] {
        assert!(text.contains(&format!("reason=\"{reason}\"}} {count}\n")), "{reason}: {text}");
    }
    // Seats given to somebody who leaves without looking go to the next.
    let mut gone = Box::pin(enter(&seats, "a", "x"));
    assert!(gone.as_mut().now_or_never().is_none());
    drop(held);
    drop(gone);
    assert!(enter(&seats, "a", "x").now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn changed_levels_keep_who_waits() {
    let seats = seats(1, vec![level("a", 1, 0, queues(8, 1, 5))]);
    let held = enter(&seats, "a", "x").await.unwrap();
    let mut waiting: Vec<_> = ["a", "b", "c", "d"].map(|user| Box::pin(enter(&seats, "a", user))).into();
    for place in &mut waiting {
        assert!(place.as_mut().now_or_never().is_none());
    }
    seats.configure(vec![level("a", 1, 0, queues(1, 1, 5)), level("jail", 0, 0, json!({ "type": "Reject" }))]);
    assert!(enter(&seats, "jail", "x").await.is_err());
    drop(held);
    let seated = futures::future::join_all(waiting.into_iter().map(async |place| place.await.map(drop))).await;
    assert_eq!(seated, [Ok(()); 4]);
    let limits = Limits { nominal: 1, lower: 1, upper: 1 };
    assert_eq!(divide(1, &[level("a", 1, 0, queues(1, 1, 1))]), [limits]);
}
