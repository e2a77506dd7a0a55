//! Random histories, run against the store and against a model that anybody can check by eye.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// What may happen. Keys are small numbers, so that they meet often.
#[derive(Debug, Clone)]
enum Step {
    Put {
        key: u8,
        lazy: bool,
    },
    Delete {
        key: u8,
    },
    /// A write with a wrong expectation.
    Stale {
        key: u8,
    },
    Compact {
        back: i64,
    },
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u8, prop::bool::weighted(0.3)).prop_map(|(key, lazy)| Step::Put { key, lazy }),
        3 => (0..6_u8).prop_map(|key| Step::Delete { key }),
        1 => (0..6_u8).prop_map(|key| Step::Stale { key }),
        1 => (0..5_i64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

type State = BTreeMap<String, (i64, String)>;

#[derive(Debug, Default)]
struct Model {
    now: State,
    /// What a crash leaves.
    durable: State,
    /// The state at each revision that is certain to be kept: those without lazy writes in them.
    past: BTreeMap<i64, State>,
    revision: i64,
    exact: bool,
}

impl Model {
    fn change(&mut self, key: &str, revision: i64, value: Option<String>, lazy: bool) {
        assert!(revision > self.revision, "revisions only grow");
        self.revision = revision;
        match value {
            Some(value) => self.now.insert(key.to_owned(), (revision, value)),
            None => self.now.remove(key),
        };
        if lazy {
            self.exact = false;
            return;
        }
        match self.now.get(key) {
            Some(entry) => self.durable.insert(key.to_owned(), entry.clone()),
            None => self.durable.remove(key),
        };
        if self.exact {
            self.past.insert(revision, self.now.clone());
        }
    }
}

fn key(number: u8) -> String {
    format!("/k/{number}")
}

fn open(path: &std::path::Path) -> Store {
    let options = Options { history: 1_000_000, flush_interval: Duration::from_secs(3600), ..Options::default() };
    Store::open(path, options).unwrap()
}

async fn listed(store: &Store, at: Option<i64>) -> State {
    let page = store.list("/k/", None, 100, at).await.unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    page.records.iter().map(|r| (r.key.to_string(), (r.mod_revision, text(&r.value)))).collect()
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut store = open(&path);
    let mut model = Model { exact: true, ..Model::default() };
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put { key: k, lazy } => {
                let (key, value) = (key(k), format!("{number}"));
                let expect = model.now.get(&key).map_or(Expect::Absent, |(revision, _)| Expect::Revision(*revision));
                let durability = if lazy { Durability::Lazy } else { Durability::Sync };
                let write = Write { key: key.as_str().into(), expect, value: Some(value.clone().into()), durability };
                let revision = store.write(write).await.unwrap();
                model.change(&key, revision, Some(value), lazy);
            }
            Step::Delete { key: k } => {
                let key = key(k);
                let Some((present, _)) = model.now.get(&key) else { continue };
                let expect = Expect::Revision(*present);
                let write = Write { key: key.as_str().into(), expect, value: None, durability: Durability::Sync };
                let revision = store.write(write).await.unwrap();
                model.change(&key, revision, None, false);
            }
            Step::Stale { key: k } => {
                let key = key(k);
                let present = model.now.get(&key).map(|(revision, _)| *revision);
                let expect = present.map_or(Expect::Revision(model.revision + 1), |_| Expect::Absent);
                let write =
                    Write { key: key.as_str().into(), expect, value: Some(Bytes::new()), durability: Durability::Sync };
                let Err(WriteError::Conflict { current }) = store.write(write).await else { panic!("not a conflict") };
                assert_eq!(current.map(|record| record.mod_revision), present);
            }
            Step::Compact { back } => {
                let to = (model.revision - back).max(0);
                store.compact(to).await.unwrap();
                model.past = model.past.split_off(&to);
                // Compaction flushes.
                model.durable = model.now.clone();
            }
            Step::Close => {
                store.close().await.unwrap();
                drop(store);
                store = open(&path);
                model.durable = model.now.clone();
            }
            Step::Crash => {
                drop(store);
                store = open(&path);
                assert!(store.revision() >= model.revision, "no revision is used twice");
                model.revision = store.revision();
                model.now = model.durable.clone();
            }
        }
        assert_eq!(listed(&store, None).await, model.now, "after step {number}");
    }
    let oldest = store.oldest_revision();
    for (revision, state) in model.past.iter().filter(|(revision, _)| **revision >= oldest) {
        assert_eq!(&listed(&store, Some(*revision)).await, state, "at revision {revision}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
