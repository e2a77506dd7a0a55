//! Exports images as one archive that is a docker-archive and an OCI layout at once.

use super::error::ImageError;
use super::ingest::Ingest;
use super::layer::{hex, sha256};
use super::manifest::architecture;
use super::reference::Reference;
use super::store::{Image, ImageStore, blocking};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::{Builder, EntryType, Header};

const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const MAX_XATTR: usize = 64 << 10;

impl ImageStore {
    /// Writes images to `out`. Layers are packed again from what they were unpacked to, always to the same bytes;
    /// so the archive's images have ids of their own, and exporting what was imported from it gives it again.
    pub async fn export(&self, references: &[String], out: impl Write + Send + 'static) -> Result<(), ImageError> {
        let mut images: Vec<(Arc<Image>, Vec<String>)> = Vec::new();
        for reference in references {
            let image = self.resolve(reference).ok_or_else(|| ImageError::NotFound(reference.clone()))?;
            // By id: all its names; by name: this one.
            let named = Reference::parse(reference).ok().map(|parsed| parsed.to_string());
            let names = match named.filter(|name| image.names.contains(name)) {
                Some(name) => vec![name],
                None => image.names.clone(),
            };
            match images.iter_mut().find(|(other, _)| other.id == image.id) {
                Some((_, known)) => known.extend(names),
                None => images.push((image, names)),
            }
        }
        let store = self.inner.dir.clone();
        blocking(move || {
            let scratch = Ingest::create(&store)?;
            // Nothing is removed meanwhile.
            let _guard = super::store::lock(&store, false)?;
            let mut archive = Archive { tar: Builder::new(BufWriter::new(out)), written: HashSet::new() };
            let fail = |error: io::Error| ImageError::Content(format!("cannot export: {error}"));
            archive.images(&images, scratch.path()).map_err(fail)?;
            archive.tar.into_inner().and_then(|mut out| out.flush()).map_err(fail)
        })
        .await
    }
}

struct Archive<W: Write> {
    tar: Builder<W>,
    written: HashSet<String>,
}

impl<W: Write> Archive<W> {
    fn images(&mut self, images: &[(Arc<Image>, Vec<String>)], scratch: &Path) -> io::Result<()> {
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let (mut index, mut docker) = (Vec::new(), Vec::new());
        let mut packed: HashMap<PathBuf, (String, u64)> = HashMap::new();
        for (image, names) in images {
            let mut layers = Vec::new();
            for layer in &image.layers {
                if !packed.contains_key(layer) {
                    let done = self.layer(layer, &scratch.join("layer.tar"))?;
                    packed.insert(layer.clone(), done);
                }
                layers.push(packed[layer].clone());
            }
            let (config, manifest) = documents(image, &layers);
            let (config, manifest) = (self.blob(&config)?, self.blob(&manifest)?);
            let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
            docker.push(json!({
                "Config": path(&config.0), "RepoTags": names,
                "Layers": layers.iter().map(|(digest, _)| path(digest)).collect::<Vec<_>>(),
            }));
            let names = if names.is_empty() { vec![String::new()] } else { names.clone() };
            index.extend(names.iter().map(|name| entry(name, &manifest)));
        }
        let index =
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index});
        self.file("index.json", index.to_string().as_bytes())?;
        self.file("manifest.json", Value::from(docker).to_string().as_bytes())
    }

    /// Packs a layer, first into a file of its own, since its digest is its name.
    fn layer(&mut self, layer: &Path, scratch: &Path) -> io::Result<(String, u64)> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(scratch)?;
        let mut hashing = Hashing { inner: BufWriter::new(&file), hasher: Sha256::new(), size: 0 };
        pack(layer, &mut hashing)?;
        hashing.flush()?;
        let (digest, size) = (format!("sha256:{}", hex(&hashing.hasher.finalize())), hashing.size);
        if self.written.insert(digest.clone()) {
            let mut header = plain_header(size);
            let path = format!("blobs/{}", digest.replace(':', "/"));
            self.tar.append_data(&mut header, path, File::open(scratch)?)?;
        }
        Ok((digest, size))
    }

    fn blob(&mut self, value: &Value) -> io::Result<(String, usize)> {
        let text = value.to_string();
        let digest = sha256(text.as_bytes());
        if self.written.insert(digest.clone()) {
            self.file(&format!("blobs/{}", digest.replace(':', "/")), text.as_bytes())?;
        }
        Ok((digest, text.len()))
    }

    fn file(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.tar.append_data(&mut plain_header(data.len() as u64), name, data)
    }
}

