//! Many clients write, list and watch while the server is killed and started again; what they saw is then held
//! against the laws of a consistent store. `NARU_HISTORY_SECONDS` says for how long (12), `NARU_HISTORY_SEED`
//! which choices they make.

mod check;

use crate::cluster::Cluster;
use check::{Action, Answer, Event, History, Listed, Op, Watched, check};
use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Error};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
const WATCHERS: usize = 4;
/// Few keys, so that writers meet.
const KEYS: u64 = 6;
const LABEL: &str = "history=yes";
/// How long the server runs between being killed.
const LIFE: Duration = Duration::from_millis(2500);

/// What the clients share. All of them run on one thread, so that one counter is a clock for all.
struct World<'a> {
    api: Api<ConfigMap>,
    clock: Cell<u64>,
    dice: Cell<u64>,
    values: Cell<u64>,
    history: RefCell<History>,
    stop: &'a AtomicBool,
}

impl World<'_> {
    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn roll(&self, sides: u64) -> u64 {
        // xorshift64
        let mut dice = self.dice.get();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.set(dice);
        dice % sides
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn object(name: &str, value: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.labels = Some(BTreeMap::from([("history".to_owned(), "yes".to_owned())]));
    object.data = Some(BTreeMap::from([("value".to_owned(), value.to_owned())]));
    object
}

fn revision(object: &ConfigMap) -> i64 {
    object.metadata.resource_version.as_deref().unwrap_or_default().parse().expect("revisions are numbers")
}

fn value(object: &ConfigMap) -> String {
    object.data.as_ref().and_then(|data| data.get("value")).cloned().unwrap_or_default()
}

fn name(object: &ConfigMap) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

/// Who was refused knows that nothing happened; all other errors leave it open.
fn answer<T>(result: Result<T, Error>, revision: impl Fn(T) -> Option<i64>) -> Answer {
    match result {
        Ok(done) => Answer::Done(revision(done)),
        Err(Error::Api(status)) if (400..500).contains(&status.code) => Answer::Refused,
        Err(_) => Answer::Unknown,
    }
}

async fn write(world: &World<'_>, client: usize) {
    while !world.stopped() {
        let key = format!("k{}", world.roll(KEYS));
        let Ok(found) = world.api.get_opt(&key).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        world.values.set(world.values.get() + 1);
        let new = format!("v{}", world.values.get());
        let began = world.tick();
        let (action, answer) = match found {
            None => {
                let created = world.api.create(&PostParams::default(), &object(&key, &new)).await;
                (Action::Create { value: new }, answer(created, |object| Some(revision(&object))))
            }
            Some(found) if world.roll(4) == 0 => {
                let over = revision(&found);
                let preconditions = Preconditions { resource_version: Some(over.to_string()), uid: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                (Action::Delete { over }, answer(world.api.delete(&key, &params).await, |_| None))
            }
            Some(mut found) => {
                let over = revision(&found);
                found.data = object(&key, &new).data;
                let replaced = world.api.replace(&key, &PostParams::default(), &found).await;
                (Action::Update { value: new, over }, answer(replaced, |object| Some(revision(&object))))
            }
        };
        let ended = world.tick();
        world.history.borrow_mut().ops.push(Op { client, key, action, answer, began, ended });
    }
}

/// Lists whole and in pages.
async fn list(world: &World<'_>) {
    while !world.stopped() {
        let began = world.tick();
        let mut params = ListParams::default().labels(LABEL);
        if world.roll(2) == 0 {
            params = params.limit(2);
        }
        let mut items = BTreeMap::new();
        let listed = loop {
            let Ok(page) = world.api.list(&params).await else { break None };
            let at = page.metadata.resource_version.clone().unwrap_or_default();
            items.extend(page.items.iter().map(|object| (name(object), (revision(object), value(object)))));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break at.parse().ok(),
            }
        };
        match listed {
            Some(revision) => world.history.borrow_mut().lists.push(Listed { revision, items, began }),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Watches from `from`, again from the last event whenever the watch ends, until everything up to `until` was seen.
async fn watch(world: &World<'_>, watcher: usize, from: i64, until: &Cell<i64>) {
    let mut seen = Watched { watcher, from, events: Vec::new() };
    let mut at = from;
    while !(world.stopped() && until.get() > 0 && at >= until.get()) {
        // Some leave in the middle by themselves.
        let seconds = 1 + u32::try_from(world.roll(4)).unwrap_or(0);
        let params = WatchParams::default().labels(LABEL).timeout(seconds);
        let mut events = match world.api.watch(&params, &at.to_string()).await {
            Ok(events) => events.boxed(),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        while let Some(Ok(event)) = events.next().await {
            let (object, there, created) = match event {
                WatchEvent::Added(object) => (object, true, true),
                WatchEvent::Modified(object) => (object, true, false),
                WatchEvent::Deleted(object) => (object, false, false),
                WatchEvent::Bookmark(bookmark) => {
                    at = bookmark.metadata.resource_version.parse().expect("revisions are numbers");
                    continue;
                }
                // Where history was compacted there is a gap: another watch begins.
                WatchEvent::Error(status) => {
                    assert_eq!(status.code, 410, "{status:?}");
                    let listed = world.api.list(&ListParams::default().labels(LABEL)).await;
                    let now = listed.ok().and_then(|list| list.metadata.resource_version?.parse().ok());
                    if let Some(now) = now {
                        at = now;
                        let next = Watched { watcher, from: now, events: Vec::new() };
                        world.history.borrow_mut().watches.push(std::mem::replace(&mut seen, next));
                    }
                    break;
                }
            };
            at = revision(&object);
            let value = there.then(|| value(&object));
            seen.events.push(Event { revision: at, key: name(&object), value, created });
        }
    }
    world.history.borrow_mut().watches.push(seen);
}

/// Everything that the clients see until they are stopped.
async fn run(kubeconfig: PathBuf, seed: u64, stop: &AtomicBool) -> History {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let world = World {
        api: Api::namespaced(Client::try_from(config).unwrap(), "default"),
        clock: Cell::new(0),
        dice: Cell::new(seed | 1),
        values: Cell::new(0),
        history: RefCell::default(),
        stop,
    };
    let listed = world.api.list(&ListParams::default().labels(LABEL)).await.unwrap();
    let from: i64 = listed.metadata.resource_version.unwrap().parse().unwrap();
    let until = Cell::new(0);
    let watchers = join_all((0..WATCHERS).map(|watcher| watch(&world, watcher, from, &until)));
    let writers = async {
        tokio::join!(join_all((0..WRITERS).map(|client| write(&world, client))), list(&world));
        // One more write that everybody sees tells the watchers where to end.
        let last = loop {
            if let Ok(last) = world.api.create(&PostParams::default(), &object("last", "last")).await {
                break last;
            }
            if let Ok(Some(last)) = world.api.get_opt("last").await {
                break last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        until.set(revision(&last));
        let items = world.api.list(&ListParams::default().labels(LABEL)).await.unwrap();
        let revision = items.metadata.resource_version.clone().unwrap().parse().unwrap();
        let items = items.items.iter().map(|object| (name(object), (self::revision(object), value(object)))).collect();
        let began = world.tick();
        // What there is in the end, at the last change.
        let revision = until.get().min(revision);
        world.history.borrow_mut().lists.push(Listed { revision, items, began });
    };
    tokio::join!(watchers, writers);
    world.history.into_inner()
}

#[test]
fn the_history_is_consistent_though_the_server_is_killed() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let length = Duration::from_secs(number("NARU_HISTORY_SECONDS", 12));
    let seed = number("NARU_HISTORY_SEED", u64::from(std::process::id()));
    let mut c = Cluster::prepare("history", &["--disable-agent"]);
    c.up();
    let (netns, kubeconfig, stop) = (c.host.netns(), c.kubeconfig(), AtomicBool::new(false));
    let history = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let namespace = std::fs::File::open(netns).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(kubeconfig, seed, &stop))
        });
        let end = Instant::now() + length;
        while Instant::now() < end && !clients.is_finished() {
            std::thread::sleep(LIFE);
            c.down("-KILL");
            c.up();
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    });
    if let Err(violation) = check(&history) {
        panic!("seed {seed}: {}", violation.story(&history));
    }
    let done = history.ops.iter().filter(|op| matches!(op.answer, Answer::Done(_))).count();
    let events: usize = history.watches.iter().map(|watch| watch.events.len()).sum();
    assert!(done > 50 && events > 50 && history.lists.len() > 5, "too little happened: {done} writes, {events} events");
}
