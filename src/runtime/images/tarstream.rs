//! Reads tar archives member by member, with a bound on everything that is kept in memory.
//!
//! The `tar` crate's own iterator reads long names and extended headers of any length into memory, so
//! only its header fields are used here.

use std::io::{self, Read};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// One member; its data follows in the stream.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    /// Extended attributes, names without the prefix that tar gives them.
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// How a stream jumps over bytes: files seek, others read.
pub(super) trait Skip: Read {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while count > 0 {
            let want = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.read(&mut buffer[..want])?;
            if got == 0 {
                return Err(truncated());
            }
            count -= got as u64;
        }
        Ok(())
    }
}

const BLOCK: usize = 512;
/// Names and extended headers together; Linux has no longer paths than 4,096, and xattrs end at 64 KiB.
const MAX_EXTENDED: u64 = 1 << 20;
/// Extended headers may follow one another, but not for ever.
const MAX_PREFIXES: usize = 16;

/// A tar archive as a stream.
pub(super) struct TarReader<R> {
    inner: R,
    /// Data of the current member that has not been read.
    left: u64,
    /// Zeros after it, up to the next block.
    padding: u64,
    offset: u64,
    global: Extended,
}

#[derive(Debug, Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of archive")
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<R: Skip> TarReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, offset: 0, global: Extended::default() }
    }

    /// Where the current member's data starts in the stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream behind the archive.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member, or `None` at the end of the archive.
    pub(super) fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut extended = self.global.clone();
        for _ in 0..MAX_PREFIXES {
            self.skip_rest()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? || block.iter().all(|&b| b == 0) {
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&block);
            verify_checksum(header, &block)?;
            let size = header.entry_size().map_err(|error| invalid(error.to_string()))?;
            self.set_data(size)?;
            match header.entry_type().as_byte() {
                b'L' => extended.path = Some(trim_nul(self.read_extended()?)),
                b'K' => extended.link = Some(trim_nul(self.read_extended()?)),
                b'x' => parse_pax(&self.read_extended()?, &mut extended)?,
                b'g' => {
                    let mut global = self.global.clone();
                    parse_pax(&self.read_extended()?, &mut global)?;
                    // Only what makes sense for several members; git writes a comment here.
                    self.global = Extended { path: None, link: None, size: None, xattrs: Vec::new(), ..global };
                }
                other => return self.member(header, other, extended).map(Some),
            }
        }
        Err(invalid("too many extended headers in a row"))
    }

    fn member(&mut self, header: &tar::Header, kind: u8, extended: Extended) -> io::Result<Member> {
        let old = header.as_old();
        let kind = match kind {
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(invalid("sparse members are not supported")),
            other => return Err(invalid(format!("unknown member type {:?}", char::from(other)))),
        };
        if let Some(size) = extended.size {
            self.set_data(size)?;
        }
        if kind != Kind::File {
            // The size of these means nothing; some writers leave the target's there.
            if kind == Kind::Hardlink {
                self.set_data(0)?;
            }
        }
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        // Before POSIX, a directory was a file whose name ends with a slash.
        let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
        let link = extended.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default();
        let device = (
            header.device_major().ok().flatten().unwrap_or_default(),
            header.device_minor().ok().flatten().unwrap_or_default(),
        );
        let id = |given: Option<u32>, header: io::Result<u64>| match given {
            Some(id) => Ok(id),
            None => u32::try_from(header?).map_err(|_| invalid("user or group id out of range")),
        };
        Ok(Member {
            uid: id(extended.uid, field(&old.uid, header.uid()))?,
            gid: id(extended.gid, field(&old.gid, header.gid()))?,
            mode: field(&old.mode, header.mode())? & 0o7777,
            mtime: extended.mtime.unwrap_or((i64::try_from(field(&old.mtime, header.mtime())?).unwrap_or(0), 0)),
            size: self.left,
            path,
            link,
            kind,
            device,
            xattrs: extended.xattrs,
        })
    }

    fn set_data(&mut self, size: u64) -> io::Result<()> {
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        size.checked_add(padding).ok_or_else(|| invalid("member size out of range"))?;
        (self.left, self.padding) = (size, padding);
        Ok(())
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        if rest > 0 {
            self.inner.skip(rest)?;
            self.offset += rest;
            (self.left, self.padding) = (0, 0);
        }
        Ok(())
    }

    /// False at a clean end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let got = self.inner.read(&mut block[filled..])?;
            if got == 0 {
                return if filled == 0 { Ok(false) } else { Err(truncated()) };
            }
            filled += got;
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn read_extended(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_EXTENDED {
            return Err(invalid(format!("extended header of {} bytes, more than {MAX_EXTENDED}", self.left)));
        }
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }
}

