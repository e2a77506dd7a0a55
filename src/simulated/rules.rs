//! What annotations make of a pod or a node.

use naru_client::projections::{Meta, NodeView, PodView};
use std::time::Duration;

/// On a pod: how long it runs before it is Ready, such as `3s` or `500ms`; `never` is possible.
pub const READY_AFTER: &str = "naru.io/simulated-ready-after";
/// On a pod: its containers end with this code. Without it they run until the pod is deleted.
pub const EXIT_CODE: &str = "naru.io/simulated-exit-code";
/// On a pod: how long a run of its containers lasts, if they end at all.
pub const EXIT_AFTER: &str = "naru.io/simulated-exit-after";
/// On a pod of an Indexed Job: the indexes, with commas between them, that end with 1 instead.
pub const FAILS_AT: &str = "naru.io/simulated-fails-at";
/// On a pod: how long its containers take to stop; its grace period is the limit.
pub const STOP_AFTER: &str = "naru.io/simulated-stop-after";
/// On a node: `true` makes it silent. It renews nothing, reports nothing and stops nothing.
pub const SILENT: &str = "naru.io/simulated-silent";

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Whether a node is to be as if it were cut off.
pub(crate) fn is_silent(node: &NodeView) -> bool {
    node.metadata.annotations.get(SILENT).is_some_and(|value| value == "true")
}

/// How a pod behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// `None`: it is never ready.
    pub(crate) ready_after: Option<Duration>,
    /// The code, and how long a run lasts.
    pub(crate) exit: Option<(i32, Duration)>,
    pub(crate) stop_after: Duration,
    pub(crate) restart: Restart,
}

/// The pod's restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Rules {
    pub(crate) fn of(pod: &PodView) -> Self {
        let time = |name: &str| duration(&pod.metadata, name).unwrap_or_default();
        let is_never = pod.metadata.annotations.get(READY_AFTER).is_some_and(|value| value == "never");
        Self {
            ready_after: (!is_never).then(|| time(READY_AFTER)),
            exit: exit_code(&pod.metadata).map(|code| (code, time(EXIT_AFTER))),
            stop_after: time(STOP_AFTER),
            restart: match pod.spec.restart_policy.as_str() {
                "Never" => Restart::Never,
                "OnFailure" => Restart::OnFailure,
                _ => Restart::Always,
            },
        }
    }

    /// Whether containers that have ended so are started again.
    pub(crate) fn restarts(&self, code: i32) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => code != 0,
            Restart::Never => false,
        }
    }
}

fn exit_code(meta: &Meta) -> Option<i32> {
    let index = meta.labels.get(INDEX).or_else(|| meta.annotations.get(INDEX));
    let failing = meta.annotations.get(FAILS_AT).map_or("", String::as_str);
    if index.is_some_and(|index| failing.split(',').any(|at| at.trim() == index)) {
        return Some(1);
    }
    meta.annotations.get(EXIT_CODE)?.parse().ok()
}

/// A time such as `3s`, `1m30s`, `500ms` or `3` (seconds). What cannot be read is not there.
fn duration(meta: &Meta, name: &str) -> Option<Duration> {
    let text = meta.annotations.get(name)?;
    match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => naru_api::meta::duration::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &[(&str, &str)]) -> PodView {
        let mut pod = PodView::default();
        for (key, value) in annotations {
            pod.metadata.annotations.insert((*key).to_owned(), (*value).to_owned());
        }
        pod
    }

    #[test]
    fn a_pod_without_annotations_is_ready_at_once_and_runs_for_ever() {
        let rules = Rules::of(&pod(&[]));
        assert_eq!(rules.ready_after, Some(Duration::ZERO));
        assert_eq!((rules.exit, rules.restart), (None, Restart::Always));
    }

    #[test]
    fn times_are_seconds_or_milliseconds() {
        for (text, expected) in [("3s", 3000), ("3", 3000), ("250ms", 250), ("soon", 0)] {
            let rules = Rules::of(&pod(&[(READY_AFTER, text)]));
            assert_eq!(rules.ready_after, Some(Duration::from_millis(expected)), "{text}");
        }
        assert_eq!(Rules::of(&pod(&[(READY_AFTER, "never")])).ready_after, None);
    }

    #[test]
    fn chosen_indexes_fail() {
        let mut pod = pod(&[(EXIT_CODE, "0"), (FAILS_AT, "1, 3"), (EXIT_AFTER, "2s")]);
        let mut at = |index: &str| {
            pod.metadata.annotations.insert(INDEX.to_owned(), index.to_owned());
            Rules::of(&pod).exit
        };
        assert_eq!(at("0"), Some((0, Duration::from_secs(2))));
        assert_eq!(at("3"), Some((1, Duration::from_secs(2))));
    }
}
