//! A shared, indexed cache of one resource's objects as projections, kept current by a reflector.

use crate::client::{Client, ListParams};
use crate::memory::Memory;
use crate::reflector;
use naru_api::registry::Resource;
use naru_base::Shutdown;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{Notify, watch};

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The namespace as requests want it.
    pub fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// One object's change. `old` is missing when it appeared, `new` when it went.
#[derive(Debug)]
pub struct Change<P> {
    /// Which object.
    pub key: ObjectKey,
    /// What was cached before.
    pub old: Option<Arc<P>>,
    /// What is cached now.
    pub new: Option<Arc<P>>,
}

impl<P> Change<P> {
    /// The newest state known: `new`, or the last one of an object that went.
    pub fn latest(&self) -> &Arc<P> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has at least one side")
    }
}

/// Names an index made by `Informer::index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexId(usize);

type Extract<P> = Box<dyn Fn(&P) -> Vec<String> + Send + Sync>;
type Subscriber<P> = Box<dyn Fn(&Change<P>) + Send + Sync>;

/// The cache. Clones share it.
pub struct Informer<P> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    cache: RwLock<Cache<P>>,
    /// Taken before `cache`, and held while subscribers are called, so that each sees changes in order.
    subscribers: Mutex<Vec<Subscriber<P>>>,
    state: watch::Sender<State>,
}

/// What the cache's content is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Nothing yet.
    Empty,
    /// What an earlier process saw.
    Recalled,
    /// What the server has said.
    Synced,
}

struct Entry<P> {
    version: String,
    object: Arc<P>,
}

struct Cache<P> {
    objects: BTreeMap<ObjectKey, Entry<P>>,
    indexes: Vec<Index<P>>,
}

struct Index<P> {
    extract: Extract<P>,
    /// The objects themselves: thousands may share a value, and are looked up by it again and again.
    found: HashMap<String, HashMap<Arc<ObjectKey>, Arc<P>>>,
}

impl<P> Clone for Informer<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P> fmt::Debug for Informer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").finish_non_exhaustive()
    }
}

