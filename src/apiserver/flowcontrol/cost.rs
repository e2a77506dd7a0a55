//! How many seats a request takes.
//!
//! One, except for lists and for watches that begin with the present objects: one for each hundred objects
//! that are gone through, ten at most. Writes take one whatever the number of watchers: an event is encoded
//! once for all of them, and no writer waits for any.

use crate::cache::Cache;
use crate::request_info::{Query, RequestInfo};
use naru_api::registry;

/// Objects gone through for one seat.
const OBJECTS_PER_SEAT: usize = 100;
/// The widest request.
const WIDEST: usize = 10;

/// The seats of a request.
pub(super) fn seats(cache: &Cache, info: &RequestInfo, query: &Query) -> u32 {
    let whole = match info.verb {
        "list" => true,
        "watch" => query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), None | Some("" | "0")),
        _ => false,
    };
    // A list that selects one name is a get.
    if !whole || !info.is_resource || !info.name.is_empty() {
        return 1;
    }
    let Some(resource) = registry::find(&info.group, &info.version, &info.resource).filter(|r| r.is_stored()) else {
        return 1;
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let selected = query.get("labelSelector").or(query.get("fieldSelector")).is_some_and(|text| !text.is_empty());
    let count = cache.count(resource);
    width(count, limit.filter(|_| !selected))
}

fn width(count: usize, limit: Option<usize>) -> u32 {
    let objects = limit.map_or(count, |limit| limit.min(count));
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, WIDEST)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_wide_as_what_they_go_through() {
        let cases = [
            (0, None, 1),
            (100, None, 1),
            (101, None, 2),
            (1_000_000, None, 10),
            (5000, Some(500), 5),
            (30, Some(500), 1),
        ];
        for (count, limit, expect) in cases {
            assert_eq!(width(count, limit), expect, "{count} {limit:?}");
        }
    }
}
