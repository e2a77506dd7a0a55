//! The cache, over a real store.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use naru_api::registry::{CONFIG_MAPS, NAMESPACES, PODS};
use naru_store::Store;
use naru_store::{Durability, Expect, Options, Write};
use serde_json::{Value, json};
use tempfile::TempDir;

fn plain(store: &Store) -> Storage {
    Storage::new(store.clone(), crate::encryption::Keyring::default())
}

struct Fixture {
    dir: TempDir,
    store: Store,
    cache: Cache,
    shutdown: Shutdown,
}

fn object(resource: &Resource, namespace: Option<&str>, name: &str, labels: Value, data: Value) -> Value {
    let mut metadata = json!({"name": name, "uid": format!("uid-{name}"), "labels": labels});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata, "data": data})
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("db"), Options::default()).unwrap();
        let shutdown = Shutdown::new();
        let cache = Cache::start(plain(&store), &shutdown).await.unwrap();
        Self { dir, store, cache, shutdown }
    }

    async fn write(&self, resource: &Resource, namespace: Option<&str>, name: &str, value: Option<Value>) -> i64 {
        let key = storage_key(resource, namespace, name);
        let expect = match self.cache.get(resource, namespace, name) {
            Some(present) => Expect::Revision(present.revision()),
            None => Expect::Absent,
        };
        let write = Write { key: key.into(), expect, value: value.map(stored), durability: Durability::Sync };
        let revision = self.store.write(write).await.unwrap();
        self.cache.wait_for(revision).await.unwrap();
        revision
    }

    async fn put(&self, name: &str, labels: Value) -> i64 {
        let value = object(&CONFIG_MAPS, Some("default"), name, labels, json!({"k": "v"}));
        self.write(&CONFIG_MAPS, Some("default"), name, Some(value)).await
    }

    async fn delete(&self, name: &str) -> i64 {
        self.write(&CONFIG_MAPS, Some("default"), name, None).await
    }

    async fn list(&self, selection: Selection, limit: usize, at: ListAt) -> Result<Listing, CacheError> {
        self.cache.list(&CONFIG_MAPS, &selection, limit, at).await
    }

    async fn watch(&self, selection: Selection, from: WatchFrom) -> Watch {
        let request = WatchRequest { selection, from, bookmarks: true, mark_initial_end: false };
        self.cache.watch(&CONFIG_MAPS, request).await.unwrap()
    }
}

fn labelled(text: &str) -> Selection {
    Selection::new(None, LabelSelector::parse(text).unwrap(), FieldSelector::everything())
}

fn names(objects: &[Arc<CachedObject>]) -> Vec<&str> {
    objects.iter().map(|object| object.name()).collect()
}

/// Type, name and resourceVersion of a waiting event.
fn seen(watch: &mut Watch) -> Option<(String, String, i64)> {
    let item = watch.try_next().unwrap()?;
    let object: Value = serde_json::from_slice(&item.object).unwrap();
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    Some((format!("{:?}", item.kind), object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), revision))
}

fn event(kind: &str, name: &str, revision: i64) -> Option<(String, String, i64)> {
    Some((kind.to_owned(), name.to_owned(), revision))
}

#[test]
fn splices_the_revision_into_the_bytes() {
    let value = json!({"metadata": {"name": "a", "resourceVersion": "7", "labels": {"x": "\"metadata\":{"}}, "kind": "ConfigMap", "apiVersion": "v1"});
    let bytes = stored(value);
    assert_eq!(
        &bytes[..],
        br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"labels":{"x":"\"metadata\":{"},"name":"a"}}"#
    );
    let spliced = splice(&bytes, 42);
    let expected = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","labels":{"x":"\"metadata\":{"},"name":"a"}}"#;
    assert_eq!(&spliced[..], expected);
    assert_eq!(
        &splice(br#"{"kind":"X","apiVersion":"v1","metadata":{}}"#, 1)[..],
        br#"{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"1"}}"#
    );
}

