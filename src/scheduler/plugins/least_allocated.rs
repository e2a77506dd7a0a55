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
                if left <= 0 { 0 } else { left.saturating_mul(MAX_SCORE) / has }
            };
            // What a node has nothing of does not count.
            let both = [(want.cpu, has.cpu, used.cpu), (want.memory, has.memory, used.memory)];
            let counted = both.into_iter().filter(|(_, has, _)| *has > 0);
            let (sum, count) =
                counted.fold((0, 0), |(sum, count), (want, has, used)| (sum + free(want, has, used), count + 1));
            if count == 0 { 0 } else { sum / count }
        },
    }),
};
