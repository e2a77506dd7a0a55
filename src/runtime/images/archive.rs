//! Imports docker-archives and OCI layouts, from tar files (plain or compressed) and directories.

use super::error::ImageError;
use super::failure::Failure;
use super::ingest::Ingest;
use super::layer::{Compression, chain_ids, unpack_layer};
use super::manifest::{Descriptor, Index, Manifest, Parsed, parse_manifest};
use super::pull::checked_config;
use super::reference::Reference;
use super::store::{ImageRecord, ImageStore, blocking, full_name};
use super::tarstream::{Kind, Skip, TarReader};
use super::unpack::Notes;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Manifests and configurations; larger ones are not what they claim to be.
const MAX_SMALL: u64 = 8 << 20;
const MAX_MEMBERS: usize = 100_000;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image of an archive: what a registry would say, with members instead of blobs.
struct Found {
    manifest: Manifest,
    manifest_digest: Option<String>,
    config: Vec<u8>,
    /// Member names of the layers.
    layers: Vec<String>,
    names: Vec<String>,
}

impl ImageStore {
    /// Imports all images of a docker-archive or OCI layout (tar, plain or compressed, or a directory).
    /// Returns their names, or the id of an image that has none.
    pub async fn import(&self, path: &Path) -> Result<Vec<String>, ImageError> {
        let (store, path) = (self.clone(), path.to_owned());
        let (members, found, ingest) = blocking(move || {
            let ingest = Ingest::create(&store.inner.dir)?;
            let explain = |error: ImageError| match error {
                ImageError::Content(text) => ImageError::Content(format!("{}: {text}", path.display())),
                other => other,
            };
            let members = Members::open(&path, ingest.path()).map_err(explain)?;
            let found = find_images(&members).map_err(explain)?;
            Ok((Arc::new(members), found, Arc::new(ingest)))
        })
        .await?;
        let mut names = Vec::new();
        for (number, image) in found.into_iter().enumerate() {
            names.extend(self.import_one(number, image, members.clone(), ingest.clone()).await?);
        }
        Ok(names)
    }

    async fn import_one(
        &self,
        number: usize,
        image: Found,
        members: Arc<Members>,
        ingest: Arc<Ingest>,
    ) -> Result<Vec<String>, ImageError> {
        let config = checked_config(&image.config, &image.manifest).map_err(content)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        let mut unpacked = Vec::new();
        for (i, chain_id) in chain.iter().enumerate() {
            if self.has_layer(chain_id) || chain[..i].contains(chain_id) {
                continue;
            }
            let dir = ingest.path().join(format!("{number}-{i}"));
            let (members, keep) = (members.clone(), ingest.clone());
            let (member, diff_id, target) = (image.layers[i].clone(), config.rootfs.diff_ids[i].clone(), dir.clone());
            let notes = blocking(move || {
                let _ingest = keep;
                unpack_member(&members, &member, &diff_id, &target)
            });
            unpacked.push((i, dir, notes.await?));
        }
        let new = self.settle_layers(unpacked, &chain, ingest.clone()).await?;
        let size = image.manifest.layers.iter().map(|layer| layer.size).sum();
        let record =
            ImageRecord { id: image.manifest.config.digest.clone(), config: config.config, size, layers: chain };
        let mut all_names = image.names.clone();
        if let Some(digest) = &image.manifest_digest {
            let digest_name =
                |name: &String| Reference::parse(name).ok().map(|parsed| format!("{}@{digest}", parsed.name()));
            all_names.extend(image.names.iter().filter_map(digest_name));
        }
        let id = record.id.clone();
        if !self.commit_off_thread(record, all_names, new, Some(ingest)).await? {
            return Err(ImageError::Content("layers were removed during the import; try again".to_owned()));
        }
        Ok(if image.names.is_empty() { vec![id] } else { image.names })
    }
}

fn content(failure: Failure) -> ImageError {
    ImageError::Content(failure.text)
}

fn unpack_member(members: &Members, member: &str, diff_id: &str, dir: &Path) -> Result<Notes, ImageError> {
    let fs = dir.join("fs");
    std::fs::create_dir_all(&fs).map_err(ImageError::io("create", &fs))?;
    rustix::fs::chmod(&fs, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|errno| ImageError::io("create", &fs)(errno.into()))?;
    let source = members.open_member(member)?;
    let notes = unpack_layer(source, None, diff_id, &fs)
        .map_err(|error| ImageError::Content(format!("failed to extract layer {member}: {error}")))?;
    super::crash::point("layer unpacked");
    Ok(notes)
}

