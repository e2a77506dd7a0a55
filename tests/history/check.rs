//! What must hold of any history, and what of a bad one is worth reading.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// What a client asked for. Values are unique in a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Create {
        value: String,
    },
    /// Over the revision that the client had seen.
    Update {
        value: String,
        over: i64,
    },
    Delete {
        over: i64,
    },
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, at this revision if the answer told one.
    Done(Option<i64>),
    Refused,
    /// The connection broke: it may have happened.
    Unknown,
}

/// One write, with when it began and ended on one clock of all clients.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) action: Action,
    pub(crate) answer: Answer,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    pub(crate) key: String,
    /// `None`: deleted.
    pub(crate) value: Option<String>,
    pub(crate) created: bool,
}

/// A watch without gaps: everything after `from`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    pub(crate) watcher: usize,
    pub(crate) from: i64,
    pub(crate) events: Vec<Event>,
}

/// A list, perhaps in pages.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) revision: i64,
    pub(crate) items: BTreeMap<String, (i64, String)>,
    pub(crate) began: u64,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    pub(crate) watches: Vec<Watched>,
    pub(crate) lists: Vec<Listed>,
}

/// A law that was broken, by what.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) law: String,
    keys: BTreeSet<String>,
    revisions: (i64, i64),
}

fn broken(law: String, keys: &[&str], first: i64, last: i64) -> Violation {
    Violation { law, keys: keys.iter().map(|key| (*key).to_owned()).collect(), revisions: (first, last) }
}

type Log<'a> = BTreeMap<i64, &'a Event>;

/// Holds a history against the laws.
pub(crate) fn check(history: &History) -> Result<(), Violation> {
    let log = merged(history)?;
    replay(&log)?;
    complete(history, &log)?;
    acknowledged(history, &log)?;
    refused(history, &log)?;
    real_time(history)?;
    snapshots(history, &log)
}

/// Each watcher sees growing revisions, and all see the same change at each.
fn merged(history: &History) -> Result<Log<'_>, Violation> {
    let mut log = Log::new();
    for watch in &history.watches {
        let mut last = watch.from;
        for event in &watch.events {
            let at = event.revision;
            if at <= last {
                let law = format!("watcher {} saw revision {at} after {last}", watch.watcher);
                return Err(broken(law, &[&event.key], at, last));
            }
            last = at;
            let other = *log.entry(at).or_insert(event);
            if other != event {
                let law = format!("two watchers saw different changes at {at}: {other:?} and {event:?}");
                return Err(broken(law, &[&event.key, &other.key], at, at));
            }
        }
    }
    Ok(log)
}

/// The changes make sense one after another: what is created was not there, what changes or goes was.
fn replay(log: &Log<'_>) -> Result<(), Violation> {
    let mut there: HashMap<&str, i64> = HashMap::new();
    for (at, event) in log {
        let before = there.get(&*event.key).copied();
        if event.created != before.is_none() {
            let law = format!(
                "{} was {} at {at}",
                event.key,
                if event.created { "created twice" } else { "changed before it was there" }
            );
            return Err(broken(law, &[&event.key], before.unwrap_or(*at), *at));
        }
        match event.value {
            Some(_) => there.insert(&event.key, *at),
            None => there.remove(&*event.key),
        };
    }
    Ok(())
}

/// A watcher sees every change in the range that it watched.
fn complete(history: &History, log: &Log<'_>) -> Result<(), Violation> {
    for watch in &history.watches {
        let Some(last) = watch.events.last() else { continue };
        let mut seen = watch.events.iter().map(|event| event.revision);
        for (at, event) in log.range(watch.from + 1..=last.revision) {
            if seen.next() != Some(*at) {
                let law = format!("watcher {} never saw the change at {at}", watch.watcher);
                return Err(broken(law, &[&event.key], watch.from, last.revision.min(at + 5)));
            }
        }
    }
    Ok(())
}

/// The change of a key that came before a revision, or at or after it.
fn around<'a>(log: &Log<'a>, key: &str, revision: i64) -> (Option<&'a Event>, Option<&'a Event>) {
    let of_key = |event: &&&Event| event.key == key;
    let before = log.range(..revision).rev().map(|(_, event)| event).find(of_key).copied();
    let next = log.range(revision..).map(|(_, event)| event).find(of_key).copied();
    (before, next)
}

