//! Field sets: which places of an object somebody owns, as a sorted tree of path elements.

use serde_json::Value;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// A scalar inside a path: a key's value or a member of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// Any other number, by its text.
    Number(Box<str>),
    /// A string.
    Text(Cow<'static, str>),
    /// A bool.
    Bool(bool),
    /// Null.
    Null,
}

impl Scalar {
    /// The scalar of a tree; `None` for lists and objects.
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => match n.as_i64() {
                Some(int) => Self::Int(int),
                None => Self::Number(n.to_string().into()),
            },
            Value::String(s) => Self::Text(Cow::Owned(s.clone())),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }
}

/// As JSON, which is also how texts show it.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => match serde_json::to_string(text.as_ref()) {
                Ok(json) => f.write_str(&json),
                Err(_) => Err(fmt::Error),
            },
            Self::Bool(b) => write!(f, "{b}"),
            Self::Null => f.write_str("null"),
        }
    }
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of a struct or a key of a map.
    Field(Cow<'static, str>),
    /// The item of a list whose keys have these values, sorted by key.
    Key(Vec<(Cow<'static, str>, Scalar)>),
    /// The member of a set.
    Value(Scalar),
    /// An item of a list by position.
    Index(i64),
}

/// As conflicts name it: `.spec`, `[name="a"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                for (i, (name, value)) in keys.iter().enumerate() {
                    f.write_str(if i == 0 { "[" } else { "," })?;
                    write!(f, "{name}={value}")?;
                }
                f.write_char(']')
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// One place below another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// How it is reached.
    pub element: Element,
    /// Whether the place itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub children: Set,
}

/// A set of places. Nodes are sorted; each is a member or has something below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<Node>,
}

impl Set {
    /// A set of these nodes, in any order; nodes that hold nothing are left out.
    pub(super) fn of(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| node.member || !node.children.is_empty());
        if !nodes.is_sorted_by(|a, b| a.element <= b.element) {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
        }
        Self { nodes }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes, sorted.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that element.
    pub fn node(&self, element: &Element) -> Option<&Node> {
        self.nodes.binary_search_by(|node| node.element.cmp(element)).ok().map(|i| &self.nodes[i])
    }

    /// The node of that field.
    pub fn field(&self, name: &str) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| match &node.element {
            Element::Field(field) => field.as_ref().cmp(name),
            _ => std::cmp::Ordering::Greater,
        });
        at.ok().map(|i| &self.nodes[i])
    }

    /// Whether the place of these fields is in the set.
    pub fn has_fields(&self, path: &[&str]) -> bool {
        match path {
            [] => false,
            [last] => self.field(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.field(first).is_some_and(|node| node.children.has_fields(rest)),
        }
    }

    /// The set of one place, named by fields.
    pub fn of_fields(path: &[&'static str]) -> Self {
        let mut set = Self::default();
        for (depth, name) in path.iter().rev().enumerate() {
            let node = Node { element: Element::Field(Cow::Borrowed(name)), member: depth == 0, children: set };
            set = Self { nodes: vec![node] };
        }
        set
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Set) {
        if self.nodes.is_empty() {
            self.nodes.clone_from(&other.nodes);
            return;
        }
        for node in &other.nodes {
            match self.nodes.binary_search_by(|mine| mine.element.cmp(&node.element)) {
                Ok(at) => {
                    let mine = &mut self.nodes[at];
                    mine.member |= node.member;
                    mine.children.add(&node.children);
                }
                Err(at) => self.nodes.insert(at, node.clone()),
            }
        }
    }

    /// Takes out each place of another set. What lies below such a place stays.
    pub fn subtract(&mut self, other: &Set) {
        if other.nodes.is_empty() {
            return;
        }
        self.nodes.retain_mut(|mine| {
            if let Some(theirs) = other.node(&mine.element) {
                mine.member &= !theirs.member;
                mine.children.subtract(&theirs.children);
            }
            mine.member || !mine.children.is_empty()
        });
    }

    /// Takes out a place, named by fields, with everything below it.
    pub fn cut(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        self.nodes.retain_mut(|node| {
            if !matches!(&node.element, Element::Field(name) if name == first) {
                return true;
            }
            if rest.is_empty() {
                return false;
            }
            node.children.cut(rest);
            node.member || !node.children.is_empty()
        });
    }

    /// Takes out a place, named by fields, and leaves what is below it.
    pub(super) fn cut_place(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        self.nodes.retain_mut(|node| {
            if matches!(&node.element, Element::Field(name) if name == first) {
                if rest.is_empty() {
                    node.member = false;
                } else {
                    node.children.cut_place(rest);
                }
            }
            node.member || !node.children.is_empty()
        });
    }

    /// Leaves only the place, named by fields (`*` is any element), and what is below it.
    pub(super) fn keep_only(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        self.nodes.retain_mut(|node| {
            if *first != "*" && !matches!(&node.element, Element::Field(name) if name == first) {
                return false;
            }
            if !rest.is_empty() {
                node.member = false;
                node.children.keep_only(rest);
            }
            node.member || !node.children.is_empty()
        });
    }

    /// The places in both sets.
    pub fn intersection(&self, other: &Set) -> Set {
        let both = self.nodes.iter().filter_map(|mine| {
            let theirs = other.node(&mine.element)?;
            let children = mine.children.intersection(&theirs.children);
            let member = mine.member && theirs.member;
            (member || !children.is_empty()).then(|| Node { element: mine.element.clone(), member, children })
        });
        Set { nodes: both.collect() }
    }

    /// Whether every place of the other set is in this one.
    pub fn contains(&self, other: &Set) -> bool {
        other.nodes.iter().all(|theirs| {
            self.node(&theirs.element)
                .is_some_and(|mine| (mine.member || !theirs.member) && mine.children.contains(&theirs.children))
        })
    }

    /// How many places are in the set.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| usize::from(node.member) + node.children.len()).sum()
    }

    /// The places as texts, in order: `.spec.ports[port=80,protocol="TCP"]`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths(&mut String::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for node in &self.nodes {
            let length = prefix.len();
            // Writing to a string cannot fail.
            let _ = write!(prefix, "{}", node.element);
            if node.member {
                paths.push(prefix.clone());
            }
            node.children.collect_paths(prefix, paths);
            prefix.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&[&'static str]]) -> Set {
        let mut set = Set::default();
        for path in paths {
            set.add(&Set::of_fields(path));
        }
        set
    }

    #[test]
    fn algebra_of_sets() {
        let a = set(&[&["spec", "replicas"], &["spec", "paused"], &["metadata", "labels"]]);
        let b = set(&[&["spec", "replicas"], &["spec"]]);
        assert_eq!(a.paths(), [".metadata.labels", ".spec.paused", ".spec.replicas"]);
        assert_eq!(a.intersection(&b).paths(), [".spec.replicas"]);
        let mut rest = a.clone();
        rest.subtract(&b);
        assert_eq!(rest.paths(), [".metadata.labels", ".spec.paused"]);
        rest.cut(&["spec"]);
        assert_eq!(rest.paths(), [".metadata.labels"]);
        let mut both = a.clone();
        both.add(&b);
        assert_eq!(both.len(), 4);
        assert!(both.contains(&a) && both.contains(&b) && !a.contains(&both));
        assert!(a.has_fields(&["spec", "paused"]) && !a.has_fields(&["spec"]));
        both.keep_only(&["spec", "paused"]);
        assert_eq!(both.paths(), [".spec.paused"]);
    }
}
