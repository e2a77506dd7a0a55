//! Pages in HTML: the attributes that hold links are found and rewritten, all else stays byte for byte.

use super::rejoined;
use super::rewrite::Rewriter;
use crate::response::{Body, Failure, full};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use naru_api::status::Status;
use std::io::{Read, Write};

/// Pages beyond this size are passed as they are.
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Elements and their attributes that hold links.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose text is no markup.
const RAW: [&str; 9] = ["iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp"];

/// Whether a body is a page.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim() == "text/html"
}

/// The answer with its page's links rewritten.
pub(super) async fn with_links(response: Response<Body>, rewriter: &Rewriter) -> Result<Response<Body>, Failure> {
    let encoding = response.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(coding) = Coding::of(encoding) else { return Ok(response) };
    let (mut parts, mut body) = response.into_parts();
    let mut page = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Box::new(Status::service_unavailable(format!("error trying to reach service: {error}")))
        })?;
        if let Ok(data) = frame.into_data() {
            page.extend_from_slice(&data);
        }
        if page.len() > MAX_PAGE {
            return Ok(Response::from_parts(parts, rejoined(page.freeze(), body)));
        }
    }
    let rewritten = coding.decode(&page).and_then(|plain| {
        let changed = rewrite(&plain, &|url| rewriter.url(url));
        coding.encode(&changed)
    });
    let page = rewritten.unwrap_or_else(|error| {
        tracing::debug!(%error, "the links of a proxied page stay as they are");
        page.freeze()
    });
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, full(page)))
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::Plain,
            "gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            _ => return None,
        })
    }

    fn decode(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let most = MAX_PAGE as u64 + 1;
        match self {
            Self::Plain => return Ok(body.to_vec()),
            Self::Gzip => GzDecoder::new(body).take(most).read_to_end(&mut out)?,
            Self::Deflate => DeflateDecoder::new(body).take(most).read_to_end(&mut out)?,
        };
        if out.len() > MAX_PAGE { Err(std::io::Error::other("the page is too large")) } else { Ok(out) }
    }

    fn encode(self, page: &[u8]) -> std::io::Result<Bytes> {
        Ok(match self {
            Self::Plain => Bytes::copy_from_slice(page),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(page)?;
                encoder.finish()?.into()
            }
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(page)?;
                encoder.finish()?.into()
            }
        })
    }
}

fn find(text: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    text.get(from..)?.windows(what.len()).position(|at| at.eq_ignore_ascii_case(what)).map(|at| from + at)
}

/// The page with `url` applied to each link.
fn rewrite(page: &[u8], url: &dyn Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 256);
    let mut at = 0;
    while let Some(open) = find(page, at, b"<") {
        out.extend_from_slice(&page[at..open]);
        let rest = &page[open..];
        let end = match rest.get(1) {
            Some(b) if b.is_ascii_alphabetic() => {
                let (length, name) = tag(rest, url, &mut out);
                let end = open + length;
                // What scripts and the like hold is no markup: on to the tag that ends it.
                let closed = RAW.contains(&name.as_str()).then(|| find(page, end, format!("</{name}").as_bytes()));
                if let Some(raw) = closed {
                    let stop = raw.unwrap_or(page.len());
                    out.extend_from_slice(&page[end..stop]);
                    at = stop;
                } else {
                    at = end;
                }
                continue;
            }
            Some(b'!') if rest.starts_with(b"<!--") => find(page, open + 4, b"-->").map(|end| end + 3),
            Some(b'!' | b'?' | b'/') => find(page, open, b">").map(|end| end + 1),
            _ => Some(open + 1),
        };
        let end = end.unwrap_or(page.len());
        out.extend_from_slice(&page[open..end]);
        at = end;
    }
    out.extend_from_slice(&page[at..]);
    out
}

