//! Who a pod pulls its images as: its image pull secrets, then the node's credential providers.

pub mod account;
pub mod plugin;
pub(crate) mod records;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use naru_runtime::images::RegistryCredentials;
use serde_json::{Map, Value};

/// Credentials by the place that they are for, as upstream's keyring orders them.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    entries: Vec<(String, RegistryCredentials)>,
}

/// The place of Docker's own registry, which also serves images that name it differently.
const DEFAULT_REGISTRY: &str = "index.docker.io";

impl Keyring {
    /// The credentials of image pull secrets; what is not one, or cannot be read, holds none.
    pub fn of_secrets<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let mut ring = Self::default();
        for secret in secrets {
            for (place, entry) in auths(secret).into_iter().flatten() {
                if let Some(credentials) = credential(&entry) {
                    ring.add(&place, credentials);
                }
            }
        }
        ring
    }

    /// Adds credentials for a place such as `r.example:5000/team`, `*.example` or `https://index.docker.io/v1/`.
    pub fn add(&mut self, place: &str, credentials: RegistryCredentials) {
        let Some(place) = Place::parse(place) else { return };
        let path = place.path.strip_prefix("/v1").or(place.path.strip_prefix("/v2"));
        let path = path.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(&place.path);
        let path = if path == "/" { "" } else { path };
        self.entries.push((format!("{}{path}", place.authority()), credentials));
    }

    /// The credentials for a repository such as `docker.io/library/nginx`, the most specific place first.
    pub fn lookup(&self, repository: &str) -> Vec<RegistryCredentials> {
        let mut found: Vec<_> = self.entries.iter().filter(|(place, _)| matches(place, repository)).collect();
        if found.is_empty() && matches!(repository.split('/').next(), Some("docker.io" | DEFAULT_REGISTRY)) {
            found = self.entries.iter().filter(|(place, _)| place == DEFAULT_REGISTRY).collect();
        }
        // Stable: those of one place stay in the order that they were added in.
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        found.into_iter().map(|(_, credentials)| credentials.clone()).collect()
    }
}

/// The part of a secret that maps places to credentials.
fn auths(secret: &Secret) -> Option<Map<String, Value>> {
    let data = secret.data.as_ref()?;
    let read = |key: &str| serde_json::from_slice::<Value>(&data.get(key)?.0).ok();
    let found = match secret.type_.as_deref()? {
        "kubernetes.io/dockerconfigjson" => read(".dockerconfigjson")?.get_mut("auths").map(Value::take)?,
        "kubernetes.io/dockercfg" => read(".dockercfg")?,
        _ => return None,
    };
    match found {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn credential(entry: &Value) -> Option<RegistryCredentials> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    if let Some(token) = text("registrytoken") {
        return Some(RegistryCredentials::Bearer(token));
    }
    if let Some(token) = text("identitytoken") {
        return Some(RegistryCredentials::Identity(token));
    }
    if let Some(auth) = text("auth") {
        let decoded = base64::engine::general_purpose::STANDARD_NO_PAD.decode(auth.trim_end_matches('=')).ok()?;
        let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        return Some(RegistryCredentials::Basic { username: username.into(), password: password.into() });
    }
    let (username, password) = (text("username"), text("password"));
    (username.is_some() || password.is_some()).then(|| RegistryCredentials::Basic {
        username: username.unwrap_or_default(),
        password: password.unwrap_or_default(),
    })
}

/// A place without its scheme.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    port: String,
    path: String,
}