impl<R: Skip> Read for TarReader<R> {
    /// Reads data of the current member.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(truncated());
        }
        self.left -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }
}

/// A number of the header, where writers leave what they do not know empty.
fn field<T: Default>(raw: &[u8], value: io::Result<T>) -> io::Result<T> {
    if raw.iter().all(|&b| b == 0 || b == b' ') {
        return Ok(T::default());
    }
    value.map_err(|error| invalid(error.to_string()))
}

fn verify_checksum(header: &tar::Header, block: &[u8; BLOCK]) -> io::Result<()> {
    let sum: u32 =
        block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) }).sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(()),
        _ => Err(invalid("not a tar archive (bad header checksum)")),
    }
}

fn trim_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|&b| b == 0) {
        name.truncate(end);
    }
    name
}

/// `LENGTH KEY=VALUE\n` repeated, where LENGTH counts the whole record.
fn parse_pax(mut data: &[u8], into: &mut Extended) -> io::Result<()> {
    let bad = || invalid("malformed extended header");
    while !data.is_empty() {
        let space = data.iter().position(|&b| b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&data[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| bad())?;
        apply_pax(key, &record[equals + 1..], into)?;
        data = &data[length..];
    }
    Ok(())
}

fn apply_pax(key: &str, value: &[u8], into: &mut Extended) -> io::Result<()> {
    let number = || -> io::Result<u64> {
        std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).ok_or_else(|| invalid(format!("malformed {key}")))
    };
    let id = || u32::try_from(number()?).map_err(|_| invalid(format!("{key} out of range")));
    match key {
        "path" => into.path = Some(value.to_vec()),
        "linkpath" => into.link = Some(value.to_vec()),
        "size" => into.size = Some(number()?),
        "uid" => into.uid = Some(id()?),
        "gid" => into.gid = Some(id()?),
        "mtime" => into.mtime = parse_time(value),
        _ if key.starts_with("GNU.sparse.") => return Err(invalid("sparse members are not supported")),
        _ => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                into.xattrs.push((name.to_owned(), value.to_vec()));
            }
        }
    }
    Ok(())
}

fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanos) = (seconds.parse::<i64>().ok()?, digits.parse::<u32>().ok()?);
    // A negative time counts its fraction downwards.
    Some(if text.starts_with('-') && nanos > 0 { (seconds - 1, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    impl Skip for &[u8] {}

    #[test]
    fn long_names_and_data_are_read() {
        let long = "d/".repeat(100) + "file";
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_uid(7);
        builder.append_data(&mut header, &long, &b"hello"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        let mut reader = TarReader::new(archive.as_slice());
        let member = reader.next_member().unwrap().unwrap();
        assert_eq!((member.path.as_slice(), member.uid, member.size), (long.as_bytes(), 7, 5));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(reader.next_member().unwrap().is_none());
    }

    #[test]
    fn extended_headers_override_the_plain_ones() {
        let mut extended = Extended::default();
        parse_pax(b"20 path=some/where/x\n30 SCHILY.xattr.user.a=b\nc=d\n\n17 mtime=-1.25\n\n", &mut extended)
            .unwrap_err();
        let mut extended = Extended::default();
        let record = |key: &str, value: &str| {
            let body = format!(" {key}={value}\n");
            let mut length = body.len() + 1;
            if length.to_string().len() + body.len() != length {
                length = length.to_string().len() + body.len();
            }
            format!("{length}{body}").into_bytes()
        };
        let data = [
            record("path", "a/b"),
            record("size", "9999999999"),
            record("mtime", "12.5"),
            record("SCHILY.xattr.user.x", "1\n2"),
        ];
        parse_pax(&data.concat(), &mut extended).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(extended.size, Some(9_999_999_999));
        assert_eq!(extended.mtime, Some((12, 500_000_000)));
        assert_eq!(extended.xattrs, [("user.x".to_owned(), b"1\n2".to_vec())]);
    }

    #[test]
    fn a_gigantic_name_and_a_cut_archive_are_errors() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(5 << 30);
        header.set_cksum();
        let error = TarReader::new(&header.as_bytes()[..]).next_member().unwrap_err();
        assert!(error.to_string().contains("extended header of 5368709120 bytes"), "{error}");
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut reader = TarReader::new(&header.as_bytes()[..]);
        reader.next_member().unwrap();
        assert_eq!(reader.next_member().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let error = TarReader::new(&[7; 512][..]).next_member().unwrap_err();
        assert!(error.to_string().contains("not a tar archive"), "{error}");
    }
}
