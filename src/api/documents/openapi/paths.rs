//! Paths: which operations each resource and subresource has, and where.

use super::metrics;
use super::operation::{self, Body, Operation};
use super::parameters;
use super::schema::META;
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
    pub(super) fn new(group: &str, version: &str) -> Self {
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
    let id = format!("get{}APIResources", naming.id);
    let list = operation::document(&id, &naming.tag, "get available resources", &format!("{META}APIResourceList"));
    paths.insert(format!("{root}/"), json!({"get": list}));
    for resource in resources {
        Paths { naming: &naming, root: &root, resource, out: &mut paths }.add();
    }
    Value::Object(paths)
}

/// `a Pod`, `an Ingress`, `Endpoints`: as upstream's documents put it.
fn with_article(kind: &str) -> String {
    if kind.ends_with('s') && !kind.ends_with("ss") {
        return kind.to_owned();
    }
    let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The paths of one resource, as they are added to a document.
struct Paths<'a> {
    naming: &'a Naming,
    root: &'a str,
    resource: &'a Resource,
    out: &'a mut Map<String, Value>,
}

impl Paths<'_> {
    fn add(&mut self) {
        let resource = self.resource;
        let namespaced = resource.scope == Scope::Namespaced;
        let below = if namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("{}/{below}{}", self.root, resource.plural);
        let scoped = if namespaced { format!("Namespaced{}", resource.kind) } else { resource.kind.to_owned() };
        self.collection(&collection, &scoped);
        let single = format!("{collection}/{{name}}");
        self.single(&single, &scoped);
        for subresource in resource.subresources {
            self.subresource(&single, &scoped, subresource);
        }
        self.watches(below, &scoped);
    }

    fn has(&self, verb: Verb) -> bool {
        self.resource.verbs.contains(&verb)
    }

    fn is_namespaced(&self) -> bool {
        self.resource.scope == Scope::Namespaced
    }

    /// One operation on the resource's own kind.
    fn own(&self, verb: &'static str, name: &str, text: String, body: Body, path: &[Value]) -> Value {
        let gvk = (self.resource.group, self.resource.version, self.resource.kind);
        Operation { verb, name, gvk, description: text, body, path }.build(self.naming)
    }

    fn object(&self) -> Body {
        Body { input: Some(self.resource.type_name), output: Some(self.resource.type_name) }
    }

    fn listing(&self, all_namespaces: bool) -> Value {
        let resource = self.resource;
        let list = format!("{}List", resource.kind);
        let output = facts::type_by_gvk(resource.group, resource.version, &list).map(|t| t.name);
        let output = output.or_else(|| metrics::list_name(resource.group, resource.kind));
        let what = if self.has(Verb::Watch) { "list or watch" } else { "list" };
        let text = format!("{what} objects of kind {}", resource.kind);
        let namespaced = self.is_namespaced() && !all_namespaces;
        let name = match (self.is_namespaced(), all_namespaces) {
            (true, true) => format!("{}ForAllNamespaces", resource.kind),
            (true, false) => format!("Namespaced{}", resource.kind),
            (false, _) => resource.kind.to_owned(),
        };
        self.own("list", &name, text, Body { input: None, output }, &path_parameters(namespaced, None))
    }

    fn collection(&mut self, path: &str, scoped: &str) {
        let kind = self.resource.kind;
        let parameters = path_parameters(self.is_namespaced(), None);
        let mut item = Map::new();
        if self.has(Verb::List) {
            item.insert("get".into(), self.listing(false));
        }
        if self.has(Verb::Create) {
            let text = format!("create {}", with_article(kind));
            item.insert("post".into(), self.own("create", scoped, text, self.object(), &parameters));
        }
        if self.has(Verb::DeleteCollection) {
            let status = Body { input: None, output: status_type() };
            let name = format!("Collection{scoped}");
            let text = format!("delete collection of {kind}");
            item.insert("delete".into(), self.own("deletecollection", &name, text, status, &parameters));
        }
        self.insert(path.to_owned(), item);
        if self.is_namespaced() && self.has(Verb::List) {
            let item = Map::from_iter([("get".to_owned(), self.listing(true))]);
            self.insert(format!("{}/{}", self.root, self.resource.plural), item);
        }
    }

    fn single(&mut self, path: &str, scoped: &str) {
        let kind = self.resource.kind;
        let parameters = path_parameters(self.is_namespaced(), Some(kind));
        let mut item = Map::new();
        let verbs = [
            (Verb::Get, "get", "read", format!("read the specified {kind}")),
            (Verb::Update, "put", "replace", format!("replace the specified {kind}")),
            (Verb::Patch, "patch", "patch", format!("partially update the specified {kind}")),
        ];
        for (verb, method, word, text) in verbs {
            if self.has(verb) {
                item.insert(method.into(), self.own(word, scoped, text, self.object(), &parameters));
            }
        }
        if self.has(Verb::Delete) {
            let output = if self.resource.returns_deleted() { Some(self.resource.type_name) } else { status_type() };
            let text = format!("delete {}", with_article(kind));
            let operation = self.own("delete", scoped, text, Body { input: None, output }, &parameters);
            item.insert("delete".into(), operation);
        }
        self.insert(path.to_owned(), item);
    }

    fn subresource(&mut self, single: &str, scoped: &str, sub: &Subresource) {
        let path = format!("{single}/{}", sub.name);
        let name = format!("{scoped}{}", capital(sub.name));
        if sub.gvk.2.ends_with("Options") {
            self.connect(&path, &name, sub, false);
            if sub.name == "proxy" {
                self.connect(&format!("{path}/{{path}}"), &format!("{name}WithPath"), sub, true);
            }
            return;
        }
        let kind = self.resource.kind;
        let ty = facts::type_by_gvk(sub.gvk.0, sub.gvk.1, sub.gvk.2).map(|t| t.name);
        let parameters = path_parameters(self.is_namespaced(), Some(sub.gvk.2));
        let mut item = Map::new();
        for verb in sub.verbs {
            let (method, word, text) = match verb {
                Verb::Create => ("post", "create", format!("create {} of a {kind}", sub.name)),
                Verb::Update => ("put", "replace", format!("replace {} of the specified {kind}", sub.name)),
                Verb::Patch => ("patch", "patch", format!("partially update {} of the specified {kind}", sub.name)),
                _ => ("get", "read", format!("read {} of the specified {kind}", sub.name)),
            };
            let (word, body) = match sub.action {
                Action::Log => ("log", Body::default()),
                _ => (word, Body { input: ty, output: ty }),
            };
            let operation =
                Operation { verb: word, name: &name, gvk: sub.gvk, description: text, body, path: &parameters };
            item.insert(method.into(), operation.build(self.naming));
        }
        self.insert(path, item);
    }

    /// What is handed on to a node or a backend, whatever its method.
    fn connect(&mut self, path: &str, name: &str, sub: &Subresource, with_path: bool) {
        let mut parameters = path_parameters(self.is_namespaced(), Some(sub.gvk.2));
        if with_path {
            parameters.push(parameters::path("path", "path to the resource"));
        }
        let methods: &[&str] = match sub.name {
            "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
            _ => &["get", "post"],
        };
        let mut item = Map::new();
        for method in methods {
            let name = format!("{}{name}", capital(method));
            let (verb, kind) = (method.to_ascii_uppercase(), self.resource.kind);
            let description = format!("connect {verb} requests to {} of {kind}", sub.name);
            let body = Body::default();
            let operation =
                Operation { verb: "connect", name: &name, gvk: sub.gvk, description, body, path: &parameters };
            item.insert((*method).to_owned(), operation.build(self.naming));
        }
        self.insert(path.to_owned(), item);
    }

    /// The deprecated paths that begin with `watch`.
    fn watches(&mut self, below: &str, scoped: &str) {
        if !self.has(Verb::Watch) {
            return;
        }
        let (kind, plural) = (self.resource.kind, self.resource.plural);
        let output = facts::type_by_name(&format!("{META}WatchEvent")).map(|t| t.name);
        let body = Body { input: None, output };
        let list = format!(
            "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
        );
        let one = format!(
            "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
        );
        let namespaced = self.is_namespaced();
        let root = self.root;
        let all = format!("{kind}ListForAllNamespaces");
        let mut paths = vec![
            (
                format!("{root}/watch/{below}{plural}"),
                self.own("watchlist", &format!("{scoped}List"), list.clone(), body, &path_parameters(namespaced, None)),
            ),
            (
                format!("{root}/watch/{below}{plural}/{{name}}"),
                self.own("watch", scoped, one, body, &path_parameters(namespaced, Some(kind))),
            ),
        ];
        if namespaced {
            paths.push((format!("{root}/watch/{plural}"), self.own("watchlist", &all, list, body, &[])));
        }
        for (path, operation) in paths {
            self.insert(path, Map::from_iter([("get".to_owned(), operation)]));
        }
    }

    fn insert(&mut self, path: String, mut item: Map<String, Value>) {
        if item.is_empty() {
            return;
        }
        parameters::share(&mut item);
        self.out.insert(path, Value::Object(item));
    }
}

fn status_type() -> Option<&'static str> {
    facts::type_by_name(&format!("{META}Status")).map(|t| t.name)
}

/// The parameters that a path itself has.
fn path_parameters(namespaced: bool, kind: Option<&str>) -> Vec<Value> {
    let name = kind.map(|kind| parameters::path("name", &format!("name of the {kind}")));
    let namespace =
        namespaced.then(|| parameters::path("namespace", "object name and auth scope, such as for teams and projects"));
    name.into_iter().chain(namespace).collect()
}
