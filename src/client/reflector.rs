//! List and watch: feeds an informer, resumes broken watches, lists again when the history is gone.

use crate::client::{Client, ListMeta, ListParams, decode, is_gone};
use crate::informer::{Informer, ObjectKey};
use crate::memory::Memory;
use crate::transport::{Error, EventType, WatchEvent};
use bytes::Bytes;
use futures::StreamExt;
use naru_api::registry::Resource;
use naru_base::{Backoff, Shutdown, spawn};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Objects a page of a list; bounds the memory that a list takes at once.
const PAGE: &str = "500";
/// A watch that ends sooner is followed by a pause.
const SHORT: Duration = Duration::from_secs(5);
/// How long the server's own word is waited for before that of an earlier process is taken.
const HEAD_START: Duration = Duration::from_secs(2);

/// The part of an object that the reflector itself needs.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadMeta {
    namespace: String,
    name: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

struct Reflector<P> {
    client: Client,
    resource: &'static Resource,
    params: ListParams,
    informer: Informer<P>,
    /// Where to go on; empty when a list is due.
    version: String,
}

pub(crate) fn start<P: DeserializeOwned + Send + Sync + 'static>(
    client: Client,
    resource: &'static Resource,
    params: ListParams,
    memory: Option<Arc<dyn Memory>>,
    shutdown: Shutdown,
    informer: Informer<P>,
) {
    let recalled = recall(resource, memory, informer.clone());
    let mut reflector = Reflector { client, resource, params, informer, version: String::new() };
    spawn("reflector", async move {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let run = async {
            loop {
                let begun = Instant::now();
                match reflector.step().await {
                    Ok(()) if begun.elapsed() >= SHORT => backoff.reset(),
                    // Also keeps a server that is going down, and ends each watch at once, from being
                    // asked again and again without a pause.
                    Ok(()) => tokio::time::sleep(backoff.next_delay()).await,
                    Err(error) => {
                        tracing::debug!(resource = resource.plural, %error, "watch interrupted");
                        if is_gone(&error) {
                            reflector.version.clear();
                        }
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                }
            }
        };
        // One after the other on one task, so that what is recalled never covers what the server has said.
        let both = async { tokio::join!(recalled, run) };
        shutdown.guard(both).await;
    });
}

impl<P: DeserializeOwned + Send + Sync + 'static> Reflector<P> {
    /// Lists if that is due, then follows one watch to its end.
    async fn step(&mut self) -> Result<(), Error> {
        if self.version.is_empty() {
            self.version = self.list().await?;
            self.informer.mark_synced();
        }
        let mut events = self.client.watch(self.resource, &self.params, &self.version).await?;
        while let Some(event) = events.next().await {
            self.take(event?)?;
        }
        Ok(())
    }

    async fn list(&self) -> Result<String, Error> {
        let mut seen = HashSet::new();
        let mut next = None;
        loop {
            let uri = self.params.query(self.resource).set("limit", PAGE).set_some("continue", next.as_deref()).build();
            let body = self.client.send(http::Method::GET, uri, "application/json", Bytes::new()).await?;
            let meta = self.take_page(&body, &mut seen)?;
            if meta.continue_token.is_empty() {
                self.drop_unseen(&seen);
                return Ok(meta.resource_version);
            }
            next = Some(meta.continue_token);
        }
    }

    fn take_page(&self, body: &[u8], seen: &mut HashSet<ObjectKey>) -> Result<ListMeta, Error> {
        let what = self.resource.kind;
        let page: Page<'_> =
            serde_json::from_slice(body).map_err(|source| Error::Decode { what: format!("{what}List"), source })?;
        for item in page.items.unwrap_or_default() {
            let (key, version) = head(what, item.get().as_bytes())?;
            if !self.informer.has_version(&key, &version) {
                self.put(&key, version, item.get().as_bytes());
            }
            seen.insert(key);
        }
        Ok(page.metadata)
    }

    fn drop_unseen(&self, seen: &HashSet<ObjectKey>) {
        for key in self.informer.keys() {
            if !seen.contains(&key) {
                self.informer.apply(key, String::new(), None);
            }
        }
    }

    fn take(&mut self, event: WatchEvent) -> Result<(), Error> {
        if event.kind == EventType::Error {
            let status = decode("Status", &event.object)?;
            return Err(Error::Status(Box::new(status)));
        }
        let (key, version) = head(self.resource.kind, &event.object)?;
        match event.kind {
            EventType::Added | EventType::Modified => {
                self.put(&key, version.clone(), &event.object);
            }
            EventType::Deleted => self.informer.apply(key, version.clone(), None),
            EventType::Bookmark | EventType::Error => {}
        }
        self.version = version;
        Ok(())
    }

    fn put(&self, key: &ObjectKey, version: String, object: &[u8]) {
        put(self.resource, &self.informer, key, version, object);
    }
}

