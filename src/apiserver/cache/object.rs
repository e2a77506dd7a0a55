//! One cached object: its bytes as they go to clients, and what is looked at without decoding them.

use super::pruned::Pruned;
use super::resource::Interner;
use bytes::Bytes;
use naru_api::codec;
use naru_api::registry::Resource;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const METADATA: &[u8] = b"\"metadata\":{";
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// The bytes of an object as they are stored: canonical, and without a `resourceVersion`, which is the
/// revision of the row.
pub(crate) fn stored(mut object: Value) -> Bytes {
    stored_of(&mut object)
}

/// The same for an object that is still needed; it loses its `resourceVersion`.
pub(crate) fn stored_of(object: &mut Value) -> Bytes {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    codec::canonical(object).into()
}

/// Stored bytes with their revision put in as `metadata.resourceVersion`.
pub(crate) fn splice(stored: &[u8], revision: i64) -> Bytes {
    splice_at(stored, find_metadata(stored), revision)
}

/// Where `"metadata":{` begins. It comes after `kind` and `apiVersion`, in which no quote can be escaped.
fn find_metadata(json: &[u8]) -> usize {
    json.windows(METADATA.len()).take(512).position(|window| window == METADATA).unwrap_or(0)
}

/// An object's bytes as an item of a list: without `kind` and `apiVersion`, and without the opening brace.
pub(super) fn item_tail(json: &[u8]) -> &[u8] {
    &json[find_metadata(json)..]
}

fn splice_at(stored: &[u8], metadata: usize, revision: i64) -> Bytes {
    let at = (metadata + METADATA.len()).min(stored.len());
    let number = revision.to_string();
    let mut out = Vec::with_capacity(stored.len() + VERSION.len() + number.len() + 2);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(number.as_bytes());
    out.extend_from_slice(if stored.get(at) == Some(&b'}') { b"\"" } else { b"\"," });
    out.extend_from_slice(&stored[at..]);
    out.into()
}

/// The bytes of an object. Large ones are kept compressed: most are read rarely, and a quarter of their
/// size is what bounds the memory of a cluster.
enum Body {
    Plain(Bytes),
    Packed { bytes: Box<[u8]>, len: usize },
}

/// Objects at least this large are compressed.
const PACK_FROM: usize = 2048;

impl Body {
    fn new(json: &Bytes) -> Self {
        if json.len() >= PACK_FROM {
            let packed = lz4_flex::block::compress(json);
            if packed.len() <= json.len() / 4 * 3 {
                return Self::Packed { bytes: packed.into(), len: json.len() };
            }
        }
        Self::Plain(json.clone())
    }

    fn json(&self) -> Bytes {
        match self {
            Self::Plain(json) => json.clone(),
            Self::Packed { bytes, len } => {
                lz4_flex::block::decompress(bytes, *len).expect("it was compressed here").into()
            }
        }
    }

    /// Bytes held in memory.
    fn held(&self) -> usize {
        match self {
            Self::Plain(json) => json.len(),
            Self::Packed { bytes, .. } => bytes.len(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Plain(json) => json.len(),
            Self::Packed { len, .. } => *len,
        }
    }
}

/// An object in the cache.
pub(crate) struct CachedObject {
    key: Arc<str>,
    /// Where the name begins in `key`; the namespace, if there is one, ends one before.
    name_at: u16,
    /// Where the namespace begins; equal to `name_at` when there is none.
    namespace_at: u16,
    /// Where `"metadata"` begins in the JSON.
    metadata_at: u16,
    revision: i64,
    body: Body,
    uid: Box<str>,
    labels: Box<[(Arc<str>, Arc<str>)]>,
    fields: Box<[(&'static str, Arc<str>)]>,
}

impl std::fmt::Debug for CachedObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedObject").field("key", &self.key).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The part of an object that the index is made from.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl CachedObject {
    /// Indexes stored bytes, and returns the object with its JSON, which the caller may hand on.
    /// `has_fields` says whether the resource's rules select by fields at all; a tree is built only then.
    pub(super) fn new(
        resource: &Resource,
        has_fields: bool,
        key: Arc<str>,
        stored: &[u8],
        revision: i64,
        interner: &mut Interner,
    ) -> Result<(Self, Bytes), serde_json::Error> {
        let head: Head<'_>;
        let tree;
        let (metadata, fields) = if has_fields {
            let Pruned(pruned) = serde_json::from_slice(stored)?;
            tree = pruned;
            let fields = (resource.rules.fields)(&tree).iter().map(|(k, v)| (*k, interner.intern(v))).collect();
            (Metadata::deserialize(tree.get("metadata").unwrap_or(&Value::Null)).unwrap_or_default(), fields)
        } else {
            head = serde_json::from_slice(stored)?;
            (head.metadata, Box::default())
        };
        let labels = metadata.labels.iter().map(|(k, v)| (interner.intern(k), interner.intern(v))).collect();
        let name_at = key.rfind('/').map_or(0, |at| at + 1);
        let namespace_at = if resource.is_namespaced() {
            key[..name_at.saturating_sub(1)].rfind('/').map_or(0, |at| at + 1)
        } else {
            name_at
        };
        let metadata_at = find_metadata(stored);
        let json = splice_at(stored, metadata_at, revision);
        let object = Self {
            name_at: u16::try_from(name_at).unwrap_or(0),
            namespace_at: u16::try_from(namespace_at).unwrap_or(0),
            metadata_at: u16::try_from(metadata_at).unwrap_or(0),
            revision,
            body: Body::new(&json),
            uid: metadata.uid.into(),
            labels,
            fields,
            key,
        };
        Ok((object, json))
    }

    /// The object's key in the store.
    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// `metadata.name`.
    pub(crate) fn name(&self) -> &str {
        &self.key[usize::from(self.name_at)..]
    }

    /// `metadata.namespace`.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (self.namespace_at < self.name_at)
            .then(|| &self.key[usize::from(self.namespace_at)..usize::from(self.name_at) - 1])
    }

    /// `metadata.uid`.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// `metadata.resourceVersion` as a number.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// The whole object as it is answered, `resourceVersion` included.
    pub(crate) fn json(&self) -> Bytes {
        self.body.json()
    }

    /// The length of [`CachedObject::json`].
    pub(crate) fn json_len(&self) -> usize {
        self.body.len()
    }

    /// Whether the object is held compressed.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.body, Body::Packed { .. })
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, value)| &**value)
    }

    /// The value of a selectable field, `metadata.name` and `metadata.namespace` included.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace().unwrap_or_default()),
            _ => self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| &**value),
        }
    }

    /// The same object with another `resourceVersion`: what a watcher is told when the object leaves its sight.
    pub(super) fn at_revision(&self, revision: i64) -> Bytes {
        let json = self.json();
        let at = usize::from(self.metadata_at) + METADATA.len() + VERSION.len();
        let digits = json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = revision.to_string();
        [&json[..at], number.as_bytes(), &json[at + digits..]].concat().into()
    }

    /// Roughly what the object takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.body.held() + self.key.len() + self.uid.len() + 32 * (self.labels.len() + self.fields.len()) + 160
    }
}
