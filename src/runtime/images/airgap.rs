//! The air-gap directory: archives whose images are there from the start, each imported once.

use super::error::ImageError;
use super::ingest::write_atomically;
use super::layer::hex;
use super::store::{ImageStore, blocking, read_dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a look at the directory came to.
#[derive(Debug, Default)]
pub struct AirGap {
    /// Names of the images that were imported.
    pub imported: Vec<String>,
    /// Archives whose images were there already.
    pub kept: usize,
    /// Archives that could not be imported.
    pub failed: Vec<(PathBuf, ImageError)>,
}

/// What was found in each archive, by the digest of its contents.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Index {
    archives: BTreeMap<String, Vec<String>>,
    files: BTreeMap<String, Stamp>,
}

/// Tells without reading it whether a file is still the one that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    digest: String,
}

const ENDINGS: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.zstd", ".oci", ".oci.tar"];
const MAX_ARCHIVES: usize = 1000;

impl ImageStore {
    /// Imports the archives in `dir` whose images are not there yet. One that fails does not keep the others.
    pub async fn import_directory(&self, dir: &Path) -> Result<AirGap, ImageError> {
        let mut report = AirGap::default();
        if !dir.is_dir() {
            return Ok(report);
        }
        let path = self.inner.dir.join("airgap.json");
        let known: Index =
            std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut index = Index::default();
        let wanted =
            |path: &PathBuf| ENDINGS.iter().any(|ending| path.to_string_lossy().ends_with(ending)) && path.is_file();
        for file in read_dir(dir)?.into_iter().filter(wanted).take(MAX_ARCHIVES) {
            match self.import_once(&file, &known, &mut index).await {
                Ok(Some(names)) => report.imported.extend(names),
                Ok(None) => report.kept += 1,
                Err(error) => report.failed.push((file, error)),
            }
        }
        if index != known {
            let text = serde_json::to_vec(&index).map_err(|error| ImageError::Content(error.to_string()))?;
            write_atomically(&path, &text).map_err(ImageError::io("write", &path))?;
        }
        Ok(report)
    }

    /// `None` if everything in the archive is there.
    async fn import_once(
        &self,
        file: &Path,
        known: &Index,
        index: &mut Index,
    ) -> Result<Option<Vec<String>>, ImageError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stamp = stamp(file, known.files.get(&name)).await?;
        let digest = stamp.digest.clone();
        let found = known.archives.get(&digest).or(index.archives.get(&digest)).cloned();
        let present = found.filter(|names| names.iter().all(|name| self.resolve(name).is_some()));
        let (names, imported) = match present {
            Some(names) => (names, false),
            None => (self.import(file).await?, true),
        };
        index.files.insert(name, stamp);
        index.archives.insert(digest, names.clone());
        Ok(imported.then_some(names))
    }
}

/// The stamp of a file, which is read only if it is not the known one.
async fn stamp(file: &Path, known: Option<&Stamp>) -> Result<Stamp, ImageError> {
    let meta = file.metadata().map_err(ImageError::io("read", file))?;
    let digest = known.map(|known| known.digest.clone()).unwrap_or_default();
    let now = Stamp { size: meta.size(), inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()), digest };
    if known == Some(&now) {
        return Ok(now);
    }
    let file = file.to_owned();
    let digest = blocking(move || digest_of(&file).map_err(ImageError::io("read", &file))).await?;
    Ok(Stamp { digest, ..now })
}

fn digest_of(file: &Path) -> io::Result<String> {
    let (mut file, mut hasher, mut buffer) = (File::open(file)?, Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("sha256:{}", hex(&hasher.finalize()))),
            got => hasher.update(&buffer[..got]),
        }
    }
}
