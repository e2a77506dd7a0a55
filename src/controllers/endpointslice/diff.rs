//! The fewest writes that turn a Service's present slices into the wanted endpoints. Pure.

use super::desired::Group;
use naru_client::projections::{Endpoint, EndpointPort, EndpointSliceView};
use std::collections::HashMap;
use std::sync::Arc;

/// Endpoints in one slice.
pub(super) const FULL: usize = 100;

/// What a slice shall hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Content {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The writes, all within one family.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) create: Vec<Content>,
    pub(super) update: Vec<(Arc<EndpointSliceView>, Content)>,
    pub(super) delete: Vec<Arc<EndpointSliceView>>,
    /// Endpoints that come and that go.
    pub(super) added: usize,
    pub(super) removed: usize,
}

impl Content {
    /// What a slice holds.
    pub(super) fn of(slice: &EndpointSliceView) -> Self {
        Self { ports: slice.ports.clone(), endpoints: slice.endpoints.clone() }
    }
}

impl Writes {
    /// All that is written.
    pub(super) fn contents(&self) -> impl Iterator<Item = &Content> {
        self.create.iter().chain(self.update.iter().map(|(_, content)| content))
    }

    pub(super) fn contents_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        self.create.iter_mut().chain(self.update.iter_mut().map(|(_, content)| content))
    }
}

/// Endpoints stay in the slice that they are in, room is filled before slices are added, and a Service
/// without endpoints keeps one empty slice. `stale` finds slices whose metadata must be written anyway.
pub(super) fn diff(
    groups: Vec<Group>,
    present: &[Arc<EndpointSliceView>],
    stale: impl Fn(&EndpointSliceView) -> bool,
) -> Writes {
    let mut writes = Writes::default();
    let mut spare: Vec<_> = present.to_vec();
    let mut contents: Vec<(Option<Arc<EndpointSliceView>>, Content)> = Vec::new();
    for group in groups {
        let own = spare.extract_if(.., |slice| slice.ports == group.ports).collect();
        contents.extend(spread(group, own, &mut writes));
    }
    if contents.is_empty() {
        let kept = if spare.is_empty() { None } else { Some(spare.remove(0)) };
        contents.push((kept, Content::default()));
    }
    for (slice, content) in contents {
        match slice.or_else(|| spare.pop()) {
            None => writes.create.push(content),
            Some(slice) => {
                let same = slice.ports == content.ports && slice.endpoints == content.endpoints;
                if !same || stale(&slice) {
                    writes.update.push((slice, content));
                }
            }
        }
    }
    writes.delete.extend(spare);
    writes
}

/// Spreads a group over its slices.
fn spread(
    group: Group,
    own: Vec<Arc<EndpointSliceView>>,
    writes: &mut Writes,
) -> Vec<(Option<Arc<EndpointSliceView>>, Content)> {
    let mut wanted: HashMap<String, Endpoint> =
        group.endpoints.iter().map(|endpoint| (identity(endpoint), endpoint.clone())).collect();
    let before: usize = own.iter().map(|slice| slice.endpoints.len()).sum();
    let mut contents: Vec<_> = own
        .into_iter()
        .map(|slice| {
            let kept = slice.endpoints.iter().filter_map(|endpoint| wanted.remove(&identity(endpoint)));
            let content = Content { ports: group.ports.clone(), endpoints: kept.collect() };
            (Some(slice), content)
        })
        .collect();
    writes.added += wanted.len();
    writes.removed += before - contents.iter().map(|(_, content)| content.endpoints.len()).sum::<usize>();
    // In the order of the pods, so that the outcome does not depend on a hash.
    let mut left = group.endpoints.into_iter().filter(|endpoint| wanted.contains_key(&identity(endpoint)));
    for (_, content) in &mut contents {
        let room = FULL.saturating_sub(content.endpoints.len());
        content.endpoints.extend(left.by_ref().take(room));
    }
    loop {
        let endpoints: Vec<_> = left.by_ref().take(FULL).collect();
        if endpoints.is_empty() {
            break;
        }
        contents.push((None, Content { ports: group.ports.clone(), endpoints }));
    }
    let empty = contents.extract_if(.., |(_, content)| content.endpoints.is_empty());
    writes.delete.extend(empty.filter_map(|(slice, _)| slice));
    contents
}

fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().map_or("", |target| target.uid.as_str());
    format!("{uid}/{}", endpoint.addresses.first().map_or("", String::as_str))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoint(index: usize, ready: bool) -> Endpoint {
        serde_json::from_value(json!({
            "addresses": [format!("10.0.{}.{}", index / 250, index % 250)],
            "conditions": {"ready": ready},
            "targetRef": {"uid": index.to_string()},
        }))
        .unwrap()
    }

    fn port(number: u16) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(number), ..EndpointPort::default() }]
    }

    fn group(range: std::ops::Range<usize>) -> Group {
        Group { ports: port(80), endpoints: range.map(|index| endpoint(index, true)).collect() }
    }

    fn slice(name: &str, range: std::ops::Range<usize>) -> Arc<EndpointSliceView> {
        let mut slice = EndpointSliceView { ports: port(80), ..EndpointSliceView::default() };
        name.clone_into(&mut slice.metadata.name);
        slice.endpoints = group(range).endpoints;
        Arc::new(slice)
    }

    fn run(groups: Vec<Group>, present: &[Arc<EndpointSliceView>]) -> (Vec<usize>, Vec<(String, usize)>, usize) {
        let writes = diff(groups, present, |_| false);
        (
            writes.create.iter().map(|content| content.endpoints.len()).collect(),
            writes
                .update
                .iter()
                .map(|(slice, content)| (slice.metadata.name.clone(), content.endpoints.len()))
                .collect(),
            writes.delete.len(),
        )
    }

    #[test]
    fn nothing_is_written_when_nothing_has_changed() {
        assert_eq!(run(vec![group(0..5)], &[slice("a", 0..5)]), (vec![], vec![], 0));
        assert_eq!(run(vec![], &[Arc::default()]), (vec![], vec![], 0));
        assert_eq!(run(vec![group(0..150)], &[slice("a", 0..50), slice("b", 50..150)]), (vec![], vec![], 0));
    }

    #[test]
    fn room_is_filled_before_slices_are_added_and_empty_ones_go() {
        assert_eq!(run(vec![], &[]), (vec![0], vec![], 0), "an empty slice shows that there is nothing");
        assert_eq!(run(vec![group(0..250)], &[]), (vec![100, 100, 50], vec![], 0));
        assert_eq!(run(vec![group(0..60)], &[slice("a", 0..50)]), (vec![], vec![("a".into(), 60)], 0));
        assert_eq!(run(vec![group(0..50)], &[slice("a", 0..50), slice("b", 50..60)]), (vec![], vec![], 1));
        assert_eq!(run(vec![], &[slice("a", 0..50)]), (vec![], vec![("a".into(), 0)], 0));
        assert_eq!(run(vec![group(0..3)], &[Arc::default()]), (vec![], vec![("".into(), 3)], 0));
    }

    #[test]
    fn a_changed_condition_rewrites_its_slice_alone() {
        let mut changed = group(0..150);
        changed.endpoints[120] = endpoint(120, false);
        let present = [slice("a", 0..100), slice("b", 100..150)];
        assert_eq!(run(vec![changed], &present), (vec![], vec![("b".into(), 50)], 0));
    }
}
