//! The versions of a kind, as apply sees them: owners name places in the version that they wrote.

use super::structure::{FactsPlace, Structure};
use crate::facts;
use crate::registry::{RESOURCES, Resource};
use serde_json::Value;
use std::borrow::Cow;

/// The versions in which an object can be seen.
pub trait Versions {
    /// The type of objects.
    type Place: Structure;
    /// The type of an object in that version (`apps/v1`); `None` where it is not served.
    fn place(&self, api_version: &str) -> Option<Self::Place>;
    /// A stored object in that version.
    fn view<'a>(&self, api_version: &str, stored: &'a Value) -> Cow<'a, Value>;
    /// The stored form of an object in the version of the request.
    fn stored<'a>(&self, object: &'a Value) -> Cow<'a, Value>;
}

/// A built-in kind, through the version of a request.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn(pub &'static Resource);

impl BuiltIn {
    fn version(self, api_version: &str) -> Option<&'static Resource> {
        let BuiltIn(resource) = self;
        if matches(resource, api_version) {
            return Some(resource);
        }
        let storage = resource.storage();
        RESOURCES.iter().copied().find(|other| std::ptr::eq(other.storage(), storage) && matches(other, api_version))
    }
}

fn matches(resource: &Resource, api_version: &str) -> bool {
    crate::meta::split_api_version(api_version) == (resource.group, resource.version)
}

impl Versions for BuiltIn {
    type Place = FactsPlace;

    fn place(&self, api_version: &str) -> Option<FactsPlace> {
        facts::type_by_name(self.version(api_version)?.type_name).map(FactsPlace::root)
    }

    fn view<'a>(&self, api_version: &str, stored: &'a Value) -> Cow<'a, Value> {
        match self.version(api_version) {
            Some(resource) if resource.rules.view.is_some() => {
                let mut object = stored.clone();
                resource.from_stored(&mut object);
                Cow::Owned(object)
            }
            _ => Cow::Borrowed(stored),
        }
    }

    fn stored<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        if self.0.rules.view.is_none() {
            return Cow::Borrowed(object);
        }
        let mut object = object.clone();
        self.0.to_stored(&mut object);
        Cow::Owned(object)
    }
}

/// A type that has one version alone.
#[derive(Debug, Clone)]
pub struct OneVersion<S> {
    /// The version.
    pub api_version: String,
    /// The type.
    pub place: S,
}

impl<S: Structure> Versions for OneVersion<S> {
    type Place = S;

    fn place(&self, api_version: &str) -> Option<S> {
        (api_version == self.api_version).then_some(self.place)
    }

    fn view<'a>(&self, _: &str, stored: &'a Value) -> Cow<'a, Value> {
        Cow::Borrowed(stored)
    }

    fn stored<'a>(&self, object: &'a Value) -> Cow<'a, Value> {
        Cow::Borrowed(object)
    }
}
