//! Image references, pull policies and the texts that go with pulling.

use k8s_openapi::api::core::v1::Container;
use naru_runtime::images::{Image, PullError, Reference, SELF_IMAGE};

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
    policy(container.image.as_deref().unwrap_or_default(), container.image_pull_policy.as_deref())
}

/// The policy of an image of which this was said.
pub fn policy(image: &str, stated: Option<&str>) -> PullPolicy {
    if is_self(image) {
        return PullPolicy::Never;
    }
    match stated {
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

/// Registry and repository of an image, as places of credentials are matched against.
pub fn repository(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |r| r.name())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

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
}
