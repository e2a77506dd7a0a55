//! BalancedAllocation: nodes whose CPU and memory would be used alike are liked better.

use super::{MAX_SCORE, Plugin, Scale, Score};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    filter: None,
    score: Some(Score {
        weight: 1,
        scale: Scale::None,
        rate: |context, info, _| {
            let (want, has, used) = (&context.pod.request, &info.allocatable, &info.requested);
            if want.cpu == 0 && want.memory == 0 {
                // Pods that ask for nothing would all go to the node that happens to be the best.
                return 0;
            }
            if has.cpu <= 0 || has.memory <= 0 {
                return MAX_SCORE;
            }
            let share = |want: i64, has: i64, used: i64| ((used + want) as f64 / has as f64).min(1.0);
            let cpu = share(want.cpu, has.cpu, used.cpu);
            let memory = share(want.memory, has.memory, used.memory);
            // Of two values the standard deviation is half their distance.
            ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
        },
    }),
};