#[tokio::test]
async fn indexes_what_requests_ask_for() {
    let f = Fixture::new().await;
    let revision = f.put("a", json!({"app": "web"})).await;
    let a = f.cache.get(&CONFIG_MAPS, Some("default"), "a").unwrap();
    assert_eq!((a.name(), a.namespace(), a.uid(), a.revision()), ("a", Some("default"), "uid-a", revision));
    assert_eq!((a.label("app"), a.label("tier")), (Some("web"), None));
    assert_eq!((a.field("metadata.name"), a.field("metadata.namespace")), (Some("a"), Some("default")));
    let value = object(&NAMESPACES, None, "ns", json!({}), json!(null));
    f.write(&NAMESPACES, None, "ns", Some(value)).await;
    let ns = f.cache.get(&NAMESPACES, None, "ns").unwrap();
    assert_eq!((ns.name(), ns.namespace()), ("ns", None));
    assert_eq!(f.cache.objects(&CONFIG_MAPS).len(), 1);
    assert!(f.cache.can_select_by(&CONFIG_MAPS, "metadata.namespace"));
    assert!(!f.cache.can_select_by(&CONFIG_MAPS, "spec.x"));
    assert!(f.cache.last_change(&NAMESPACES) > f.cache.last_change(&CONFIG_MAPS));
}

#[tokio::test]
async fn encodes_lists_without_kinds_in_items() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({})).await;
    let b = f.put("b", json!({})).await;
    let listing = f.list(Selection::of(Some("default")), 0, ListAt::Newest).await.unwrap();
    let value: Value = serde_json::from_slice(&listing.encode(&CONFIG_MAPS)).unwrap();
    let item = |name: &str, revision: i64| json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {}, "resourceVersion": revision.to_string()}, "data": {"k": "v"}});
    let expected = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": b.to_string()}, "items": [item("a", a), item("b", b)]});
    assert_eq!(value, expected);
    let empty = f.cache.list(&PODS, &Selection::of(None), 0, ListAt::Newest).await.unwrap();
    assert_eq!(empty.revision, b, "the revision is the store's, whatever the list holds");
    assert!(empty.encode(&PODS).ends_with(br#""items":[]}"#));
}

#[tokio::test]
async fn a_page_older_than_the_history_tells_how_many_follow() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c", "d"] {
        f.put(name, json!({})).await;
    }
    let then = f.delete("b").await;
    f.delete("d").await;
    for number in 0..2_100 {
        f.put("e", json!({ "n": number.to_string() })).await;
    }
    let page = f.list(Selection::of(None), 1, ListAt::Exact(then)).await.unwrap();
    assert_eq!((names(&page.objects), page.remaining, page.revision), (vec!["a"], Some(2), then));
    let rest = f.list(Selection::of(None), 2, ListAt::Continue(Continue::decode(&page.next.unwrap()).unwrap())).await;
    let rest = rest.unwrap();
    assert_eq!((names(&rest.objects), rest.remaining, rest.next), (vec!["c", "d"], None, None));
}

#[tokio::test]
async fn pages_stay_at_one_revision() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c", "d"] {
        f.put(name, json!({})).await;
    }
    let first = f.list(Selection::of(None), 2, ListAt::Newest).await.unwrap();
    assert_eq!((names(&first.objects), first.remaining), (vec!["a", "b"], Some(2)));
    let token = Continue::decode(&first.next.unwrap()).unwrap();
    let old_c = f.cache.get(&CONFIG_MAPS, Some("default"), "c").unwrap().revision();
    f.put("c", json!({"changed": "yes"})).await;
    f.delete("d").await;
    f.put("e", json!({})).await;
    let rest = f.list(Selection::of(None), 5, ListAt::Continue(token.clone())).await.unwrap();
    assert_eq!((names(&rest.objects), rest.next.as_deref(), rest.revision), (vec!["c", "d"], None, first.revision));
    assert_eq!(rest.objects[0].revision(), old_c);
    // The same from the store, when the history in memory does not reach back: here, after a restart.
    let restarted = Cache::start(plain(&f.store), &f.shutdown).await.unwrap();
    let rest = restarted.list(&CONFIG_MAPS, &Selection::of(None), 5, ListAt::Continue(token.clone())).await.unwrap();
    assert_eq!((names(&rest.objects), rest.objects[0].revision()), (vec!["c", "d"], old_c));
    // Compacted: the client is told, and given a token that goes on in the present.
    f.store.compact(f.store.revision()).await.unwrap();
    let expired = f.list(Selection::of(None), 5, ListAt::Continue(token.clone())).await;
    assert!(
        matches!(expired, Err(CacheError::ContinueExpired { .. })),
        "what the history could still tell is gone too"
    );
    let expired = restarted.list(&CONFIG_MAPS, &Selection::of(None), 5, ListAt::Continue(token)).await.unwrap_err();
    let CacheError::ContinueExpired { inconsistent } = expired else { panic!("{expired:?}") };
    let token = Continue::decode(&inconsistent).unwrap();
    let rest = restarted.list(&CONFIG_MAPS, &Selection::of(None), 5, ListAt::Continue(token)).await.unwrap();
    assert_eq!(names(&rest.objects), ["c", "e"]);
    assert!(f.dir.path().exists());
}