/// An object that does not fit the projection is left as it was: one bad object must not stop the others.
fn put<P: DeserializeOwned + Send + Sync + 'static>(
    resource: &Resource,
    informer: &Informer<P>,
    key: &ObjectKey,
    version: String,
    object: &[u8],
) {
    match decode(resource.kind, object) {
        Ok(object) => informer.apply(key.clone(), version, Some(object)),
        Err(error) => tracing::warn!(resource = resource.plural, %key, %error, "object skipped"),
    }
}

/// Shows what an earlier process saw, if the server says nothing for a while. What the server has said meanwhile stays,
/// and the end of its list removes the rest.
async fn recall<P: DeserializeOwned + Send + Sync + 'static>(
    resource: &'static Resource,
    memory: Option<Arc<dyn Memory>>,
    informer: Informer<P>,
) {
    let Some(memory) = memory else { return };
    tokio::time::sleep(HEAD_START).await;
    if informer.is_synced() {
        return;
    }
    let Some(objects) = memory.recall(resource.plural) else { return };
    for object in objects {
        match head(resource.kind, &object) {
            // Without a version, so that the server's counts as another one.
            Ok((key, _)) if informer.get_key(&key).is_none() => put(resource, &informer, &key, String::new(), &object),
            Ok(_) => {}
            Err(error) => tracing::warn!(resource = resource.plural, %error, "what was kept is skipped"),
        }
    }
    informer.mark_recalled();
}

