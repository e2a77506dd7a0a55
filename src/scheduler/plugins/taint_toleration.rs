//! TaintToleration: taints keep pods away that do not tolerate them, or make nodes less liked.

use super::{Plugin, Scale, Score, Unfit};
use naru_client::projections::{Taint, Toleration};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "TaintToleration",
    filter: Some(|context, _, node| {
        if tolerates_all(context.pod.tolerations(), &node.spec.taints) {
            return Ok(());
        }
        Err(Unfit::for_good("node(s) had untolerated taint(s)"))
    }),
    score: Some(Score {
        weight: 3,
        scale: Scale::LowestBest,
        rate: |context, _, node| {
            let pod = context.pod;
            let disliked = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerates(pod.tolerations(), taint);
            node.spec.taints.iter().filter(disliked).count() as i64
        },
    }),
};

/// Whether none of a node's taints keeps the pod away.
pub(super) fn tolerates_all(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    let repels = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    taints.iter().filter(repels).all(|taint| tolerates(tolerations, taint))
}

/// Whether one of the tolerations covers the taint.
pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_match_as_documented() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into(), time_added: None };
        let check = |key: &str, operator: &str, value: &str, effect: &str, expected: bool| {
            let toleration = Toleration {
                key: key.into(),
                operator: operator.into(),
                value: value.into(),
                effect: effect.into(),
                toleration_seconds: None,
            };
            assert_eq!(tolerates(&[toleration], &taint), expected, "{key} {operator} {value} {effect}");
        };
        check("k", "Equal", "v", "NoSchedule", true);
        check("k", "", "v", "", true);
        check("k", "Equal", "w", "", false);
        check("k", "Exists", "", "NoExecute", false);
        check("", "Exists", "", "", true);
        check("x", "Exists", "", "", false);
    }
}
