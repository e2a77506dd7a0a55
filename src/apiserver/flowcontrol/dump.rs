//! What levels, queues and waiting requests look like now, as tables under `/debug/api_priority_and_fairness/`.

use super::level::Level;
use crate::clock;
use std::fmt::Write;

const LEVELS: &[&str] = &[
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: &[&str] = &[
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
/// The requests that wait. Those that run are counted, not kept.
const REQUESTS: &[&str] = &[
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
/// When nothing has happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A table of the levels by its name in the path; `None` when there is none of that name.
pub(super) fn table<'a>(name: &str, levels: impl Iterator<Item = &'a Level>) -> Option<String> {
    let (titles, rows): (_, Vec<Vec<String>>) = match name {
        "dump_priority_levels" => (LEVELS, levels.map(level).collect()),
        "dump_queues" => (QUEUES, levels.flat_map(queues).collect()),
        "dump_requests" => (REQUESTS, levels.flat_map(requests).collect()),
        _ => return None,
    };
    Some(aligned(titles, &rows))
}

fn level(level: &Level) -> Vec<String> {
    let counts = level.counts();
    let active = level.queues().filter(|queue| !queue.waiting.is_empty()).count();
    vec![
        level.spec.name.to_string(),
        active.to_string(),
        level.is_idle().to_string(),
        level.retired.to_string(),
        level.waiting.to_string(),
        counts.executing.to_string(),
        counts.dispatched.to_string(),
        counts.rejected.to_string(),
        counts.timed_out.to_string(),
        counts.cancelled.to_string(),
    ]
}

fn queues(level: &Level) -> impl Iterator<Item = Vec<String>> {
    level.queues().enumerate().map(|(at, queue)| {
        let seats: u32 = queue.waiting.iter().map(|waiting| waiting.seats).sum();
        vec![
            level.spec.name.to_string(),
            at.to_string(),
            queue.waiting.len().to_string(),
            queue.running.to_string(),
            queue.executing.to_string(),
            seat_seconds(queue.served),
            seats.to_string(),
            seats.to_string(),
            seat_seconds(f64::from(seats) * super::level::GUESS),
        ]
    })
}

fn requests(level: &Level) -> impl Iterator<Item = Vec<String>> {
    let now = clock::now_micros();
    level.queues().enumerate().flat_map(move |(at, queue)| {
        queue.waiting.iter().enumerate().map(move |(place, waiting)| {
            let waited = i64::try_from(waiting.since.elapsed().as_micros()).unwrap_or(0);
            vec![
                level.spec.name.to_string(),
                waiting.schema.to_string(),
                at.to_string(),
                place.to_string(),
                waiting.distinguisher.to_string(),
                clock::micros(now - waited),
                waiting.seats.to_string(),
                "0".to_owned(),
                "0s".to_owned(),
                NEVER.to_owned(),
            ]
        })
    })
}

fn seat_seconds(amount: f64) -> String {
    format!("{amount:.8}ss")
}

/// Columns as wide as their widest cell.
fn aligned(titles: &[&str], rows: &[Vec<String>]) -> String {
    let lines = || std::iter::once(titles.to_vec()).chain(rows.iter().map(|r| r.iter().map(String::as_str).collect()));
    let widths: Vec<usize> = (0..titles.len())
        .map(|column| lines().map(|line| line[column].chars().count() + 2).max().unwrap_or(0).max(8))
        .collect();
    let mut out = String::new();
    for line in lines() {
        let last = line.len() - 1;
        for (column, cell) in line.into_iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = match column == last {
                true => writeln!(out, "{cell}"),
                false => write!(out, "{:width$}", format!("{cell},"), width = widths[column]),
            };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            [vec!["exempt".to_owned(), "0".to_owned()], vec!["a-long-name-of-a-level".to_owned(), "12".to_owned()]];
        let expect = "Name,                   Idle\nexempt,                 0\na-long-name-of-a-level, 12\n";
        assert_eq!(aligned(&["Name", "Idle"], &rows), expect);
    }
}
