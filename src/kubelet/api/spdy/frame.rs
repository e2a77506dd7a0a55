//! SPDY/3.1 frames as streaming clients of Kubernetes use them: no priorities, no flow control.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;

/// Longest frame that is taken; clients send 32 KiB at once.
const MAX_FRAME: usize = 1 << 20;
/// Longest header block, unpacked.
const MAX_HEADERS: usize = 64 * 1024;
const VERSION: u16 = 0x8003;
pub(super) const FIN: u8 = 1;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The peer opens a stream.
    Open { id: u32, headers: Vec<(String, String)>, fin: bool },
    /// The answer to that.
    Reply { id: u32 },
    /// Bytes of a stream.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// A stream is given up.
    Reset { id: u32, status: u32 },
    /// Are you there?
    Ping { id: u32 },
    /// No further streams are taken.
    GoAway { last: u32 },
    /// Something that needs no answer.
    Other,
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("spdy: {text}"))
}

/// Reads frames. The header blocks of a connection are one compressed stream.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// Takes the first frame off `buffer` if it is whole.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(head) = buffer.first_chunk::<8>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > MAX_FRAME {
            return Err(broken("a frame is too long"));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let mut body = buffer.split_to(length).freeze();
        let (first, flags) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), head[4]);
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { id: first, bytes: body, fin: flags & FIN != 0 }));
        }
        if (first >> 16) as u16 != VERSION {
            return Err(broken("another version"));
        }
        let number = |body: &mut Bytes| match body.len() {
            0..4 => Err(broken("a frame is too short")),
            _ => Ok(body.get_u32() & 0x7fff_ffff),
        };
        Ok(Some(match first & 0xffff {
            1 => {
                let id = number(&mut body)?;
                // The stream it belongs to, and its priority, mean nothing here.
                number(&mut body)?;
                if body.len() < 2 {
                    return Err(broken("a frame is too short"));
                }
                body.advance(2);
                Frame::Open { id, headers: self.headers(&body)?, fin: flags & FIN != 0 }
            }
            2 => {
                let id = number(&mut body)?;
                self.headers(&body)?;
                Frame::Reply { id }
            }
            3 => Frame::Reset { id: number(&mut body)?, status: number(&mut body)? },
            6 => Frame::Ping { id: number(&mut body)? },
            7 => Frame::GoAway { last: number(&mut body)? },
            8 => {
                number(&mut body)?;
                // The block belongs to the common compressed stream even if nobody reads it.
                self.headers(&body)?;
                Frame::Other
            }
            _ => Frame::Other,
        }))
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut plain = self.unpack(block)?;
        let text = |plain: &mut Bytes| {
            let length = if plain.len() < 4 { usize::MAX } else { plain.get_u32() as usize };
            if length > plain.len() {
                return Err(broken("headers are cut off"));
            }
            Ok(String::from_utf8_lossy(&plain.split_to(length)).into_owned())
        };
        if plain.len() < 4 {
            return Err(broken("headers are cut off"));
        }
        let count = plain.get_u32();
        (0..count).map(|_| Ok((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?))).collect()
    }

    fn unpack(&mut self, mut block: &[u8]) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(4096);
        loop {
            if out.len() == out.capacity() {
                out.reserve(4096);
            }
            if out.len() > MAX_HEADERS {
                return Err(broken("headers are too long"));
            }
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let step = self.inflate.decompress_vec(block, &mut out, FlushDecompress::Sync);
            block = &block[(self.inflate.total_in() - taken) as usize..];
            match step {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| broken("another dictionary"))?;
                }
                Err(_) => return Err(broken("headers cannot be unpacked")),
                Ok(Status::StreamEnd) => return Ok(out.into()),
                // Nothing is left to read, and what was read has been written.
                Ok(_) if block.is_empty() && out.len() < out.capacity() => return Ok(out.into()),
                Ok(_) if self.inflate.total_out() == made && !block.is_empty() && out.len() < out.capacity() => {
                    return Err(broken("headers cannot be unpacked"));
                }
                Ok(_) => {}
            }
        }
    }
}

