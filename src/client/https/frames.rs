//! Cuts a watch's body into events as its bytes arrive.

use crate::transport::{Error, EventType, WatchEvent, WatchStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The largest event taken; nothing larger can be stored.
const LARGEST: usize = 16 << 20;

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

struct Frames {
    chunks: BoxStream<'static, Result<Bytes, Error>>,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no newline.
    scanned: usize,
    over: bool,
}

/// Turns chunks into events. An unreadable event ends the stream with an error.
pub(super) fn events(chunks: BoxStream<'static, Result<Bytes, Error>>) -> WatchStream {
    let frames = Frames { chunks, buffer: BytesMut::new(), scanned: 0, over: false };
    Box::pin(futures::stream::unfold(frames, |mut frames| async move {
        if frames.over {
            return None;
        }
        let event = frames.next().await?;
        frames.over = event.is_err();
        Some((event, frames))
    }))
}

impl Frames {
    async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            while let Some(line) = self.line() {
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return Some(parse(&line));
                }
            }
            if self.buffer.len() > LARGEST {
                return Some(Err(Error::Connection("watch event too large".into())));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Some(Err(error)),
                // A server may leave out the last newline; half an event is none.
                None => {
                    let rest = self.buffer.split().freeze();
                    return parse(&rest).ok().map(Ok);
                }
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        match self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.scanned + at + 1).freeze();
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }
}

fn parse(line: &Bytes) -> Result<WatchEvent, Error> {
    let decode = |source| Error::Decode { what: "watch event".into(), source };
    let frame: Frame<'_> = serde_json::from_slice(line).map_err(decode)?;
    let kind = match frame.kind {
        "ADDED" => EventType::Added,
        "MODIFIED" => EventType::Modified,
        "DELETED" => EventType::Deleted,
        "BOOKMARK" => EventType::Bookmark,
        "ERROR" => EventType::Error,
        other => return Err(Error::Connection(format!("unknown watch event {other:?}"))),
    };
    Ok(WatchEvent { kind, object: line.slice_ref(frame.object.get().as_bytes()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn feed(chunks: &[&str]) -> WatchStream {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk.as_bytes()))).collect();
        events(futures::stream::iter(chunks).boxed())
    }

    #[tokio::test]
    async fn events_are_found_wherever_chunks_are_cut() {
        let whole = "{\"type\":\"ADDED\",\"object\":{\"a\": 1}}\n\n{\"type\":\"BOOKMARK\",\"object\":{}}\n";
        for cut in 0..whole.len() {
            let got: Vec<_> = feed(&[&whole[..cut], &whole[cut..]]).collect().await;
            let got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
            assert_eq!(got.len(), 2, "cut at {cut}");
            assert_eq!(got[0].kind, EventType::Added);
            assert_eq!(got[0].object, "{\"a\": 1}");
            assert_eq!(got[1].kind, EventType::Bookmark);
        }
    }

    #[tokio::test]
    async fn half_an_event_is_dropped_and_rubbish_ends_the_stream() {
        let got: Vec<_> = feed(&["{\"type\":\"ADDED\",\"obj"]).collect().await;
        assert!(got.is_empty());
        let got: Vec<_> = feed(&["rubbish\n{\"type\":\"ADDED\",\"object\":{}}\n"]).collect().await;
        assert_eq!(got.len(), 1);
        assert!(got[0].is_err());
    }
}