#[tokio::test]
async fn lists_what_selectors_match_at_the_revision_asked_for() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({"app": "web"})).await;
    f.put("b", json!({"app": "db"})).await;
    let a2 = f.put("a", json!({"app": "db"})).await;
    let at = async |text, at| names_of(&f.list(labelled(text), 0, at).await.unwrap());
    assert_eq!(at("app=db", ListAt::Newest).await, ["a", "b"]);
    assert_eq!(at("app=web", ListAt::Exact(a)).await, ["a"]);
    assert_eq!(at("app=web", ListAt::Exact(a2)).await, [""; 0]);
    assert_eq!(at("app=db", ListAt::NotOlderThan(a)).await, ["a", "b"]);
    let by_name = Selection::new(None, LabelSelector::everything(), FieldSelector::parse("metadata.name=b").unwrap());
    assert_eq!(names_of(&f.list(by_name.clone(), 0, ListAt::Newest).await.unwrap()), ["b"]);
    f.put("bb", json!({})).await;
    for (namespace, expected) in [("default", &["b"][..]), ("other", &[])] {
        let there = Selection { namespace: Some(namespace.into()), ..by_name.clone() };
        assert_eq!(names_of(&f.list(there, 0, ListAt::Newest).await.unwrap()), expected);
    }
    let limited = f.list(labelled("app=db"), 1, ListAt::Newest).await.unwrap();
    assert_eq!((limited.next.is_some(), limited.remaining), (true, None));
}

