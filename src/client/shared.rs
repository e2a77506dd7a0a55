//! The informers that the parts of one process share: each is started by its first user.

use crate::client::{Client, ListParams};
use crate::informer::Informer;
use crate::projections::{
    DeploymentView, EndpointSliceView, NamespaceView, NodeView, PodView, ReplicaSetView, ServiceView,
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
    pods: OnceLock<Informer<PodView>>,
    nodes: OnceLock<Informer<NodeView>>,
    services: OnceLock<Informer<ServiceView>>,
    endpoint_slices: OnceLock<Informer<EndpointSliceView>>,
    namespaces: OnceLock<Informer<NamespaceView>>,
    deployments: OnceLock<Informer<DeploymentView>>,
    replica_sets: OnceLock<Informer<ReplicaSetView>>,
}

impl Informers {
    /// Informers that read as `client`'s user until shutdown.
    pub fn new(client: Client, shutdown: &Shutdown) -> Self {
        let inner = Inner {
            client,
            shutdown: shutdown.clone(),
            pods: OnceLock::new(),
            nodes: OnceLock::new(),
            services: OnceLock::new(),
            endpoint_slices: OnceLock::new(),
            namespaces: OnceLock::new(),
            deployments: OnceLock::new(),
            replica_sets: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A private informer with the same client and shutdown.
    pub fn start<P: DeserializeOwned + Send + Sync + 'static>(
        &self,
        resource: &'static registry::Resource,
        params: ListParams,
    ) -> Informer<P> {
        Informer::start(&self.inner.client, resource, params, &self.inner.shutdown)
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
