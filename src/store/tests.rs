//! The engine's behaviour, through its public surface and real files.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(30);

struct Dir {
    dir: TempDir,
}

impl Dir {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("db/naru.db")
    }

    fn open(&self) -> Store {
        self.open_with(Options::default())
    }

    fn open_with(&self, options: Options) -> Store {
        Store::open(self.file(), options).unwrap()
    }

    fn error(&self) -> OpenError {
        Store::open(self.file(), Options::default()).unwrap_err()
    }
}

fn write(key: &str, expect: Expect, value: Option<&str>, durability: Durability) -> Write {
    Write { key: key.into(), expect, value: value.map(|v| Bytes::copy_from_slice(v.as_bytes())), durability }
}

async fn create(store: &Store, key: &str, value: &str) -> i64 {
    store.write(write(key, Expect::Absent, Some(value), Durability::Sync)).await.unwrap()
}

async fn update(store: &Store, key: &str, revision: i64, value: &str) -> i64 {
    store.write(write(key, Expect::Revision(revision), Some(value), Durability::Sync)).await.unwrap()
}

async fn delete(store: &Store, key: &str, revision: i64) -> i64 {
    store.write(write(key, Expect::Revision(revision), None, Durability::Sync)).await.unwrap()
}

async fn lazy(store: &Store, key: &str, expect: Expect, value: &str) -> i64 {
    store.write(write(key, expect, Some(value), Durability::Lazy)).await.unwrap()
}

async fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