fn names_of(listing: &Listing) -> Vec<String> {
    listing.objects.iter().map(|object| object.name().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_never_comes_is_too_large() {
    let f = Fixture::new().await;
    let error = f.list(Selection::of(None), 0, ListAt::NotOlderThan(99)).await.unwrap_err();
    assert_eq!(error.to_string(), "Too large resource version: 99, current: 0");
}

#[tokio::test]
async fn watches_objects_come_change_and_go() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({})).await;
    let mut present = f.watch(Selection::of(None), WatchFrom::Present(0)).await;
    let mut after = f.watch(Selection::of(Some("default")), WatchFrom::After(a)).await;
    let mut elsewhere = f.watch(Selection::of(Some("elsewhere")), WatchFrom::After(0)).await;
    let a2 = f.put("a", json!({})).await;
    let gone = f.delete("a").await;
    assert_eq!(seen(&mut present), event("Added", "a", a));
    for watch in [&mut present, &mut after] {
        assert_eq!(seen(watch), event("Modified", "a", a2));
        assert_eq!(seen(watch), event("Deleted", "a", gone));
        assert_eq!(seen(watch), None);
    }
    assert_eq!(seen(&mut elsewhere), None);
    let mut replay = f.watch(Selection::of(None), WatchFrom::After(a)).await;
    assert_eq!(seen(&mut replay), event("Modified", "a", a2));
    assert_eq!(seen(&mut replay), event("Deleted", "a", gone));
    let b = f.put("b", json!({})).await;
    let item = present.next().await.unwrap();
    let other = after.next().await.unwrap();
    assert_eq!(item.kind, naru_client::transport::EventType::Added);
    assert_eq!(item.object.as_ptr(), other.object.as_ptr(), "one encoding for all watchers");
    assert_eq!(f.cache.revision(), b);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector() {
    let f = Fixture::new().await;
    let mut watch = f.watch(labelled("app=web"), WatchFrom::Present(0)).await;
    f.put("a", json!({"app": "db"})).await;
    let enters = f.put("a", json!({"app": "web"})).await;
    let stays = f.put("a", json!({"app": "web", "x": "y"})).await;
    let leaves = f.put("a", json!({"app": "db"})).await;
    f.put("a", json!({"app": "db", "x": "y"})).await;
    f.delete("a").await;
    assert_eq!(seen(&mut watch), event("Added", "a", enters));
    assert_eq!(seen(&mut watch), event("Modified", "a", stays));
    let item = watch.try_next().unwrap().unwrap();
    let last: Value = serde_json::from_slice(&item.object).unwrap();
    assert_eq!(item.kind, naru_client::transport::EventType::Deleted);
    assert_eq!(last["metadata"]["labels"], json!({"app": "web", "x": "y"}), "as it was when it matched");
    assert_eq!(last["metadata"]["resourceVersion"], leaves.to_string());
    assert_eq!(seen(&mut watch), None);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_where_asked_for() {
    let f = Fixture::new().await;
    f.put("a", json!({})).await;
    let request = WatchRequest {
        selection: Selection::of(None),
        from: WatchFrom::Present(0),
        bookmarks: true,
        mark_initial_end: true,
    };
    let mut watch = f.cache.watch(&CONFIG_MAPS, request).await.unwrap();
    let started = f.cache.revision();
    assert_eq!(seen(&mut watch), event("Added", "a", started));
    let end = watch.next().await.unwrap();
    let end: Value = serde_json::from_slice(&end.object).unwrap();
    assert_eq!(end["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(end["metadata"]["resourceVersion"], started.to_string());
    // Time is paused: it runs on as soon as nothing else can.
    let value = object(&NAMESPACES, None, "ns", json!({}), json!(null));
    let moved = f.write(&NAMESPACES, None, "ns", Some(value)).await;
    let item = watch.next().await.unwrap();
    assert_eq!(item.kind, naru_client::transport::EventType::Bookmark);
    let bookmark: Value = serde_json::from_slice(&item.object).unwrap();
    assert_eq!(bookmark["metadata"]["resourceVersion"], moved.to_string());
    let mut plain = f
        .cache
        .watch(
            &CONFIG_MAPS,
            WatchRequest {
                selection: Selection::of(None),
                from: WatchFrom::After(moved),
                bookmarks: false,
                mark_initial_end: false,
            },
        )
        .await
        .unwrap();
    assert!(plain.bookmark().is_none());
}

#[tokio::test]
async fn a_watcher_that_falls_behind_the_history_is_dropped_and_others_are_not() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({})).await;
    let mut slow = f.watch(Selection::of(None), WatchFrom::After(a)).await;
    let mut quiet = f.watch(labelled("app=quiet"), WatchFrom::After(a)).await;
    for _ in 0..2100 {
        f.put("a", json!({})).await;
    }
    assert_eq!(slow.try_next().unwrap_err(), WatchEnd::Lagged);
    let quiet_one = f.put("q", json!({"app": "quiet"})).await;
    assert_eq!(seen(&mut quiet), event("Added", "q", quiet_one), "who has missed nothing stays");
    // It may come back: the store still has what it missed.
    let mut back = f.watch(Selection::of(None), WatchFrom::After(a)).await;
    for missed in 1..=2100 {
        let item = back.next().await.unwrap();
        let object: Value = serde_json::from_slice(&item.object).unwrap();
        assert_eq!(object["metadata"]["resourceVersion"], (a + missed).to_string(), "each once and in order");
    }
    assert_eq!(seen(&mut back), event("Added", "q", quiet_one));
    // When the store has forgotten it too, it has to list.
    f.store.compact(quiet_one).await.unwrap();
    let request = WatchRequest {
        selection: Selection::of(None),
        from: WatchFrom::After(a),
        bookmarks: false,
        mark_initial_end: false,
    };
    let error = f.cache.watch(&CONFIG_MAPS, request).await.unwrap_err();
    assert_eq!(error.to_string(), format!("too old resource version: {a} ({quiet_one})"));
}

#[tokio::test]
async fn a_dropped_watcher_holds_nothing() {
    let f = Fixture::new().await;
    let first = f.put("a", json!({})).await;
    let old = Arc::downgrade(&f.cache.get(&CONFIG_MAPS, Some("default"), "a").unwrap());
    // It never takes anything, not even what was there when it began.
    let mut stalled = f.watch(Selection::of(None), WatchFrom::Present(0)).await;
    for _ in 0..2100 {
        f.put("a", json!({})).await;
    }
    assert!(old.upgrade().is_none(), "the object of revision {first} is gone");
    assert!(f.cache.of(&CONFIG_MAPS).read().waiters.is_empty(), "nobody tells it of changes any more");
    assert_eq!(stalled.next().await.unwrap_err(), WatchEnd::Lagged);
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({"app": "web"})).await;
    let b = f.put("b", json!({"app": "web"})).await;
    let leaves = f.put("a", json!({"app": "db"})).await;
    let value = object(&NAMESPACES, None, "ns", json!({}), json!(null));
    f.write(&NAMESPACES, None, "ns", Some(value)).await;
    let gone = f.delete("b").await;
    let restarted = Fixture { cache: Cache::start(plain(&f.store), &f.shutdown).await.unwrap(), ..f };
    let mut watch = restarted.watch(labelled("app=web"), WatchFrom::After(a)).await;
    let live = restarted.put("c", json!({"app": "web"})).await;
    for (kind, name, revision) in
        [("Added", "b", b), ("Deleted", "a", leaves), ("Deleted", "b", gone), ("Added", "c", live)]
    {
        let item = watch.next().await.unwrap();
        let object: Value = serde_json::from_slice(&item.object).unwrap();
        assert_eq!(format!("{:?}", item.kind), kind);
        assert_eq!(object["metadata"]["name"], name);
        assert_eq!(object["metadata"]["resourceVersion"], revision.to_string());
    }
    assert_eq!(seen(&mut watch), None);
}

#[tokio::test]
async fn a_watch_from_the_future_waits_for_it() {
    let f = Fixture::new().await;
    let a = f.put("a", json!({})).await;
    let mut watch = f.watch(Selection::of(None), WatchFrom::After(a + 2)).await;
    f.put("b", json!({})).await;
    f.put("c", json!({})).await;
    let d = f.put("d", json!({})).await;
    assert_eq!(seen(&mut watch), event("Added", "d", d));
}

#[tokio::test]
async fn large_objects_are_held_compressed_and_answered_as_they_were() {
    let f = Fixture::new().await;
    let data = json!({"k": "some words that come again, ".repeat(400)});
    let value = object(&CONFIG_MAPS, Some("default"), "large", json!({}), data.clone());
    let mut watch = f.watch(Selection::of(None), WatchFrom::After(0)).await;
    let revision = f.write(&CONFIG_MAPS, Some("default"), "large", Some(value)).await;
    let cached = f.cache.get(&CONFIG_MAPS, Some("default"), "large").unwrap();
    assert!(cached.bytes() < 2000, "{} of {} bytes", cached.bytes(), cached.json_len());
    let json: Value = serde_json::from_slice(&cached.json()).unwrap();
    assert_eq!((&json["data"], &json["metadata"]["resourceVersion"]), (&data, &revision.to_string().into()));
    let listing = f.list(Selection::of(None), 0, ListAt::Newest).await.unwrap();
    let list: Value = serde_json::from_slice(&listing.encode(&CONFIG_MAPS)).unwrap();
    assert_eq!(list["items"][0]["data"], data);
    assert_eq!(watch.next().await.unwrap().object, cached.json());
    let gone = f.delete("large").await;
    let last: Value = serde_json::from_slice(&watch.next().await.unwrap().object).unwrap();
    assert_eq!((&last["data"], &last["metadata"]["resourceVersion"]), (&data, &gone.to_string().into()));
}

#[test]
fn continue_tokens_are_read_back_and_nonsense_is_refused() {
    for revision in [Some(5), None] {
        let token = Continue { revision, after: "default/a".to_owned() };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
    }
    let token = |json: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, json);
    for (text, why) in [
        (String::new(), "unexpected end of JSON input"),
        ("%%%".to_owned(), "illegal base64 data at input byte 0"),
        ("e30=".to_owned(), "illegal base64 data at input byte 3"),
        ("abc".to_owned(), "invalid character 'i' looking for beginning of value"),
        (token("{}"), "server does not recognize this encoded version "),
        (
            token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        ),
        (token(r#"{"v":"meta.k8s.io/v1","rv":1}"#), "encoded start key empty (version meta.k8s.io/v1)"),
        (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#), "../a"),
        (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#), "a//b"),
    ] {
        let error = Continue::decode(&text).unwrap_err();
        assert_eq!(error.to_string(), format!("continue key is not valid: {why}"), "{text}");
    }
}
