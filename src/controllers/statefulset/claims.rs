//! A StatefulSet's claims: made for each pod, and owned as the retention policy says.

use super::{Fault, StatefulSets, plan};
use crate::ownership::controller_reference;
use naru_api::registry;
use naru_client::projections::{ClaimRetention, ClaimView, Meta, OwnerRef, StatefulSetView};
use naru_client::{Error, ObjectReference, is_already_exists, is_not_found};
use serde_json::{Value, json};
use std::sync::Arc;

/// Volumes of the pod of a number, each with its claim's name.
pub(super) fn names(set: &StatefulSetView, ordinal: i32) -> impl Iterator<Item = (&str, String)> {
    set.spec.volume_claim_templates.iter().map(move |template| {
        let volume = template["metadata"]["name"].as_str().unwrap_or_default();
        (volume, format!("{volume}-{}-{ordinal}", set.metadata.name))
    })
}

/// Whether a claim's name is one that the set gives.
pub(super) fn may_be_of(set: &StatefulSetView, claim: &str) -> bool {
    set.spec.volume_claim_templates.iter().any(|template| {
        let volume = template["metadata"]["name"].as_str().unwrap_or_default();
        let pod = claim.strip_prefix(volume).and_then(|rest| rest.strip_prefix('-'));
        pod.is_some_and(|pod| plan::ordinal(set, pod).is_some())
    })
}

impl StatefulSets {
    fn claim_of(&self, set: &StatefulSetView, name: &str) -> Option<Arc<ClaimView>> {
        self.claims.get(&set.metadata.namespace, name)
    }

    /// Whether a claim of the coming pod belongs to an earlier pod of that name and goes with it.
    pub(super) fn has_stale_claim(&self, set: &StatefulSetView, ordinal: i32) -> bool {
        let pod = format!("{}-{ordinal}", set.metadata.name);
        let is_stale = |claim: Arc<ClaimView>| {
            claim.metadata.owner_references.iter().any(|owner| owner.kind == "Pod" && owner.name == pod)
        };
        names(set, ordinal).any(|(_, name)| self.claim_of(set, &name).is_some_and(is_stale))
    }

    /// Makes the claims of a pod that are missing.
    pub(super) async fn make_claims(&self, set: &StatefulSetView, ordinal: i32) -> Result<(), Fault> {
        for (template, (_, name)) in set.spec.volume_claim_templates.iter().zip(names(set, ordinal)) {
            match self.claim_of(set, &name) {
                Some(claim) if claim.metadata.is_deleting() => return Err(Fault::ClaimIsDeleting(name)),
                Some(_) => {}
                None => self.make_claim(set, template, &name, ordinal).await?,
            }
        }
        Ok(())
    }

    async fn make_claim(&self, set: &StatefulSetView, template: &Value, name: &str, ordinal: i32) -> Result<(), Fault> {
        let meta = &set.metadata;
        let claim = claim(set, template, name);
        let created =
            self.context.client.create::<Value>(&registry::PERSISTENT_VOLUME_CLAIMS, meta.namespace(), &claim);
        let about = ObjectReference::of(&registry::STATEFUL_SETS, meta);
        let pod = format!("Pod {}-{ordinal} in StatefulSet {}", meta.name, meta.name);
        match created.await {
            Ok(_) => {
                self.recorder.normal(&about, "SuccessfulCreate", format!("create Claim {name} {pod} success"));
                Ok(())
            }
            Err(error) if is_already_exists(&error) => Ok(()),
            Err(source) => {
                let message = format!("create Claim {name} for {pod} failed error: {source}");
                self.recorder.warning(&about, "FailedCreate", message);
                Err(Fault::Claim { claim: name.to_owned(), source })
            }
        }
    }

    /// Makes claims of a pod go with the set or with the pod, or stay, as the policy says. `wanted`: the
    /// pod is one that the set wants.
    pub(super) async fn own_claims(&self, set: &StatefulSetView, pod: &Meta, wanted: bool) -> Result<(), Fault> {
        let Some(ordinal) = plan::ordinal(set, &pod.name) else { return Ok(()) };
        for (_, name) in names(set, ordinal) {
            let Some(claim) = self.claim_of(set, &name) else { continue };
            if let Some(owners) = owners(set, pod, wanted, &claim.metadata.owner_references) {
                self.write_owners(&claim.metadata, &owners).await?;
            }
        }
        Ok(())
    }

    async fn write_owners(&self, claim: &Meta, owners: &[OwnerRef]) -> Result<(), Error> {
        let (client, resource) = (&self.context.client, &registry::PERSISTENT_VOLUME_CLAIMS);
        let mut full: Value = match client.get(resource, claim.namespace(), &claim.name).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other?,
        };
        full["metadata"]["ownerReferences"] = json!(owners);
        // What was decided by an old state must not be written over a newer one.
        full["metadata"]["resourceVersion"] = claim.resource_version.as_str().into();
        client.update::<Value>(resource, claim.namespace(), &claim.name, &full).await.map(drop)
    }
}

