//! The informers that the parts of one process share: each is started by its first user.

use crate::client::{Client, ListParams};
use crate::informer::{IndexId, Informer};
use crate::memory::Memory;
use crate::projections::{
    DeploymentView, EndpointSliceView, JobView, Meta, NamespaceView, NodeView, PodView, ReplicaSetView, RevisionView,
    ServiceView,
};
use naru_api::registry;
use naru_base::Shutdown;
use serde::de::DeserializeOwned;
use std::sync::{Arc, OnceLock};

/// Hands out informers. Clones share them.
#[derive(Debug, Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    shutdown: Shutdown,
    memory: Option<Arc<dyn Memory>>,
    pods: OnceLock<Informer<PodView>>,
    nodes: OnceLock<Informer<NodeView>>,
    services: OnceLock<Informer<ServiceView>>,
    endpoint_slices: OnceLock<Informer<EndpointSliceView>>,
    namespaces: OnceLock<Informer<NamespaceView>>,
    deployments: OnceLock<Informer<DeploymentView>>,
    replica_sets: OnceLock<Informer<ReplicaSetView>>,
    revisions: OnceLock<Informer<RevisionView>>,
    jobs: OnceLock<Informer<JobView>>,
    pods_by_controller: OnceLock<IndexId>,
    jobs_by_controller: OnceLock<IndexId>,
    pods_by_node: OnceLock<IndexId>,
    replica_sets_by_controller: OnceLock<IndexId>,
    revisions_by_controller: OnceLock<IndexId>,
}

fn controller_value(meta: &Meta) -> String {
    match meta.controller() {
        Some(owner) => owner.uid.clone(),
        None => format!("/{}", meta.namespace),
    }
}

impl Informers {
    /// Informers that read as `client`'s user until shutdown.
    pub fn new(client: Client, shutdown: &Shutdown) -> Self {
        Self::with_memory(client, None, shutdown)
    }

    /// The same, which show what `memory` has while the server is away.
    pub fn with_memory(client: Client, memory: Option<Arc<dyn Memory>>, shutdown: &Shutdown) -> Self {
        let inner = Inner {
            client,
            shutdown: shutdown.clone(),
            memory,
            pods: OnceLock::new(),
            nodes: OnceLock::new(),
            services: OnceLock::new(),
            endpoint_slices: OnceLock::new(),
            namespaces: OnceLock::new(),
            deployments: OnceLock::new(),
            replica_sets: OnceLock::new(),
            revisions: OnceLock::new(),
            jobs: OnceLock::new(),
            pods_by_controller: OnceLock::new(),
            jobs_by_controller: OnceLock::new(),
            pods_by_node: OnceLock::new(),
            replica_sets_by_controller: OnceLock::new(),
            revisions_by_controller: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A private informer with the same client and shutdown.
    pub fn start<P: DeserializeOwned + Send + Sync + 'static>(
        &self,
        resource: &'static registry::Resource,
        params: ListParams,
    ) -> Informer<P> {
        let Inner { client, memory, shutdown, .. } = &*self.inner;
        Informer::start_with(client, resource, params, memory.clone(), shutdown)
    }

    fn shared<P: DeserializeOwned + Send + Sync + 'static>(
        &self,
        slot: &OnceLock<Informer<P>>,
        resource: &'static registry::Resource,
    ) -> Informer<P> {
        slot.get_or_init(|| self.start(resource, ListParams::all())).clone()
    }

    /// All pods.
    pub fn pods(&self) -> Informer<PodView> {
        self.shared(&self.inner.pods, &registry::PODS)
    }

    /// All pods, and their index by the uid of the controller that owns them. Pods without one are
    /// found under `/NAMESPACE`.
    pub fn pods_by_controller(&self) -> (Informer<PodView>, IndexId) {
        let pods = self.pods();
        let index =
            *self.inner.pods_by_controller.get_or_init(|| pods.index(|pod| vec![controller_value(&pod.metadata)]));
        (pods, index)
    }

    /// All pods, and their index by node.
    pub fn pods_by_node(&self) -> (Informer<PodView>, IndexId) {
        let pods = self.pods();
        let index = *self.inner.pods_by_node.get_or_init(|| pods.index(|pod| vec![pod.spec.node_name.clone()]));
        (pods, index)
    }

    /// All ReplicaSets, and their index by controller as for pods.
    pub fn replica_sets_by_controller(&self) -> (Informer<ReplicaSetView>, IndexId) {
        let sets = self.replica_sets();
        let slot = &self.inner.replica_sets_by_controller;
        let index = *slot.get_or_init(|| sets.index(|set| vec![controller_value(&set.metadata)]));
        (sets, index)
    }

    /// All ControllerRevisions, and their index by controller as for pods.
    pub fn revisions_by_controller(&self) -> (Informer<RevisionView>, IndexId) {
        let revisions = self.shared(&self.inner.revisions, &registry::CONTROLLER_REVISIONS);
        let slot = &self.inner.revisions_by_controller;
        let index = *slot.get_or_init(|| revisions.index(|revision| vec![controller_value(&revision.metadata)]));
        (revisions, index)
    }

    /// All Jobs, and their index by controller as for pods.
    pub fn jobs_by_controller(&self) -> (Informer<JobView>, IndexId) {
        let jobs = self.shared(&self.inner.jobs, &registry::JOBS);
        let slot = &self.inner.jobs_by_controller;
        let index = *slot.get_or_init(|| jobs.index(|job| vec![controller_value(&job.metadata)]));
        (jobs, index)
    }

    /// All nodes.
    pub fn nodes(&self) -> Informer<NodeView> {
        self.shared(&self.inner.nodes, &registry::NODES)
    }

    /// All Services.
    pub fn services(&self) -> Informer<ServiceView> {
        self.shared(&self.inner.services, &registry::SERVICES)
    }

    /// All EndpointSlices.
    pub fn endpoint_slices(&self) -> Informer<EndpointSliceView> {
        self.shared(&self.inner.endpoint_slices, &registry::ENDPOINT_SLICES)
    }

    /// All Namespaces.
    pub fn namespaces(&self) -> Informer<NamespaceView> {
        self.shared(&self.inner.namespaces, &registry::NAMESPACES)
    }

    /// All Deployments.
    pub fn deployments(&self) -> Informer<DeploymentView> {
        self.shared(&self.inner.deployments, &registry::DEPLOYMENTS)
    }

    /// All ReplicaSets.
    pub fn replica_sets(&self) -> Informer<ReplicaSetView> {
        self.shared(&self.inner.replica_sets, &registry::REPLICA_SETS)
    }
}
