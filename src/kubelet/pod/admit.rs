//! Pods that this node does not take: what they ask for is forbidden here, or not there.

use super::start::identity;
use super::worker::Worker;
use super::{security, sysctls};

impl Worker {
    /// Ends a pod that asks for what this machine does not have, or what another pod has.
    pub(super) fn rejected(&mut self) -> bool {
        let has_ports = self.shared.host_ports.claim(&identity(&self.pod).2, &self.pod);
        if self.sandbox.is_some() {
            return false;
        }
        let sysctl = sysctls::forbidden(&self.pod, &self.shared.config.allowed_unsafe_sysctls);
        let apparmor = || {
            let enabled = security::loaded_profiles().is_some();
            security::apparmor_obstacle(&self.pod, enabled).map(str::to_owned)
        };
        let ports = (!has_ports).then(|| ("NodePorts", "Predicate NodePorts failed".to_owned()));
        let sysctl = sysctl.map(|why| ("SysctlForbidden", why));
        let obstacle = ports.or(sysctl).or_else(|| Some(("AppArmor", apparmor()?)));
        let Some((reason, message)) = obstacle else { return false };
        self.verdict = Some((reason.into(), format!("Pod was rejected: {message}")));
        self.shared.pod_event(&self.pod, None, true, reason, message);
        true
    }
}
