//! What each file has brought: a ConfigMap, so that it lives where the objects live.

use super::apply::Id;
use anyhow::Result;
use naru_api::registry;
use naru_client::{Client, ObjectReference, is_not_found};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "naru-manifests";

/// The objects of one file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    file: String,
    /// Of the text that was applied last.
    pub(super) checksum: String,
    pub(super) objects: Vec<Id>,
}

impl Entry {
    pub(super) fn add(&mut self, ids: impl Iterator<Item = Id>) {
        for id in ids {
            if !self.objects.contains(&id) {
                self.objects.push(id);
            }
        }
    }
}

/// All files that have ever brought something.
#[derive(Debug)]
pub(super) struct Record {
    entries: BTreeMap<String, Entry>,
    /// As it is stored; null if it is not.
    stored: Value,
}

impl Record {
    pub(super) async fn load(client: &Client) -> Result<Self> {
        let stored: Value = match client.get(&registry::CONFIG_MAPS, Some(NAMESPACE), NAME).await {
            Err(error) if is_not_found(&error) => Value::Null,
            other => other?,
        };
        let texts = stored["data"].as_object().into_iter().flatten();
        let entries = texts.filter_map(|(_, text)| serde_json::from_str::<Entry>(text.as_str()?).ok());
        Ok(Self { entries: entries.map(|entry| (entry.file.clone(), entry)).collect(), stored })
    }

    pub(super) fn entry(&mut self, file: &str) -> &mut Entry {
        let new = || Entry { file: file.to_owned(), ..Entry::default() };
        self.entries.entry(file.to_owned()).or_insert_with(new)
    }

    /// Writes it, if it says something new.
    pub(super) async fn save(&mut self, client: &Client) -> Result<()> {
        let kept = self.entries.values().filter(|entry| !entry.objects.is_empty());
        let data = kept.map(|entry| Ok((key(&entry.file), serde_json::to_string(entry)?.into())));
        let data: Value = data.collect::<Result<serde_json::Map<_, _>>>()?.into();
        let resource = &registry::CONFIG_MAPS;
        if self.stored.is_null() {
            let map = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data});
            self.stored = client.create(resource, Some(NAMESPACE), &map).await?;
        } else if self.stored.get("data").unwrap_or(&json!({})) != &data {
            self.stored["data"] = data;
            self.stored = client.update(resource, Some(NAMESPACE), NAME, &self.stored).await?;
        }
        Ok(())
    }

    /// The ConfigMap, for events.
    pub(super) fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: "ConfigMap".to_owned(),
            api_version: "v1".to_owned(),
            namespace: NAMESPACE.to_owned(),
            name: NAME.to_owned(),
            uid: self.stored["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            ..ObjectReference::default()
        }
    }
}

/// The file's name as keys may be: other bytes are written as `_2F`.
fn key(file: &str) -> String {
    let mut key = String::with_capacity(file.len());
    for byte in file.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') {
            key.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(key, "_{byte:02X}");
        }
    }
    key
}
