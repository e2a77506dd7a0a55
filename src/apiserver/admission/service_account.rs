//! ServiceAccount: pods run as an account of their namespace and find its token in a volume.

use super::{Attributes, Plugin, is_pod_create};
use crate::pipeline::State;
use crate::response::Failure;
use naru_api::meta;
use naru_api::registry;
use naru_api::status::Status;
use serde_json::{Value, json};

pub(super) static PLUGIN: Plugin = Plugin::new("ServiceAccount").admit(admit);

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
