//! Verbs and object metadata.

pub mod duration;
pub mod names;
mod object;
pub(crate) mod prepare;
pub mod time;
pub mod validate;

pub use object::*;

/// What a request does, as RBAC and discovery name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Create one object.
    Create,
    /// Delete one object.
    Delete,
    /// Delete a collection.
    DeleteCollection,
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Change one object by a patch.
    Patch,
    /// Replace one object.
    Update,
    /// Follow changes.
    Watch,
}

impl Verb {
    /// The verb's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}