async fn listed(store: &Store, prefix: &str, at: Option<i64>) -> Vec<(String, String)> {
    let page = store.list(prefix, None, 1000, at).await.unwrap();
    assert!(!page.more);
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    page.records.iter().map(|record| (record.key.to_string(), text(&record.value))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

async fn next(watch: &mut Watch) -> (i64, String, Option<Bytes>, Option<Bytes>) {
    let event = tokio::time::timeout(SECOND, watch.next()).await.expect("an event is due").unwrap();
    (event.revision, event.key.to_string(), event.value, event.previous)
}

fn some(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn compares_before_it_sets() {
    let dir = Dir::new();
    let store = dir.open();
    let first = create(&store, "/a", "1").await;
    let conflict = store.write(write("/a", Expect::Absent, Some("x"), Durability::Sync)).await.unwrap_err();
    let WriteError::Conflict { current: Some(current) } = conflict else { panic!("{conflict:?}") };
    assert_eq!((current.mod_revision, &current.value[..]), (first, &b"1"[..]));
    let second = update(&store, "/a", first, "2").await;
    assert!(second > first);
    let stale = store.write(write("/a", Expect::Revision(first), None, Durability::Sync)).await.unwrap_err();
    assert!(
        matches!(stale, WriteError::Conflict { current: Some(r) } if r.mod_revision == second && r.create_revision == first)
    );
    delete(&store, "/a", second).await;
    let gone = store.write(write("/a", Expect::Revision(second), None, Durability::Sync)).await.unwrap_err();
    assert!(matches!(gone, WriteError::Conflict { current: None }));
    assert_eq!(value(&store, "/a").await, None);
    let again = create(&store, "/a", "3").await;
    assert_eq!(store.get("/a").await.unwrap().unwrap().create_revision, again);
}

#[tokio::test]
async fn survives_being_dropped_without_close() {
    let dir = Dir::new();
    let store = dir.open();
    let kept = create(&store, "/kept", "durable").await;
    let lost = lazy(&store, "/lost", Expect::Absent, "lazy").await;
    let changed = lazy(&store, "/kept", Expect::Revision(kept), "lazy").await;
    assert_eq!(value(&store, "/kept").await.as_deref(), Some("lazy"));
    drop(store);
    let store = dir.open();
    assert_eq!(value(&store, "/kept").await.as_deref(), Some("durable"));
    assert_eq!(value(&store, "/lost").await, None);
    assert!(store.revision() >= changed, "revisions never go back");
    assert!(create(&store, "/new", "").await > changed);
    let resumed = store.watch("/", lost, 8).unwrap_err();
    assert!(matches!(resumed, WatchError::Compacted { .. }), "a watch of the lost range must start over");
}

#[tokio::test]
async fn close_keeps_lazy_writes_and_their_last_state_only() {
    let dir = Dir::new();
    let store = dir.open();
    let mut revision = create(&store, "/lease", "0").await;
    for _ in 0..5 {
        revision = lazy(&store, "/lease", Expect::Revision(revision), "renewed").await;
    }
    store.close().await.unwrap();
    let refused = store.write(write("/x", Expect::Absent, Some(""), Durability::Sync)).await.unwrap_err();
    assert!(matches!(refused, WriteError::Closed));
    drop(store);
    let store = dir.open();
    assert_eq!(store.revision(), revision, "a proper end wastes no revisions");
    assert_eq!(store.get("/lease").await.unwrap().unwrap().mod_revision, revision);
    let mut watch = store.watch("/", 0, 8).unwrap();
    assert_eq!(next(&mut watch).await.2, some("0"));
    assert_eq!(next(&mut watch).await, (revision, "/lease".to_owned(), some("renewed"), some("0")));
}

#[tokio::test]
async fn lazy_writes_are_flushed_in_time() {
    let dir = Dir::new();
    let store = dir.open_with(Options { flush_interval: Duration::ZERO, ..Options::default() });
    let revision = lazy(&store, "/event", Expect::Absent, "seen").await;
    // The writer flushes before it takes the next command.
    create(&store, "/fence", "").await;
    create(&store, "/fence2", "").await;
    drop(store);
    let store = dir.open();
    assert_eq!(store.get("/event").await.unwrap().unwrap().mod_revision, revision);
}

#[tokio::test]
async fn a_durable_write_takes_the_lazy_ones_below_it_along() {
    let dir = Dir::new();
    let store = dir.open();
    let a = lazy(&store, "/lease", Expect::Absent, "a").await;
    let b = lazy(&store, "/lease", Expect::Revision(a), "b").await;
    let c = update(&store, "/lease", b, "c").await;
    assert_eq!(listed(&store, "/", Some(a)).await, pairs(&[("/lease", "a")]));
    drop(store);
    let store = dir.open();
    assert_eq!(store.get("/lease").await.unwrap().unwrap().mod_revision, c);
    for (at, expected) in [(a, "a"), (b, "b"), (c, "c")] {
        assert_eq!(listed(&store, "/", Some(at)).await, pairs(&[("/lease", expected)]));
    }
}

#[tokio::test]
async fn lists_pages_of_one_revision() {
    let dir = Dir::new();
    let store = dir.open();
    for key in ["/p/c", "/p/a", "/q/x", "/p/b", "/p/d"] {
        create(&store, key, key).await;
    }
    let page = store.list("/p/", None, 2, None).await.unwrap();
    assert_eq!(page.records.iter().map(|r| &*r.key).collect::<Vec<_>>(), ["/p/a", "/p/b"]);
    assert!(page.more);
    let c = store.get("/p/c").await.unwrap().unwrap();
    update(&store, "/p/c", c.mod_revision, "changed").await;
    let d = store.get("/p/d").await.unwrap().unwrap();
    delete(&store, "/p/d", d.mod_revision).await;
    create(&store, "/p/e", "late").await;
    let rest = store.list("/p/", Some("/p/b"), 2, Some(page.revision)).await.unwrap();
    assert_eq!(
        rest.records.iter().map(|r| (&*r.key, &r.value[..])).collect::<Vec<_>>(),
        [("/p/c", &b"/p/c"[..]), ("/p/d", b"/p/d")]
    );
    assert!(!rest.more);
    assert_eq!(listed(&store, "/p/c", None).await, pairs(&[("/p/c", "changed")]));
    let future = store.list("/", None, 1, Some(store.revision() + 1)).await.unwrap_err();
    assert!(matches!(future, ReadError::Future { .. }));
}

#[tokio::test]
async fn watches_from_any_kept_revision_and_on() {
    let dir = Dir::new();
    let store = dir.open();
    let a = create(&store, "/w/a", "1").await;
    let other = create(&store, "/other", "").await;
    let a2 = update(&store, "/w/a", a, "2").await;
    let mut watch = store.watch("/w/", other, 16).unwrap();
    let mut all = store.watch("/w/", 0, 16).unwrap();
    let gone = delete(&store, "/w/a", a2).await;
    let b = lazy(&store, "/w/b", Expect::Absent, "lazy").await;
    assert_eq!(next(&mut all).await, (a, "/w/a".into(), some("1"), None));
    for watch in [&mut watch, &mut all] {
        assert_eq!(next(watch).await, (a2, "/w/a".into(), some("2"), some("1")));
        assert_eq!(next(watch).await, (gone, "/w/a".into(), None, some("2")));
        assert_eq!(next(watch).await, (b, "/w/b".into(), some("lazy"), None));
    }
    assert!(watch.try_next().is_none());
}

#[tokio::test]
async fn a_slow_watcher_is_dropped_and_may_come_back() {
    let dir = Dir::new();
    let store = dir.open();
    let mut watch = store.watch("/", 0, 2).unwrap();
    let mut revisions = Vec::new();
    for i in 0..5 {
        revisions.push(create(&store, &format!("/{i}"), "").await);
    }
    assert_eq!(next(&mut watch).await.0, revisions[0]);
    assert_eq!(next(&mut watch).await.0, revisions[1]);
    assert!(matches!(watch.next().await, Err(WatchError::Lagged)));
    let mut watch = store.watch("/", revisions[1], 8).unwrap();
    for revision in &revisions[2..] {
        assert_eq!(next(&mut watch).await.0, *revision);
    }
    store.close().await.unwrap();
    assert!(matches!(watch.next().await, Err(WatchError::Closed)));
}

#[tokio::test]
async fn the_event_is_there_when_the_write_returns() {
    let dir = Dir::new();
    let store = dir.open();
    let mut watch = store.watch("/", 0, 16).unwrap();
    for i in 0..10 {
        let revision = create(&store, &format!("/{i}"), "").await;
        assert_eq!(watch.try_next().unwrap().revision, revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_get_one_order_without_losses() {
    let dir = Dir::new();
    let store = dir.open();
    let mut watch = store.watch("/", 0, 4096).unwrap();
    create(&store, "/counter", "0").await;
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = store.clone();
            naru_base::spawn("writer", async move {
                for i in 0..20 {
                    create(&store, &format!("/{task}/{i}"), "").await;
                    // A counter that only compare-and-set can keep right.
                    loop {
                        let now = store.get("/counter").await.unwrap().unwrap();
                        let count: u32 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                        let next = (count + 1).to_string();
                        let result = store
                            .write(write("/counter", Expect::Revision(now.mod_revision), Some(&next), Durability::Sync))
                            .await;
                        if result.is_ok() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&store, "/counter").await.as_deref(), Some("320"));
    let mut last = 0;
    let mut state = std::collections::BTreeMap::new();
    while let Some(event) = watch.try_next() {
        assert!(event.revision > last, "events come in order");
        last = event.revision;
        assert_eq!(state.insert(event.key, event.value.clone().unwrap()), event.previous, "no change is left out");
    }
    assert_eq!(state.len(), 321);
    drop(store);
    let store = dir.open();
    assert_eq!(store.revision(), last);
    assert_eq!(store.list("/", None, 1000, None).await.unwrap().records.len(), 321);
}

#[tokio::test]
async fn compaction_forgets_history_but_no_state() {
    let dir = Dir::new();
    let store = dir.open();
    let a = create(&store, "/a", "1").await;
    let b = create(&store, "/b", "1").await;
    let gone = create(&store, "/gone", "1").await;
    let a2 = update(&store, "/a", a, "2").await;
    let deleted = delete(&store, "/gone", gone).await;
    let a3 = update(&store, "/a", a2, "3").await;
    store.compact(deleted).await.unwrap();
    assert_eq!(store.oldest_revision(), deleted);
    assert!(matches!(store.list("/", None, 9, Some(b)).await, Err(ReadError::Compacted { .. })));
    assert!(matches!(store.watch("/", b, 9), Err(WatchError::Compacted { .. })));
    assert_eq!(listed(&store, "/", Some(deleted)).await, pairs(&[("/a", "2"), ("/b", "1")]));
    assert_eq!(listed(&store, "/", None).await, pairs(&[("/a", "3"), ("/b", "1")]));
    let mut watch = store.watch("/", deleted, 9).unwrap();
    assert_eq!(next(&mut watch).await, (a3, "/a".into(), some("3"), some("2")));
    delete(&store, "/a", a3).await;
    let newest = store.revision();
    store.compact(newest).await.unwrap();
    drop(store);
    let store = dir.open();
    assert_eq!(store.revision(), newest, "the newest revision is kept though its row is gone");
    assert_eq!(listed(&store, "/", None).await, pairs(&[("/b", "1")]));
    create(&store, "/a", "4").await;
    assert_eq!(listed(&store, "/", Some(newest)).await, pairs(&[("/b", "1")]));
}

#[tokio::test]
async fn compacts_by_itself() {
    let dir = Dir::new();
    let store = dir.open_with(Options { history: 50, ..Options::default() });
    let mut revision = create(&store, "/a", "0").await;
    for _ in 0..150 {
        revision = update(&store, "/a", revision, "x").await;
    }
    assert!(store.oldest_revision() >= revision - 101, "{} of {revision}", store.oldest_revision());
    assert_eq!(value(&store, "/a").await.as_deref(), Some("x"));
}

/// Creates records until the database is too large; returns their keys and revisions.
async fn fill(store: &Store) -> Vec<(String, i64)> {
    let large = "x".repeat(20_000);
    let mut made = Vec::new();
    for number in 0..10_000 {
        let key = format!("/a/{number}");
        match store.write(write(&key, Expect::Absent, Some(&large), Durability::Sync)).await {
            Ok(revision) => made.push((key, revision)),
            Err(WriteError::TooLarge { limit_bytes }) => {
                assert_eq!(limit_bytes, LIMIT);
                return made;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the database has no limit");
}

const LIMIT: u64 = 4 << 20;

#[tokio::test]
async fn a_database_at_its_limit_says_so_and_deletes_make_room() {
    let dir = Dir::new();
    let store = dir.open_with(Options { max_bytes: LIMIT, ..Options::default() });
    let made = fill(&store).await;
    assert!(store.used_bytes() > LIMIT);
    let (key, revision) = &made[0];
    assert_eq!(store.get(key).await.unwrap().unwrap().mod_revision, *revision, "reads go on");
    let update = store.write(write(key, Expect::Revision(*revision), Some("small"), Durability::Sync)).await;
    assert!(matches!(update, Err(WriteError::TooLarge { .. })), "{update:?}");
    store.health().await.unwrap();
    for (key, revision) in &made[..made.len() / 2] {
        delete(&store, key, *revision).await;
    }
    // What was deleted is compacted away without being asked for.
    let again = write("/again", Expect::Absent, Some("x"), Durability::Sync);
    let works = tokio::time::timeout(SECOND, async {
        while let Err(error) = store.write(again.clone()).await {
            assert!(matches!(error, WriteError::TooLarge { .. }), "{error:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    works.await.expect("there is room again");
    assert!(store.used_bytes() < LIMIT);
}

#[tokio::test]
async fn a_key_that_is_overwritten_for_ever_never_fills_the_database() {
    let dir = Dir::new();
    let store = dir.open_with(Options { max_bytes: 1 << 20, ..Options::default() });
    let large = "x".repeat(20_000);
    let mut revision = create(&store, "/a", &large).await;
    let mut written = 0;
    while written < 200 {
        match store.write(write("/a", Expect::Revision(revision), Some(&large), Durability::Sync)).await {
            Ok(next) => (revision, written) = (next, written + 1),
            // Until history has gone.
            Err(WriteError::TooLarge { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn the_file_becomes_smaller_again() {
    let dir = Dir::new();
    let store = dir.open();
    let large = "x".repeat(50_000);
    let mut made = Vec::new();
    for number in 0..400 {
        made.push(create(&store, &format!("/a/{number}"), &large).await);
    }
    for (number, revision) in made.iter().enumerate() {
        delete(&store, &format!("/a/{number}"), *revision).await;
    }
    store.close().await.unwrap();
    drop(store);
    let full = std::fs::metadata(dir.file()).unwrap().len();
    let store = dir.open();
    store.compact(store.revision()).await.unwrap();
    let shrunk = tokio::time::timeout(SECOND, async {
        loop {
            // Upkeep is done between writes.
            lazy(&store, &format!("/b/{}", store.revision()), Expect::Absent, "").await;
            let store = rusqlite::Connection::open(dir.file()).unwrap();
            let pages: i64 = store.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
            if pages.unsigned_abs() * 4096 < full / 4 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    shrunk.await.expect("free pages are given back");
}

#[test]
fn trying_a_write_writes() {
    let dir = Dir::new();
    drop(dir.open());
    let mut connection = crate::open::connect(&dir.file()).unwrap();
    let other = rusqlite::Connection::open(dir.file()).unwrap();
    let version = || other.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).unwrap();
    let mut seen = vec![version()];
    for _ in 0..3 {
        crate::disk::touch(&mut connection).unwrap();
        seen.push(version());
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "each try changed the database: {seen:?}");
}

#[tokio::test]
async fn counts_what_there_was() {
    let dir = Dir::new();
    let store = dir.open();
    let mut revisions = Vec::new();
    for number in 0..10 {
        revisions.push(create(&store, &format!("/a/{number}"), "").await);
    }
    let then = store.revision();
    delete(&store, "/a/3", revisions[3]).await;
    let changed = update(&store, "/a/4", revisions[4], "x").await;
    lazy(&store, "/a/4", Expect::Revision(changed), "y").await;
    create(&store, "/a/91", "").await;
    create(&store, "/b", "").await;
    assert_eq!(store.count("/a/", None, then).await.unwrap(), 10);
    assert_eq!(store.count("/a/", Some("/a/2"), then).await.unwrap(), 7);
    assert_eq!(store.count("/a/", Some("/a/2"), store.revision()).await.unwrap(), 7);
    assert_eq!(store.count("/a/", None, revisions[4]).await.unwrap(), 5);
    store.compact(store.revision()).await.unwrap();
    assert!(matches!(store.count("/a/", None, then).await, Err(ReadError::Compacted { .. })));
    assert_eq!(store.count("/a/", None, store.revision()).await.unwrap(), 10);
}

#[tokio::test]
async fn the_log_stays_short_while_others_read() {
    let dir = Dir::new();
    let store = dir.open();
    let large = "x".repeat(100_000);
    create(&store, "/read", &large).await;
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, ended) = (store.clone(), ended.clone());
            naru_base::spawn("reader", async move {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    store.list("/", None, 50, None).await.unwrap();
                }
            })
        })
        .collect();
    for batch in 0..50 {
        let writes: Vec<_> = (0..30)
            .map(|number| {
                let (store, large) = (store.clone(), large.clone());
                naru_base::spawn("reader", async move { create(&store, &format!("/a/{batch}/{number}"), &large).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    let log = std::fs::metadata(dir.file().with_extension("db-wal")).unwrap().len();
    assert!(log < 100 << 20, "{log} bytes of log after 150 MB of writes");
}

#[test]
fn only_one_may_have_it_open() {
    let dir = Dir::new();
    let store = dir.open();
    let error = dir.error();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(store);
    dir.open();
}

#[tokio::test]
async fn refuses_what_is_not_its_own_and_leaves_it_alone() {
    let dir = Dir::new();
    std::fs::create_dir_all(dir.file().parent().unwrap()).unwrap();
    let long = "a text file, long enough to hold a header, but holding none at all".repeat(3);
    for content in [long.as_bytes(), b"short", b"SQLite format 3\0 and cut off"] {
        std::fs::write(dir.file(), content).unwrap();
        let error = dir.error();
        assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
        assert!(error.to_string().contains("naru.db"));
        assert_eq!(std::fs::read(dir.file()).unwrap(), content);
    }
    std::fs::remove_file(dir.file()).unwrap();
    let foreign = rusqlite::Connection::open(dir.file()).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(matches!(dir.error(), OpenError::NotADatabase { .. }));
    drop(foreign);
    std::fs::write(dir.file(), b"").unwrap();
    create(&dir.open(), "/a", "an empty file is as good as none").await;
    let newer = rusqlite::Connection::open(dir.file()).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert!(matches!(dir.error(), OpenError::NewerFormat { found: 99, .. }));
}

#[tokio::test]
async fn finds_damage_when_opening() {
    let dir = Dir::new();
    let store = dir.open();
    for i in 0..200 {
        create(&store, &format!("/{i}"), &"x".repeat(500)).await;
    }
    store.close().await.unwrap();
    drop(store);
    let whole = std::fs::read(dir.file()).unwrap();
    let mut broken = whole.clone();
    broken[3 * 4096..5 * 4096].fill(0xa5);
    for content in [&broken[..], &whole[..whole.len() / 2]] {
        std::fs::write(dir.file(), content).unwrap();
        let error = dir.error();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("naru.db is damaged"), "{error}");
        assert_eq!(std::fs::read(dir.file()).unwrap(), content);
    }
    std::fs::write(dir.file(), &whole).unwrap();
    assert_eq!(dir.open().list("/", None, 1000, None).await.unwrap().records.len(), 200);
}

#[test]
fn names_the_directory_that_cannot_be_written() {
    let dir = Dir::new();
    std::fs::write(dir.dir.path().join("db"), b"a file where the directory should be").unwrap();
    let error = dir.error();
    assert!(matches!(error, OpenError::Unwritable { .. }), "{error}");
    assert!(error.to_string().contains("/db"), "{error}");
}

#[tokio::test]
async fn a_value_that_changed_on_disk_is_found_and_named() {
    let dir = Dir::new();
    let store = dir.open();
    create(&store, "/whole", "as it was").await;
    let revision = create(&store, "/hurt", &"the bytes that were written".repeat(300)).await;
    store.close().await.unwrap();
    drop(store);
    let mut content = std::fs::read(dir.file()).unwrap();
    let needle = b"the bytes that were written";
    let at = content.windows(needle.len()).position(|window| window == needle).unwrap();
    content[at] ^= 1;
    std::fs::write(dir.file(), &content).unwrap();
    let error = dir.error();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    let named = format!("the value of /hurt at revision {revision} is not what was written");
    assert!(error.to_string().contains(&named), "{error}");
}

#[tokio::test]
async fn a_database_of_the_first_format_is_taken_over() {
    let dir = Dir::new();
    let store = dir.open();
    let revision = create(&store, "/a", "old").await;
    store.close().await.unwrap();
    drop(store);
    let old = rusqlite::Connection::open(dir.file()).unwrap();
    old.execute_batch("ALTER TABLE log DROP COLUMN checksum; PRAGMA user_version=1;").unwrap();
    drop(old);
    let store = dir.open();
    assert_eq!(value(&store, "/a").await.as_deref(), Some("old"));
    update(&store, "/a", revision, "new").await;
    drop(store);
    let store = dir.open();
    assert_eq!(listed(&store, "/", Some(revision)).await, pairs(&[("/a", "old")]));
    assert_eq!(value(&store, "/a").await.as_deref(), Some("new"));
}
