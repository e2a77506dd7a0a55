//! `/containerLogs`: a container's log with all its switches, followed by inotify.

use super::query::Query;
use super::{Body, cri, text};
use crate::pods::Pods;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use naru_base::spawn;
use naru_runtime::{ContainerState, Event};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::{broadcast, mpsc};

/// Longest line that is read at once; the writer splits lines well below it.
const LINE_LIMIT: u64 = 1 << 20;
/// Chunks on their way to the client.
const QUEUE: usize = 8;
/// What is gathered before it is sent.
const CHUNK: usize = 16 * 1024;
/// Blocks by which the file is searched from its end.
const BLOCK: u64 = 64 * 1024;

/// What a client wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    /// `Some(true)`: standard error alone.
    stderr: Option<bool>,
}

impl Options {
    fn of(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str| match query.get(name).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(n)) => Ok(Some(n)),
            Some(Err(error)) => Err(format!("invalid {name}: {error}")),
        };
        let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
            (Some(seconds), _) => {
                Some(now - jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 2)))
            }
            (None, Some(time)) => Some(time.parse().map_err(|error| format!("invalid sinceTime: {error}"))?),
            (None, None) => None,
        };
        Ok(Self {
            follow: query.is_on("follow"),
            timestamps: query.is_on("timestamps"),
            tail: number("tailLines")?,
            since,
            limit: number("limitBytes")?,
            stderr: match query.get("stream") {
                Some("Stderr") => Some(true),
                Some("Stdout") => Some(false),
                _ => None,
            },
        })
    }
}

/// Turns lines of the file into what the client sees.
#[derive(Debug)]
struct Filter {
    options: Options,
    left: u64,
}

impl Filter {
    fn new(options: Options) -> Self {
        Self { left: options.limit.unwrap_or(u64::MAX), options }
    }

