//! The work queues of this process, under the names that upstream gives them.

use naru_base::metrics::{Histogram, Text};
use naru_client::{Durations, QUEUE_DURATIONS, QueueMetrics, QueueStats};

type Number = fn(&QueueStats) -> f64;
type Times = fn(&QueueStats) -> &Durations;

const NUMBERS: [(&str, &str, &str, Number); 5] = [
    ("workqueue_depth", "gauge", "Keys that wait.", |queue| queue.depth() as f64),
    ("workqueue_adds_total", "counter", "Keys that were queued.", |queue| queue.adds() as f64),
    ("workqueue_retries_total", "counter", "Keys that were queued again after a failure.", |queue| {
        queue.retries() as f64
    }),
    ("workqueue_unfinished_work_seconds", "gauge", "How long the present runs have gone on, together.", |queue| {
        queue.unfinished().0.as_secs_f64()
    }),
    ("workqueue_longest_running_processor_seconds", "gauge", "How long the longest of them has gone on.", |queue| {
        queue.unfinished().1.as_secs_f64()
    }),
];

const TIMES: [(&str, &str, Times); 2] = [
    ("workqueue_queue_duration_seconds", "How long keys waited.", |queue| queue.waited()),
    ("workqueue_work_duration_seconds", "How long runs took.", |queue| queue.worked()),
];

pub(super) fn render(queues: &QueueMetrics, out: &mut Text) {
    let queues = queues.all();
    if queues.is_empty() {
        return;
    }
    for (name, kind, help, number) in NUMBERS {
        out.family(name, kind, help);
        for (queue, stats) in &queues {
            out.sample(name, &[("name", queue)], number(stats));
        }
    }
    for (name, help, times) in TIMES {
        out.family(name, "histogram", help);
        for (queue, stats) in &queues {
            let times = times(stats);
            let histogram = Histogram::of(QUEUE_DURATIONS, times.counts(), times.sum().as_secs_f64());
            out.histogram(name, &[("name", queue)], &histogram);
        }
    }
}
