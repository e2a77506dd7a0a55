//! The PodSecurityConfiguration: what namespaces without labels ask for, and who is exempt.

use super::{Level, LevelVersion, Policy, parse_version};
use crate::meta::names;
use crate::status::{FieldErrors, Path};
use serde::Deserialize;

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];

/// What is in force beside the labels of namespaces.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// Where labels say nothing.
    pub defaults: Policy,
    /// Whom no policy concerns.
    pub exemptions: Exemptions,
}

/// Whom no policy concerns.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Exemptions {
    /// Who writes the pod.
    pub usernames: Vec<String>,
    /// Where it is.
    pub namespaces: Vec<String>,
    /// What runs it.
    pub runtime_classes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

impl Configuration {
    /// Reads the configuration of the admission plugin.
    pub fn parse(value: serde_json::Value) -> Result<Self, String> {
        let document: Document = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if document.kind != "PodSecurityConfiguration" || !VERSIONS.contains(&document.api_version.as_str()) {
            let (kind, version) = (&document.kind, &document.api_version);
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        }
        let mut errors = FieldErrors::default();
        let root = Path::root("defaults");
        let given = &document.defaults;
        let mut read = |name: &str, level: &str, version: &str| {
            let mut found = LevelVersion::default();
            if !level.is_empty() {
                found.level = Level::parse(level).unwrap_or_else(|| {
                    errors.invalid(root.child(name), level, "must be one of privileged, baseline, restricted");
                    Level::Restricted
                });
            }
            if !version.is_empty() {
                found.minor = parse_version(version).unwrap_or_else(|| {
                    let at = format!("{name}-version");
                    errors.invalid(root.child(&at), version, "must be \"latest\" or \"v1.x\"");
                    None
                });
            }
            found
        };
        // In the order in which mistakes are told.
        let enforce = read("enforce", &given.enforce, &given.enforce_version);
        let warn = read("warn", &given.warn, &given.warn_version);
        let audit = read("audit", &given.audit, &given.audit_version);
        let defaults = Policy { enforce, audit, warn };
        document.exemptions.validate(&mut errors);
        match errors.aggregate() {
            Some(errors) => Err(errors),
            None => Ok(Self { defaults, exemptions: document.exemptions }),
        }
    }
}

/// A list of names with what is wrong with one of them.
type List<'a> = (&'a str, &'a [String], fn(&str) -> Vec<String>);

impl Exemptions {
    fn validate(&self, errors: &mut FieldErrors) {
        let root = Path::root("exemptions");
        let lists: [List<'_>; 3] = [
            ("namespaces", &self.namespaces, names::dns_label),
            ("runtimeClasses", &self.runtime_classes, names::dns_subdomain),
            ("usernames", &self.usernames, |name| {
                if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() }
            }),
        ];
        for (name, list, check) in lists {
            for (index, one) in list.iter().enumerate() {
                let at = root.child(name);
                let wrong = check(one);
                if !wrong.is_empty() {
                    errors.invalid(at.index(index), one.as_str(), &wrong.join(", "));
                } else if list[..index].contains(one) {
                    errors.duplicate(at.index(index), one.as_str());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_exemptions_are_read_and_checked() {
        let with = |rest: serde_json::Value| {
            let mut document = json!({ "apiVersion": VERSIONS[0], "kind": "PodSecurityConfiguration" });
            for (key, value) in rest.as_object().into_iter().flatten() {
                document[key] = value.clone();
            }
            Configuration::parse(document)
        };
        let found =
            with(json!({ "defaults": { "enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted" },
            "exemptions": { "namespaces": ["kube-system"], "usernames": ["jane"] } }))
            .expect("a good one");
        assert_eq!(found.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(found.defaults.warn.to_string(), "restricted:latest");
        assert_eq!(found.exemptions.namespaces, ["kube-system"]);
        let wrong = with(json!({ "defaults": { "audit": "hard", "warn-version": "1" },
            "exemptions": { "namespaces": ["A", "b", "b"], "usernames": [""] } }));
        assert_eq!(
            wrong.expect_err("four mistakes"),
            "[defaults.warn-version: Invalid value: \"1\": must be \"latest\" or \"v1.x\", \
             defaults.audit: Invalid value: \"hard\": must be one of privileged, baseline, restricted, \
             exemptions.namespaces[0]: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), \
             exemptions.namespaces[2]: Duplicate value: \"b\", \
             exemptions.usernames[0]: Invalid value: \"\": username must not be empty]"
        );
        assert!(with(json!({ "colour": "red" })).is_err() && Configuration::parse(json!({})).is_err());
    }
}