/// What was acknowledged is there, once, over what it was said to replace.
fn acknowledged(history: &History, log: &Log<'_>) -> Result<(), Violation> {
    let mut answered: BTreeMap<i64, &Op> = BTreeMap::new();
    for op in &history.ops {
        let Answer::Done(revision) = op.answer else { continue };
        if let Some(revision) = revision
            && let Some(other) = answered.insert(revision, op)
        {
            let law = format!("two writes were given revision {revision}: {other:?} and {op:?}");
            return Err(broken(law, &[&op.key, &other.key], revision, revision));
        }
        let lost = |why: &str, at: i64| Err(broken(format!("{why}: {op:?}"), &[&op.key], at, at));
        match &op.action {
            Action::Create { value } | Action::Update { value, .. } => {
                let at = revision.unwrap_or_default();
                let found = log.get(&at).filter(|event| event.key == op.key && event.value.as_ref() == Some(value));
                let Some(found) = found else { return lost("an acknowledged write is lost", at) };
                let before = around(log, &op.key, at).0.filter(|before| before.value.is_some());
                let over = match op.action {
                    Action::Update { over, .. } => Some(over),
                    _ => None,
                };
                if found.created != over.is_none() || before.map(|before| before.revision) != over {
                    return lost("a write replaced something else than it was to", at);
                }
            }
            Action::Delete { over } => match around(log, &op.key, over + 1).1 {
                Some(Event { value: None, .. }) => {}
                _ => return lost("an acknowledged delete is lost", *over),
            },
        }
    }
    Ok(())
}

/// What was refused has not happened, and nothing has twice.
fn refused(history: &History, log: &Log<'_>) -> Result<(), Violation> {
    let mut written: HashMap<&str, i64> = HashMap::new();
    for (at, event) in log {
        if let Some(value) = &event.value
            && let Some(first) = written.insert(value, *at)
        {
            return Err(broken(format!("{value} was written at {first} and again at {at}"), &[&event.key], first, *at));
        }
    }
    for op in history.ops.iter().filter(|op| op.answer == Answer::Refused) {
        if let Action::Create { value } | Action::Update { value, .. } = &op.action
            && let Some(at) = written.get(&**value)
        {
            return Err(broken(format!("a refused write happened at {at}: {op:?}"), &[&op.key], *at, *at));
        }
    }
    Ok(())
}

/// A write that began after another had been answered has the greater revision.
fn real_time(history: &History) -> Result<(), Violation> {
    let done = |op: &Op| match op.answer {
        Answer::Done(Some(revision)) => Some(revision),
        _ => None,
    };
    let mut ended: Vec<(u64, i64)> = history.ops.iter().filter_map(|op| Some((op.ended, done(op)?))).collect();
    ended.sort_unstable();
    let mut newest = 0;
    for end in &mut ended {
        newest = newest.max(end.1);
        end.1 = newest;
    }
    let newest_before = |began: u64| match ended.partition_point(|(at, _)| *at < began) {
        0 => 0,
        at => ended[at - 1].1,
    };
    for op in &history.ops {
        if let Some(revision) = done(op)
            && newest_before(op.began) >= revision
        {
            let before = newest_before(op.began);
            return Err(broken(format!("{op:?} went back behind {before}"), &[&op.key], revision, before));
        }
    }
    for list in &history.lists {
        let before = newest_before(list.began);
        if before > list.revision {
            return Err(broken(
                format!("a list of {} began after {before}", list.revision),
                &[],
                list.revision,
                before,
            ));
        }
    }
    Ok(())
}

/// Each list is what the changes up to its revision make.
fn snapshots(history: &History, log: &Log<'_>) -> Result<(), Violation> {
    let newest = log.keys().next_back().copied().unwrap_or(i64::MAX);
    for list in history.lists.iter().filter(|list| list.revision <= newest) {
        let mut state: BTreeMap<String, (i64, String)> = BTreeMap::new();
        for (at, event) in log.range(..=list.revision) {
            match &event.value {
                Some(value) => state.insert(event.key.clone(), (*at, value.clone())),
                None => state.remove(&event.key),
            };
        }
        if state != list.items {
            let keys: Vec<&str> = state
                .keys()
                .chain(list.items.keys())
                .filter(|key| state.get(*key) != list.items.get(*key))
                .map(String::as_str)
                .collect();
            let law = format!(
                "the list of {} is no snapshot in {keys:?}: listed {:?}, should be {:?}",
                list.revision,
                keys.iter().map(|key| list.items.get(*key)).collect::<Vec<_>>(),
                keys.iter().map(|key| state.get(*key)).collect::<Vec<_>>()
            );
            return Err(broken(law, &keys, list.revision, list.revision));
        }
    }
    Ok(())
}

