//! A SPDY/3.1 connection: streams that the client opens, carried over anything that carries bytes.

mod frame;

use bytes::{Bytes, BytesMut};
use frame::{Decoder, Encoder, Frame};
use naru_base::spawn;
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Streams open at once on a connection; further ones are refused.
const MAX_STREAMS: usize = 256;
/// Frames waiting to be written; who writes waits beyond.
const OUT_QUEUE: usize = 16;
/// Pieces of a stream waiting to be read; the whole connection waits beyond, since the protocol as
/// clients speak it has no other way to slow them down.
const IN_QUEUE: usize = 4;
/// Status of a stream that is refused, and of one that is given up.
const REFUSED: u32 = 3;
const CANCELLED: u32 = 5;

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Finished,
}

/// A stream that the client opened.
#[derive(Debug)]
pub(super) struct Stream {
    id: u32,
    headers: Vec<(String, String)>,
    incoming: mpsc::Receiver<Piece>,
    out: mpsc::Sender<Frame>,
}

/// What reading a stream gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes.
    Data(Bytes),
    /// The client sends nothing more.
    Finished,
    /// The client has given the stream up, or has gone.
    Gone,
}

impl Stream {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub(super) async fn read(&mut self) -> Read {
        match self.incoming.recv().await {
            Some(Piece::Data(bytes)) => Read::Data(bytes),
            Some(Piece::Finished) => Read::Finished,
            None => Read::Gone,
        }
    }

    /// Where this stream is written, for another task.
    pub(super) fn writer(&self) -> StreamWriter {
        StreamWriter { id: self.id, out: self.out.clone() }
    }
}

/// The writing half of a stream.
#[derive(Debug, Clone)]
pub(super) struct StreamWriter {
    id: u32,
    out: mpsc::Sender<Frame>,
}

impl StreamWriter {
    pub(super) async fn write(&self, bytes: Bytes) -> io::Result<()> {
        self.send(Frame::Data { id: self.id, bytes, fin: false }).await
    }

    /// Nothing more will be written.
    pub(super) async fn finish(&self) -> io::Result<()> {
        self.send(Frame::Data { id: self.id, bytes: Bytes::new(), fin: true }).await
    }

