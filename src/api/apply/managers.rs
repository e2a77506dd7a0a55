//! `metadata.managedFields`: who owns which places, read and written.

use super::fields_v1;
use super::set::Set;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// More entries made by updates than this are merged, oldest first.
const MAX_UPDATERS: usize = 10;
/// Who owns what merged entries owned.
const ANCIENT: &str = "ancient-changes";

/// One manager's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The manager's name.
    pub manager: String,
    /// Whether it applies; else it updates.
    pub applied: bool,
    /// The version that the places are named in.
    pub api_version: String,
    /// The subresource that was written, empty for the object itself.
    pub subresource: String,
    /// When the share changed last.
    pub time: Option<String>,
    /// The places.
    pub set: Set,
}

impl Entry {
    /// Whether both are the same manager's entry. Who applies has one for all versions.
    pub fn is_same(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    pub fn title(&self) -> String {
        let mut title = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            title.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            title.push_str(&format!(" using {}", self.api_version));
        }
        title
    }

    fn operation(&self) -> &'static str {
        if self.applied { "Apply" } else { "Update" }
    }

    fn order(&self, other: &Entry) -> Ordering {
        (self.operation(), &self.time, &self.manager, &self.api_version, &self.subresource).cmp(&(
            other.operation(),
            &other.time,
            &other.manager,
            &other.api_version,
            &other.subresource,
        ))
    }

    fn decode(value: &Value, index: usize) -> Result<Self, String> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let applied = match value["operation"].as_str() {
            Some("Apply") => true,
            Some("Update") => false,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match value["fieldsType"].as_str().unwrap_or_default() {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
        }
        let set = fields_v1::decode(&value["fieldsV1"])
            .map_err(|error| format!("error decoding versioned set: error decoding set: {error}"))?;
        let time = value["time"].as_str().map(str::to_owned);
        Ok(Self { manager: text("manager"), applied, api_version, subresource: text("subresource"), time, set })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        let operation = self.operation();
        let mut text = |field: &str, value: String| {
            if !value.is_empty() {
                map.insert(field.to_owned(), Value::String(value));
            }
        };
        text("manager", self.manager);
        text("operation", operation.to_owned());
        text("apiVersion", self.api_version);
        text("subresource", self.subresource);
        text("time", self.time.unwrap_or_default());
        text("fieldsType", "FieldsV1".to_owned());
        map.insert("fieldsV1".to_owned(), fields_v1::encode(&self.set));
        Value::Object(map)
    }
}

/// All shares of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Managers {
    /// Reads `metadata.managedFields`; null is none.
    pub fn decode(list: &Value) -> Result<Self, String> {
        let mut managers = Self::default();
        for (index, value) in list.as_array().into_iter().flatten().enumerate() {
            let entry = Entry::decode(value, index)?;
            match managers.entries.iter_mut().find(|present| present.is_same(&entry)) {
                Some(present) => *present = entry,
                None => managers.entries.push(entry),
            }
        }
        Ok(managers)
    }

    /// Writes `metadata.managedFields`, in upstream's order; nothing when there are none.
    pub fn encode(mut self) -> Option<Value> {
        self.entries.retain(|entry| !entry.set.is_empty());
        self.entries.sort_by(Entry::order);
        let list: Vec<Value> = self.entries.into_iter().map(Entry::encode).collect();
        (!list.is_empty()).then_some(Value::Array(list))
    }

    /// Where the entry of that manager is.
    pub fn position(&self, entry: &Entry) -> Option<usize> {
        self.entries.iter().position(|present| present.is_same(entry))
    }

    /// Merges the oldest entries of updaters until there are few enough.
    pub(super) fn cap(&mut self) {
        let mut oldest: Vec<usize> = (0..self.entries.len()).filter(|at| !self.entries[*at].applied).collect();
        let mut updaters = oldest.len();
        if updaters <= MAX_UPDATERS {
            return;
        }
        oldest.sort_by(|a, b| {
            let (a, b) = (&self.entries[*a], &self.entries[*b]);
            (&a.time, &a.manager, &a.subresource).cmp(&(&b.time, &b.manager, &b.subresource))
        });
        // Of each version, the first one becomes the bucket that the next ones go into.
        let mut buckets: Vec<usize> = Vec::new();
        let mut gone = vec![false; self.entries.len()];
        for at in oldest {
            if updaters <= MAX_UPDATERS {
                break;
            }
            let version = self.entries[at].api_version.clone();
            let Some(bucket) = buckets.iter().copied().find(|bucket| self.entries[*bucket].api_version == version)
            else {
                buckets.push(at);
                continue;
            };
            let set = std::mem::take(&mut self.entries[at].set);
            let time = self.entries[at].time.take();
            let bucket = &mut self.entries[bucket];
            ANCIENT.clone_into(&mut bucket.manager);
            bucket.subresource.clear();
            bucket.set.add(&set);
            bucket.time = time;
            gone[at] = true;
            updaters -= 1;
        }
        let mut at = 0;
        self.entries.retain(|_| {
            at += 1;
            !gone[at - 1]
        });
    }
}

/// Whether two lists of managed fields differ in nothing but their time stamps.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    match (a.as_array(), b.as_array()) {
        (Some(a), Some(b)) => {
            a.len() == b.len()
                && a.iter().all(|entry| {
                    let fields = ["manager", "operation", "apiVersion", "subresource", "fieldsV1"];
                    b.iter().any(|other| fields.iter().all(|field| entry.get(field) == other.get(field)))
                })
        }
        (None, None) => true,
        _ => false,
    }
}
