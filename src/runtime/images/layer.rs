//! From a compressed layer to a directory: decompress, verify both digests, unpack, settle on the layers below.

use super::tarstream::{Skip, TarReader};
use super::unpack::{Limits, Notes, unpack};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, open, openat2};
use sha2::{Digest as _, Sha256, Sha512};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Unpacks the layer that `source` delivers into `root`, which exists and is empty.
/// `blob` is the digest of the bytes delivered, `diff_id` the one of the archive inside.
pub(super) fn unpack_layer(source: impl Read, blob: Option<&str>, diff_id: &str, root: &Path) -> io::Result<Notes> {
    unpack_within(Limits::default(), source, blob, diff_id, root)
}

/// Unpacks a layer that is not to exceed these limits.
pub(super) fn unpack_within(
    limits: Limits,
    source: impl Read,
    blob: Option<&str>,
    diff_id: &str,
    root: &Path,
) -> io::Result<Notes> {
    let source = Hashing::new(source, blob)?;
    let mut source = BufReader::with_capacity(64 << 10, source);
    let compression = Compression::detect(source.fill_buf()?);
    // Room for headers and padding beside the data.
    let limit = limits.bytes + (limits.bytes >> 3);
    let archive: Box<dyn Read + '_> = match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut source)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(&mut source)?),
        Compression::None => Box::new(&mut source),
    };
    let mut reader = TarReader::new(Hashing::new(Bounded { inner: archive, left: limit }, Some(diff_id))?);
    let notes = unpack(&mut reader, root, limits)?;
    // What follows the archive's end still counts for the digests.
    let mut archive = reader.into_inner();
    drain(&mut archive)?;
    archive.verify("diff id")?;
    drain(&mut source)?;
    source.into_inner().verify("digest")?;
    Ok(notes)
}

/// How the beginning of a blob says it is compressed; media types are less reliable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as in zstd:chunked.
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Self::Zstd,
            _ => Self::None,
        }
    }
}

fn drain(source: &mut impl Read) -> io::Result<()> {
    io::copy(source, &mut io::sink()).map(|_| ())
}

/// Ends with an error rather than fill the disk from a decompression bomb.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| io::Error::other("decompresses without end"))?;
        Ok(got)
    }
}

enum Hasher {
    None,
    Sha256(Sha256),
    Sha512(Sha512),
}

/// Passes bytes through and knows their digest.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    expect: String,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, expect: Option<&str>) -> io::Result<Self> {
        let hasher = match expect.map(|digest| digest.split_once(':')) {
            None => Hasher::None,
            Some(Some(("sha256", _))) => Hasher::Sha256(Sha256::new()),
            Some(Some(("sha512", _))) => Hasher::Sha512(Sha512::new()),
            Some(_) => return Err(io::Error::other(format!("unsupported digest {:?}", expect.unwrap_or_default()))),
        };
        Ok(Self { inner, hasher, expect: expect.unwrap_or_default().to_owned() })
    }

    fn verify(self, what: &str) -> io::Result<()> {
        let found = match self.hasher {
            Hasher::None => return Ok(()),
            Hasher::Sha256(hasher) => format!("sha256:{}", hex(&hasher.finalize())),
            Hasher::Sha512(hasher) => format!("sha512:{}", hex(&hasher.finalize())),
        };
        if found == self.expect {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("wrong {what}: expected {}, got {found}", self.expect)))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        match &mut self.hasher {
            Hasher::None => {}
            Hasher::Sha256(hasher) => hasher.update(&buffer[..got]),
            Hasher::Sha512(hasher) => hasher.update(&buffer[..got]),
        }
        Ok(got)
    }
}