/// The files of an archive, by name.
enum Members {
    Directory(PathBuf),
    Tar { file: Arc<File>, places: HashMap<String, Place> },
}

#[derive(Debug, Clone)]
enum Place {
    Data {
        offset: u64,
        size: u64,
    },
    /// Old docker versions link layers that are the same.
    Link(String),
}

impl Members {
    fn open(path: &Path, scratch: &Path) -> Result<Self, ImageError> {
        let meta = path.metadata().map_err(ImageError::io("open", path))?;
        if meta.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = File::open(path).map_err(ImageError::io("open", path))?;
        let mut start = [0; 4];
        let got = file.read(&mut start).map_err(ImageError::io("read", path))?;
        file.rewind().map_err(ImageError::io("read", path))?;
        let file = match Compression::detect(&start[..got]) {
            Compression::None => file,
            compression => decompress(file, compression, scratch)?,
        };
        let places = index(&file).map_err(|error| ImageError::Content(format!("broken archive: {error}")))?;
        Ok(Self::Tar { file: Arc::new(file), places })
    }

    fn open_member(&self, name: &str) -> Result<Box<dyn Read + Send>, ImageError> {
        let (reader, _) = self.find(name)?;
        Ok(reader)
    }

    fn size(&self, name: &str) -> Result<u64, ImageError> {
        Ok(self.find(name)?.1)
    }

    fn find(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), ImageError> {
        let missing = || ImageError::Content(format!("broken archive: {name:?} is missing"));
        match self {
            Self::Directory(dir) => {
                let relative = Path::new(name);
                if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
                    return Err(missing());
                }
                let file = File::open(dir.join(relative)).map_err(|_| missing())?;
                let size = file.metadata().map_err(|_| missing())?.len();
                Ok((Box::new(file), size))
            }
            Self::Tar { file, places } => {
                let mut name = name.to_owned();
                for _ in 0..8 {
                    match places.get(&name).ok_or_else(missing)? {
                        Place::Data { offset, size } => {
                            let section = Section { file: file.clone(), offset: *offset, left: *size };
                            return Ok((Box::new(section), *size));
                        }
                        Place::Link(target) => name.clone_from(target),
                    }
                }
                Err(missing())
            }
        }
    }

    fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (reader, _) = self.find(name)?;
        let mut data = Vec::new();
        let read = reader.take(MAX_SMALL + 1).read_to_end(&mut data);
        read.map_err(|error| ImageError::Content(format!("broken archive: {name:?}: {error}")))?;
        if data.len() as u64 > MAX_SMALL {
            return Err(ImageError::Content(format!("{name:?} is larger than {MAX_SMALL} bytes")));
        }
        Ok(data)
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(name).is_file(),
            Self::Tar { places, .. } => places.contains_key(name),
        }
    }
}

/// Layers are read out of order, so a compressed archive is laid out on disk first.
fn decompress(file: File, compression: Compression, scratch: &Path) -> Result<File, ImageError> {
    let path = scratch.join("archive.tar");
    let mut plain =
        File::options().read(true).write(true).create_new(true).open(&path).map_err(ImageError::io("create", &path))?;
    let source = BufReader::with_capacity(64 << 10, file);
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => ImageError::io("write", &path)(error),
        _ => ImageError::Content(format!("broken archive: {error}")),
    };
    let limit = super::unpack::Limits::default().bytes;
    let mut reader: Box<dyn Read> = match compression {
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source).map_err(broken)?.take(limit)),
        _ => Box::new(flate2::bufread::MultiGzDecoder::new(source).take(limit)),
    };
    io::copy(&mut reader, &mut plain).map_err(broken)?;
    plain.rewind().map_err(broken)?;
    Ok(plain)
}

struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.offset)?;
        if got == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of archive"));
        }
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

/// Skips by seeking, but notices the end.
struct Seekable<'a> {
    reader: BufReader<&'a File>,
    length: u64,
}

impl Read for Seekable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Skip for Seekable<'_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let at = self.reader.seek(SeekFrom::Current(i64::try_from(count).map_err(io::Error::other)?))?;
        if at > self.length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of archive"));
        }
        Ok(())
    }
}

