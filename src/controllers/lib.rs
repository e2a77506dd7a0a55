//! Every controller, one file each, one line each in `ALL`.
//!
//! A controller is a reconciler `(key, cached state) → actions`: level-triggered, one run per key at a
//! time, started once its caches are synced. A converged cluster makes it write nothing.

mod claim_protection;
mod context;
mod daemonset;
mod deployment;
mod endpoints;
mod endpointslice;
mod expectations;
mod garbage_collector;
mod in_each_namespace;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod objects;
mod ownership;
mod pod_gc;
mod pods;
mod replicaset;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod statefulset;
#[cfg(test)]
mod suite;
mod taint_eviction;

pub use context::{ClientFor, Config, Context};

use naru_base::Shutdown;

/// One controller.
#[derive(Debug, Clone, Copy)]
pub struct Controller {
    /// Name; its writes come from the user `system:serviceaccount:kube-system:NAME`.
    pub name: &'static str,
    /// Starts it.
    pub start: fn(&Context),
}

/// All controllers.
pub static ALL: &[Controller] = &[
    Controller { name: "daemon-set-controller", start: daemonset::start },
    Controller { name: "deployment-controller", start: deployment::start },
    Controller { name: "endpoint-controller", start: endpoints::start },
    Controller { name: "endpointslice-controller", start: endpointslice::start },
    Controller { name: "generic-garbage-collector", start: garbage_collector::start },
    Controller { name: "namespace-controller", start: namespace::start },
    Controller { name: "node-controller", start: node_ipam::start },
    Controller { name: "node-controller", start: node_lifecycle::start },
    Controller { name: "pod-garbage-collector", start: pod_gc::start },
    Controller { name: "pv-protection-controller", start: claim_protection::start_volumes },
    Controller { name: "pvc-protection-controller", start: claim_protection::start_claims },
    Controller { name: "replicaset-controller", start: replicaset::start },
    Controller { name: "replication-controller", start: replicaset::start_replication },
    Controller { name: "resourcequota-controller", start: resource_quota::start },
    Controller { name: "root-ca-cert-publisher", start: root_ca::start },
    Controller { name: "service-account-controller", start: service_account::start },
    Controller { name: "statefulset-controller", start: statefulset::start },
    Controller { name: "taint-eviction-controller", start: taint_eviction::start },
];

/// Starts all controllers; they run until shutdown.
pub fn start_all(config: Config, shutdown: &Shutdown) {
    for controller in ALL {
        (controller.start)(&Context::new(&config, controller.name, shutdown));
    }
}