    /// Gives the stream up in both directions.
    pub(super) async fn reset(&self) -> io::Result<()> {
        self.send(Frame::Reset { id: self.id, status: CANCELLED }).await
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A connection: the streams that come in.
#[derive(Debug)]
pub(super) struct Connection {
    streams: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Frame>,
}

impl Connection {
    /// Speaks over `io` until one side ends it.
    pub(super) fn new<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> io::Result<Self> {
        let (reader, writer) = tokio::io::split(io);
        let (out, frames) = mpsc::channel(OUT_QUEUE);
        let (new, streams) = mpsc::channel(MAX_STREAMS);
        let encoder = Encoder::new()?;
        spawn("spdy-writer", async move {
            if let Err(error) = write_all(writer, frames, encoder).await {
                tracing::debug!(%error, "spdy connection not written");
            }
        });
        let answers = out.clone();
        spawn("spdy-reader", async move {
            let mut reading = Reading { streams: HashMap::new(), new, out: answers };
            if let Err(error) = reading.run(reader).await {
                tracing::debug!(%error, "spdy connection not read");
            }
        });
        Ok(Self { streams, out })
    }

    /// The next stream; `None` once the client has gone.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Says goodbye; what was written before goes first. Then the client has the last word.
    pub(super) async fn close(mut self) {
        let _ = self.out.send(Frame::GoAway { last: 0 }).await;
        while self.streams.recv().await.is_some() {}
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut frames: mpsc::Receiver<Frame>,
    mut encoder: Encoder,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        writer.write_all(&encoder.encode(&frame)?).await?;
        if let Frame::Data { bytes, .. } = &frame {
            writer.write_all(bytes).await?;
        }
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await
}

struct Reading {
    streams: HashMap<u32, mpsc::Sender<Piece>>,
    new: mpsc::Sender<Stream>,
    out: mpsc::Sender<Frame>,
}

impl Reading {
    async fn run<R: AsyncRead + Unpin>(&mut self, mut reader: R) -> io::Result<()> {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::with_capacity(32 * 1024);
        loop {
            while let Some(frame) = decoder.take(&mut buffer)? {
                if !self.take(frame).await {
                    return Ok(());
                }
            }
            // Once nobody handles the connection any more there is nothing to read for.
            tokio::select! {
                read = reader.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
                () = self.new.closed() => return Ok(()),
            }
        }
    }

    /// Acts on a frame; false when the connection is of no use any more.
    async fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Open { id, headers, fin } => self.open(id, headers, fin).await,
            Frame::Data { id, bytes, fin } => {
                if let Some(stream) = self.streams.get(&id) {
                    // A stream that nobody reads any more swallows what comes.
                    let _ = if bytes.is_empty() { Ok(()) } else { stream.send(Piece::Data(bytes)).await };
                    if fin {
                        let _ = stream.send(Piece::Finished).await;
                        self.streams.remove(&id);
                    }
                }
                true
            }
            Frame::Reset { id, .. } => {
                self.streams.remove(&id);
                true
            }
            // Odd numbers are the client's questions.
            Frame::Ping { id } if id % 2 == 1 => self.out.send(Frame::Ping { id }).await.is_ok(),
            Frame::GoAway { .. } | Frame::Ping { .. } | Frame::Reply { .. } | Frame::Other => true,
        }
    }

    async fn open(&mut self, id: u32, headers: Vec<(String, String)>, fin: bool) -> bool {
        self.streams.retain(|_, stream| !stream.is_closed());
        if id.is_multiple_of(2) || self.streams.contains_key(&id) || self.streams.len() >= MAX_STREAMS {
            return self.out.send(Frame::Reset { id, status: REFUSED }).await.is_ok();
        }
        let (sender, incoming) = mpsc::channel(IN_QUEUE);
        if fin {
            // There is room: it is the first piece.
            let _ = sender.try_send(Piece::Finished);
        } else {
            self.streams.insert(id, sender);
        }
        let stream = Stream { id, headers, incoming, out: self.out.clone() };
        self.out.send(Frame::Reply { id }).await.is_ok() && self.new.send(stream).await.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    struct Client {
        io: tokio::io::DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
        buffer: BytesMut,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            self.io.write_all(&self.encoder.encode(&frame).unwrap()).await.unwrap();
            if let Frame::Data { bytes, .. } = frame {
                self.io.write_all(&bytes).await.unwrap();
            }
        }

        async fn receive(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.take(&mut self.buffer).unwrap() {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    fn pair() -> (Client, Connection) {
        let (theirs, ours) = tokio::io::duplex(64 * 1024);
        let (encoder, decoder) = (Encoder::new().unwrap(), Decoder::new());
        (Client { io: theirs, encoder, decoder, buffer: BytesMut::new() }, Connection::new(ours).unwrap())
    }

    fn open(id: u32, kind: &str) -> Frame {
        Frame::Open { id, headers: vec![("streamtype".into(), kind.into())], fin: false }
    }

    #[tokio::test]
    async fn streams_carry_bytes_and_end_one_direction_at_a_time() {
        let (mut client, mut connection) = pair();
        client.send(open(1, "data")).await;
        assert_eq!(client.receive().await, Some(Frame::Reply { id: 1 }));
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.header("streamtype"), "data");
        client.send(Frame::Data { id: 1, bytes: Bytes::from_static(b"in"), fin: true }).await;
        assert_eq!(stream.read().await, Read::Data(Bytes::from_static(b"in")));
        assert_eq!(stream.read().await, Read::Finished);
        stream.writer().write(Bytes::from_static(b"out")).await.unwrap();
        stream.writer().finish().await.unwrap();
        assert_eq!(client.receive().await, Some(Frame::Data { id: 1, bytes: Bytes::from_static(b"out"), fin: false }));
        assert_eq!(client.receive().await, Some(Frame::Data { id: 1, bytes: Bytes::new(), fin: true }));
        client.send(Frame::Ping { id: 9 }).await;
        assert_eq!(client.receive().await, Some(Frame::Ping { id: 9 }));
    }

    #[tokio::test]
    async fn a_reset_stream_is_gone_and_even_numbers_are_refused() {
        let (mut client, mut connection) = pair();
        client.send(open(2, "data")).await;
        assert_eq!(client.receive().await, Some(Frame::Reset { id: 2, status: REFUSED }));
        client.send(open(3, "data")).await;
        let mut stream = connection.accept().await.unwrap();
        client.send(Frame::Reset { id: 3, status: CANCELLED }).await;
        assert_eq!(stream.read().await, Read::Gone);
    }

    #[tokio::test]
    async fn goodbye_comes_after_what_was_written() {
        let (mut client, mut connection) = pair();
        client.send(open(1, "error")).await;
        let stream = connection.accept().await.unwrap();
        stream.writer().write(Bytes::from_static(b"last")).await.unwrap();
        drop(stream);
        let closing = naru_base::spawn("test", connection.close());
        client.receive().await;
        assert!(matches!(client.receive().await, Some(Frame::Data { .. })));
        assert!(matches!(client.receive().await, Some(Frame::GoAway { .. })));
        drop(client);
        closing.await.unwrap();
    }
}