fn index(file: &File) -> io::Result<HashMap<String, Place>> {
    let source = Seekable { reader: BufReader::new(file), length: file.metadata()?.len() };
    let mut reader = TarReader::new(source);
    let mut places = HashMap::new();
    while let Some(member) = reader.next_member()? {
        let name = normal(&member.path);
        let place = match member.kind {
            Kind::File => Place::Data { offset: reader.offset(), size: member.size },
            Kind::Hardlink => Place::Link(normal(&member.link)),
            Kind::Symlink => Place::Link(beside(&name, &normal_link(&member.link))),
            _ => continue,
        };
        places.insert(name, place);
        if places.len() > MAX_MEMBERS {
            return Err(io::Error::other(format!("more than {MAX_MEMBERS} members")));
        }
    }
    if places.is_empty() {
        return Err(io::Error::other("empty"));
    }
    Ok(places)
}

fn normal(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

fn normal_link(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}

/// A relative link seen from the archive's top.
fn beside(name: &str, link: &Path) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.to_str().unwrap_or_default().split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The images of an archive. Recent `docker save` writes both forms; the docker one has the full names.
fn find_images(members: &Members) -> Result<Vec<Found>, ImageError> {
    let found = if members.has("manifest.json") {
        find_docker(members)?
    } else if members.has("index.json") {
        find_oci(members)?
    } else {
        return Err(ImageError::Content(
            "neither a docker-archive (manifest.json) nor an OCI layout (index.json)".to_owned(),
        ));
    };
    if found.is_empty() {
        return Err(ImageError::Content(format!("no image for linux/{} in it", super::manifest::architecture())));
    }
    Ok(found)
}

fn full_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<Vec<String>, ImageError> {
    names.map(|name| Ok(full_name(&Reference::parse(name)?))).collect()
}

fn find_docker(members: &Members) -> Result<Vec<Found>, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let raw = members.small("manifest.json")?;
    let bad = |error| ImageError::Content(format!("broken archive: manifest.json: {error}"));
    let entries: Vec<Entry> = serde_json::from_slice(&raw).map_err(bad)?;
    let found = entries.into_iter().map(|entry| {
        let config = members.small(&entry.config)?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            layers.push(Descriptor { size: members.size(layer)?, ..Descriptor::default() });
        }
        let digest = super::layer::sha256(&config);
        let manifest = Manifest { config: Descriptor { digest, ..Descriptor::default() }, layers };
        let names = full_names(entry.repo_tags.iter().flatten())?;
        Ok(Found { manifest, manifest_digest: None, config, layers: entry.layers, names })
    });
    found.collect()
}

fn find_oci(members: &Members) -> Result<Vec<Found>, ImageError> {
    let raw = members.small("index.json")?;
    let index: Index = serde_json::from_slice(&raw)
        .map_err(|error| ImageError::Content(format!("broken archive: index.json: {error}")))?;
    let mut found = Vec::new();
    for entry in &index.manifests {
        let raw = verified(members, &entry.digest)?;
        let manifest = match parse_manifest(&raw).map_err(content)? {
            Parsed::Image(manifest) => manifest,
            Parsed::Index(nested) => {
                let Some(digest) = nested.choose() else { continue };
                match parse_manifest(&verified(members, &digest)?).map_err(content)? {
                    Parsed::Image(manifest) => manifest,
                    Parsed::Index(_) => return Err(ImageError::Content("index within an index".to_owned())),
                }
            }
        };
        let config = verified(members, &manifest.config.digest)?;
        let layers = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Result<_, _>>()?;
        // A bare tag, which some tools write, does not name an image.
        let full = entry.annotations.get(CONTAINERD_NAME).or(entry.annotations.get(REF_NAME));
        let names = full_names(full.filter(|name| name.contains(['/', ':'])).into_iter())?;
        found.push(Found { manifest, manifest_digest: Some(entry.digest.clone()), config, layers, names });
    }
    Ok(found)
}

fn blob_path(digest: &str) -> Result<String, ImageError> {
    match digest.split_once(':') {
        Some((algorithm, hex))
            if hex.bytes().all(|b| b.is_ascii_alphanumeric())
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            Ok(format!("blobs/{algorithm}/{hex}"))
        }
        _ => Err(ImageError::Content(format!("broken archive: invalid digest {digest:?}"))),
    }
}

fn verified(members: &Members, digest: &str) -> Result<Vec<u8>, ImageError> {
    let raw = members.small(&blob_path(digest)?)?;
    if !super::layer::has_digest(&raw, digest) {
        let actual = super::layer::sha256(&raw);
        return Err(ImageError::Content(format!("broken archive: wrong digest: expected {digest}, got {actual}")));
    }
    Ok(raw)
}
