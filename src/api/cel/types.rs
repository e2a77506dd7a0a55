//! Types of expressions, and what may stand for what.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

/// The type of an expression or a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known when it is evaluated.
    Dyn,
    /// Of the elements of an empty list: whatever is wanted.
    Free,
    /// Only `null`.
    Null,
    /// True or false.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without one.
    Uint,
    /// 64 bits of floating point.
    Double,
    /// Characters.
    String,
    /// Octets.
    Bytes,
    /// A length of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// What `type()` gives.
    Type,
    /// A list of one type.
    List(Box<Type>),
    /// A map.
    Map(Box<Type>, Box<Type>),
    /// What may be there.
    Optional(Box<Type>),
    /// An object whose fields are known.
    Object(Arc<ObjectType>),
    /// Of Kubernetes' own libraries, by its name.
    Opaque(&'static str),
    /// A type parameter in a declaration.
    Param(char),
}

/// A named object with its fields.
#[derive(Debug, PartialEq)]
pub struct ObjectType {
    name: String,
    fields: BTreeMap<String, Type>,
}

impl ObjectType {
    /// An object type; names are qualified (`kubernetes.UserInfo`).
    pub fn named(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
        Type::Object(Arc::new(Self { name: name.to_owned(), fields }))
    }

    /// The type of a field.
    pub(super) fn field(&self, name: &str) -> Option<&Type> {
        self.fields.get(name)
    }
}

/// What the type parameters of one call stand for.
pub(super) type Bound = BTreeMap<char, Type>;

impl Type {
    /// A list.
    pub fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    /// A map.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    /// What may be there.
    pub(super) fn optional(of: Self) -> Self {
        Self::Optional(Box::new(of))
    }

    /// Whether nothing is known of it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Dyn | Self::Free)
    }

    /// Whether a value of `actual` may stand where `self` is wanted; binds type parameters.
    pub(super) fn takes(&self, actual: &Self, bound: &mut Bound) -> bool {
        match (self, actual) {
            (Self::Param(name), _) => {
                let Some(before) = bound.get(name).cloned() else {
                    bound.insert(*name, actual.clone());
                    return true;
                };
                let Some(joined) = before.join(actual) else { return false };
                bound.insert(*name, joined);
                true
            }
            (left, right) if left.is_open() || right.is_open() => true,
            (Self::List(left), Self::List(right)) | (Self::Optional(left), Self::Optional(right)) => {
                left.takes(right, bound)
            }
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                key.takes(other_key, bound) && value.takes(other_value, bound)
            }
            // Objects, lengths and points of time may be null.
            (Self::Object(_) | Self::Duration | Self::Timestamp | Self::Optional(_), Self::Null)
            | (Self::Null, Self::Object(_) | Self::Duration | Self::Timestamp | Self::Optional(_)) => true,
            (left, right) => left == right,
        }
    }

    /// The type of a value that is either's; none when they have nothing in common.
    pub(super) fn join(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Free, one) | (one, Self::Free) => one.clone(),
            (Self::Dyn, _) | (_, Self::Dyn) => Self::Dyn,
            (Self::List(left), Self::List(right)) => Self::list(left.join(right)?),
            (Self::Optional(left), Self::Optional(right)) => Self::optional(left.join(right)?),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Self::map(key.join(other_key)?, value.join(other_value)?)
            }
            (Self::Null, one) | (one, Self::Null)
                if matches!(one, Self::Object(_) | Self::Duration | Self::Timestamp | Self::Optional(_)) =>
            {
                one.clone()
            }
            (left, right) if left == right => left.clone(),
            _ => return None,
        })
    }

    /// With parameters put in; what is bound to nothing is known when it is evaluated.
    pub(super) fn filled(&self, bound: &Bound) -> Self {
        match self {
            Self::Param(name) => bound.get(name).cloned().unwrap_or(Self::Free),
            Self::List(of) => Self::list(of.filled(bound)),
            Self::Optional(of) => Self::optional(of.filled(bound)),
            Self::Map(key, value) => Self::map(key.filled(bound), value.filled(bound)),
            other => other.clone(),
        }
    }

    /// With everything open made dynamic.
    pub(super) fn settled(&self) -> Self {
        match self {
            Self::Free => Self::Dyn,
            Self::List(of) => Self::list(of.settled()),
            Self::Optional(of) => Self::optional(of.settled()),
            Self::Map(key, value) => Self::map(key.settled(), value.settled()),
            other => other.clone(),
        }
    }

    /// Reads a declaration: `list<A>`, `string`, `A`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some((outer, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
            return match outer {
                "list" => Some(Self::list(Self::parse(inner)?)),
                "optional" => Some(Self::optional(Self::parse(inner)?)),
                "map" => {
                    let (key, value) = inner.split_once(',')?;
                    Some(Self::map(Self::parse(key)?, Self::parse(value)?))
                }
                _ => None,
            };
        }
        Some(match text {
            "dyn" => Self::Dyn,
            "null" => Self::Null,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "duration" => Self::Duration,
            "timestamp" => Self::Timestamp,
            "type" => Self::Type,
            "ip" => Self::Opaque("net.IP"),
            "cidr" => Self::Opaque("net.CIDR"),
            "url" => Self::Opaque("kubernetes.URL"),
            "quantity" => Self::Opaque("kubernetes.Quantity"),
            "semver" => Self::Opaque("kubernetes.Semver"),
            "format" => Self::Opaque("kubernetes.NamedFormat"),
            "A" => Self::Param('A'),
            "B" => Self::Param('B'),
            _ => return None,
        })
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Free => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::Type => f.write_str("type"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Param(name) => write!(f, "{name}"),
        }
    }
}
