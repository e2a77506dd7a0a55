//! What a get, list or watch asks for by `resourceVersion`, `resourceVersionMatch`, `continue`, `limit` and
//! `sendInitialEvents`, and which combinations are refused.

use super::Call;
use super::read::number;
use crate::cache::{Continue, ListAt, WatchFrom};
use crate::response::Failure;
use naru_api::status::{FieldErrors, Status};

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const MATCH: &str = "resourceVersionMatch";

/// How a list or a watch is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListOptions<'a> {
    /// Empty when it is not given.
    version: &'a str,
    matching: &'a str,
    token: &'a str,
    limit: i64,
    initial_events: Option<bool>,
}

impl<'a> ListOptions<'a> {
    /// Reads and checks the parameters.
    pub(super) fn of(call: &'a Call) -> Result<Self, Failure> {
        let text = |name: &str| call.query.get(name).unwrap_or_default();
        let mut options = Self {
            version: text("resourceVersion"),
            matching: text(MATCH),
            token: text("continue"),
            limit: number(call, "limit")?.unwrap_or(0),
            initial_events: call.query.get("sendInitialEvents").map(|_| call.query.flag("sendInitialEvents")),
        };
        // A list has no use for it, but it must be a number.
        number(call, "timeoutSeconds")?;
        let mut errors = FieldErrors::default();
        if call.info.verb == "watch" {
            // What watches did before the parameter existed.
            if options.initial_events.is_none() && options.matching.is_empty() && matches!(options.version, "" | "0") {
                options.initial_events = Some(true);
                options.matching = NOT_OLDER_THAN;
            }
            options.check_watch(&mut errors);
        } else {
            options.check_list(&mut errors);
        }
        if errors.is_empty() {
            return Ok(options);
        }
        Err(Box::new(Status::invalid("meta.k8s.io", "ListOptions", "", errors)))
    }

