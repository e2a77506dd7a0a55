//! Kinds of pods: those that affinity and spread cannot tell apart are looked at once, and counted.

use crate::pod_info::PodInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// All kinds of the pods that are placed, by number.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    all: Vec<Option<Kind>>,
    free: Vec<u32>,
    by_digest: HashMap<u64, Vec<u32>>,
}

#[derive(Debug)]
struct Kind {
    /// Any of the pods.
    sample: Arc<PodInfo>,
    pods: usize,
}

/// How many pods of a kind a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) kind: u32,
    pub(crate) pods: u32,
    /// Those of them that are being deleted.
    pub(crate) leaving: u32,
}

/// For each kind, by number, whether something holds.
pub(crate) type Marks = Vec<bool>;

impl Kinds {
    /// Counts a pod and tells its kind.
    pub(crate) fn add(&mut self, pod: &Arc<PodInfo>) -> u32 {
        if let Some(known) = self.find(pod) {
            if let Some(kind) = self.all[known as usize].as_mut() {
                kind.pods += 1;
            }
            return known;
        }
        let kind = Some(Kind { sample: pod.clone(), pods: 1 });
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = kind;
                number
            }
            None => {
                self.all.push(kind);
                (self.all.len() - 1) as u32
            }
        };
        self.by_digest.entry(pod.digest).or_default().push(number);
        number
    }

    /// Takes a pod out of its kind.
    pub(crate) fn remove(&mut self, number: u32) {
        let Some(slot) = self.all.get_mut(number as usize) else { return };
        let Some(kind) = slot else { return };
        kind.pods -= 1;
        if kind.pods > 0 {
            return;
        }
        let digest = kind.sample.digest;
        *slot = None;
        self.free.push(number);
        if let Some(same) = self.by_digest.get_mut(&digest) {
            same.retain(|other| *other != number);
            if same.is_empty() {
                self.by_digest.remove(&digest);
            }
        }
    }

    /// The kind of a pod, if pods of it are placed.
    pub(crate) fn find(&self, pod: &PodInfo) -> Option<u32> {
        let same = self.by_digest.get(&pod.digest)?;
        same.iter().copied().find(|number| self.sample(*number).is_some_and(|sample| sample.is_like(pod)))
    }

    fn sample(&self, number: u32) -> Option<&PodInfo> {
        Some(&self.all.get(number as usize)?.as_ref()?.sample)
    }

    /// One pod of each kind, with the kind's number.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (u32, &PodInfo)> {
        self.all.iter().zip(0..).filter_map(|(kind, number)| Some((number, &*kind.as_ref()?.sample)))
    }

    /// Marks the kinds for which `holds`; `None` if there is none.
    pub(crate) fn mark(&self, mut holds: impl FnMut(&PodInfo) -> bool) -> Option<Marks> {
        let mut any = false;
        let marks = self.all.iter().map(|kind| {
            let marked = kind.as_ref().is_some_and(|kind| holds(&kind.sample));
            any |= marked;
            marked
        });
        let marks = marks.collect();
        any.then_some(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::labelled_pod;
    use serde_json::json;

    #[test]
    fn pods_that_look_alike_share_a_number_until_the_last_is_gone() {
        let pod = |name: &str, app: &str| Arc::new(labelled_pod(name, app, json!({})));
        let mut kinds = Kinds::default();
        let web = kinds.add(&pod("a", "web"));
        assert_eq!(kinds.add(&pod("b", "web")), web);
        let db = kinds.add(&pod("c", "db"));
        assert_ne!(web, db);
        kinds.remove(web);
        assert_eq!(kinds.find(&pod("x", "web")), Some(web));
        kinds.remove(web);
        assert_eq!(kinds.find(&pod("x", "web")), None);
        assert_eq!(kinds.samples().count(), 1);
        assert_eq!(kinds.mark(|sample| sample.pod.metadata.labels["app"] == "web"), None);
        assert_eq!(kinds.add(&pod("d", "other")), web, "numbers are used again");
    }
}
