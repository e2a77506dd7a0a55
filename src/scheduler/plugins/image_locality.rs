//! ImageLocality: nodes that have a pod's large images already are liked better.

use super::{MAX_SCORE, Plugin, Scale, Score};

/// Images below this size do not matter, in bytes.
const SMALL: i64 = 23 << 20;
/// A container's images beyond this size count as this much, in bytes.
const LARGE: i64 = 1000 << 20;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ImageLocality",
    filter: None,
    score: Some(Score {
        weight: 1,
        scale: Scale::None,
        rate: |context, _, node| {
            let spec = &context.pod.pod.spec;
            if node.status.images.is_empty() {
                return 0;
            }
            let containers = || spec.containers.iter().chain(&spec.init_containers);
            let size = |image: &str| {
                let name = normal(image);
                let found = node.status.images.iter().find(|held| held.names.contains(&name));
                // An image that few nodes have must not draw all pods to them.
                found.map_or(0, |held| (held.size_bytes as f64 * context.cache.spread_of_image(&name)) as i64)
            };
            let held: i64 = containers().map(|container| size(&container.image)).sum();
            let most = LARGE.saturating_mul(containers().count() as i64);
            (held.clamp(SMALL, most.max(SMALL)) - SMALL) * MAX_SCORE / (most - SMALL).max(1)
        },
    }),
};

/// A name with its tag.
fn normal(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        assert_eq!(normal("nginx"), "nginx:latest");
        assert_eq!(normal("registry:5000/nginx"), "registry:5000/nginx:latest");
        assert_eq!(normal("nginx:1"), "nginx:1");
        assert_eq!(normal("nginx@sha256:0"), "nginx@sha256:0");
    }
}
