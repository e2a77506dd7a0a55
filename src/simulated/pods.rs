//! One pod after the other: what its node writes about it.

use crate::Simulation;
use crate::life::Look;
use crate::nodes::Node;
use crate::rules::{Rules, is_silent};
use crate::status;
use naru_api::registry::PODS;
use naru_client::projections::{NodeView, PodView};
use naru_client::{DeleteOptions, Error, Next, ObjectKey, PatchKind, is_conflict, is_not_found};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::Instant;

/// What programs leave behind that are stopped by SIGTERM.
const STOPPED: i32 = 143;

impl Simulation {
    pub(crate) async fn reconcile_pod(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Next::Done) };
        let name = pod.spec.node_name.as_str();
        let (Some(node), Some(cached)) = (self.nodes.get(name), self.cached_nodes.get("", name)) else {
            return Ok(Next::Done);
        };
        if is_silent(&cached) {
            return Ok(Next::Done);
        }
        let rest = if pod.metadata.is_deleting() {
            self.stop(node, &pod).await?
        } else if pod.is_finished() {
            None
        } else {
            self.live(node, &cached, &pod).await?
        };
        if self.pods.get_key(key).is_none_or(|now| now.metadata.uid != pod.metadata.uid) {
            // It went meanwhile, perhaps before something was remembered about it.
            self.lives.end(&pod);
        }
        Ok(rest.map_or(Next::Done, Next::After))
    }

    /// Writes what the pod does now, if that is not written yet; says when that changes by itself.
    async fn live(&self, node: &Node, cached: &NodeView, pod: &PodView) -> Result<Option<Duration>, Error> {
        let Some(ip) = self.address(node, cached, pod) else { return Ok(None) };
        let rules = Rules::of(pod);
        let (look, rest, life) = self.lives.with(pod, |life| {
            let (look, rest) = life.look(&rules, Instant::now());
            (look, rest, life.clone())
        });
        if life.shown != Some(look) || !status::agrees(pod, look, life.restarts) {
            let status = status::of(pod, look, &life, ip, node.address());
            if write(node, pod, &status).await? {
                self.lives.with(pod, |life| life.shown = Some(look));
            }
        }
        Ok(rest)
    }

    /// The pod's address; `None` while its node has no range, which it will get.
    fn address(&self, node: &Node, cached: &NodeView, pod: &PodView) -> Option<Ipv4Addr> {
        if pod.spec.host_network { Some(node.address()) } else { self.lives.address(pod, cached) }
    }

    /// Ends a pod that is deleted, once its containers have stopped.
    async fn stop(&self, node: &Node, pod: &PodView) -> Result<Option<Duration>, Error> {
        let meta = &pod.metadata;
        let grace = meta.deletion_grace_period_seconds.unwrap_or_default();
        if grace == 0 && !meta.finalizers.is_empty() && pod.is_finished() {
            // What is left is the business of those who have put finalizers on it.
            return Ok(None);
        }
        let rules = Rules::of(pod);
        let (rest, life) = self.lives.with(pod, |life| (life.stopping(&rules, grace, Instant::now()), life.clone()));
        if rest.is_some() {
            return Ok(rest);
        }
        if !meta.finalizers.is_empty() && !pod.is_finished() {
            // The pod will stay for a while: it must not look as if it still ran.
            let ip = life.ip.unwrap_or_else(|| node.address());
            let status = status::of(pod, Look::Ended { code: STOPPED }, &life, ip, node.address());
            write(node, pod, &status).await?;
        }
        if grace == 0 && !meta.finalizers.is_empty() {
            return Ok(None);
        }
        let options = DeleteOptions::default().uid(&meta.uid).grace(0);
        match node.client.delete(&PODS, meta.namespace(), &meta.name, &options).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
            _ => Ok(None),
        }
    }
}

/// Publishes a status; `false` if the pod is not there any more.
async fn write(node: &Node, pod: &PodView, status: &Value) -> Result<bool, Error> {
    let meta = &pod.metadata;
    let patch = json!({ "metadata": { "uid": meta.uid }, "status": status });
    let (namespace, kind) = (meta.namespace(), PatchKind::Strategic);
    match node.client.patch::<IgnoredAny>(&PODS, namespace, &meta.name, Some("status"), kind, &patch).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        answer => answer.map(|_| true),
    }
}
