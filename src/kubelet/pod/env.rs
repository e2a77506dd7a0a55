//! The environment of a container: service links, `envFrom`, `env` with expansion and references.

use super::{
    expand::expand,
    fields::{self, FieldError, NodeFacts},
};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use std::collections::{BTreeMap, HashMap};

/// A Service as far as environment variables tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLink {
    /// Name of the Service.
    pub name: String,
    /// Its cluster IP.
    pub cluster_ip: String,
    /// Its ports: name, number, protocol.
    pub ports: Vec<(Option<String>, i32, String)>,
}

/// Everything that references may resolve to. A name that maps to `None` was looked up and does not exist.
#[derive(Debug, Default)]
pub struct EnvContext {
    /// ConfigMaps by name, of the pod's namespace.
    pub config_maps: HashMap<String, Option<ConfigMap>>,
    /// Secrets by name, of the pod's namespace.
    pub secrets: HashMap<String, Option<Secret>>,
    /// Services to describe.
    pub services: Vec<ServiceLink>,
    /// Addresses and allocatable resources.
    pub facts: NodeFacts,
    /// Files of variables.
    pub files: EnvFiles,
}

/// Contents of files by volume and path.
pub type EnvFiles = HashMap<(String, String), std::io::Result<String>>;

/// How large a file of variables may be.
pub const MAX_FILE: u64 = 1 << 20;

/// Why the environment cannot be made; published as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// A ConfigMap does not exist.
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    /// A Secret does not exist.
    #[error("secret {0:?} not found")]
    NoSecret(String),
    /// A key does not exist.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A field reference has no value.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A file of variables is missing or broken.
    #[error("{0}")]
    File(String),
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    for names in [&mut config_maps, &mut secrets] {
        names.sort();
        names.dedup();
    }
    (config_maps, secrets)
}

/// Volume and path of the files that a container's environment refers to.
pub fn file_references(container: &Container) -> Vec<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|v| v.value_from.as_ref());
    let files = sources.filter_map(|s| s.file_key_ref.as_ref());
    let mut out: Vec<_> = files.map(|f| (f.volume_name.clone(), f.path.clone())).collect();
    out.sort();
    out.dedup();
    out
}

/// The variables of `container`, later definitions overriding earlier ones.
pub fn container_env(
    pod: &Pod,
    container: &Container,
    context: &EnvContext,
) -> Result<BTreeMap<String, String>, EnvError> {
    let service_env: HashMap<String, String> = context.services.iter().flat_map(service_variables).collect();
    let mut env = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match context.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.insert(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match context.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                expand(value, |name| env.get(name).or_else(|| service_env.get(name)).cloned())
            }
            (_, Some(source)) => match referenced(pod, container, context, source)? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        env.insert(variable.name.clone(), value);
    }
    for (name, value) in service_env {
        env.entry(name).or_insert(value);
    }
    Ok(env)
}

/// The value of a `valueFrom`; `None` when an optional object or key is absent.
fn referenced(
    pod: &Pod,
    container: &Container,
    context: &EnvContext,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(selector) = &source.field_ref {
        return Ok(Some(fields::field_value(pod, &context.facts, selector)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        return Ok(Some(fields::resource_value(pod, &context.facts, selector, Some(&container.name))?));
    }
    if let Some(selector) = &source.file_key_ref {
        let optional = selector.optional == Some(true);
        let text = match context.files.get(&(selector.volume_name.clone(), selector.path.clone())) {
            Some(Ok(text)) => text,
            Some(Err(error)) if optional && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Some(Err(error)) => {
                let text = format!("failed to open environment variable file {:?}: {error}", selector.path);
                return Err(EnvError::File(text));
            }
            None if optional => return Ok(None),
            None => return Err(EnvError::File(format!("cannot find the volume {:?}", selector.volume_name))),
        };
        let value = super::env_file::value(text, &selector.key).map_err(EnvError::File)?;
        return match value.filter(|value| !value.is_empty()) {
            None if !optional => Err(EnvError::File(format!(
                "environment variable key {:?} not found in file {:?}",
                selector.key, selector.path
            ))),
            value => Ok(value),
        };
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = context.config_maps.get(&selector.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(selector.name.clone())) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&selector.key)).cloned();
        return match value {
            None if !optional => Err(EnvError::NoKey {
                key: selector.key.clone(),
                kind: "ConfigMap",
                namespace,
                name: selector.name.clone(),
            }),
            value => Ok(value),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = context.secrets.get(&selector.name).and_then(Option::as_ref) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(selector.name.clone())) };
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&selector.key));
        return match value {
            None if !optional => Err(EnvError::NoKey {
                key: selector.key.clone(),
                kind: "Secret",
                namespace,
                name: selector.name.clone(),
            }),
            value => Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())),
        };
    }
    Ok(None)
}

