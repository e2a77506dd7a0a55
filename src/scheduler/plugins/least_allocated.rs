//! LeastAllocated: nodes with more left over are liked better.

use super::{MAX_SCORE, Plugin, Scale, Score};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "LeastAllocated",
    filter: None,
    score: Some(Score {
        weight: 1,
        scale: Scale::None,
        rate: |context, info, _| {
            let (want, has, used) = (&context.pod.nonzero, &info.allocatable, &info.requested_nonzero);
            let free = |want: i64, has: i64, used: i64| {
                let left = has - used - want;
                if has <= 0 || left <= 0 { 0 } else { left.saturating_mul(MAX_SCORE) / has }
            };
            (free(want.cpu, has.cpu, used.cpu) + free(want.memory, has.memory, used.memory)) / 2
        },
    }),
};