    /// Appends what of `line` is to be seen; false once the client has had all it asked for.
    fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(parsed) = cri::parse(line) else { return true };
        let unwanted = self.options.stderr.is_some_and(|stderr| stderr != parsed.stderr)
            || self.options.since.is_some_and(|since| parsed.time.parse::<Timestamp>().is_ok_and(|at| at < since));
        if unwanted {
            return true;
        }
        let begin = out.len();
        if self.options.timestamps {
            out.extend_from_slice(parsed.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(parsed.content);
        if !parsed.partial {
            out.push(b'\n');
        }
        let added = (out.len() - begin) as u64;
        if added >= self.left {
            out.truncate(begin + self.left as usize);
            self.left = 0;
            return false;
        }
        self.left -= added;
        true
    }
}

/// Answers a request for a log.
pub(super) async fn serve(pods: &Pods, namespace: &str, name: &str, container: &str, query: &Query) -> Response<Body> {
    let Some((pod, visible)) = pods.find(namespace, name) else {
        return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if !crate::pod::plan::has_container(&pod, container) {
        return text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}"));
    }
    let options = match Options::of(query, Timestamp::now()) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let previous = query.is_on("previous");
    let run = visible.runs.get(container);
    let number = match (run, previous) {
        (Some(run), false) => run.restart_count,
        (Some(run), true) if run.restart_count > 0 => run.restart_count - 1,
        (_, true) => {
            let message = format!("previous terminated container {container:?} in pod {name:?} not found");
            return text(StatusCode::BAD_REQUEST, message);
        }
        (None, false) => {
            let reason = visible.waiting.get(container).map_or("ContainerCreating", String::as_str);
            let verb = if reason.contains("Image") { "trying and failing to pull image" } else { "" };
            let message = match verb {
                "" => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
                verb => format!("container {container:?} in pod {name:?} is waiting to start: {verb}"),
            };
            return text(StatusCode::BAD_REQUEST, message);
        }
    };
    let shared = pods.shared().clone();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let path = shared.config.pod_logs(namespace, name, uid).join(container).join(format!("{number}.log"));
    let following = run.filter(|run| options.follow && !previous && run.running).map(|run| run.id.clone());
    let (sender, receiver) = mpsc::channel(QUEUE);
    let events = shared.config.runtime.events();
    let ending = pods.shutdown().clone();
    spawn("log", async move {
        let running = |id: &str| {
            shared.config.runtime.container(id).is_some_and(|c| !matches!(c.state, ContainerState::Exited(_)))
        };
        let reader = Reader { path, filter: Filter::new(options), sender };
        let reading = reader.run(following.as_deref(), events, running);
        if let Some(Err(error)) = ending.guard(reading).await {
            tracing::debug!(%error, "log not read to its end");
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(chunk)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

struct Reader {
    path: PathBuf,
    filter: Filter,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    /// Sends the log; with `following` (a container's id) until that container has ended.
    async fn run(
        mut self,
        following: Option<&str>,
        mut events: broadcast::Receiver<Event>,
        running: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // The watch begins before the first read, so nothing written between is missed.
        let watch = following.map(|_| Watch::new(&self.path)).transpose()?;
        if let Some(lines) = self.filter.options.tail {
            let start = tail_offset(&mut file, lines).await?;
            file.seek(io::SeekFrom::Start(start)).await?;
        }
        let mut reader = BufReader::with_capacity(BLOCK as usize, file);
        let mut line = Vec::new();
        loop {
            let over = following.is_none_or(|id| !running(id));
            // Looked at before the reading: what is written to the old file was written before the new one was made.
            let successor = if following.is_some() { self.successor(reader.get_ref()).await? } else { None };
            if !self.drain(&mut reader, &mut line).await? {
                return Ok(());
            }
            if let Some(file) = successor {
                reader = BufReader::with_capacity(BLOCK as usize, file);
                line.clear();
                continue;
            }
            let (Some(watch), Some(id), false) = (&watch, following, over) else { return Ok(()) };
            tokio::select! {
                changed = watch.changed() => changed?,
                () = exit_of(id, &mut events) => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    /// The file that has taken the place of one that was rotated.
    async fn successor(&self, old: &File) -> io::Result<Option<File>> {
        let new = match File::open(&self.path).await {
            Ok(new) => new,
            // Between the renaming and the making of the new one; the watch tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        Ok((identity(new.metadata().await?) != identity(old.metadata().await?)).then_some(new))
    }

    /// Sends all whole lines that there are; false when the client has enough.
    async fn drain(&mut self, reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
        let mut out = Vec::new();
        let mut more = true;
        loop {
            let read = (&mut *reader).take(LINE_LIMIT).read_until(b'\n', line).await?;
            if read == 0 {
                break;
            }
            let Some(whole) = line.strip_suffix(b"\n") else {
                // The rest of the line is still to be written.
                continue;
            };
            more = self.filter.push(whole, &mut out);
            line.clear();
            if !more {
                break;
            }
            if out.len() >= CHUNK && self.sender.send(Bytes::from(std::mem::take(&mut out))).await.is_err() {
                return Ok(false);
            }
        }
        if !out.is_empty() && self.sender.send(Bytes::from(out)).await.is_err() {
            return Ok(false);
        }
        Ok(more)
    }
}

/// Where the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(io::SeekFrom::End(0)).await?;
    let mut at = end;
    let mut found = 0;
    let mut block = vec![0; BLOCK as usize];
    while at > 0 {
        let begin = at.saturating_sub(BLOCK);
        let part = &mut block[..(at - begin) as usize];
        file.seek(io::SeekFrom::Start(begin)).await?;
        file.read_exact(part).await?;
        for (offset, byte) in part.iter().enumerate().rev() {
            let position = begin + offset as u64;
            // The line end at the very end closes the last line.
            if *byte == b'\n' && position + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        at = begin;
    }
    Ok(if lines == 0 { end } else { 0 })
}

/// Completes when the container ends, or when events were missed.
async fn exit_of(id: &str, events: &mut broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(Event::Exit(exit)) if exit.container != id => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Tells when a log is written to, or begun anew.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    #[allow(deprecated, reason = "an owned descriptor keeps its number; the replacement is unsafe")]
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The directory: it tells of writes to every file in it, and of a new one after a rotation.
        let dir = path.parent().unwrap_or(path);
        inotify::add_watch(&fd, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self(AsyncFd::new(fd)?))
    }

    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match ready.try_io(|fd| rustix::io::read(fd.get_ref(), &mut buffer).map_err(Into::into)) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                // Everything is read; the next call waits.
                Err(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "2024-01-01T00:00:01Z stdout F one\n2024-01-01T00:00:02Z stderr F two\n2024-01-01T00:00:03Z stdout P thr\n2024-01-01T00:00:03Z stdout F ee\n";

    fn options(query: &str) -> Options {
        Options::of(&Query::parse(query), "2024-01-01T00:00:04Z".parse().unwrap()).unwrap()
    }

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        let (_keep, events) = broadcast::channel(1);
        let reader = Reader { path, filter: Filter::new(options(query)), sender };
        reader.run(None, events, |_| false).await.unwrap();
        let mut out = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            out.extend_from_slice(&chunk);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn switches_choose_what_is_seen() {
        assert_eq!(read("").await, "one\ntwo\nthree\n");
        assert_eq!(read("tailLines=2").await, "three\n");
        assert_eq!(read("tailLines=3").await, "two\nthree\n");
        assert_eq!(read("tailLines=0").await, "");
        assert_eq!(read("tailLines=99").await, "one\ntwo\nthree\n");
        assert_eq!(read("sinceSeconds=2").await, "two\nthree\n");
        assert_eq!(read("sinceTime=2024-01-01T00:00:03Z").await, "three\n");
        assert_eq!(read("timestamps=true&tailLines=1").await, "2024-01-01T00:00:03Z ee\n");
        assert_eq!(read("limitBytes=5").await, "one\nt");
        assert_eq!(read("stream=Stderr").await, "two\n");
    }

    #[test]
    fn bad_numbers_are_refused() {
        let result = Options::of(&Query::parse("tailLines=x"), Timestamp::UNIX_EPOCH);
        assert!(result.unwrap_err().starts_with("invalid tailLines"));
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_until_the_container_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        let (exits, events) = broadcast::channel(4);
        let alive = Arc::new(AtomicBool::new(true));
        let seen = alive.clone();
        let reader = Reader { path, filter: Filter::new(options("follow=true&tailLines=1")), sender };
        let task = naru_base::spawn("log", async move {
            reader.run(Some("id"), events, move |_| seen.load(Ordering::SeqCst)).await
        });
        assert_eq!(receiver.recv().await.unwrap(), "ee\n");
        file.write_all(b"2024-01-01T00:00:05Z stdout F mo").unwrap();
        file.write_all(b"re\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "more\n");
        file.write_all(b"2024-01-01T00:00:06Z stdout F last\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "last\n");
        alive.store(false, Ordering::SeqCst);
        exits.send(Event::SandboxLost { sandbox: String::new() }).unwrap();
        assert_eq!(receiver.recv().await, None);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_in_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        let (_exits, events) = broadcast::channel(4);
        let reader = Reader { path: path.clone(), filter: Filter::new(options("follow=true&tailLines=1")), sender };
        let task = naru_base::spawn("log", async move { reader.run(Some("id"), events, |_| true).await });
        assert_eq!(receiver.recv().await.unwrap(), "ee\n");
        let old = dir.path().join("0.log.20240101-000005");
        std::fs::rename(&path, &old).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(&old).unwrap();
        file.write_all(b"2024-01-01T00:00:05Z stdout F old\n").unwrap();
        std::fs::write(&path, "2024-01-01T00:00:06Z stdout F new\n").unwrap();
        let mut seen = Vec::new();
        while seen.len() < 8 {
            seen.extend_from_slice(&receiver.recv().await.unwrap());
        }
        assert_eq!(String::from_utf8(seen).unwrap(), "old\nnew\n");
        drop(receiver);
        task.await.unwrap().unwrap();
    }
}
