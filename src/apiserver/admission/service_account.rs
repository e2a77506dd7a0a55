//! ServiceAccount: pods run as an account of their namespace and find its token in a volume; accounts may limit which
//! secrets their pods use.

use super::{Attributes, Operation, Plugin, is_pod_create};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::core::pod::references;
use naru_api::core::service_account::MOUNTABLE_SECRETS;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::Status;
use serde_json::{Value, json};

pub(super) static PLUGIN: Plugin = Plugin::new("ServiceAccount").admit(admit).validate(validate);

/// Where containers look for the token, the CA and the namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long tokens are asked for: an hour and a bit, so that hourly refreshes meet a valid one.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

fn admit(state: &State, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Failure> {
    if !is_pod_create(attributes) || !pod["spec"].is_object() {
        return Ok(());
    }
    let forbidden = |why: &str| Box::new(Status::forbidden("", "pods", attributes.name, why));
    if meta::annotation(pod, MIRROR).is_some() {
        if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
            return Err(forbidden("a mirror pod may not reference service accounts"));
        }
        if references::secrets(pod).next().is_some() {
            return Err(forbidden("a mirror pod may not reference secrets"));
        }
        if sources(pod).any(|source| source["serviceAccountToken"].is_object()) {
            return Err(forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
        }
        return Ok(());
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    pod["spec"]["serviceAccountName"] = name.clone().into();
    pod["spec"]["serviceAccount"] = name.clone().into();
    let namespace = attributes.namespace.unwrap_or_default();
    let account = state.cache.get(&registry::SERVICE_ACCOUNTS, Some(namespace), &name).ok_or_else(|| {
        forbidden(&format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"))
    })?;
    let account = crate::objects::tree(&account)?;
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(pod);
    }
    let no_secrets = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
    if no_secrets && account["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty()) {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    Ok(())
}

fn items<'a>(of: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    of[list].as_array().into_iter().flatten()
}

/// What the pod's projected volumes are made of.
fn sources(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["spec"], "volumes").flat_map(|volume| items(&volume["projected"], "sources"))
}

/// Pods of an account that says so use only the secrets that it names.
fn validate(state: &State, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    let ephemeral = attributes.operation == Operation::Update && attributes.subresource == "ephemeralcontainers";
    let about = is_pod_create(attributes) || (ephemeral && attributes.is_of(&registry::PODS));
    if !about || meta::annotation(pod, MIRROR).is_some() {
        return Ok(());
    }
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let Some(account) = state.cache.get(&registry::SERVICE_ACCOUNTS, attributes.namespace, name) else { return Ok(()) };
    let account = crate::objects::tree(&account)?;
    let says = meta::annotation(&account, MOUNTABLE_SECRETS);
    if !says.is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")) {
        return Ok(());
    }
    let wrong = if ephemeral {
        foreign_in_containers(pod, &account, "ephemeralContainers", "ephemeral container")
    } else {
        foreign_secret(pod, &account)
    };
    wrong.map_or(Ok(()), |why| Err(attributes.forbidden(&why)))
}

fn names<'a>(account: &'a Value, list: &str, name: &str) -> bool {
    items(account, list).any(|one: &'a Value| one["name"] == name)
}

/// The first secret that the pod uses and the account does not name.
fn foreign_secret(pod: &Value, account: &Value) -> Option<String> {
    let owner = meta::name(account);
    for volume in items(&pod["spec"], "volumes") {
        if let Some(secret) = volume["secret"]["secretName"].as_str().filter(|name| !names(account, "secrets", name)) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {owner} does not reference that secret"
            ));
        }
    }
    let in_lists = foreign_in_containers(pod, account, "initContainers", "init container")
        .or_else(|| foreign_in_containers(pod, account, "containers", "container"));
    in_lists.or_else(|| {
        let pulls = items(&pod["spec"], "imagePullSecrets").enumerate();
        let mut pulls = pulls.filter_map(|(index, one)| Some((index, one["name"].as_str()?)));
        let (index, name) = pulls.find(|(_, name)| !names(account, "imagePullSecrets", name))?;
        Some(format!(
            "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {owner} does not reference that imagePullSecret"
        ))
    })
}

fn foreign_in_containers(pod: &Value, account: &Value, list: &str, word: &str) -> Option<String> {
    for container in items(&pod["spec"], list) {
        let variables = items(container, "env").filter_map(|variable| {
            let secret = variable["valueFrom"]["secretKeyRef"]["name"].as_str()?;
            Some((format!("envVar {}", variable["name"].as_str().unwrap_or_default()), secret))
        });
        let whole = items(container, "envFrom")
            .filter_map(|from| Some(("envFrom".to_owned(), from["secretRef"]["name"].as_str()?)));
        if let Some((by, secret)) = variables.chain(whole).find(|(_, secret)| !names(account, "secrets", secret)) {
            let (name, owner) = (container["name"].as_str().unwrap_or_default(), meta::name(account));
            return Some(format!(
                "{word} {name} with {by} referencing secret.secretName=\"{secret}\" is not allowed because service account {owner} does not reference that secret"
            ));
        }
    }
    None
}

/// Adds the projected volume and mounts it into every container that has nothing there.
fn mount_token(pod: &mut Value) {
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with("kube-api-access-").then(|| name.to_owned())
    });
    let volume = existing.clone().unwrap_or_else(|| crate::objects::generated_name("kube-api-access-"));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            if !mounts.is_array() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
            used = true;
        }
    }
    if used && existing.is_none() {
        let volumes = &mut pod["spec"]["volumes"];
        if !volumes.is_array() {
            *volumes = json!([]);
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&volume));
        }
    }
    // An empty list is no list.
    for list in ["initContainers", "containers"] {
        if pod["spec"][list].is_null()
            && let Some(spec) = pod["spec"].as_object_mut()
        {
            spec.remove(list);
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}
