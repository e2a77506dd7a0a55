//! What has been attached, on disk: an ADD is answered again after a restart, and leftovers can be found.

use crate::network::Attachment;
use crate::types::CniResult;
use crate::{CniError, write_atomically};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One attachment. Without a result it was begun and never finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attached {
    #[serde(flatten)]
    pub(crate) attachment: Place,
    pub(crate) host_interface: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<CniResult>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    container_id: String,
    netns: PathBuf,
    if_name: String,
}

impl From<&Attachment> for Place {
    fn from(from: &Attachment) -> Self {
        Self { container_id: from.container_id.clone(), netns: from.netns.clone(), if_name: from.ifname.clone() }
    }
}

impl From<&Place> for Attachment {
    fn from(from: &Place) -> Self {
        Self { container_id: from.container_id.clone(), netns: from.netns.clone(), ifname: from.if_name.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn open(dir: &Path) -> Result<Self, CniError> {
        std::fs::create_dir_all(dir).map_err(CniError::io("create", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.dir.join(format!("{container_id}+{ifname}.json"))
    }

    pub(crate) fn get(&self, container_id: &str, ifname: &str) -> Option<Attached> {
        serde_json::from_slice(&std::fs::read(self.path(container_id, ifname)).ok()?).ok()
    }

    pub(crate) fn put(&self, attached: &Attached) -> Result<(), CniError> {
        let path = self.path(&attached.attachment.container_id, &attached.attachment.if_name);
        let text = serde_json::to_vec(attached).map_err(|error| CniError::Config(error.to_string()))?;
        write_atomically(&path, &text).map_err(CniError::io("write", path))
    }

    pub(crate) fn remove(&self, container_id: &str, ifname: &str) -> Result<(), CniError> {
        let path = self.path(container_id, ifname);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CniError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<Attached>, CniError> {
        let entries = std::fs::read_dir(&self.dir).map_err(CniError::io("read", &self.dir))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .collect())
    }
}
