//! `registries.yaml`: mirrors, rewrites, passwords and certificates of registries, in the format that k3s has.

use super::reference::Reference;
use super::store::RegistryCredentials;
use base64::Engine as _;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where images are pulled from.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
    /// Registries with mirrors are not asked themselves.
    mirrors_only: bool,
}

#[derive(Debug, Clone, Default)]
struct Mirror {
    endpoints: Vec<Base>,
    /// Pattern and replacement; the first that changes a repository counts.
    rewrites: Vec<(Regex, String)>,
}

#[derive(Debug, Clone, Default)]
struct HostConfig {
    auth: Option<RegistryCredentials>,
    tls: Option<Tls>,
}

/// How a registry's certificate is judged, and ours shown. Files are read at each pull, so that new ones count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
}

/// Scheme, host and path of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    /// `None`: https, but http for this machine unless certificates are configured.
    plain: Option<bool>,
    host: String,
    path: String,
}

/// One place to pull an image from.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `https://host:port/v2`, without a slash at the end.
    pub(super) url: String,
    pub(super) host: String,
    /// The repository as this endpoint has it.
    pub(super) repository: String,
    /// The registry that this one stands in for.
    pub(super) namespace: Option<String>,
    pub(super) tls: Tls,
    pub(super) auth: Option<RegistryCredentials>,
}

/// What is wrong with a `registries.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidRegistries {
    /// Path of the field, such as `mirrors["docker.io"].endpoint[0]`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

type Parsed<T> = Result<T, InvalidRegistries>;

/// The host that serves what is called `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";
const EVERY: &str = "*";
/// More than anybody writes by hand.
const MAX_ENTRIES: usize = 1000;

impl Registries {
    /// Reads the text of a `registries.yaml`. Files that it names must be readable.
    pub fn parse(text: &str) -> Parsed<Self> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|error| invalid("registries.yaml", format!("not valid YAML: {error}")))?;
        let top = Node { path: String::new(), value: &value };
        let (mut mirrors, mut configs) = (BTreeMap::new(), BTreeMap::new());
        for (key, node) in top.fields(&["mirrors", "configs"])? {
            for (name, entry) in node.entries()? {
                match key {
                    "mirrors" => drop(mirrors.insert(name.to_owned(), mirror(&entry)?)),
                    _ => drop(configs.insert(name.to_owned(), host_config(&entry)?)),
                }
            }
        }
        Ok(Self { mirrors, configs, mirrors_only: false })
    }

    /// Reads `path`; a file that does not exist configures nothing.
    pub fn read(path: &Path) -> Parsed<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(invalid(path.display().to_string(), error.to_string())),
        }
    }

    /// Registries that have mirrors are no longer asked themselves.
    pub fn mirrors_only(mut self) -> Self {
        self.mirrors_only = true;
        self
    }

    /// Where to look for an image, in order.
    pub(super) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let registry = reference.registry.as_str();
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get(EVERY));
        let mut out: Vec<Endpoint> = Vec::new();
        for base in mirror.iter().flat_map(|mirror| &mirror.endpoints) {
            let rewritten = mirror.and_then(|mirror| mirror.rewrite(&reference.repository));
            let namespace = (base.host != registry).then(|| registry.to_owned());
            let repository = rewritten.unwrap_or_else(|| reference.repository.clone());
            out.push(self.endpoint(base, repository, namespace));
        }
        let itself = self.endpoint(&Base::of_registry(registry), reference.repository.clone(), None);
        let known = out.iter().any(|other| other.url == itself.url && other.repository == itself.repository);
        let left_out = self.mirrors_only && !out.is_empty();
        if !known && !left_out {
            out.push(itself);
        }
        out
    }

    fn endpoint(&self, base: &Base, repository: String, namespace: Option<String>) -> Endpoint {
        // Docker's registry goes by several names.
        let alias = (base.host == DOCKER_HUB).then_some("docker.io");
        let config = self.configs.get(&base.host);
        let config = config.or_else(|| self.configs.get(alias?)).or_else(|| self.configs.get(EVERY));
        let tls = config.and_then(|config| config.tls.clone());
        let plain = base.plain.unwrap_or_else(|| tls.is_none() && is_this_machine(&base.host));
        Endpoint {
            url: format!("{}://{}{}", if plain { "http" } else { "https" }, base.host, base.path),
            host: base.host.clone(),
            repository,
            namespace,
            tls: tls.unwrap_or_default(),
            auth: config.and_then(|config| config.auth.clone()),
        }
    }
}

