//! Paths: which operations each resource and subresource has, and where.

use super::operation::{self, Body, Operation};
use crate::facts;
use crate::meta::{Verb, join_api_version};
use crate::registry::{Action, Resource, Scope, Subresource};
use serde_json::{Map, Value, json};

/// What all operations of a document share.
pub(super) struct Naming {
    /// `core_v1`, `rbacAuthorization_v1`.
    pub(super) tag: String,
    /// `CoreV1`, `RbacAuthorizationV1`.
    pub(super) id: String,
}

impl Naming {
    fn new(group: &str, version: &str) -> Self {
        let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
        let mut words = group.split(['.', '-']);
        let first = words.next().unwrap_or("").to_owned();
        let camel = words.fold(first, |name, word| name + &capital(word));
        Naming { tag: format!("{camel}_{version}"), id: format!("{}{}", capital(&camel), capital(version)) }
    }
}

/// The word with its first letter in upper case.
pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_ascii_uppercase().to_string() + chars.as_str())
}

/// `paths` of a group-version.
pub(super) fn of(resources: &[&Resource], group: &str, version: &str) -> Value {
    let naming = Naming::new(group, version);
    let root = if group.is_empty() { "/api" } else { "/apis" };
    let root = format!("{root}/{}", join_api_version(group, version));
    let mut paths = Map::new();
    paths.insert(format!("{root}/"), json!({"get": operation::resources(&naming)}));
    for resource in resources {
        add(&mut paths, &naming, &root, resource);
    }
    Value::Object(paths)
}

fn add(paths: &mut Map<String, Value>, naming: &Naming, root: &str, resource: &Resource) {
    let namespaced = resource.scope == Scope::Namespaced;
    let collection = if namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let build = |verb, name: &str, kind: (&str, &str, &str), body: Body| {
        operation::build(naming, &Operation { verb, name, gvk: kind, body })
    };
    let gvk = (resource.group, resource.version, resource.kind);
    let has = |verb: Verb| resource.verbs.contains(&verb);
    let scoped = if namespaced { format!("Namespaced{}", resource.kind) } else { resource.kind.to_owned() };
    let list = format!("{}List", resource.kind);
    let list_type = facts::type_by_gvk(resource.group, resource.version, &list).map(|t| t.name);
    let object = Body { input: Some(resource.type_name), output: Some(resource.type_name) };
    let listing = Body { input: None, output: list_type };

    let mut item = path_item(namespaced, false);
    if has(Verb::List) {
        item.insert("get".into(), build("list", &scoped, gvk, listing));
    }
    if has(Verb::Create) {
        item.insert("post".into(), build("create", &scoped, gvk, object));
    }
    if has(Verb::DeleteCollection) {
        item.insert("delete".into(), build("deletecollection", &format!("Collection{scoped}"), gvk, Body::default()));
    }
    insert(paths, &collection, item);

    if namespaced && has(Verb::List) {
        let mut item = path_item(false, false);
        item.insert("get".into(), build("list", &format!("{}ForAllNamespaces", resource.kind), gvk, listing));
        insert(paths, &format!("{root}/{}", resource.plural), item);
    }

    let single = format!("{collection}/{{name}}");
    let mut item = path_item(namespaced, true);
    let verbs = [(Verb::Get, "get", "read"), (Verb::Update, "put", "replace"), (Verb::Patch, "patch", "patch")];
    for (verb, method, word) in verbs {
        if has(verb) {
            item.insert(method.into(), build(word, &scoped, gvk, object));
        }
    }
    if has(Verb::Delete) {
        item.insert("delete".into(), build("delete", &scoped, gvk, Body::default()));
    }
    insert(paths, &single, item);

    for subresource in resource.subresources {
        let item = subresource_item(naming, namespaced, &scoped, subresource);
        insert(paths, &format!("{single}/{}", subresource.name), item);
    }
}

fn subresource_item(naming: &Naming, namespaced: bool, scoped: &str, sub: &Subresource) -> Map<String, Value> {
    let ty = facts::type_by_gvk(sub.gvk.0, sub.gvk.1, sub.gvk.2).map(|t| t.name);
    let name = format!("{scoped}{}", capital(sub.name));
    let mut item = path_item(namespaced, true);
    let connect = matches!(sub.action, Action::Exec | Action::Attach | Action::PortForward);
    for verb in sub.verbs {
        let (method, word) = match verb {
            Verb::Create => ("post", "create"),
            Verb::Update => ("put", "replace"),
            Verb::Patch => ("patch", "patch"),
            Verb::Delete => ("delete", "delete"),
            _ => ("get", "read"),
        };
        let body = match sub.action {
            Action::Log => Body { input: None, output: None },
            _ => Body { input: ty, output: ty },
        };
        let built = if connect {
            let id = format!("{}{scoped}{}", capital(method), capital(sub.name));
            Operation { verb: "connect", name: &id, gvk: sub.gvk, body: Body::default() }.build(naming)
        } else {
            Operation { verb: word, name: &name, gvk: sub.gvk, body }.build(naming)
        };
        item.insert(method.into(), built);
    }
    item
}

/// A path with the parameters that all its operations take.
fn path_item(namespaced: bool, named: bool) -> Map<String, Value> {
    let mut parameters = Vec::new();
    if named {
        parameters.push(operation::path_parameter("name", "name of the object"));
    }
    if namespaced {
        parameters
            .push(operation::path_parameter("namespace", "object name and auth scope, such as for teams and projects"));
    }
    parameters.push(operation::query("pretty", "string"));
    Map::from_iter([("parameters".to_owned(), Value::from(parameters))])
}

fn insert(paths: &mut Map<String, Value>, path: &str, item: Map<String, Value>) {
    if item.len() > 1 {
        paths.insert(path.to_owned(), Value::Object(item));
    }
}
