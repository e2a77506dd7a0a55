//! The objects of its namespace that a pod names.

use serde_json::Value;

fn entries<'a>(object: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    object[list].as_array().into_iter().flatten()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| entries(&pod["spec"], list))
}

fn names<'a>(references: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = &'a str> {
    references.filter_map(Value::as_str).filter(|name| !name.is_empty())
}

/// Names of the Secrets that a pod refers to, some of them twice.
pub fn secrets(pod: &Value) -> impl Iterator<Item = &str> {
    let pull = entries(&pod["spec"], "imagePullSecrets").map(|one| &one["name"]);
    let env = containers(pod).flat_map(|container| {
        let keys = entries(container, "env").map(|env| &env["valueFrom"]["secretKeyRef"]["name"]);
        keys.chain(entries(container, "envFrom").map(|env| &env["secretRef"]["name"]))
    });
    let volumes = entries(&pod["spec"], "volumes").flat_map(|volume| {
        let plain = [
            &volume["secret"]["secretName"],
            &volume["azureFile"]["secretName"],
            &volume["cephfs"]["secretRef"]["name"],
            &volume["flexVolume"]["secretRef"]["name"],
            &volume["rbd"]["secretRef"]["name"],
            &volume["scaleIO"]["secretRef"]["name"],
            &volume["iscsi"]["secretRef"]["name"],
            &volume["storageos"]["secretRef"]["name"],
            &volume["csi"]["nodePublishSecretRef"]["name"],
        ];
        plain.into_iter().chain(entries(&volume["projected"], "sources").map(|source| &source["secret"]["name"]))
    });
    names(pull.chain(env).chain(volumes))
}

/// Names of the ConfigMaps that a pod refers to, some of them twice.
pub fn config_maps(pod: &Value) -> impl Iterator<Item = &str> {
    let env = containers(pod).flat_map(|container| {
        let keys = entries(container, "env").map(|env| &env["valueFrom"]["configMapKeyRef"]["name"]);
        keys.chain(entries(container, "envFrom").map(|env| &env["configMapRef"]["name"]))
    });
    let volumes = entries(&pod["spec"], "volumes").flat_map(|volume| {
        let sources = entries(&volume["projected"], "sources").map(|source| &source["configMap"]["name"]);
        std::iter::once(&volume["configMap"]["name"]).chain(sources)
    });
    names(env.chain(volumes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_is_looked_at() {
        let pod = json!({ "spec": {
            "imagePullSecrets": [{ "name": "pull" }],
            "initContainers": [{ "env": [
                { "name": "a", "valueFrom": { "secretKeyRef": { "name": "env", "key": "k" } } },
                { "name": "b", "valueFrom": { "configMapKeyRef": { "name": "c-env", "key": "k" } } },
            ] }],
            "containers": [{ "envFrom": [{ "secretRef": { "name": "from" } }, { "configMapRef": { "name": "c-from" } }] }],
            "volumes": [
                { "name": "v", "secret": { "secretName": "volume" } },
                { "name": "w", "configMap": { "name": "c-volume" } },
                { "name": "x", "projected": { "sources": [
                    { "secret": { "name": "projected" } }, { "configMap": { "name": "c-projected" } } ] } },
                { "name": "y", "csi": { "driver": "d", "nodePublishSecretRef": { "name": "csi" } } },
            ],
        } });
        assert_eq!(secrets(&pod).collect::<Vec<_>>(), ["pull", "env", "from", "volume", "projected", "csi"]);
        assert_eq!(config_maps(&pod).collect::<Vec<_>>(), ["c-env", "c-from", "c-volume", "c-projected"]);
    }
}