impl Endpoint {
    /// The server is this machine, which no proxy can reach for us.
    pub(super) fn is_here(&self) -> bool {
        is_this_machine(&self.host)
    }
}

fn is_this_machine(host: &str) -> bool {
    let registry = host.to_owned();
    Reference { registry, repository: String::new(), tag: None, digest: None }.is_loopback()
}

impl Mirror {
    fn rewrite(&self, repository: &str) -> Option<String> {
        let rewritten = self.rewrites.iter().map(|(pattern, with)| pattern.replace_all(repository, with.as_str()));
        rewritten.map(std::borrow::Cow::into_owned).find(|rewritten| rewritten != repository)
    }
}

impl Base {
    fn of_registry(registry: &str) -> Self {
        let host = if registry == "docker.io" { DOCKER_HUB } else { registry };
        Self { plain: None, host: host.to_owned(), path: "/v2".to_owned() }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (plain, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(false), rest),
            Some(("http", rest)) => (Some(true), rest),
            Some((scheme, _)) => return Err(format!("unknown scheme {scheme:?}: http or https")),
            None => (None, text),
        };
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if host.is_empty() || host.contains(['@', '?', '#', ' ']) || path.contains(['?', '#', ' ']) {
            return Err(format!("{text:?} is not an address such as https://registry.example.com:5000"));
        }
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { "/v2" } else { path };
        Ok(Self { plain, host: host.to_owned(), path: path.to_owned() })
    }
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> InvalidRegistries {
    InvalidRegistries { field: field.into(), reason: reason.into() }
}

/// A part of the document that knows where it stands.
struct Node<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    fn fail<T>(&self, reason: impl Into<String>) -> Parsed<T> {
        let field = if self.path.is_empty() { "registries.yaml" } else { &self.path };
        Err(invalid(field, reason))
    }

    fn object(&self) -> Parsed<Option<&'a Map<String, Value>>> {
        match self.value {
            Value::Null => Ok(None),
            Value::Object(map) if map.len() > MAX_ENTRIES => self.fail(format!("more than {MAX_ENTRIES} entries")),
            Value::Object(map) => Ok(Some(map)),
            _ => self.fail("must be a map"),
        }
    }

    /// The fields that are there, all of them known ones.
    fn fields(&self, known: &[&str]) -> Parsed<Vec<(&'a str, Node<'a>)>> {
        let mut out = Vec::new();
        for (key, value) in self.object()?.into_iter().flatten() {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let node = Node { path, value };
            if !known.contains(&key.as_str()) {
                return node.fail(format!("unknown field: known are {}", known.join(", ")));
            }
            out.push((key.as_str(), node));
        }
        Ok(out)
    }

    /// The entries of a map whose keys are names.
    fn entries(&self) -> Parsed<Vec<(&'a str, Node<'a>)>> {
        let entry = |(key, value): (&'a String, &'a Value)| {
            (key.as_str(), Node { path: format!("{}[{key:?}]", self.path), value })
        };
        Ok(self.object()?.into_iter().flatten().map(entry).collect())
    }

    fn text(&self) -> Parsed<Option<String>> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            // A password may look like a number.
            Value::Number(number) => Ok(Some(number.to_string())),
            _ => self.fail("must be a string"),
        }
    }

    fn file(&self) -> Parsed<Option<PathBuf>> {
        let Some(path) = self.text()?.map(PathBuf::from) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) => self.fail(format!("cannot read {}: {error}", path.display())),
        }
    }
}