/// Writes frames.
pub(super) struct Encoder {
    deflate: Compress,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).map_err(|_| broken("the dictionary is refused"))?;
        Ok(Self { deflate })
    }

    /// The frame's bytes, without those of its data.
    pub(super) fn encode(&mut self, frame: &Frame) -> io::Result<Bytes> {
        Ok(match frame {
            Frame::Data { id, bytes, fin } => {
                let mut out = BytesMut::with_capacity(8);
                out.put_u32(*id);
                out.put_u32((u32::from(*fin) << 24) | (bytes.len() as u32 & 0x00ff_ffff));
                out.freeze()
            }
            Frame::Open { id, headers, fin } => {
                let block = self.pack(headers)?;
                let mut body = BytesMut::with_capacity(10 + block.len());
                body.put_u32(*id);
                body.put_u32(0);
                body.put_u16(0);
                body.put_slice(&block);
                control(1, u8::from(*fin), &body)
            }
            Frame::Reply { id } => {
                let block = self.pack(&[])?;
                let mut body = BytesMut::with_capacity(4 + block.len());
                body.put_u32(*id);
                body.put_slice(&block);
                control(2, 0, &body)
            }
            Frame::Reset { id, status } => control(3, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat()),
            Frame::Ping { id } => control(6, 0, &id.to_be_bytes()),
            Frame::GoAway { last } => control(7, 0, &[last.to_be_bytes(), [0; 4]].concat()),
            Frame::Other => Bytes::new(),
        })
    }

    fn pack(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let begin = self.deflate.total_in();
        loop {
            let done = (self.deflate.total_in() - begin) as usize;
            self.deflate
                .compress_vec(&plain[done..], &mut out, FlushCompress::Sync)
                .map_err(|_| broken("headers cannot be packed"))?;
            let all = (self.deflate.total_in() - begin) as usize == plain.len();
            if all && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + body.len());
    out.put_u16(VERSION);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | (body.len() as u32 & 0x00ff_ffff));
    out.put_slice(body);
    out.freeze()
}

/// Words that both sides know before the first header block, each after its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// What follows the words, as it is.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=\
    utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(REST.as_bytes());
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let words = dictionary();
        assert_eq!(words.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in words {
            a = (a + u32::from(byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        // What every header block of SPDY/3 begins with, after the two bytes of zlib.
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn frames_survive_the_wire_in_pieces_of_any_size() {
        let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned()), ("port".into(), "8080".into())];
        let frames = [
            Frame::Open { id: 1, headers: headers("error"), fin: true },
            Frame::Open { id: 3, headers: headers("data"), fin: false },
            Frame::Reply { id: 3 },
            Frame::Data { id: 3, bytes: Bytes::from_static(b"hello"), fin: true },
            Frame::Ping { id: 7 },
            Frame::Reset { id: 3, status: 5 },
            Frame::GoAway { last: 3 },
        ];
        let mut encoder = Encoder::new().unwrap();
        let mut wire = Vec::new();
        for frame in &frames {
            wire.extend_from_slice(&encoder.encode(frame).unwrap());
            if let Frame::Data { bytes, .. } = frame {
                wire.extend_from_slice(bytes);
            }
        }
        for size in [1, 7, wire.len()] {
            let (mut decoder, mut buffer, mut got) = (Decoder::new(), BytesMut::new(), Vec::new());
            for piece in wire.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.take(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames);
        }
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        let check = |bytes: &[u8]| Decoder::new().take(&mut BytesMut::from(bytes));
        assert!(check(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err(), "too long");
        assert!(check(&[0x80, 2, 0, 1, 0, 0, 0, 0]).is_err(), "another version");
        assert!(check(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]).is_err(), "too short");
        assert!(check(&[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9]).is_err(), "no zlib");
        assert_eq!(check(&[0x80, 3, 0, 9, 0, 0, 0, 0]).unwrap(), Some(Frame::Other));
    }

    #[test]
    fn a_bomb_of_headers_is_refused() {
        let bomb = vec![("x".to_owned(), "y".repeat(1 << 20))];
        let bytes = Encoder::new().unwrap().encode(&Frame::Open { id: 1, headers: bomb, fin: false }).unwrap();
        assert!(Decoder::new().take(&mut BytesMut::from(&bytes[..])).is_err());
    }
}