impl<R: Read> Skip for Hashing<R> {}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256:...` of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Whether some bytes have this digest; of algorithms that we do not know, none have.
pub(super) fn has_digest(bytes: &[u8], digest: &str) -> bool {
    match digest.split_once(':') {
        Some(("sha256", value)) => hex(&Sha256::digest(bytes)) == value,
        Some(("sha512", value)) => hex(&Sha512::digest(bytes)) == value,
        _ => false,
    }
}

/// The name of a layer together with all below it.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        });
    }
    chain
}

/// Completes a layer that was unpacked by itself with what the layers below it (highest first) say.
/// Paths of the layer are as hostile here as they were when it was unpacked.
pub(super) fn settle(root: &Path, notes: &Notes, below: &[PathBuf]) -> io::Result<()> {
    let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for path in &notes.implied {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Another member may have replaced it meanwhile.
        let Ok(dir) = openat2(&root, path, flags, Mode::empty(), CONFINED) else { continue };
        if let Some(found) =
            find_below(path, below).filter(|found| found.symlink_metadata().is_ok_and(|meta| meta.is_dir()))
        {
            copy_metadata(&found, &std::fs::File::from(dir))?;
        }
    }
    for (target, link) in &notes.foreign_links {
        let found = find_below(target, below).filter(|found| found.symlink_metadata().is_ok_and(|meta| meta.is_file()));
        let found = found
            .ok_or_else(|| io::Error::other(format!("{link:?}: hard link to {target:?}, which does not exist")))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut copy = std::fs::File::from(openat2(&root, link, flags, Mode::RUSR | Mode::WUSR, CONFINED)?);
        io::copy(&mut std::fs::File::open(&found)?, &mut copy)?;
        copy_metadata(&found, &copy)?;
    }
    Ok(())
}

const CONFINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// The file that the layers below show at a path. Links among its directories are not followed: a layer
/// that goes through a link of a lower layer names the real path.
fn find_below(path: &Path, below: &[PathBuf]) -> Option<PathBuf> {
    'layers: for layer in below {
        let mut at = layer.clone();
        let mut opaque = false;
        for component in path.components() {
            at.push(component);
            match at.symlink_metadata() {
                Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == 0 => return None,
                Ok(meta) if meta.is_symlink() => return None,
                Ok(meta) => opaque |= meta.is_dir() && is_opaque(&at),
                Err(_) if opaque => return None,
                Err(_) => continue 'layers,
            }
        }
        return Some(at);
    }
    None
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value).is_ok_and(|length| length == 1 && value == *b"y")
}

/// Owner, mode, capability and times; `from` is not a link.
fn copy_metadata(from: &Path, to: &std::fs::File) -> io::Result<()> {
    let meta = from.symlink_metadata()?;
    rustix::fs::fchown(to, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(meta.mode() & 0o7777))?;
    let mut value = [0; 64];
    if let Ok(length) = rustix::fs::lgetxattr(from, "security.capability", &mut value) {
        rustix::fs::fsetxattr(to, "security.capability", &value[..length], XattrFlags::empty())?;
    }
    to.set_times(std::fs::FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o600);
        builder.append_data(&mut header, "etc/x", &b"hi"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_compression_is_understood_and_both_digests_are_checked() {
        let plain = archive();
        let zstd = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
        for blob in [plain.clone(), gzip(&plain), zstd] {
            let dir = tempfile::tempdir().unwrap();
            unpack_layer(blob.as_slice(), Some(&sha256(&blob)), &sha256(&plain), dir.path()).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join("etc/x")).unwrap(), "hi");
        }
        let blob = gzip(&plain);
        let dir = tempfile::tempdir().unwrap();
        let error = unpack_layer(blob.as_slice(), Some(&sha256(b"x")), &sha256(&plain), dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("wrong digest: expected sha256:2d71"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let error = unpack_layer(blob.as_slice(), Some(&sha256(&blob)), &sha256(b"x"), dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("wrong diff id"), "{error}");
    }

    #[test]
    fn a_cut_layer_is_an_error() {
        let plain = archive();
        let blob = gzip(&plain);
        for cut in [0, 1, 12, blob.len() / 2, blob.len() - 1] {
            let dir = tempfile::tempdir().unwrap();
            let result = unpack_layer(&blob[..cut], Some(&sha256(&blob)), &sha256(&plain), dir.path());
            assert!(result.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn chain_ids_are_as_the_specification_says() {
        let ids = chain_ids(&["sha256:a".to_owned(), "sha256:b".to_owned()]);
        assert_eq!(ids, ["sha256:a".to_owned(), sha256(b"sha256:a sha256:b")]);
    }

    #[test]
    fn settling_does_not_follow_links_out() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high, outside) = (dir.path().join("low"), dir.path().join("high"), dir.path().join("outside"));
        std::fs::create_dir_all(low.join("l")).unwrap();
        std::fs::write(low.join("f"), "dead").unwrap();
        std::fs::create_dir_all(&high).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, high.join("l")).unwrap();
        let mode = outside.metadata().unwrap().mode();
        rustix::fs::chmod(low.join("l"), Mode::from_raw_mode(0o1777)).unwrap();
        let notes = Notes {
            implied: vec![PathBuf::from("l")],
            foreign_links: vec![(PathBuf::from("f"), PathBuf::from("l/f"))],
        };
        let _ = settle(&high, &notes, &[low]);
        assert_eq!(outside.metadata().unwrap().mode(), mode);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn implied_directories_and_foreign_links_come_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        std::fs::create_dir_all(low.join("tmp/deep")).unwrap();
        rustix::fs::chmod(low.join("tmp"), Mode::from_raw_mode(0o1777)).unwrap();
        std::fs::write(low.join("tmp/deep/f"), "data").unwrap();
        std::fs::create_dir_all(high.join("tmp")).unwrap();
        let notes = Notes {
            implied: vec![PathBuf::from("tmp")],
            foreign_links: vec![(PathBuf::from("tmp/deep/f"), PathBuf::from("tmp/g"))],
        };
        settle(&high, &notes, std::slice::from_ref(&low)).unwrap();
        assert_eq!(high.join("tmp").metadata().unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_to_string(high.join("tmp/g")).unwrap(), "data");
        let notes = Notes { implied: Vec::new(), foreign_links: vec![(PathBuf::from("nope"), PathBuf::from("h"))] };
        assert!(settle(&high, &notes, &[low]).is_err());
    }
}
