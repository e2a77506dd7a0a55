//! AppArmor profiles that annotations give, from the time before there were fields for them.

use crate::status::Path;
use crate::tree::{ensure, items, object, text};
use serde_json::{Value, json};

/// What comes before the container's name in the annotation.
pub(super) const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const MAX_PROFILE: usize = 4095;

/// What an annotation says, as a field; nothing where it says nothing that a field may.
fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let name = annotation.strip_prefix("localhost/")?;
            let fine = !name.is_empty() && name.trim() == name && name.len() <= MAX_PROFILE;
            fine.then(|| json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

/// What is said about an annotation that no field stands beside.
pub(super) fn warning(path: Path<'_>, key: &str) -> String {
    format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", path.key(key))
}

/// Gives the containers of a new pod the profiles of their annotations, and says which ones.
pub fn complete(pod: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = pod["metadata"]["annotations"].clone();
    if !annotations.is_object() || pod["spec"]["os"]["name"] == "windows" {
        return warnings;
    }
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    let metadata = Path::root("metadata");
    let spec = ensure(object(pod), "spec");
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, kind) {
            let key = format!("{PREFIX}{}", container.get("name").map_or("", text));
            let own = container.get("securityContext").map_or(&Value::Null, |context| &context["appArmorProfile"]);
            let Some(annotation) = annotations[&key].as_str().filter(|_| !own.is_object()) else { continue };
            let found = profile(annotation);
            if found.as_ref() == Some(&of_pod) {
                continue;
            }
            warnings.push(warning(metadata.child("annotations"), &key));
            if let Some(found) = found {
                ensure(container, "securityContext").insert("appArmorProfile".to_owned(), found);
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_become_fields() {
        let check = |annotation: &str, of_pod: Value, of_container: Value, expect: Value, warned: usize| {
            let key = format!("{PREFIX}c");
            let mut pod = json!({"metadata": {"annotations": {key: annotation}}, "spec": {
                "securityContext": {"appArmorProfile": of_pod},
                "containers": [{"name": "c", "securityContext": {"appArmorProfile": of_container}}, {"name": "d"}]}});
            assert_eq!(complete(&mut pod).len(), warned, "{annotation}");
            assert_eq!(pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"], expect, "{annotation}");
            assert_eq!(pod["spec"]["containers"][1], json!({"name": "d"}));
        };
        let (free, default) = (json!({"type": "Unconfined"}), json!({"type": "RuntimeDefault"}));
        check("unconfined", Value::Null, Value::Null, free.clone(), 1);
        check("runtime/default", free.clone(), Value::Null, default.clone(), 1);
        check("runtime/default", default.clone(), Value::Null, Value::Null, 0);
        check("runtime/default", Value::Null, free.clone(), free, 0);
        let local = json!({"type": "Localhost", "localhostProfile": "a"});
        check("localhost/a", Value::Null, Value::Null, local, 1);
        check("localhost/", default, Value::Null, Value::Null, 1);
    }
}
