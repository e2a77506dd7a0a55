//! `/logs`: the files of the machine's own log directory, listed and read.

use super::query::unescape;
use super::{Body, text};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use std::fmt::Write as _;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Where the machine's programs write their logs.
pub(super) const DIRECTORY: &str = "/var/log";
/// What is read of a file at once.
const CHUNK: usize = 64 * 1024;
/// By so much of its beginning a file is told to be text.
const BEGINNING: usize = 512;
/// Names that are listed of one directory.
const NAMES: usize = 10_000;

/// What lies at `path`, the part of the address below `/logs`.
pub(super) async fn serve(root: &Path, method: &Method, path: &str) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    // Nothing was said after `/logs`: names in the list are relative to the directory.
    if path.is_empty() {
        return moved("logs/");
    }
    match find(root, path).await {
        Ok(response) => response,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                text(StatusCode::NOT_FOUND, "404 page not found\n")
            }
            io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
            _ => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
        },
    }
}

async fn find(root: &Path, path: &str) -> io::Result<Response<Body>> {
    let Some(place) = below(root, path) else { return Err(io::ErrorKind::NotFound.into()) };
    let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let root = root.to_owned();
    let opened = tokio::task::spawn_blocking(move || open(&root, &place)).await;
    let handle = opened.map_err(io::Error::other)??;
    let kind = handle.metadata()?;
    let place = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    match (kind.is_dir(), path.ends_with('/')) {
        (true, true) => list(place).await,
        (true, false) => Ok(moved(&format!("{}/", escape(&name)))),
        (false, true) => Ok(moved(&format!("../{}", escape(&name)))),
        (false, false) if kind.is_file() => read(&place).await,
        (false, false) => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// A handle on what lies at a place, which tells what it is without opening it. Links may lead to other places
/// below the root alone: a pod that may write there would have the node read any file to others.
fn open(root: &Path, place: &Path) -> io::Result<std::fs::File> {
    let (root, place) = (root.canonicalize()?, place.canonicalize()?);
    let Ok(inside) = place.strip_prefix(&root) else { return Err(io::ErrorKind::PermissionDenied.into()) };
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = fs::open(&root, flags | OFlags::DIRECTORY, Mode::empty())?;
    // Whatever has become a link in the meantime is refused.
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(fs::openat2(root, inside, flags, Mode::empty(), how)?.into())
}

/// The place of a path, which does not lead upwards.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let mut place = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let part = unescape(part);
        if matches!(part.as_str(), "." | "..") || part.contains(['/', '\0']) {
            return None;
        }
        place.push(part);
    }
    Some(place)
}

fn moved(to: &str) -> Response<Body> {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// A directory's names as links.
async fn list(place: PathBuf) -> io::Result<Response<Body>> {
    let names = tokio::task::spawn_blocking(move || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(place)?.take(NAMES) {
            let entry = entry?;
            let slash = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort_unstable();
        Ok(names)
    });
    let names = names.await.map_err(io::Error::other)??;
    let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let _ = writeln!(page, "<a href=\"{}\">{}</a>", escape(&name), shown(&name));
    }
    page.push_str("</pre>\n");
    let mut response = Response::new(Full::new(Bytes::from(page)).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

/// A file as long as it is now.
async fn read(place: &Path) -> io::Result<Response<Body>> {
    let mut file = File::open(place).await?;
    let length = file.metadata().await?.len();
    let mut beginning = Vec::with_capacity(BEGINNING);
    (&mut file).take(BEGINNING as u64).read_to_end(&mut beginning).await?;
    file.rewind().await?;
    let frames = futures::stream::try_unfold(file.take(length), |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        Ok::<_, io::Error>((!chunk.is_empty()).then(|| (Frame::data(Bytes::from(chunk)), file)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = if beginning.contains(&0) || beginning.starts_with(&[0x1f, 0x8b]) {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// A name as a part of an address.
fn escape(name: &str) -> String {
    let mut out = String::new();
    // A colon before the first slash would make the beginning a scheme.
    if name.contains(':') {
        out.push_str("./");
    }
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/:@$&+,;=".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out.replace('&', "&amp;")
}

/// A name as text of a page.
fn shown(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    async fn get(root: &Path, path: &str) -> (u16, String, String) {
        let response = serve(root, &Method::GET, path).await;
        let header = |name| response.headers().get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
        let told = if header(LOCATION).is_empty() { header(CONTENT_TYPE) } else { header(LOCATION) }.to_owned();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, told, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn logs_of_the_machine_are_listed_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        let long = "a line\n".repeat(30_000);
        std::fs::write(root.join("daemon.log"), &long).unwrap();
        std::fs::write(root.join("a<b +1:2"), "x").unwrap();
        std::fs::write(root.join("wtmp"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(root.join("pods"), root.join("inside")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("outside")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
        let (code, kind, page) = get(&root, "/").await;
        assert_eq!((code, kind.as_str()), (200, "text/html; charset=utf-8"));
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("<a")).collect();
        assert_eq!(
            listed,
            [
                "<a href=\"./a%3Cb%20+1:2\">a&lt;b +1:2</a>",
                "<a href=\"daemon.log\">daemon.log</a>",
                "<a href=\"inside\">inside</a>",
                "<a href=\"outside\">outside</a>",
                "<a href=\"pipe\">pipe</a>",
                "<a href=\"pods/\">pods/</a>",
                "<a href=\"up\">up</a>",
                "<a href=\"wtmp\">wtmp</a>",
            ]
        );
        assert_eq!(get(&root, "/daemon.log").await, (200, "text/plain; charset=utf-8".into(), long));
        assert_eq!(get(&root, "/a%3Cb%20+1:2").await.2, "x");
        assert_eq!(get(&root, "/wtmp").await.1, "application/octet-stream");
        assert_eq!(get(&root, "").await, (301, "logs/".into(), String::new()));
        assert_eq!(get(&root, "/pods").await, (301, "pods/".into(), String::new()));
        assert_eq!(get(&root, "/wtmp/").await, (301, "../wtmp".into(), String::new()));
        for wrong in ["/none", "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/wtmp/x"] {
            assert_eq!(get(&root, wrong).await.0, 404, "{wrong}");
        }
        assert_eq!(get(&root, "/inside").await.1, "inside/");
        assert_eq!(get(&root, "/inside/").await.0, 200);
        for refused in ["/pipe", "/outside", "/up/", "/up/secret"] {
            assert_eq!(get(&root, refused).await.0, 403, "{refused}");
        }
        assert_eq!(serve(&root, &Method::POST, "/wtmp").await.status().as_u16(), 405);
    }
}