fn mirror(node: &Node<'_>) -> Parsed<Mirror> {
    let mut out = Mirror::default();
    for (key, node) in node.fields(&["endpoint", "rewrite"])? {
        if key == "rewrite" {
            for (pattern, with) in node.entries()? {
                let regex =
                    Regex::new(pattern).or_else(|error| with.fail(format!("not a regular expression: {error}")))?;
                out.rewrites.push((regex, with.text()?.unwrap_or_default()));
            }
            continue;
        }
        let list = match node.value {
            Value::Null => continue,
            Value::Array(list) => list,
            _ => return node.fail("must be a list of addresses"),
        };
        for (index, value) in list.iter().enumerate() {
            let entry = Node { path: format!("{}[{index}]", node.path), value };
            let text = entry.text()?.map_or_else(|| entry.fail("must not be empty"), Ok)?;
            out.endpoints.push(Base::parse(&text).or_else(|reason| entry.fail(reason))?);
        }
    }
    Ok(out)
}

fn host_config(node: &Node<'_>) -> Parsed<HostConfig> {
    let mut out = HostConfig::default();
    for (key, node) in node.fields(&["auth", "tls"])? {
        match key {
            "auth" => out.auth = auth(&node)?,
            _ => out.tls = Some(tls(&node)?),
        }
    }
    Ok(out)
}

fn auth(node: &Node<'_>) -> Parsed<Option<RegistryCredentials>> {
    let (mut username, mut password, mut pair) = (None, None, None);
    for (key, field) in node.fields(&["username", "password", "auth", "identity_token"])? {
        match key {
            "username" => username = field.text()?,
            "password" => password = field.text()?,
            "identity_token" => {
                if let Some(token) = field.text()? {
                    return Ok(Some(RegistryCredentials::Identity(token)));
                }
            }
            _ => {
                if let Some(text) = field.text()? {
                    let read = base64::engine::general_purpose::STANDARD.decode(&text).ok();
                    let read = read.and_then(|bytes| String::from_utf8(bytes).ok());
                    let split = read.as_deref().and_then(|text| text.split_once(':'));
                    let Some((name, word)) = split else { return field.fail("must be USER:PASSWORD in base64") };
                    pair = Some((name.to_owned(), word.trim_matches('\0').to_owned()));
                }
            }
        }
    }
    let given = match (username, password) {
        (None, None) => pair,
        (Some(username), password) => Some((username, password.unwrap_or_default())),
        (None, Some(_)) => return node.fail("a password without a username"),
    };
    Ok(given.map(|(username, password)| RegistryCredentials::Basic { username, password }))
}