    fn check_list(&self, errors: &mut FieldErrors) {
        if !self.matching.is_empty() {
            if self.version.is_empty() {
                errors.forbidden(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.token.is_empty() {
                errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(self.matching, EXACT | NOT_OLDER_THAN) {
                errors.not_supported(MATCH, self.matching, &[EXACT, NOT_OLDER_THAN, ""]);
            }
            if self.matching == EXACT && self.version == "0" {
                errors.forbidden(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.initial_events.is_some() {
            errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
    }

    fn check_watch(&self, errors: &mut FieldErrors) {
        if self.initial_events.is_some() && self.matching != NOT_OLDER_THAN {
            errors.forbidden(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if self.matching.is_empty() {
            return;
        }
        if self.initial_events.is_none() {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden(MATCH, detail);
        }
        if self.matching != NOT_OLDER_THAN {
            errors.not_supported(MATCH, self.matching, &[NOT_OLDER_THAN]);
        }
        if !self.token.is_empty() {
            errors.forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided");
        }
    }

    /// Which state a list wants.
    pub(super) fn list_at(&self) -> Result<ListAt, Failure> {
        let bad = |text: String| Box::new(Status::bad_request(text));
        if !self.token.is_empty() {
            let token =
                Continue::decode(self.token).map_err(|error| bad(format!("invalid continue token: {error}")))?;
            if !matches!(self.version, "" | "0") {
                return Err(bad("specifying resource version is not allowed when using continue".to_owned()));
            }
            return Ok(ListAt::Continue(token));
        }
        let version = parse(self.version).map_err(|text| bad(format!("invalid resource version: {text}")))?;
        Ok(match version {
            0 => ListAt::Newest,
            version if self.matching == EXACT => ListAt::Exact(version),
            // With a limit and no match, the version is exact, as it was before the parameter existed.
            version if self.matching.is_empty() && self.limit > 0 => ListAt::Exact(version),
            version => ListAt::NotOlderThan(version),
        })
    }

    /// How many objects a page has; 0 for all. Whoever takes any version gets all of it.
    pub(super) fn limit(&self) -> usize {
        if self.version == "0" && self.token.is_empty() {
            return 0;
        }
        usize::try_from(self.limit).unwrap_or(0)
    }

    /// Where a watch begins. `newest` is the store's revision, `cached` what the cache has seen of it.
    pub(super) fn watch_from(&self, newest: i64, cached: i64) -> Result<WatchFrom, Failure> {
        let version = parse(self.version).map_err(|text| Box::new(Status::failure(500, "", text)))?;
        Ok(match (self.initial_events, self.version) {
            (Some(true), "") => WatchFrom::Present(newest),
            (Some(true), _) => WatchFrom::Present(version),
            (_, "") => WatchFrom::After(newest),
            // Only what comes from now on.
            (_, "0") => WatchFrom::After(cached),
            _ => WatchFrom::After(version),
        })
    }

    /// Whether the present objects are sent first.
    pub(super) fn initial_events(&self) -> bool {
        self.initial_events == Some(true)
    }
}

/// The least revision that a get of one object must show.
pub(super) fn get_version(call: &Call) -> Result<i64, Failure> {
    let text = call.query.get("resourceVersion").unwrap_or_default();
    parse(text).map_err(|text| Box::new(Status::failure(500, "", text)))
}

fn parse(version: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::PosOverflow;
    if version.is_empty() {
        return Ok(0);
    }
    match version.parse::<u64>() {
        Ok(number) if !version.starts_with('+') => Ok(i64::try_from(number).unwrap_or(i64::MAX)),
        result => {
            let overflow = result.is_err_and(|error| *error.kind() == PosOverflow);
            let why = if overflow { "value out of range" } else { "invalid syntax" };
            Err(format!("resourceVersion: Invalid value: {version:?}: strconv.ParseUint: parsing {version:?}: {why}"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn options(version: &'static str, matching: &'static str, limit: i64) -> ListOptions<'static> {
        ListOptions { version, matching, token: "", limit, initial_events: None }
    }

    #[test]
    fn lists_are_of_the_state_asked_for() {
        let cases = [
            ("", "", 0, ListAt::Newest),
            ("", "", 5, ListAt::Newest),
            ("0", "", 0, ListAt::Newest),
            ("0", "NotOlderThan", 5, ListAt::Newest),
            ("7", "", 0, ListAt::NotOlderThan(7)),
            ("7", "", 5, ListAt::Exact(7)),
            ("7", "NotOlderThan", 5, ListAt::NotOlderThan(7)),
            ("7", "Exact", 0, ListAt::Exact(7)),
            ("7", "Exact", 5, ListAt::Exact(7)),
        ];
        for (version, matching, limit, expected) in cases {
            let options = options(version, matching, limit);
            assert_eq!(options.list_at().unwrap(), expected, "{options:?}");
        }
        assert_eq!((options("0", "", 5).limit(), options("7", "", 5).limit(), options("", "", -1).limit()), (0, 5, 0));
    }

    #[test]
    fn watches_begin_where_asked_for() {
        let cases = [
            (None, "7", WatchFrom::After(7)),
            (Some(true), "", WatchFrom::Present(90)),
            (Some(true), "0", WatchFrom::Present(0)),
            (Some(true), "7", WatchFrom::Present(7)),
            (Some(false), "", WatchFrom::After(90)),
            (Some(false), "0", WatchFrom::After(80)),
            (Some(false), "7", WatchFrom::After(7)),
        ];
        for (initial_events, version, expected) in cases {
            let options = ListOptions { initial_events, ..options(version, NOT_OLDER_THAN, 0) };
            assert_eq!(options.watch_from(90, 80).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn versions_are_unsigned_numbers() {
        assert_eq!(parse("18446744073709551615"), Ok(i64::MAX));
        let cases = [("x", "invalid syntax"), ("-1", "invalid syntax"), ("18446744073709551616", "value out of range")];
        for (text, why) in cases {
            assert!(parse(text).unwrap_err().ends_with(&format!("strconv.ParseUint: parsing {text:?}: {why}")));
        }
    }
}