impl Violation {
    /// The law, and what happened to the keys around the place where it was broken.
    pub(crate) fn story(&self, history: &History) -> String {
        const MARGIN: i64 = 30;
        const LINES: usize = 60;
        let (low, high) =
            (self.revisions.0.min(self.revisions.1) - MARGIN, self.revisions.0.max(self.revisions.1) + MARGIN);
        let concerns = |key: &str| self.keys.is_empty() || self.keys.contains(key);
        let mut lines: BTreeSet<(i64, String)> = BTreeSet::new();
        for op in history.ops.iter().filter(|op| concerns(&op.key)) {
            let near = match (&op.action, op.answer) {
                (_, Answer::Done(Some(revision))) => revision,
                (Action::Update { over, .. } | Action::Delete { over }, _) => *over,
                _ => continue,
            };
            lines.insert((
                near,
                format!(
                    "client {} [{}, {}] {} {:?} -> {:?}",
                    op.client, op.began, op.ended, op.key, op.action, op.answer
                ),
            ));
        }
        for watch in &history.watches {
            for event in watch.events.iter().filter(|event| concerns(&event.key)) {
                lines.insert((event.revision, format!("watcher {} from {}: {event:?}", watch.watcher, watch.from)));
            }
        }
        let mut story = format!("{}\n", self.law);
        for (revision, line) in lines.into_iter().filter(|(at, _)| (low..=high).contains(at)).take(LINES) {
            let _ = writeln!(story, "{revision:>8}  {line}");
        }
        story
    }
}

mod tests {
    use super::*;

    fn event(revision: i64, key: &str, value: Option<&str>, created: bool) -> Event {
        Event { revision, key: key.to_owned(), value: value.map(str::to_owned), created }
    }

    fn op(key: &str, action: Action, answer: Answer, began: u64) -> Op {
        Op { client: 0, key: key.to_owned(), action, answer, began, ended: began + 1 }
    }

    /// a: created at 1, updated at 2, deleted at 4; b: created at 3.
    fn good() -> History {
        let events = vec![
            event(1, "a", Some("v1"), true),
            event(2, "a", Some("v2"), false),
            event(3, "b", Some("v3"), true),
            event(4, "a", None, false),
        ];
        let create = |value: &str| Action::Create { value: value.to_owned() };
        History {
            ops: vec![
                op("a", create("v1"), Answer::Done(Some(1)), 0),
                op("a", Action::Update { value: "v2".to_owned(), over: 1 }, Answer::Done(Some(2)), 10),
                op("b", create("v3"), Answer::Unknown, 10),
                op("a", Action::Delete { over: 2 }, Answer::Done(None), 20),
                op("b", create("v4"), Answer::Refused, 30),
            ],
            watches: vec![
                Watched { watcher: 0, from: 0, events: events.clone() },
                Watched { watcher: 1, from: 1, events: events[1..3].to_vec() },
            ],
            lists: vec![Listed {
                revision: 3,
                items: [("a".to_owned(), (2, "v2".to_owned())), ("b".to_owned(), (3, "v3".to_owned()))].into(),
                began: 15,
            }],
        }
    }

    #[test]
    fn a_good_history_passes() {
        check(&good()).map_err(|violation| violation.story(&good())).unwrap();
    }

    #[test]
    fn every_law_is_found_broken() {
        type Break = fn(&mut History);
        let cases: [(&str, Break); 11] = [
            ("saw revision 1 after 2", |h| h.watches[0].events.swap(0, 1)),
            ("different changes at 2", |h| h.watches[1].events[0].value = Some("x".to_owned())),
            ("created twice", |h| {
                h.watches[0].events[1].created = true;
                h.watches[1].events[0].created = true;
            }),
            ("never saw the change at 2", |h| drop(h.watches[1].events.remove(0))),
            ("acknowledged write is lost", |h| h.ops[0].answer = Answer::Done(Some(9))),
            ("given revision 2", |h| h.ops[2].answer = Answer::Done(Some(2))),
            ("replaced something else", |h| {
                h.ops[1].action = Action::Update { value: "v2".to_owned(), over: 0 };
            }),
            ("acknowledged delete is lost", |h| {
                h.watches[0].events.pop();
            }),
            ("a refused write happened", |h| h.ops[0].answer = Answer::Refused),
            ("went back behind 2", |h| (h.ops[0].began, h.ops[0].ended) = (40, 41)),
            ("no snapshot in [\"a\"]", |h| drop(h.lists[0].items.remove("a"))),
        ];
        for (law, spoil) in cases {
            let mut history = good();
            spoil(&mut history);
            let violation = check(&history).expect_err(law);
            assert!(violation.law.contains(law), "{law}: {}", violation.law);
            assert!(violation.story(&history).lines().count() <= 61);
        }
    }
}