fn plain_header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The configuration and the manifest of an image with these layers.
fn documents(image: &Image, layers: &[(String, u64)]) -> (Value, Value) {
    let diff_ids: Vec<&String> = layers.iter().map(|(digest, _)| digest).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let text = config.to_string();
    let layer = |(digest, size): &(String, u64)| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(text.as_bytes()), "size": text.len(),
        },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    (config, manifest)
}

fn entry(name: &str, manifest: &(String, usize)) -> Value {
    let mut entry = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.0, "size": manifest.1,
        "platform": {"architecture": architecture(), "os": "linux"},
    });
    if !name.is_empty() {
        let tag = Reference::parse(name).ok().and_then(|parsed| parsed.tag).unwrap_or_default();
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    }
    entry
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.size += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a layer's directory as the archive that unpacks to it, whiteouts included.
fn pack(root: &Path, out: impl Write) -> io::Result<()> {
    let mut packer = Packer { tar: Builder::new(out), root, links: HashMap::new() };
    packer.directory(Path::new(""))?;
    packer.tar.into_inner()?.flush()
}

struct Packer<'a, W: Write> {
    tar: Builder<W>,
    root: &'a Path,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let full = self.root.join(path);
        self.member(path, &full.symlink_metadata()?)?;
        if xattr(&full, OPAQUE_XATTR)?.as_deref() == Some(b"y") {
            self.hidden(path, OsStr::new(".wh..wh..opq"))?;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&full)? {
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            let (below, meta) = (path.join(&name), self.root.join(path).join(&name).symlink_metadata()?);
            if meta.is_dir() {
                self.directory(&below)?;
            } else if meta.file_type().is_char_device() && meta.rdev() == 0 {
                let mut whiteout = b".wh.".to_vec();
                whiteout.extend_from_slice(name.as_bytes());
                self.hidden(path, OsStr::from_bytes(&whiteout))?;
            } else if !meta.file_type().is_socket() {
                self.member(&below, &meta)?;
            }
        }
        Ok(())
    }

    fn hidden(&mut self, dir: &Path, name: &OsStr) -> io::Result<()> {
        self.tar.append_data(&mut plain_header(0), dir.join(name), io::empty())
    }

    fn member(&mut self, path: &Path, meta: &Metadata) -> io::Result<()> {
        let full = self.root.join(path);
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(meta.uid().into());
        header.set_gid(meta.gid().into());
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header.set_size(0);
        let kind = meta.file_type();
        if meta.nlink() > 1 && !meta.is_dir() {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(EntryType::hard_link());
                let first = first.clone();
                return self.tar.append_link(&mut header, path, first);
            }
            self.links.insert((meta.dev(), meta.ino()), path.to_owned());
        }
        self.extended(&full, meta)?;
        if meta.is_dir() {
            header.set_entry_type(EntryType::dir());
            let path = if path.as_os_str().is_empty() { Path::new("./") } else { path };
            return self.tar.append_data(&mut header, path, io::empty());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::symlink());
            return self.tar.append_link(&mut header, path, std::fs::read_link(&full)?);
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::file());
            header.set_size(meta.size());
            return self.tar.append_data(&mut header, path, File::open(&full)?);
        }
        header.set_entry_type(match () {
            () if kind.is_fifo() => EntryType::fifo(),
            () if kind.is_block_device() => EntryType::block_special(),
            () => EntryType::character_special(),
        });
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// What the plain header has no room for.
    fn extended(&mut self, full: &Path, meta: &Metadata) -> io::Result<()> {
        let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        if meta.mtime_nsec() != 0 || meta.mtime() < 0 {
            let fraction = format!("{:09}", meta.mtime_nsec());
            let text = match (meta.mtime(), meta.mtime_nsec()) {
                (seconds, 0) => seconds.to_string(),
                // A negative time counts its fraction downwards.
                (seconds, nanos) if seconds < 0 => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
                (seconds, _) => format!("{seconds}.{}", fraction.trim_end_matches('0')),
            };
            records.insert("mtime".into(), text.into_bytes());
        }
        if !meta.is_symlink() {
            let mut names = vec![0; MAX_XATTR];
            let length = match rustix::fs::llistxattr(full, &mut names) {
                Ok(length) => length,
                Err(rustix::io::Errno::NOTSUP) => 0,
                Err(errno) => return Err(errno.into()),
            };
            for name in names[..length].split(|&b| b == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
                if (name == "security.capability" || name.starts_with("user."))
                    && let Some(value) = xattr(full, name)?
                {
                    records.insert(format!("SCHILY.xattr.{name}"), value);
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }
}

fn xattr(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_XATTR];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
