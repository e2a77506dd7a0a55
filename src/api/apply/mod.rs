//! Server-side apply: who owns which places of an object, and what an applied configuration makes of it.
//!
//! Everything works on a `Structure`, which the type table has for built-in kinds.

mod check;
mod fields_v1;
mod last_applied;
mod managers;
mod merge;
mod reset;
mod scale;
mod set;
mod structure;
#[cfg(test)]
mod tests;
mod track;
mod versions;
mod walk;

pub use check::{GoValue, check};
pub use fields_v1::{decode as decode_fields, encode as encode_fields};
pub use managers::{Entry, Managers, same_but_times};
pub use merge::{merge, remove, with_structs};
pub use reset::Ignored;
pub use scale::{to_parent, to_scale};
pub use set::{Element, Node, Scalar, Set};
pub use structure::{FactsPlace, Form, Member, Relation, ScalarKind, Structure, Zero};
pub use track::{ApplyError, Conflict, Writer, apply, update};
pub use versions::{BuiltIn, OneVersion, Versions};
pub use walk::{Difference, compare, field_set};
