//! Ownership through writes: updates take what they change, applies own what they send.

use super::check::check;
use super::last_applied;
use super::managers::{Entry, Managers};
use super::merge::{merge, remove, with_structs};
use super::reset::Ignored;
use super::set::Set;
use super::versions::Versions;
use super::walk::{Difference, compare, field_set};
use crate::meta;
use serde_json::Value;

/// Owns what an object had before anybody applied to it, where nobody was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager for whom the annotation of client-side apply is looked at and kept up.
const KUBECTL: &str = "kubectl";
/// Metadata that nobody owns.
const SERVER_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, and what.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The manager's name.
    pub manager: &'a str,
    /// The version of the request.
    pub api_version: &'a str,
    /// The subresource, empty for the object itself.
    pub subresource: &'a str,
    /// The present time (RFC 3339).
    pub now: &'a str,
    /// What the write cannot own.
    pub ignored: Ignored,
}

impl Writer<'_> {
    fn entry(&self, applied: bool) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            applied,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(self.now.to_owned()),
            set: Set::default(),
        }
    }
}

/// A place that somebody else owns and the configuration would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as texts name it.
    pub manager: String,
    /// The place.
    pub path: String,
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change (409).
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// It is not to be applied at all (400).
    #[error("{0}")]
    BadRequest(String),
    /// It does not fit the type (500, as upstream has it).
    #[error("{0}")]
    Typed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut lines = Vec::new();
    for same in conflicts.chunk_by(|a, b| a.manager == b.manager) {
        lines.push(format!("conflicts with {}:", same[0].manager));
        lines.extend(same.iter().map(|conflict| format!("- {}", conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Takes what nobody owns out of a set.
fn strip(set: &mut Set) {
    set.cut_place(&["apiVersion"]);
    set.cut_place(&["kind"]);
    set.cut_place(&["metadata"]);
    for field in SERVER_METADATA {
        set.cut_place(&["metadata", field]);
    }
}

fn managed_fields(object: &Value) -> &Value {
    &object["metadata"]["managedFields"]
}

fn set_managed_fields(object: &mut Value, fields: Option<Value>) {
    let metadata = meta::metadata_mut(object);
    match fields {
        Some(fields) => metadata.insert("managedFields".to_owned(), fields),
        None => metadata.remove("managedFields"),
    };
}

/// An object without its managed fields, which are given apart.
fn take_managed_fields(object: &mut Value) -> Value {
    meta::metadata_mut(object).remove("managedFields").unwrap_or(Value::Null)
}

/// What a write changed, in each version that somebody owns places in.
struct Differences<'a, V: Versions> {
    versions: &'a V,
    old: Option<&'a Value>,
    new: &'a Value,
    ignored: Ignored,
    known: Vec<(String, Option<Difference>)>,
}

impl<'a, V: Versions> Differences<'a, V> {
    /// `first` is the difference in the version of the request.
    fn new(versions: &'a V, old: Option<&'a Value>, new: &'a Value, writer: &Writer<'_>, first: Difference) -> Self {
        let known = vec![(writer.api_version.to_owned(), Some(first))];
        Self { versions, old, new, ignored: writer.ignored, known }
    }

    /// The difference in a version; `None` where the version is not served any more.
    fn of(&mut self, api_version: &str) -> Option<&Difference> {
        let at = match self.known.iter().position(|(version, _)| version == api_version) {
            Some(at) => at,
            None => {
                let difference = self.versions.place(api_version).map(|place| {
                    let old = self.old.map(|old| self.versions.view(api_version, old));
                    let new = self.versions.view(api_version, self.new);
                    filtered(compare(old.as_deref(), &new, place), self.ignored)
                });
                self.known.push((api_version.to_owned(), difference));
                self.known.len() - 1
            }
        };
        self.known[at].1.as_ref()
    }
}

fn filtered(mut difference: Difference, ignored: Ignored) -> Difference {
    for set in [&mut difference.changed, &mut difference.removed] {
        strip(set);
        ignored.filter(set);
    }
    difference
}

/// Whether the client asks for managed fields to be forgotten: an empty list, or one empty entry.
fn is_reset(fields: &Value) -> bool {
    match fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only
            .as_object()
            .is_some_and(|entry| entry.values().all(|value| value.is_null() || value.as_str() == Some(""))),
        _ => false,
    }
}

/// Records an update (also a create, where there is no old object) in the new object's managed fields.
/// Both objects are in the stored version. What the client says about managed fields is in the new one.
pub fn update<V: Versions>(versions: &V, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let given = take_managed_fields(new);
    let live = old.map_or(&Value::Null, managed_fields);
    // A subresource's writer has no say about them.
    let (managers, from_client) = match writer.subresource.is_empty() {
        true if is_reset(&given) => (Managers::default(), true),
        true if given == *live => (Managers::default(), false),
        true => match Managers::decode(&given) {
            Ok(managers) if !managers.entries.is_empty() => (managers, true),
            _ => (Managers::default(), false),
        },
        false => (Managers::default(), false),
    };
    let untracked = if from_client { managers.entries.is_empty() } else { live.as_array().is_none_or(Vec::is_empty) };
    if old.is_some() && untracked {
        return;
    }
    let Some(place) = versions.place(writer.api_version) else { return };
    let old_view = old.map(|old| versions.view(writer.api_version, old));
    let new_view = versions.view(writer.api_version, new);
    let difference = compare(old_view.as_deref(), &new_view, place);
    drop(new_view);
    let difference = filtered(difference, writer.ignored);
    if difference.is_empty() && !from_client {
        set_managed_fields(new, live.is_array().then(|| live.clone()));
        return;
    }
    let mut managers = match from_client {
        true => managers,
        false => Managers::decode(live).unwrap_or_default(),
    };
    let taken = difference.changed.clone();
    let mut differences = Differences::new(versions, old, new, writer, difference);
    yield_places(&mut managers, &mut differences, None);
    if !taken.is_empty() {
        let entry = Entry { set: taken, ..writer.entry(false) };
        match managers.position(&entry) {
            Some(at) => {
                let present = &mut managers.entries[at];
                present.set.add(&entry.set);
                present.time = entry.time;
            }
            None => managers.entries.push(entry),
        }
    }
    managers.cap();
    set_managed_fields(new, managers.encode());
}

/// All entries but one lose what was changed or removed; those of versions that are gone go.
fn yield_places<V: Versions>(managers: &mut Managers, differences: &mut Differences<'_, V>, but: Option<&Entry>) {
    managers.entries.retain_mut(|entry| {
        if but.is_some_and(|but| but.is_same(entry)) {
            return true;
        }
        let Some(difference) = differences.of(&entry.api_version) else { return false };
        entry.set.subtract(&difference.changed);
        entry.set.subtract(&difference.removed);
        !entry.set.is_empty()
    });
}

/// Applies a configuration to an object, both in the version of the request: the merged object with its managed
/// fields, in that version, neither decoded nor defaulted yet. Without an object it makes one.
pub fn apply<V: Versions>(
    versions: &V,
    live: Option<&Value>,
    mut config: Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if !managed_fields(&config).is_null() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let place = versions
        .place(writer.api_version)
        .ok_or_else(|| ApplyError::BadRequest(format!("no version {}", writer.api_version)))?;
    let mut object = live.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let managed = take_managed_fields(&mut object);
    let mut managers = Managers::decode(&managed)
        .map_err(|error| ApplyError::Typed(format!("failed to decode managed fields: {error}")))?;
    if live.is_some() && managers.entries.is_empty() {
        let mut set = compare(None, &object, place).changed;
        strip(&mut set);
        writer.ignored.filter(&mut set);
        let writer = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        managers.entries.push(Entry { set, ..writer.entry(false) });
    }
    check(&mut config, place).map_err(|why| ApplyError::Typed(typed_error(&config, writer, &why)))?;
    let mut entry = writer.entry(true);
    entry.set = field_set(&config, place);
    strip(&mut entry.set);
    writer.ignored.filter(&mut entry.set);

    let mut merged = object.clone();
    merge(&mut merged, &config, place);
    let last = managers.position(&entry).map(|at| managers.entries.swap_remove(at));
    if let Some(last) = &last {
        prune(versions, &mut merged, last, &entry, &managers);
    }
    let changed = merged != object;
    if changed && live.is_some() {
        settle(versions, &mut managers, &object, &merged, writer, force)?;
    }
    entry.time = match (changed, last) {
        (true, _) => entry.time,
        (false, Some(last)) => last.time,
        // The object was already as it is wanted.
        (false, None) => None,
    };
    managers.entries.push(entry);
    if writer.manager == KUBECTL {
        last_applied::renew(&mut merged, &config);
    }
    set_managed_fields(&mut merged, managers.encode());
    Ok(merged)
}

fn typed_error(config: &Value, writer: &Writer<'_>, why: &str) -> String {
    let (group, version) = meta::split_api_version(writer.api_version);
    format!(
        "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {why}",
        meta::namespace(config),
        meta::name(config),
        meta::kind(config)
    )
}

/// Takes out what the manager applied last, does not apply now, and nobody else owns.
fn prune<V: Versions>(versions: &V, merged: &mut Value, last: &Entry, now: &Entry, others: &Managers) {
    if last.api_version == now.api_version && now.set.contains(&last.set) {
        return;
    }
    // Places of a version that is gone cannot be found.
    let Some(place) = versions.place(&last.api_version) else { return };
    let mut gone = with_structs(&last.set, place);
    for entry in others.entries.iter().chain([now]) {
        if let Some(place) = versions.place(&entry.api_version) {
            gone.subtract(&with_structs(&entry.set, place));
        }
    }
    // Not even the last owner of a label takes the object's name along.
    strip(&mut gone);
    if !gone.is_empty() {
        remove(merged, &gone, place);
    }
}

/// Takes what the configuration changes from its owners, or says who they are.
fn settle<V: Versions>(
    versions: &V,
    managers: &mut Managers,
    object: &Value,
    merged: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(), ApplyError> {
    let Some(place) = versions.place(writer.api_version) else { return Ok(()) };
    let difference = filtered(compare(Some(object), merged, place), writer.ignored);
    let (old, new) = (versions.stored(object), versions.stored(merged));
    let mut differences = Differences::new(versions, Some(&old), &new, writer, difference);
    let mut found: Vec<(String, Set)> = Vec::new();
    for entry in &managers.entries {
        let Some(difference) = differences.of(&entry.api_version) else { continue };
        let both = entry.set.intersection(&difference.changed);
        if !both.is_empty() {
            found.push((entry.title(), both));
        }
    }
    if !force && !found.is_empty() {
        if writer.manager == KUBECTL
            && let Some(own) = last_applied::places(object, writer.api_version, place)
        {
            // What client-side apply wrote last is kubectl's to change.
            found.iter_mut().for_each(|(_, set)| set.subtract(&own));
            found.retain(|(_, set)| !set.is_empty());
        }
        if !found.is_empty() {
            found.sort_by(|a, b| a.0.cmp(&b.0));
            return Err(ApplyError::Conflicts(conflicts(&found)));
        }
    }
    yield_places(managers, &mut differences, None);
    Ok(())
}

fn conflicts(found: &[(String, Set)]) -> Vec<Conflict> {
    found
        .iter()
        .flat_map(|(manager, set)| {
            set.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }).collect::<Vec<_>>()
        })
        .collect()
}