/// Copies one start tag; its length and its name.
fn tag(text: &[u8], url: &dyn Fn(&str) -> String, out: &mut Vec<u8>) -> (usize, String) {
    let ends_name = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'/' | b'>' | b'=');
    let word = |from: usize| text[from..].iter().position(ends_name).map_or(text.len(), |n| from + n);
    let mut at = word(1);
    let name = String::from_utf8_lossy(&text[1..at]).to_ascii_lowercase();
    let links = LINKS.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, links)| links);
    let mut copied = 0;
    while at < text.len() && text[at] != b'>' {
        if text[at].is_ascii_whitespace() || matches!(text[at], b'/' | b'=') {
            at += 1;
            continue;
        }
        let key_end = word(at);
        let key = String::from_utf8_lossy(&text[at..key_end]).to_ascii_lowercase();
        let (value, after) = value(text, key_end);
        at = after.max(key_end);
        let Some((from, to)) = value.filter(|_| links.contains(&key.as_str())) else { continue };
        let Ok(link) = std::str::from_utf8(&text[from..to]) else { continue };
        let link = link.replace("&amp;", "&");
        let changed = url(&link);
        if changed != link {
            out.extend_from_slice(&text[copied..from]);
            let escaped = changed.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;");
            out.extend_from_slice(escaped.as_bytes());
            copied = to;
        }
    }
    let end = (at + 1).min(text.len());
    out.extend_from_slice(&text[copied..end]);
    (end, name)
}

/// Where an attribute's value is, if it has one, and where the next attribute may begin.
fn value(text: &[u8], from: usize) -> (Option<(usize, usize)>, usize) {
    let skip =
        |from: usize| text[from..].iter().position(|b| !b.is_ascii_whitespace()).map_or(text.len(), |n| from + n);
    let equals = skip(from);
    if text.get(equals) != Some(&b'=') {
        return (None, from);
    }
    let start = skip(equals + 1);
    match text.get(start) {
        Some(quote @ (b'"' | b'\'')) => {
            let inside = start + 1;
            let end = text[inside..].iter().position(|b| b == quote).map_or(text.len(), |n| inside + n);
            (Some((inside, end)), (end + 1).min(text.len()))
        }
        _ => {
            let ends = |b: &u8| b.is_ascii_whitespace() || *b == b'>';
            let end = text[start..].iter().position(ends).map_or(text.len(), |n| start + n);
            (Some((start, end)), end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(page: &str, expect: &str) {
        let url = |url: &str| if url.starts_with('/') { format!("/P{url}") } else { url.to_owned() };
        assert_eq!(String::from_utf8_lossy(&rewrite(page.as_bytes(), &url)), expect);
    }

    #[test]
    fn links_are_found_where_elements_have_them() {
        check(r#"<a href="/x">/x</a>"#, r#"<a href="/P/x">/x</a>"#);
        check("<A HREF = '/x' class=\"/y\">", "<A HREF = '/P/x' class=\"/y\">");
        check("<img src=/x/y.png alt=/z/>", "<img src=/P/x/y.png alt=/z/>");
        check("<p href=/x>", "<p href=/x>");
        check("<link rel=stylesheet href='/s?a=1&amp;b=2'/>", "<link rel=stylesheet href='/P/s?a=1&amp;b=2'/>");
        check("<form action=\"/a\"><input formaction=\"/b\">", "<form action=\"/P/a\"><input formaction=\"/P/b\">");
    }

    #[test]
    fn what_is_no_markup_stays() {
        check("<!-- <a href=\"/x\"> --><a href=/x>", "<!-- <a href=\"/x\"> --><a href=/P/x>");
        check("<script>'<a href=\"/x\">'</script>", "<script>'<a href=\"/x\">'</script>");
        check("<script src=\"/x\"></script>", "<script src=\"/P/x\"></script>");
        for odd in
            ["a < b", "<", "<a", "<a href", "<a href=", "<a href=\"/x", "<!--", "<!doctype html", "</", "<a =\">"]
        {
            let url = |url: &str| url.to_owned();
            assert_eq!(rewrite(odd.as_bytes(), &url), odd.as_bytes());
        }
    }

    #[test]
    fn compressed_pages_are_opened() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let packed = coding.encode(b"<a>").expect("packed");
            assert_eq!(coding.decode(&packed).expect("opened"), b"<a>");
        }
        assert!(Coding::of("br").is_none());
    }
}
