//! ConfigMaps and Secrets that pods on this node use: one watch for each, shared, as long as somebody needs it.

use crate::pod::inbox::Inbox;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use naru_api::registry::{CONFIG_MAPS, Resource, SECRETS};
use naru_base::Shutdown;
use naru_client::{Client, Informer, ListParams, ObjectKey};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long a first look may take before a pod is told to try again.
const FIRST_LOOK: Duration = Duration::from_secs(20);

struct Entry<T> {
    informer: Informer<T>,
    stop: Shutdown,
    /// Pods to tell of changes, by uid.
    users: Arc<Mutex<HashMap<String, Weak<Inbox>>>>,
}

/// The watched objects of one resource.
struct Watched<T> {
    resource: &'static Resource,
    client: Client,
    shutdown: Shutdown,
    entries: Mutex<HashMap<ObjectKey, Entry<T>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What volumes and environments are made of.
trait Source: DeserializeOwned + Clone + Send + Sync + 'static {
    /// Its contents never change, so that it need not be watched.
    fn is_immutable(&self) -> bool;
}

impl Source for ConfigMap {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Source for Secret {
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl<T: Source> Watched<T> {
    fn new(client: &Client, resource: &'static Resource, shutdown: &Shutdown) -> Self {
        Self { resource, client: client.clone(), shutdown: shutdown.clone(), entries: Mutex::default() }
    }

    /// The object as it is now; `user` hears of changes until `release`. `Err`: the API server does not answer.
    async fn get(&self, key: ObjectKey, uid: &str, user: &Arc<Inbox>) -> Result<Option<T>, String> {
        let informer = {
            let mut entries = locked(&self.entries);
            let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(&key));
            locked(&entry.users).insert(uid.to_owned(), Arc::downgrade(user));
            entry.informer.clone()
        };
        match tokio::time::timeout(FIRST_LOOK, informer.synced()).await {
            Ok(()) => {
                let found = informer.get_key(&key).map(|object| (*object).clone());
                if found.as_ref().is_some_and(Source::is_immutable)
                    && let Some(entry) = locked(&self.entries).get(&key)
                {
                    // What was read stays as it is for as long as somebody uses it.
                    entry.stop.trigger();
                }
                Ok(found)
            }
            Err(_) => {
                Err(format!("failed to sync {} cache: timed out waiting for the condition", self.resource.singular))
            }
        }
    }

    fn watch(&self, key: &ObjectKey) -> Entry<T> {
        let stop = self.shutdown.child();
        let params = ListParams::namespace(key.namespace.clone()).fields(format!("metadata.name={}", key.name));
        let informer = Informer::start(&self.client, self.resource, params, &stop);
        let users: Arc<Mutex<HashMap<String, Weak<Inbox>>>> = Arc::default();
        let told = users.clone();
        informer.subscribe(move |_| {
            for inbox in locked(&told).values().filter_map(Weak::upgrade) {
                inbox.poke();
            }
        });
        Entry { informer, stop, users }
    }

    fn release(&self, uid: &str) {
        locked(&self.entries).retain(|_, entry| {
            let mut users = locked(&entry.users);
            users.remove(uid);
            let used = !users.is_empty();
            if !used {
                entry.stop.trigger();
            }
            used
        });
    }
}

/// All watched objects.
pub(crate) struct Objects {
    config_maps: Watched<ConfigMap>,
    secrets: Watched<Secret>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    pub(crate) fn new(client: &Client, shutdown: &Shutdown) -> Self {
        Self {
            config_maps: Watched::new(client, &CONFIG_MAPS, shutdown),
            secrets: Watched::new(client, &SECRETS, shutdown),
        }
    }

    /// Looks up ConfigMaps; those that do not exist map to `None`.
    pub(crate) async fn config_maps(
        &self,
        namespace: &str,
        names: &[String],
        uid: &str,
        user: &Arc<Inbox>,
    ) -> Result<HashMap<String, Option<ConfigMap>>, String> {
        let mut out = HashMap::new();
        for name in names {
            out.insert(name.clone(), self.config_maps.get(ObjectKey::new(namespace, name), uid, user).await?);
        }
        Ok(out)
    }

    /// Looks up Secrets; those that do not exist map to `None`.
    pub(crate) async fn secrets(
        &self,
        namespace: &str,
        names: &[String],
        uid: &str,
        user: &Arc<Inbox>,
    ) -> Result<HashMap<String, Option<Secret>>, String> {
        let mut out = HashMap::new();
        for name in names {
            out.insert(name.clone(), self.secrets.get(ObjectKey::new(namespace, name), uid, user).await?);
        }
        Ok(out)
    }

    /// A pod needs none of its objects any more.
    pub(crate) fn release(&self, uid: &str) {
        self.config_maps.release(uid);
        self.secrets.release(uid);
    }
}