impl<P: Send + Sync + 'static> Informer<P> {
    /// Starts to list and watch `resource` until shutdown.
    pub fn start(client: &Client, resource: &'static Resource, params: ListParams, shutdown: &Shutdown) -> Self
    where
        P: DeserializeOwned,
    {
        Self::start_with(client, resource, params, None, shutdown)
    }

    /// The same, with what `memory` has of the resource while the server is away.
    pub(crate) fn start_with(
        client: &Client,
        resource: &'static Resource,
        params: ListParams,
        memory: Option<Arc<dyn Memory>>,
        shutdown: &Shutdown,
    ) -> Self
    where
        P: DeserializeOwned,
    {
        let informer = Self::detached();
        reflector::start(client.clone(), resource, params, memory, shutdown.clone(), informer.clone());
        informer
    }

    /// An empty cache that nothing feeds; tests feed it by `apply`.
    pub fn detached() -> Self {
        Self {
            inner: Arc::new(Inner {
                cache: RwLock::new(Cache { objects: BTreeMap::new(), indexes: Vec::new() }),
                subscribers: Mutex::new(Vec::new()),
                state: watch::Sender::new(State::Empty),
            }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache<P>> {
        self.inner.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache<P>> {
        self.inner.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber<P>>> {
        self.inner.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object. Namespace is empty for cluster-scoped ones.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<P>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    /// One object.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<P>> {
        self.read().objects.get(key).map(|entry| entry.object.clone())
    }

    /// All objects in the order of their keys.
    pub fn list(&self) -> Vec<Arc<P>> {
        self.read().objects.values().map(|entry| entry.object.clone()).collect()
    }

    /// All keys in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// The objects of one namespace in the order of their names.
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<P>> {
        self.read()
            .objects
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, entry)| entry.object.clone())
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index: `extract` gives the values under which an object is found by `indexed`.
    pub fn index(&self, extract: impl Fn(&P) -> Vec<String> + Send + Sync + 'static) -> IndexId {
        let mut cache = self.write();
        let mut index = Index { extract: Box::new(extract), found: HashMap::new() };
        for (key, entry) in &cache.objects {
            index.change(key, None, Some(&entry.object));
        }
        cache.indexes.push(index);
        IndexId(cache.indexes.len() - 1)
    }

    /// The objects found under `value` in an index of this informer, in no particular order.
    pub fn indexed(&self, index: IndexId, value: &str) -> Vec<Arc<P>> {
        let cache = self.read();
        let found = cache.indexes.get(index.0).and_then(|index| index.found.get(value));
        found.map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// Calls `callback` for every object present and then for every change, in order. It runs on the
    /// reflector's task, so it must be quick: put a key into a queue. It must not subscribe itself.
    pub fn subscribe(&self, callback: impl Fn(&Change<P>) + Send + Sync + 'static) {
        let mut subscribers = self.subscribers();
        let present: Vec<_> = {
            let cache = self.read();
            cache.objects.iter().map(|(key, entry)| (key.clone(), entry.object.clone())).collect()
        };
        for (key, object) in present {
            callback(&Change { key, old: None, new: Some(object) });
        }
        subscribers.push(Box::new(callback));
    }

    /// Whether the first list has been taken in.
    pub fn is_synced(&self) -> bool {
        *self.inner.state.borrow() == State::Synced
    }

    /// Whether there is anything to go by: the first list, or what an earlier process saw.
    pub fn is_known(&self) -> bool {
        *self.inner.state.borrow() != State::Empty
    }

    /// Waits until the first list has been taken in.
    pub async fn synced(&self) {
        self.reached(State::Synced).await;
    }

    /// Waits until there is anything to go by: the first list, or what an earlier process saw.
    pub async fn known(&self) {
        self.reached(State::Recalled).await;
    }

    async fn reached(&self, wanted: State) {
        // The sender lives in `inner`, so this cannot fail.
        let _ = self.inner.state.subscribe().wait_for(|state| *state >= wanted).await;
    }

    /// Waits until the first list has been taken in and the objects are as wished.
    pub async fn until(&self, wish: impl Fn(&[Arc<P>]) -> bool) {
        let changed = Arc::new(Notify::new());
        let notifier = changed.clone();
        self.subscribe(move |_| notifier.notify_one());
        self.synced().await;
        while !wish(&self.list()) {
            changed.notified().await;
        }
    }

    /// Says that the first list has been taken in; tests that feed a detached cache call it.
    pub fn mark_synced(&self) {
        self.inner.state.send_replace(State::Synced);
    }

    /// Says that what an earlier process saw is there.
    pub(crate) fn mark_recalled(&self) {
        self.inner.state.send_modify(|state| *state = State::Recalled.max(*state));
    }

    /// Takes in one object's state (`None`: it is gone) and tells the subscribers.
    pub fn apply(&self, key: ObjectKey, version: String, object: Option<P>) {
        let subscribers = self.subscribers();
        let change = {
            let mut cache = self.write();
            let new = object.map(Arc::new);
            let old = match &new {
                Some(object) => {
                    let entry = Entry { version, object: object.clone() };
                    cache.objects.insert(key.clone(), entry)
                }
                None => cache.objects.remove(&key),
            };
            let old = old.map(|entry| entry.object);
            for index in &mut cache.indexes {
                index.change(&key, old.as_ref(), new.as_ref());
            }
            Change { key, old, new }
        };
        if change.old.is_some() || change.new.is_some() {
            for subscriber in subscribers.iter() {
                subscriber(&change);
            }
        }
    }

    /// Whether this very version is cached, so that a relist need not decode it.
    pub(crate) fn has_version(&self, key: &ObjectKey, version: &str) -> bool {
        self.read().objects.get(key).is_some_and(|entry| entry.version == version)
    }
}

impl<P> Index<P> {
    fn change(&mut self, key: &ObjectKey, old: Option<&Arc<P>>, new: Option<&Arc<P>>) {
        let values = |object: Option<&Arc<P>>| object.map(|object| (self.extract)(object)).unwrap_or_default();
        let (before, after) = (values(old), values(new));
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(objects) = self.found.get_mut(value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.found.remove(value);
                }
            }
        }
        let Some(new) = new else { return };
        for value in after {
            let is_known = before.contains(&value);
            let objects = self.found.entry(value).or_default();
            match objects.get_mut(key).filter(|_| is_known) {
                Some(object) => *object = new.clone(),
                None => drop(objects.insert(Arc::new(key.clone()), new.clone())),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn put(informer: &Informer<String>, namespace: &str, name: &str, value: &str) {
        informer.apply(ObjectKey::new(namespace, name), String::new(), Some(value.to_owned()));
    }

    #[test]
    fn indexes_follow_changes_and_see_what_was_there_before() {
        let informer = Informer::<String>::detached();
        put(&informer, "a", "x", "red");
        let colour = informer.index(|value: &String| vec![value.clone()]);
        put(&informer, "a", "y", "red");
        put(&informer, "b", "z", "blue");
        assert_eq!(informer.indexed(colour, "red").len(), 2);
        put(&informer, "a", "x", "blue");
        informer.apply(ObjectKey::new("a", "y"), String::new(), None);
        assert!(informer.indexed(colour, "red").is_empty());
        assert_eq!(informer.indexed(colour, "blue").len(), 2);
        assert_eq!(informer.by_namespace("a").len(), 1);
        assert_eq!(informer.by_namespace("b").len(), 1);
    }

    #[test]
    fn subscribers_see_present_objects_first_and_both_sides_of_changes() {
        let informer = Informer::<String>::detached();
        put(&informer, "a", "x", "1");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.subscribe(move |change| {
            let text = |side: &Option<Arc<String>>| side.as_deref().cloned().unwrap_or_default();
            log.lock().unwrap().push((text(&change.old), text(&change.new)));
        });
        put(&informer, "a", "x", "2");
        informer.apply(ObjectKey::new("a", "x"), String::new(), None);
        informer.apply(ObjectKey::new("a", "x"), String::new(), None);
        let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        assert_eq!(*seen.lock().unwrap(), [pair("", "1"), pair("1", "2"), pair("2", "")]);
    }
}
