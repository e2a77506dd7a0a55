//! NodeResourcesFit: what a pod asks for must be free.

use super::{Plugin, Unfit};
use crate::cache::NodeInfo;
use crate::pod_info::PodInfo;

pub(super) const PLUGIN: Plugin =
    Plugin { name: "NodeResourcesFit", filter: Some(|context, info, _| fit(context.pod, info)), score: None };

fn fit(pod: &PodInfo, info: &NodeInfo) -> Result<(), Unfit> {
    let (want, has, used) = (&pod.request, &info.allocatable, &info.requested);
    let mut unfit = Unfit::default();
    if used.pods + want.pods > has.pods {
        unfit.reasons.push("Too many pods".into());
    }
    let mut check = |name: &str, want: i64, has: i64, used: i64| {
        if want > 0 && want > has - used {
            unfit.reasons.push(format!("Insufficient {name}").into());
            unfit.for_good |= want > has;
        }
    };
    check("cpu", want.cpu, has.cpu, used.cpu);
    check("memory", want.memory, has.memory, used.memory);
    check("ephemeral-storage", want.ephemeral, has.ephemeral, used.ephemeral);
    for (name, amount) in &want.others {
        let of = |resources: &crate::resources::Resources| resources.others.get(name).copied().unwrap_or_default();
        check(name, *amount, of(has), of(used));
    }
    if unfit.reasons.is_empty() { Ok(()) } else { Err(unfit) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::testing::{asking, bound, node};

    #[test]
    fn each_missing_resource_is_named_and_the_impossible_marked() {
        let mut cache = Cache::default();
        cache.set_node(node("n", "2", "4Gi"));
        cache.set_pod(bound(&asking("a", "1500m", "1Gi"), "n"));
        let check = |cpu: &str, memory: &str, expected: &[&str], for_good: bool| {
            let outcome = fit(&asking("b", cpu, memory), cache.node("n").unwrap());
            let unfit = outcome.err().unwrap_or_default();
            assert_eq!(
                (unfit.reasons, unfit.for_good),
                (expected.iter().map(|text| (*text).into()).collect(), for_good)
            );
        };
        check("500m", "3Gi", &[], false);
        check("600m", "1Gi", &["Insufficient cpu"], false);
        check("3", "8Gi", &["Insufficient cpu", "Insufficient memory"], true);
    }
}
