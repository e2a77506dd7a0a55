//! Image references, pull policies and the texts that go with pulling.

use k8s_openapi::api::core::v1::{Container, Secret};
use naru_runtime::images::{Image, PullError, Reference, RegistryCredentials, SELF_IMAGE};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// Unless it is there.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// The policy of a container; the self image is never pulled.
pub fn pull_policy(container: &Container) -> PullPolicy {
    let image = container.image.as_deref().unwrap_or_default();
    if is_self(image) {
        return PullPolicy::Never;
    }
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None => {
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest = !last.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
            if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
        }
    }
}

fn is_self(image: &str) -> bool {
    image.strip_prefix(SELF_IMAGE).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
}

/// The full name that a reference means, as status shows it.
pub fn full_name(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |r| r.to_string())
}

/// The digest under which an image was pulled, else its id.
pub fn image_id(image: &Image) -> String {
    image.digests.first().cloned().unwrap_or_else(|| image.id.clone())
}

/// What a failed pull says in status and events.
pub fn pull_failure(error: &PullError) -> String {
    format!("rpc error: code = {} desc = {}", error.kind.as_str(), error.message)
}

/// Why a reference cannot be used, if so.
pub fn invalid_name(image: &str) -> Option<String> {
    Reference::parse(image).err().map(|error| {
        format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {error}")
    })
}

/// Credentials for `image` from image pull secrets.
pub fn credentials<'a>(image: &str, secrets: impl Iterator<Item = &'a Secret>) -> Vec<RegistryCredentials> {
    let full = full_name(image);
    let mut out = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let config = data
            .and_then(|d| d.get(".dockerconfigjson"))
            .and_then(|b| serde_json::from_slice::<serde_json::Value>(&b.0).ok());
        let old =
            data.and_then(|d| d.get(".dockercfg")).and_then(|b| serde_json::from_slice::<serde_json::Value>(&b.0).ok());
        let auths = config.and_then(|mut c| c.get_mut("auths").map(serde_json::Value::take)).or(old);
        let Some(serde_json::Value::Object(auths)) = auths else { continue };
        out.extend(
            auths.iter().filter(|(registry, _)| serves(registry, &full)).filter_map(|(_, auth)| credential(auth)),
        );
    }
    out
}

/// Whether an entry of a docker configuration is about the image.
fn serves(registry: &str, image: &str) -> bool {
    let place = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let place = place.trim_end_matches("/v1").trim_end_matches("/v2");
    let place = if matches!(place, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { place };
    image.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', ':', '@']))
}

fn credential(auth: &serde_json::Value) -> Option<RegistryCredentials> {
    use base64::Engine as _;
    let text = |key: &str| auth.get(key).and_then(|v| v.as_str()).filter(|s| !s.is_empty()).map(str::to_owned);
    if let Some(token) = text("registrytoken") {
        return Some(RegistryCredentials::Bearer(token));
    }
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryCredentials::Basic { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(RegistryCredentials::Basic { username: username.into(), password: password.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn check(image: &str, policy: Option<&str>, expect: PullPolicy) {
        let container =
            Container { image: Some(image.into()), image_pull_policy: policy.map(Into::into), ..Default::default() };
        assert_eq!(pull_policy(&container), expect, "{image} {policy:?}");
    }

    #[test]
    fn policies_have_defaults_by_tag() {
        check("nginx", None, PullPolicy::Always);
        check("host:5000/nginx", None, PullPolicy::Always);
        check("nginx:latest", None, PullPolicy::Always);
        check("nginx:1.2", None, PullPolicy::IfNotPresent);
        check("nginx@sha256:0", None, PullPolicy::IfNotPresent);
        check("nginx:1.2", Some("Always"), PullPolicy::Always);
        check("naru.local/self", Some("Always"), PullPolicy::Never);
        check("naru.local/self:v1", None, PullPolicy::Never);
        check("naru.local/selfish", Some("Always"), PullPolicy::Always);
    }

    #[test]
    fn credentials_are_found_by_registry() {
        let secret: Secret = serde_json::from_value(json!({"stringData": {}, "data": {".dockerconfigjson":
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, json!({"auths": {
                "https://index.docker.io/v1/": {"auth": "dTpw"},
                "r.example:5000": {"username": "a", "password": "b"}}}).to_string())}}))
        .unwrap();
        let found = |image: &str| match credentials(image, [&secret].into_iter()).first() {
            Some(RegistryCredentials::Basic { username, .. }) => username.clone(),
            _ => String::new(),
        };
        assert_eq!(found("nginx"), "u");
        assert_eq!(found("r.example:5000/x:1"), "a");
        assert_eq!(found("other.example/x"), "");
    }
}