/// The claim as it is made.
fn claim(set: &StatefulSetView, template: &Value, name: &str) -> Value {
    let mut claim = template.clone();
    claim["apiVersion"] = "v1".into();
    claim["kind"] = "PersistentVolumeClaim".into();
    if let Some(fields) = claim.as_object_mut() {
        fields.remove("status");
    }
    let meta = &mut claim["metadata"];
    meta["name"] = name.into();
    meta["namespace"] = set.metadata.namespace.as_str().into();
    for (label, value) in &set.spec.selector.match_labels {
        meta["labels"][label] = value.as_str().into();
    }
    if deletes(&set.spec.persistent_volume_claim_retention_policy).0 {
        meta["ownerReferences"] = json!([controller_reference(&registry::STATEFUL_SETS, &set.metadata)]);
    }
    claim
}

/// Whether claims go with the set, and whether they go when scaled away.
fn deletes(policy: &ClaimRetention) -> (bool, bool) {
    (policy.when_deleted == "Delete", policy.when_scaled == "Delete")
}

/// The owners that a claim shall have; nothing if it has them.
fn owners(set: &StatefulSetView, pod: &Meta, wanted: bool, present: &[OwnerRef]) -> Option<Vec<OwnerRef>> {
    let (with_set, with_pod) = deletes(&set.spec.persistent_volume_claim_retention_policy);
    let is_set = |owner: &OwnerRef| owner.kind == "StatefulSet" && owner.name == set.metadata.name;
    let is_pod = |owner: &OwnerRef| owner.kind == "Pod" && owner.name == pod.name;
    let (others, ours): (Vec<_>, Vec<_>) = present.iter().cloned().partition(|owner| !is_set(owner) && !is_pod(owner));
    let mut owners = others;
    // A claim that something else manages is left to it.
    if !owners.iter().any(|owner| owner.controller) {
        if with_pod && !wanted {
            owners.push(controller_reference(&registry::PODS, pod));
        } else if with_set {
            owners.push(controller_reference(&registry::STATEFUL_SETS, &set.metadata));
        }
    }
    let same = |owner: &OwnerRef| owners.iter().any(|wanted| wanted.uid == owner.uid);
    let kept = ours.iter().filter(|owner| same(owner)).count();
    let count = present.len() - ours.len() + kept;
    (kept != ours.len() || count != owners.len()).then_some(owners)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSetView {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "set"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"a": "b"}}, "status": {}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn owners_follow_the_policy() {
        let pod = Meta { name: "web-1".to_owned(), uid: "pod".to_owned(), ..Meta::default() };
        let check = |deleted: &str, scaled: &str, wanted: bool, present: &[&str], expected: Option<&[&str]>| {
            let set = set(deleted, scaled);
            let reference = |uid: &&str| match *uid {
                "set" => controller_reference(&registry::STATEFUL_SETS, &set.metadata),
                "pod" => controller_reference(&registry::PODS, &pod),
                other => OwnerRef { uid: other.to_owned(), controller: other == "boss", ..OwnerRef::default() },
            };
            let present: Vec<_> = present.iter().map(reference).collect();
            let owners = owners(&set, &pod, wanted, &present);
            let uids = owners.map(|owners| owners.into_iter().map(|owner| owner.uid).collect::<Vec<_>>());
            let expected = expected.map(|uids| uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
            assert_eq!(uids, expected, "{deleted} {scaled} {wanted}");
        };
        check("Retain", "Retain", true, &[], None);
        check("Retain", "Retain", false, &["set"], Some(&[]));
        check("Delete", "Retain", true, &[], Some(&["set"]));
        check("Delete", "Retain", false, &["set"], None);
        check("Retain", "Delete", true, &[], None);
        check("Retain", "Delete", false, &[], Some(&["pod"]));
        check("Retain", "Delete", true, &["pod"], Some(&[]));
        check("Delete", "Delete", true, &["pod"], Some(&["set"]));
        check("Delete", "Delete", false, &["set"], Some(&["pod"]));
        check("Delete", "Delete", true, &["other", "set"], None);
        check("Delete", "Delete", true, &["boss", "set"], Some(&["boss"]));
    }

    #[test]
    fn a_claim_is_named_and_labelled_after_its_pod() {
        let set = set("Delete", "Retain");
        let (_, name) = names(&set, 3).next().unwrap();
        let claim = claim(&set, &set.spec.volume_claim_templates[0], &name);
        assert_eq!(claim["metadata"]["name"], "data-web-3");
        assert_eq!(claim["metadata"]["labels"], json!({"a": "b", "app": "web"}));
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "set");
        assert!(claim.get("status").is_none());
        assert!(may_be_of(&set, "data-web-3") && !may_be_of(&set, "data-web-x") && !may_be_of(&set, "log-web-3"));
    }
}
