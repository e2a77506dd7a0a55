//! FlowSchemas in the form that requests are held against.

use crate::authn::User;
use crate::request_info::RequestInfo;
use http::HeaderValue;
use serde_json::Value;
use std::sync::Arc;

/// A string, empty when it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number, 0 when it is none.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// A list's items.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What tells the flows of one schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    User,
    Namespace,
    None,
}

/// A FlowSchema that refers to a priority level that exists.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(super) name: Arc<str>,
    pub(super) level: Arc<str>,
    /// The schema's uid, as the answer's header tells it.
    pub(crate) uid: HeaderValue,
    /// The uid of its priority level.
    pub(crate) level_uid: HeaderValue,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// The user name of one service account.
    Account(String),
    /// What the user names of all service accounts of a namespace start with.
    Accounts(String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Words,
    groups: Words,
    resources: Words,
    namespaces: Words,
    cluster_scope: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Words,
    paths: Words,
}

/// A list in which `*` stands for everything.
#[derive(Debug)]
enum Words {
    All,
    These(Vec<String>),
}

impl Words {
    fn of(value: &Value) -> Self {
        let words: Vec<String> = list(value).iter().map(|word| text(word).to_owned()).collect();
        if words.iter().any(|word| word == "*") { Self::All } else { Self::These(words) }
    }

    fn any(&self, fits: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::All => true,
            Self::These(words) => words.iter().any(|word| fits(word)),
        }
    }

    fn has(&self, word: &str) -> bool {
        self.any(|known| known == word)
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        match text(&subject["kind"]) {
            "User" => Some(Self::User(text(&subject["user"]["name"]).to_owned())),
            "Group" => Some(Self::Group(text(&subject["group"]["name"]).to_owned())),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                let (namespace, name) = (text(&account["namespace"]), text(&account["name"]));
                Some(match name {
                    "*" => Self::Accounts(format!("system:serviceaccount:{namespace}:")),
                    name => Self::Account(format!("system:serviceaccount:{namespace}:{name}")),
                })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.groups.contains(name),
            Self::Account(name) => *name == user.name,
            Self::Accounts(prefix) => user.name.starts_with(prefix.as_str()),
        }
    }
}

impl ResourceRule {
    fn of(rule: &Value) -> Self {
        Self {
            verbs: Words::of(&rule["verbs"]),
            groups: Words::of(&rule["apiGroups"]),
            resources: Words::of(&rule["resources"]),
            namespaces: Words::of(&rule["namespaces"]),
            cluster_scope: rule["clusterScope"].as_bool().unwrap_or_default(),
        }
    }

    fn covers(&self, info: &RequestInfo) -> bool {
        let scope = match info.namespace.is_empty() {
            true => self.cluster_scope,
            false => self.namespaces.has(&info.namespace),
        };
        scope && self.verbs.has(info.verb) && self.groups.has(&info.group) && self.resources.any(|r| names(r, info))
    }
}

/// Whether `pods`, `pods/status` or `*/status` names the request's resource.
fn names(pattern: &str, info: &RequestInfo) -> bool {
    match pattern.split_once('/') {
        None => info.subresource.is_empty() && pattern == info.resource,
        Some((resource, subresource)) => {
            (resource == "*" || resource == info.resource) && subresource == info.subresource && !subresource.is_empty()
        }
    }
}

impl PathRule {
    fn of(rule: &Value) -> Self {
        Self { verbs: Words::of(&rule["verbs"]), paths: Words::of(&rule["nonResourceURLs"]) }
    }

    fn covers(&self, info: &RequestInfo) -> bool {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => info.path == pattern,
        };
        self.verbs.has(info.verb) && self.paths.any(fits)
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            subjects: list(&rule["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: list(&rule["resourceRules"]).iter().map(ResourceRule::of).collect(),
            paths: list(&rule["nonResourceRules"]).iter().map(PathRule::of).collect(),
        }
    }

    fn covers(&self, user: &User, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && match info.is_resource {
                true => self.resources.iter().any(|rule| rule.covers(info)),
                false => self.paths.iter().any(|rule| rule.covers(info)),
            }
    }
}

impl Schema {
    /// The schema of an object, whose priority level has this uid.
    pub(super) fn of(object: &Value, level_uid: &str) -> Self {
        let (meta, spec) = (&object["metadata"], &object["spec"]);
        let header = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            name: text(&meta["name"]).into(),
            level: text(&spec["priorityLevelConfiguration"]["name"]).into(),
            uid: header(text(&meta["uid"])),
            level_uid: header(level_uid),
            precedence: int(&spec["matchingPrecedence"]),
            distinguisher: match text(&spec["distinguisherMethod"]["type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).iter().map(Rule::of).collect(),
        }
    }

    /// What tells the request's flow from others of the schema.
    pub(super) fn distinguish<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
            Distinguisher::None => "",
        }
    }
}

/// All schemas, the one to be asked first first.
#[derive(Debug, Default)]
pub(super) struct Rules {
    schemas: Vec<Arc<Schema>>,
}

impl Rules {
    pub(super) fn new(mut schemas: Vec<Schema>) -> Self {
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas: schemas.into_iter().map(Arc::new).collect() }
    }

    /// The first that covers the request; else the one for all the rest.
    pub(super) fn find(&self, user: &User, info: &RequestInfo) -> Option<Arc<Schema>> {
        let covers = |schema: &&Arc<Schema>| schema.rules.iter().any(|rule| rule.covers(user, info));
        let found = self.schemas.iter().find(covers);
        found.or_else(|| self.schemas.iter().find(|schema| &*schema.name == super::keep::CATCH_ALL)).cloned()
    }
}