impl Place {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        // A colon inside brackets belongs to the address.
        let colon = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
        let (host, port) = colon.map_or((authority, ""), |at| (&authority[..at], &authority[at + 1..]));
        let fine = !host.is_empty() && !host.contains([' ', '@', '?', '#']) && port.bytes().all(|b| b.is_ascii_digit());
        fine.then(|| Self { host: host.into(), port: port.into(), path: path.into() })
    }

    fn authority(&self) -> String {
        if self.port.is_empty() { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Whether an image is at a place: globs stand for parts of one label of the host, ports are the same, and
/// the place's path begins the image's.
pub(crate) fn matches(place: &str, image: &str) -> bool {
    let (Some(place), Some(image)) = (Place::parse(place), Place::parse(image)) else { return false };
    let (wanted, labels): (Vec<&str>, Vec<&str>) = (place.host.split('.').collect(), image.host.split('.').collect());
    place.port == image.port
        && wanted.len() == labels.len()
        && wanted.iter().zip(labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
        && image.path.starts_with(&place.path)
}

/// `*` stands for any number of characters.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        (Some((a, pattern)), Some((b, text))) if a == b => glob(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn secret(kind: &str, key: &str, config: &Value) -> Secret {
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        serde_json::from_value(json!({"type": kind, "data": {key: data}})).unwrap()
    }

    fn users(ring: &Keyring, image: &str) -> Vec<String> {
        let name = |credentials| match credentials {
            RegistryCredentials::Basic { username, password } => format!("{username}:{password}"),
            RegistryCredentials::Bearer(token) | RegistryCredentials::Identity(token) => token,
        };
        ring.lookup(image).into_iter().map(name).collect()
    }

    #[test]
    fn secrets_of_both_forms_are_read() {
        let new = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"}, "r.example:5000": {"username": "a", "password": "b"},
            "t.example": {"registrytoken": "T"}, "i.example": {"identitytoken": "I"}, "bad.example": {"auth": "!"}}});
        let old = json!({"old.example/team": {"username": "o", "password": "p", "email": "x"}});
        let secrets = [
            secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &new),
            secret("kubernetes.io/dockercfg", ".dockercfg", &old),
            secret("Opaque", ".dockerconfigjson", &json!({"auths": {"r.example:5000": {"auth": "eDp5"}}})),
            secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!("nonsense")),
        ];
        let ring = Keyring::of_secrets(secrets.iter());
        for (image, expect) in [
            ("docker.io/library/nginx", "u:p"),
            ("r.example:5000/x", "a:b"),
            ("t.example/x", "T"),
            ("i.example/x", "I"),
            ("old.example/team/app", "o:p"),
        ] {
            assert_eq!(users(&ring, image), [expect], "{image}");
        }
        for image in ["r.example/x", "r.example:5001/x", "bad.example/x", "old.example/other", "example/x"] {
            assert!(users(&ring, image).is_empty(), "{image}");
        }
    }

    #[test]
    fn places_match_by_label_port_and_beginning_of_the_path() {
        for (place, image, expect) in [
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "example.com/x", false),
            ("*.example.com", "a.b.example.com/x", false),
            ("a*c.example.com", "abc.example.com/x", true),
            ("*.*.com", "a.b.com", true),
            ("r.example:8080", "r.example:8080/x", true),
            ("r.example", "r.example:8080/x", false),
            ("r.example/team", "r.example/team/app", true),
            ("r.example/team", "r.example/teams", true),
            ("r.example/team", "r.example/other", false),
            ("https://r.example/team", "r.example/team/app", true),
            ("", "r.example/x", false),
        ] {
            assert_eq!(matches(place, image), expect, "{place} {image}");
        }
    }

    #[test]
    fn the_most_specific_place_comes_first() {
        let mut ring = Keyring::default();
        let basic = |name: &str| RegistryCredentials::Basic { username: name.into(), password: String::new() };
        for (place, name) in
            [("r.example", "host"), ("r.example/team", "team"), ("*.example", "glob"), ("r.example", "second")]
        {
            ring.add(place, basic(name));
        }
        assert_eq!(users(&ring, "r.example/team/app"), ["team:", "host:", "second:", "glob:"]);
        assert_eq!(users(&ring, "r.example/x"), ["host:", "second:", "glob:"]);
    }
}