fn tls(node: &Node<'_>) -> Parsed<Tls> {
    let (mut out, mut cert, mut key_file) = (Tls::default(), None, None);
    for (key, field) in node.fields(&["ca_file", "cert_file", "key_file", "insecure_skip_verify"])? {
        match key {
            "ca_file" => out.ca_file = field.file()?,
            "cert_file" => cert = field.file()?,
            "key_file" => key_file = field.file()?,
            _ => match field.value {
                Value::Bool(skip) => out.skip_verify = *skip,
                Value::Null => {}
                _ => return field.fail("must be true or false"),
            },
        }
    }
    out.identity = match (cert, key_file) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return node.fail("cert_file without key_file"),
        (None, Some(_)) => return node.fail("key_file without cert_file"),
    };
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn places(yaml: &str, image: &str) -> Vec<String> {
        let registries = Registries::parse(yaml).unwrap();
        let endpoints = registries.endpoints(&Reference::parse(image).unwrap());
        endpoints.into_iter().map(|endpoint| format!("{} {}", endpoint.url, endpoint.repository)).collect()
    }

    #[test]
    fn without_mirrors_the_registry_itself_is_asked() {
        assert_eq!(places("", "nginx"), ["https://registry-1.docker.io/v2 library/nginx"]);
        assert_eq!(places("mirrors:\nconfigs:\n", "r.example/a/b"), ["https://r.example/v2 a/b"]);
        assert_eq!(places("", "127.0.0.1:5000/x"), ["http://127.0.0.1:5000/v2 x"]);
        let tls = "configs: {'127.0.0.1:5000': {tls: {insecure_skip_verify: true}}}";
        assert_eq!(places(tls, "127.0.0.1:5000/x"), ["https://127.0.0.1:5000/v2 x"]);
    }

    #[test]
    fn mirrors_come_first_and_their_paths_are_rewritten() {
        let yaml = r#"
mirrors:
  docker.io:
    endpoint: ["https://one.example:5000", "http://two.example/v2/hub/", "three.example"]
    rewrite: {"^library/(.*)": "base/$1"}
  "*":
    endpoint: ["https://all.example"]
  own.example:
    endpoint: ["https://own.example/v2"]
"#;
        assert_eq!(
            places(yaml, "nginx"),
            [
                "https://one.example:5000/v2 base/nginx",
                "http://two.example/v2/hub base/nginx",
                "https://three.example/v2 base/nginx",
                "https://registry-1.docker.io/v2 library/nginx"
            ]
        );
        assert_eq!(places(yaml, "team/app")[0], "https://one.example:5000/v2 team/app");
        assert_eq!(places(yaml, "quay.io/a/b"), ["https://all.example/v2 a/b", "https://quay.io/v2 a/b"]);
        assert_eq!(places(yaml, "own.example/a"), ["https://own.example/v2 a"]);
        let only = Registries::parse(yaml).unwrap().mirrors_only();
        let endpoints = only.endpoints(&Reference::parse("quay.io/a/b").unwrap());
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].namespace.as_deref(), Some("quay.io"));
    }

    #[test]
    fn passwords_belong_to_the_host_that_is_asked() {
        let yaml = "
mirrors: {docker.io: {endpoint: [https://m.example]}}
configs:
  m.example: {auth: {username: me, password: 1234}}
  docker.io: {auth: {auth: dTpw}}
  '*': {auth: {identity_token: t}}
";
        let registries = Registries::parse(yaml).unwrap();
        let auth = |image: &str| {
            let endpoints = registries.endpoints(&Reference::parse(image).unwrap());
            endpoints.into_iter().map(|endpoint| endpoint.auth.unwrap().fingerprint()).collect::<Vec<_>>()
        };
        let basic = |username: &str, password: &str| {
            RegistryCredentials::Basic { username: username.into(), password: password.into() }.fingerprint()
        };
        assert_eq!(auth("nginx"), [basic("me", "1234"), basic("u", "p")]);
        assert_eq!(auth("quay.io/x"), [RegistryCredentials::Identity("t".into()).fingerprint()]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (yaml, expect) in [
            ("mirror: {}", "mirror: unknown field: known are mirrors, configs"),
            ("[]", "registries.yaml: must be a map"),
            ("mirrors: 3", "mirrors: must be a map"),
            (
                "mirrors: {a.b: {endpoints: []}}",
                "mirrors[\"a.b\"].endpoints: unknown field: known are endpoint, rewrite",
            ),
            ("mirrors: {a.b: {endpoint: x}}", "mirrors[\"a.b\"].endpoint: must be a list of addresses"),
            ("mirrors: {a.b: {endpoint: ['']}}", "mirrors[\"a.b\"].endpoint[0]: must not be empty"),
            (
                "mirrors: {a.b: {endpoint: ['ftp://x']}}",
                "mirrors[\"a.b\"].endpoint[0]: unknown scheme \"ftp\": http or https",
            ),
            ("configs: {h: {auth: {auth: '!'}}}", "configs[\"h\"].auth.auth: must be USER:PASSWORD in base64"),
            ("configs: {h: {auth: {password: x}}}", "configs[\"h\"].auth: a password without a username"),
            (
                "configs: {h: {tls: {ca_file: /nowhere}}}",
                "configs[\"h\"].tls.ca_file: cannot read /nowhere: No such file or directory (os error 2)",
            ),
            (
                "configs: {h: {tls: {insecure_skip_verify: maybe}}}",
                "configs[\"h\"].tls.insecure_skip_verify: must be true or false",
            ),
            ("configs: {h: {tls: {cert_file: /dev/null}}}", "configs[\"h\"].tls: cert_file without key_file"),
        ] {
            assert_eq!(Registries::parse(yaml).unwrap_err().to_string(), expect, "{yaml}");
        }
        let error = Registries::parse("mirrors: {a: {rewrite: {'(': x}}}").unwrap_err().to_string();
        assert!(error.starts_with("mirrors[\"a\"].rewrite[\"(\"]: not a regular expression: "), "{error}");
        let error = Registries::parse("mirrors: {").unwrap_err().to_string();
        assert!(error.starts_with("registries.yaml: not valid YAML: "), "{error}");
    }
}