/// `NAME_SERVICE_HOST` and its kin, and the older link variables.
fn service_variables(service: &ServiceLink) -> Vec<(String, String)> {
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(&service.name);
    let ip = &service.cluster_ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let mut out = vec![(format!("{name}_SERVICE_HOST"), ip.clone())];
    for (index, (port_name, port, protocol)) in service.ports.iter().enumerate() {
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{port}");
        if index == 0 {
            out.push((format!("{name}_SERVICE_PORT"), port.to_string()));
            out.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(port_name) = port_name.as_deref().filter(|n| !n.is_empty()) {
            out.push((format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.to_string()));
        }
        let prefix = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
        out.push((prefix.clone(), url));
        out.push((format!("{prefix}_PROTO"), lower));
        out.push((format!("{prefix}_PORT"), port.to_string()));
        out.push((format!("{prefix}_ADDR"), ip.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}}))
            .unwrap()
    }

    fn context() -> EnvContext {
        EnvContext {
            config_maps: HashMap::from([
                ("cm".into(), serde_json::from_value(json!({"data": {"K": "v", "L": "w"}})).unwrap()),
                ("gone".into(), None),
            ]),
            secrets: HashMap::from([(
                "s".into(),
                serde_json::from_value(json!({"data": {"PASS": "c2VjcmV0"}})).unwrap(),
            )]),
            services: vec![ServiceLink {
                name: "my-db".into(),
                cluster_ip: "10.43.0.9".into(),
                ports: vec![(Some("sql".into()), 5432, "TCP".into())],
            }],
            facts: NodeFacts::default(),
            files: HashMap::from([
                (("v".into(), "e".into()), Ok("A='1'\nB='two\nlines'\n".into())),
                (("v".into(), "gone".into()), Err(std::io::ErrorKind::NotFound.into())),
                (("v".into(), "bad".into()), Ok("A=1".into())),
            ]),
        }
    }

    #[test]
    fn variables_come_from_files() {
        let of = |path: &str, key: &str, optional: bool| {
            let reference = json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
            env(json!({"name": "c", "env": [{"name": "X", "valueFrom": {"fileKeyRef": reference}}]}))
                .map(|env| env.get("X").cloned())
                .map_err(|error| error.to_string())
        };
        assert_eq!(of("e", "B", false), Ok(Some("two\nlines".into())));
        assert_eq!(of("e", "C", true), Ok(None));
        assert_eq!(of("gone", "A", true), Ok(None));
        assert_eq!(of("e", "C", false), Err("environment variable key \"C\" not found in file \"e\"".into()));
        let text = of("gone", "A", false).unwrap_err();
        assert!(text.starts_with("failed to open environment variable file \"gone\": "), "{text}");
        let text = "invalid environment variable format at line 1: value must be enclosed in single quotes";
        assert_eq!(of("bad", "A", true), Err(text.into()));
    }

    fn env(container: serde_json::Value) -> Result<BTreeMap<String, String>, EnvError> {
        container_env(&pod(), &serde_json::from_value(container).unwrap(), &context())
    }

    #[test]
    fn sources_override_in_order_and_values_expand() {
        let env = env(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_K)-$(NOPE)-$$(A)"},
                {"name": "P_L", "value": "mine"}, {"name": "E", "value": ""},
                {"name": "DB", "value": "$(MY_DB_SERVICE_HOST)"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "PASS"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "x", "optional": true}}}]}))
        .unwrap();
        assert_eq!(env["B"], "1-v-$(NOPE)-$(A)");
        assert_eq!(env["P_L"], "mine");
        assert_eq!(env["E"], "");
        assert_eq!(env["DB"], "10.43.0.9");
        assert_eq!(env["N"], "p");
        assert_eq!(env["S"], "secret");
        assert_eq!(env["PASS"], "secret");
        assert!(!env.contains_key("O"));
    }

    #[test]
    fn services_are_described_as_links() {
        let env = env(json!({"name": "c"})).unwrap();
        assert_eq!(env["MY_DB_SERVICE_PORT"], "5432");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(env["MY_DB_PORT"], "tcp://10.43.0.9:5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP_ADDR"], "10.43.0.9");
    }

    #[test]
    fn missing_objects_and_keys_are_told_as_users_know_them() {
        let fail = |container| env(container).unwrap_err().to_string();
        assert_eq!(
            fail(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]})),
            "configmap \"gone\" not found"
        );
        assert_eq!(
            fail(
                json!({"name": "c", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})
            ),
            "couldn't find key k in Secret ns/s"
        );
        assert_eq!(
            fail(
                json!({"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]})
            ),
            "couldn't find key k in ConfigMap ns/cm"
        );
    }

    #[test]
    fn names_what_has_to_be_looked_up() {
        let container: Container = serde_json::from_value(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "b"}}],
            "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}},
                    {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}))
        .unwrap();
        assert_eq!(references(&container), (vec!["a".into(), "b".into()], vec!["s".into()]));
    }
}
