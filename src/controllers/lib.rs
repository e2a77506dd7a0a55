//! Every controller, one file each, one line each in `ALL`.
//!
//! A controller is a reconciler `(key, cached state) → actions`: level-triggered, one run per key at a
//! time, started once its caches are synced. A converged cluster makes it write nothing.

mod bootstrap_token;
mod certificates;
mod claim_protection;
mod cluster_role_aggregation;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod expectations;
mod garbage_collector;
mod in_each_namespace;
mod job;
mod legacy_token_cleaner;
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_ttl;
mod objects;
mod ownership;
mod pod_gc;
mod pods;
mod replicaset;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod service_account_tokens;
mod service_balancer;
mod service_cidr;
mod statefulset;
#[cfg(test)]
mod suite;
mod taint_eviction;
mod ttl_after_finished;

pub use certificates::{Authority, Signer, SigningRequest};
pub use context::{ClientFor, Config, Context, LegacyToken, SignToken};
pub use metrics::Metrics;

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
    Controller { name: "bootstrap-signer", start: bootstrap_token::start_signer },
    Controller { name: "certificate-controller", start: certificates::start_approving },
    Controller { name: "certificate-controller", start: certificates::start_cleaning },
    Controller { name: "certificate-controller", start: certificates::start_signing },
    Controller { name: "clusterrole-aggregation-controller", start: cluster_role_aggregation::start },
    Controller { name: "cronjob-controller", start: cronjob::start },
    Controller { name: "daemon-set-controller", start: daemonset::start },
    Controller { name: "deployment-controller", start: deployment::start },
    Controller { name: "disruption-controller", start: disruption::start },
    Controller { name: "endpoint-controller", start: endpoints::start },
    Controller { name: "endpointslice-controller", start: endpointslice::start },
    Controller { name: "endpointslicemirroring-controller", start: endpointslice_mirroring::start },
    Controller { name: "generic-garbage-collector", start: garbage_collector::start },
    Controller { name: "job-controller", start: job::start },
    Controller { name: "legacy-service-account-token-cleaner", start: legacy_token_cleaner::start },
    Controller { name: "namespace-controller", start: namespace::start },
    Controller { name: "node-controller", start: node_ipam::start },
    Controller { name: "node-controller", start: node_lifecycle::start },
    // As upstream's, which has no role of its own.
    Controller { name: "node-controller", start: taint_eviction::start },
    Controller { name: "pod-garbage-collector", start: pod_gc::start },
    Controller { name: "pv-protection-controller", start: claim_protection::start_volumes },
    Controller { name: "pvc-protection-controller", start: claim_protection::start_claims },
    Controller { name: "replicaset-controller", start: replicaset::start },
    Controller { name: "replication-controller", start: replicaset::start_replication },
    Controller { name: "resourcequota-controller", start: resource_quota::start },
    Controller { name: "root-ca-cert-publisher", start: root_ca::start },
    Controller { name: "service-account-controller", start: service_account::start },
    Controller { name: "service-cidrs-controller", start: service_cidr::start },
    Controller { name: "service-controller", start: service_balancer::start },
    Controller { name: "statefulset-controller", start: statefulset::start },
    Controller { name: "token-cleaner", start: bootstrap_token::start_cleaner },
    Controller { name: "tokens-controller", start: service_account_tokens::start },
    Controller { name: "ttl-after-finished-controller", start: ttl_after_finished::start },
    Controller { name: "ttl-controller", start: node_ttl::start },
];

/// The user that a controller acts as, and its groups. The one that makes tokens comes before all service accounts, and
/// has upstream's controller manager's own name.
pub fn user_of(name: &str) -> (String, &'static [&'static str]) {
    if name == "tokens-controller" {
        return ("system:kube-controller-manager".to_owned(), &[]);
    }
    let groups = &["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    (format!("system:serviceaccount:kube-system:{name}"), groups)
}

/// Starts all controllers; they run until shutdown.
pub fn start_all(config: Config, shutdown: &Shutdown) {
    for controller in ALL {
        (controller.start)(&Context::new(&config, controller.name, shutdown));
    }
}