fn head(what: &str, object: &[u8]) -> Result<(ObjectKey, String), Error> {
    let Head { metadata } = decode(what, object)?;
    let key = ObjectKey { namespace: metadata.namespace, name: metadata.name };
    Ok((key, metadata.resource_version))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fake::{Fake, PODS, event, pod, pod_list, status};
    use crate::projections::PodView;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    struct Bench {
        fake: Arc<Fake>,
        informer: Informer<PodView>,
        changes: mpsc::Receiver<String>,
        shutdown: Shutdown,
    }

    fn bench() -> Bench {
        let fake = Fake::new();
        let shutdown = Shutdown::new();
        let client = Client::new(fake.clone());
        let informer = Informer::<PodView>::start(&client, &PODS, ListParams::all(), &shutdown);
        let (sender, changes) = mpsc::channel(64);
        informer.subscribe(move |change| {
            let node = change.new.as_ref().map_or("gone", |pod| pod.spec.node_name.as_str());
            sender.try_send(format!("{} {node}", change.key)).unwrap();
        });
        Bench { fake, informer, changes, shutdown }
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_joined_and_events_applied() {
        let mut bench = bench();
        let mut first = pod_list(7, &[pod("a", 1, "n1")]);
        first["metadata"]["continue"] = "more".into();
        bench.fake.answer(Ok(first));
        bench.fake.answer(Ok(pod_list(7, &[pod("b", 2, "n1")])));
        let feed = bench.fake.feed();
        bench.informer.synced().await;
        assert_eq!(bench.informer.len(), 2);
        feed.send(event(EventType::Modified, &pod("a", 8, "n2"))).await.unwrap();
        feed.send(event(EventType::Deleted, &pod("b", 9, "n1"))).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(bench.changes.recv().await.unwrap());
        }
        assert_eq!(seen, ["default/a n1", "default/b n1", "default/a n2", "default/b gone"]);
        let uris: Vec<_> = bench.fake.seen().into_iter().map(|request| request.uri).collect();
        assert_eq!(
            uris,
            [
                "/api/v1/pods?limit=500",
                "/api/v1/pods?limit=500&continue=more",
                "/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion=7",
            ]
        );
        bench.shutdown.trigger();
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_resumes_from_the_last_bookmark() {
        let mut bench = bench();
        bench.fake.answer(Ok(pod_list(7, &[])));
        let feed = bench.fake.feed();
        feed.send(event(EventType::Bookmark, &pod("", 20, ""))).await.unwrap();
        feed.send(Err(Error::Connection("reset".into()))).await.unwrap();
        let feed = bench.fake.feed();
        feed.send(event(EventType::Added, &pod("a", 21, "n1"))).await.unwrap();
        assert_eq!(bench.changes.recv().await.unwrap(), "default/a n1");
        let last = bench.fake.seen().pop().unwrap();
        assert!(last.uri.ends_with("resourceVersion=20"), "{}", last.uri);
        assert_eq!(bench.informer.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn gone_history_is_listed_again_and_only_differences_are_told() {
        let mut bench = bench();
        bench.fake.answer(Ok(pod_list(7, &[pod("a", 1, "n1"), pod("b", 2, "n1"), pod("c", 3, "n1")])));
        bench.fake.watch_fails(status(410, "Expired"));
        bench.fake.answer(Ok(pod_list(30, &[pod("a", 1, "n1"), pod("b", 25, "n2")])));
        let feed = bench.fake.feed();
        feed.send(event(EventType::Added, &pod("d", 31, "n1"))).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(bench.changes.recv().await.unwrap());
        }
        assert_eq!(seen[3..], ["default/b n2", "default/c gone", "default/d n1"]);
    }

    /// Two pods of an earlier process.
    #[derive(Debug)]
    struct Earlier;

    impl Memory for Earlier {
        fn recall(&self, resource: &str) -> Option<Vec<Vec<u8>>> {
            let pods = [pod("a", 3, "n1"), pod("gone", 4, "n1")];
            (resource == "pods").then(|| pods.iter().map(|pod| pod.to_string().into_bytes()).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_process_saw_is_shown_until_the_server_answers() {
        let (fake, shutdown) = (Fake::new(), Shutdown::new());
        let client = Client::new(fake.clone());
        let memory: Arc<dyn Memory> = Arc::new(Earlier);
        fake.answer(Err(Error::Connection("refused".into())));
        let pods = Informer::<PodView>::start_with(&client, &PODS, ListParams::all(), Some(memory), &shutdown);
        pods.known().await;
        assert!(!pods.is_synced());
        assert_eq!(pods.keys(), [ObjectKey::new("default", "a"), ObjectKey::new("default", "gone")]);
        fake.answer(Ok(pod_list(9, &[pod("a", 3, "n2"), pod("new", 8, "n2")])));
        let _feed = fake.feed();
        pods.synced().await;
        assert_eq!(pods.keys(), [ObjectKey::new("default", "a"), ObjectKey::new("default", "new")]);
        assert_eq!(pods.get("default", "a").unwrap().spec.node_name, "n2", "the server's word counts");
        shutdown.trigger();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_is_believed_alone() {
        let (fake, shutdown) = (Fake::new(), Shutdown::new());
        let client = Client::new(fake.clone());
        fake.answer(Ok(pod_list(9, &[pod("new", 8, "n2")])));
        let _feed = fake.feed();
        let memory: Arc<dyn Memory> = Arc::new(Earlier);
        let pods = Informer::<PodView>::start_with(&client, &PODS, ListParams::all(), Some(memory), &shutdown);
        pods.synced().await;
        tokio::time::sleep(2 * HEAD_START).await;
        assert_eq!(pods.keys(), [ObjectKey::new("default", "new")]);
        shutdown.trigger();
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_end_at_once_are_not_asked_for_without_a_pause() {
        let mut bench = bench();
        let begun = Instant::now();
        bench.fake.answer(Ok(pod_list(7, &[])));
        for version in 8..12 {
            let feed = bench.fake.feed();
            feed.send(event(EventType::Bookmark, &pod("", version, ""))).await.unwrap();
        }
        let feed = bench.fake.feed();
        feed.send(event(EventType::Added, &pod("a", 21, "n1"))).await.unwrap();
        assert_eq!(bench.changes.recv().await.unwrap(), "default/a n1");
        assert!(begun.elapsed() >= Duration::from_millis(200 + 400 + 800 + 1600));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_event_of_410_lists_again() {
        let mut bench = bench();
        bench.fake.answer(Ok(pod_list(7, &[])));
        let feed = bench.fake.feed();
        let Error::Status(gone) = status(410, "Expired") else { unreachable!("made above") };
        feed.send(event(EventType::Error, &serde_json::to_value(gone).unwrap())).await.unwrap();
        bench.fake.answer(Ok(pod_list(9, &[pod("a", 8, "n1")])));
        assert_eq!(bench.changes.recv().await.unwrap(), "default/a n1");
    }
}
