//! Which pods may use an image that is there already: those that could have pulled it, too.

use naru_runtime::images::{Image, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Credentials that one image is remembered with.
const MAX_CREDENTIALS: usize = 1024;

/// Who has pulled what, kept as one small file for each image.
#[derive(Debug)]
pub(crate) struct PullRecords {
    dir: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
}

/// By repository: what it takes to get the image from there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    image: String,
    access: BTreeMap<String, Access>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// Nothing: it was pulled without a pod's credentials.
    #[serde(default)]
    everybody: bool,
    /// Any of these, by their digests.
    #[serde(default)]
    credentials: BTreeSet<String>,
}

impl PullRecords {
    /// Reads what is recorded in `dir`; a damaged record counts as none.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(dir)? {
            let text = std::fs::read(entry?.path())?;
            if let Ok(record) = serde_json::from_slice::<Record>(&text) {
                records.insert(record.image.clone(), record);
            }
        }
        Ok(Self { dir: dir.to_owned(), records: Mutex::new(records) })
    }

    /// Whether a pod with these credentials has to show that it may use an image that is there. One that was
    /// never pulled (imported, or part of the node) is everybody's.
    pub(crate) fn must_pull(&self, image: &Image, name: &str, credentials: &[String]) -> bool {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = records.get(&image.id) else { return false };
        match record.access.get(&repository(name)) {
            Some(access) => !access.everybody && !credentials.iter().any(|one| access.credentials.contains(one)),
            None => true,
        }
    }

    /// Remembers a pull, by a pod's credentials or by nobody's.
    pub(crate) fn pulled(&self, image: &Image, name: &str, credentials: Option<&str>) {
        let record = {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let record = records.entry(image.id.clone()).or_default();
            let old = record.clone();
            record.image.clone_from(&image.id);
            let access = record.access.entry(repository(name)).or_default();
            match credentials {
                None => access.everybody = true,
                Some(one) if access.credentials.len() < MAX_CREDENTIALS => {
                    access.credentials.insert(one.to_owned());
                }
                Some(_) => {}
            }
            if *record == old {
                return;
            }
            record.clone()
        };
        if let Err(error) = self.write(&record) {
            tracing::warn!(image = image.id, %error, "the record of a pull was not kept");
        }
    }

    /// Forgets images that are no longer there.
    pub(crate) fn retain(&self, present: &BTreeSet<String>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|id, _| {
            let keep = present.contains(id);
            if !keep && let Err(error) = std::fs::remove_file(self.path(id)) {
                tracing::debug!(image = id, %error, "the record of a pull was not removed");
            }
            keep
        });
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id.replace([':', '/'], "-"))
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.image);
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(record)?)?;
        std::fs::rename(new, path)
    }
}

/// Registry and repository: tags move.
fn repository(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |parsed| parsed.name())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn image(id: &str) -> Image {
        Image {
            id: id.into(),
            names: Vec::new(),
            digests: Vec::new(),
            config: Default::default(),
            size: 0,
            layers: Vec::new(),
        }
    }

    #[test]
    fn an_image_is_for_those_who_could_pull_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = PullRecords::open(dir.path()).unwrap();
        let (secret, open, imported) = (image("sha256:1"), image("sha256:2"), image("sha256:3"));
        records.pulled(&secret, "r.example/a:1", Some("key1"));
        records.pulled(&open, "r.example/b:1", None);
        let again = PullRecords::open(dir.path()).unwrap();
        for records in [&records, &again] {
            assert!(records.must_pull(&secret, "r.example/a:1", &[]));
            assert!(records.must_pull(&secret, "r.example/a:2", &["key2".into()]));
            assert!(!records.must_pull(&secret, "r.example/a:2", &["key2".into(), "key1".into()]));
            assert!(records.must_pull(&secret, "other.example/a", &["key1".into()]));
            assert!(!records.must_pull(&open, "r.example/b", &[]));
            assert!(!records.must_pull(&imported, "r.example/c", &[]));
        }
        again.retain(&BTreeSet::from(["sha256:2".to_owned()]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!again.must_pull(&secret, "r.example/a:1", &[]));
    }
}
