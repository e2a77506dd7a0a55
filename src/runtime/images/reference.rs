//! Image references: `nginx` means `docker.io/library/nginx:latest`.

use std::fmt;

/// A reference in its full form, as container runtimes show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port of the registry, such as `docker.io` or `127.0.0.1:5000`.
    pub registry: String,
    /// Repository in the registry, such as `library/nginx`.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest, such as `sha256:...`.
    pub digest: Option<String>,
}

/// Why a string is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {reference:?}: {reason}")]
pub struct InvalidReference {
    /// What was given.
    pub reference: String,
    /// What is wrong with it; `invalid reference format` unless something more precise is known.
    pub reason: &'static str,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const MAX_NAME: usize = 255;

impl Reference {
    /// Parses and normalises a reference.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let fail = |reason| InvalidReference { reference: text.to_owned(), reason };
        let invalid = || fail("invalid reference format");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if valid_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(invalid()),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (&rest[..name_end + colon], Some(rest[name_end + colon + 1..].to_owned())),
            None => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !valid_tag(tag)) {
            return Err(invalid());
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first.to_owned(), rest.to_owned()),
            _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') && !repository.is_empty() {
            format!("library/{repository}")
        } else {
            repository
        };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("invalid reference format: repository name must be lowercase"));
        }
        if !valid_registry(&registry) || !repository.split('/').all(valid_component) {
            return Err(invalid());
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(fail("repository name must not be more than 255 characters"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry, repository, tag, digest })
    }

    /// Registry and repository without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    pub fn target(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Whether the registry is on this machine, which is then spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(rest),
            None => self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component names a registry if it could not be a path of the default one.
fn is_registry(component: &str) -> bool {
    component.contains(['.', ':', '[']) || component == "localhost" || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => {
                return port.is_empty() || port.strip_prefix(':').is_some_and(valid_port);
            }
            _ => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, separated by one `.`, one or two `_`, or dashes.
fn valid_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes.split(|&b| alnum(b)).all(|sep| matches!(sep, b"" | b"." | b"_" | b"__") || sep.iter().all(|&b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_digest(digest: &str) -> bool {
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digest.split_once(':') {
        Some(("sha256", value)) => hex(value, 64),
        Some(("sha512", value)) => hex(value, 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(input: &str, expect: &str) {
        assert_eq!(Reference::parse(input).unwrap().to_string(), expect);
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("library/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("grafana/grafana:11.0", "docker.io/grafana/grafana:11.0");
        check("localhost/x", "localhost/x:latest");
        check("127.0.0.1:5000/a/b_c:v1", "127.0.0.1:5000/a/b_c:v1");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
        check("ghcr.io/o/i", "ghcr.io/o/i:latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}"));
        check(&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx:1@{digest}"));
    }

    #[test]
    fn malformed_references_are_refused() {
        for bad in
            ["", "/", "a//b", "-a", "a-", "a..b", "x:", "x:-a", "x@sha256:12", "a b", "../x", "x/../y", "http://x/y"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        let upper = Reference::parse("Nginx").unwrap_err().to_string();
        assert_eq!(
            upper,
            "couldn't parse image name \"Nginx\": invalid reference format: repository name must be lowercase"
        );
    }

    #[test]
    fn loopback_registries_are_recognised() {
        for (reference, expect) in [
            ("127.9.9.9:5000/x", true),
            ("localhost:80/x", true),
            ("[::1]:5000/x", true),
            ("10.0.0.1:5000/x", false),
            ("nginx", false),
        ] {
            assert_eq!(Reference::parse(reference).unwrap().is_loopback(), expect, "{reference}");
        }
    }
}
