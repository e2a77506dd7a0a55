//! Which places a write through a resource or a subresource cannot own, because it cannot change them.

use super::set::Set;
use crate::registry::Resource;

type Paths = &'static [&'static [&'static str]];

/// What a write has nothing to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// These places.
    Places(Paths),
    /// All but these places.
    AllBut(Paths),
}

impl Ignored {
    /// Nothing is ignored.
    pub const NOTHING: Ignored = Ignored::Places(&[]);

    /// Of a write to this part of a resource: what upstream's strategy of the kind puts back.
    pub fn of(resource: &Resource, subresource: &str) -> Self {
        let request = (resource.group, resource.plural) == ("certificates.k8s.io", "certificatesigningrequests");
        match subresource {
            // Neither half of a request can be changed once it is there.
            "" if request => Self::Places(&[&["spec"], &["status"]]),
            "" => match resource.subresource("status") {
                Some(_) => Self::Places(&[&["status"]]),
                None => Self::NOTHING,
            },
            "status" if request => Self::Places(&[&["spec"], &["status", "conditions"]]),
            "status" => Self::Places(of_status(resource)),
            "approval" => Self::Places(&[&["spec"], &["status", "certificate"]]),
            "finalize" => Self::Places(&[&["status"]]),
            "ephemeralcontainers" => Self::AllBut(&[&["spec", "ephemeralContainers"]]),
            "resize" => Self::AllBut(&[
                &["spec", "containers", "*", "resources"],
                &["spec", "containers", "*", "resizePolicy"],
                &["spec", "initContainers", "*", "resources"],
                &["spec", "initContainers", "*", "resizePolicy"],
                &["spec", "resources"],
            ]),
            _ => Self::NOTHING,
        }
    }

    /// Whether a place is ignored.
    pub fn covers(self, place: &[&str]) -> bool {
        match self {
            Self::Places(paths) => paths.iter().any(|path| place.starts_with(path)),
            Self::AllBut(paths) => !paths.iter().any(|path| place.starts_with(path)),
        }
    }

    /// Takes the ignored places out of a set.
    pub fn filter(self, set: &mut Set) {
        match self {
            Self::Places(paths) => paths.iter().for_each(|path| set.cut(path)),
            Self::AllBut(paths) => {
                let mut kept = Set::default();
                for path in paths {
                    let mut some = set.clone();
                    some.keep_only(path);
                    kept.add(&some);
                }
                *set = kept;
            }
        }
    }
}

fn of_status(resource: &Resource) -> Paths {
    match (resource.group, resource.plural) {
        ("", "pods") => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
        ("apps", "deployments") => &[&["spec"], &["metadata", "labels"]],
        ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
        | ("storage.k8s.io", "volumeattachments")
        | ("admissionregistration.k8s.io", _) => &[&["metadata"], &["spec"]],
        _ => &[&["spec"]],
    }
}
