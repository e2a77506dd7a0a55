//! For whom a kubelet may ask for tokens of service accounts: for those that the pod's volumes name, and those that it
//! has been allowed by name. A part of NodeRestriction.

use super::{Attributes, Operation, Pending};
use crate::authz::{self, node_name};
use crate::objects;
use crate::pipeline::State;
use naru_api::meta;
use naru_api::registry::{self, Resource};
use serde_json::Value;

/// What a kubelet needs for audiences that no volume names; the audience is the resource.
const VERB: &str = "request-serviceaccounts-token-audience";

/// Refuses a token for an audience that is not the node's to ask for. The pod has been looked at before.
pub(super) fn admit<'a>(state: &'a State, attributes: &'a Attributes<'a>, request: &'a mut Value) -> Pending<'a> {
    Box::pin(async move {
        let is_token = attributes.resource.plural == "serviceaccounts" && attributes.subresource == "token";
        if !is_token || attributes.operation != Operation::Create || node_name(attributes.user).is_none() {
            return Ok(());
        }
        let audiences = request["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let audience = match audiences {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err(attributes.forbidden("node may only request 0 or 1 audiences")),
        };
        let namespace = attributes.namespace.unwrap_or_default();
        let name = request["spec"]["boundObjectRef"]["name"].as_str().unwrap_or_default();
        if stored(state, &registry::PODS, namespace, name).is_some_and(|pod| names(state, &pod, audience)) {
            return Ok(());
        }
        let asked = authz::Attributes {
            verb: VERB,
            is_resource: true,
            version: "v1",
            resource: audience,
            namespace,
            name: attributes.name,
            ..authz::Attributes::default()
        };
        if state.authz.authorize(&state.cache, attributes.user, &asked).await.is_allowed() {
            return Ok(());
        }
        let user = &attributes.user.name;
        Err(attributes.forbidden(&format!(
            "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
        )))
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a volume of the pod is for tokens of this audience, or of a driver that asks for them.
fn names(state: &State, pod: &Value, audience: &str) -> bool {
    let namespace = meta::namespace(pod);
    list(&pod["spec"]["volumes"]).any(|volume| {
        let wants = |source: &Value| {
            let token = &source["serviceAccountToken"];
            token.is_object() && token["audience"].as_str().unwrap_or_default() == audience
        };
        if list(&volume["projected"]["sources"]).any(wants) {
            return true;
        }
        let driver = if volume["ephemeral"]["volumeClaimTemplate"].is_object() {
            let volume = volume["name"].as_str().unwrap_or_default();
            driver_of_claim(state, namespace, &format!("{}-{volume}", meta::name(pod)))
        } else if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            driver_of_claim(state, namespace, claim)
        } else {
            volume["csi"]["driver"].as_str().map(str::to_owned)
        };
        driver.is_some_and(|driver| driver_wants(state, &driver, audience))
    })
}

fn driver_of_claim(state: &State, namespace: &str, claim: &str) -> Option<String> {
    let claim = stored(state, &registry::PERSISTENT_VOLUME_CLAIMS, namespace, claim)?;
    let volume = stored(state, &registry::PERSISTENT_VOLUMES, "", claim["spec"]["volumeName"].as_str()?)?;
    volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
}

fn driver_wants(state: &State, driver: &str, audience: &str) -> bool {
    let found = registry::find("storage.k8s.io", "v1", "csidrivers").and_then(|all| stored(state, all, "", driver));
    found.is_some_and(|driver| {
        list(&driver["spec"]["tokenRequests"]).any(|token| token["audience"].as_str().unwrap_or_default() == audience)
    })
}

fn stored(state: &State, resource: &Resource, namespace: &str, name: &str) -> Option<Value> {
    let found = state.cache.get(resource, (!namespace.is_empty()).then_some(namespace), name)?;
    objects::tree(&found).ok()
}
