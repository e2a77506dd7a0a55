//! Watches: a stream of the cache's events, in the form that the client asked for.

use super::list_options::ListOptions;
use super::read::{cache_failure, number, selection};
use super::{Call, render};
use crate::cache::{CacheError, Watch, WatchEnd, WatchRequest};
use crate::clock;
use crate::negotiate::{self, Accepted, Form};
use crate::response::{Outcome, Reply};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use naru_api::registry::Resource;
use naru_api::status::Status;
use naru_api::table::{self, IncludeObject};
use naru_base::Shutdown;
use naru_client::transport::{EventType, WatchEvent};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Watches without a `timeoutSeconds` end between once and twice this (or what the flag says), so that not all
/// clients of a restarted server come back at the same time.
const SHORTEST: u64 = 1800;

/// GET with `watch`.
pub(super) async fn watch(call: &Call, resource: &'static Resource) -> Outcome {
    let accepted = negotiate::accepted_stream(&call.headers)?;
    let include = render::include_object(call)?;
    let options = ListOptions::of(call)?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let cache = &call.state.cache;
    let request = WatchRequest {
        selection: selection(call, resource)?,
        from: options.watch_from(cache.newest_revision(), cache.revision())?,
        bookmarks,
        mark_initial_end: bookmarks && options.initial_events(),
    };
    let seconds = match number(call, "timeoutSeconds")? {
        Some(seconds) if seconds > 0 => u64::try_from(seconds).unwrap_or(SHORTEST),
        _ => match call.state.config.flags.min_request_timeout_seconds.unwrap_or(SHORTEST) {
            0 => SHORTEST,
            shortest => shortest.saturating_add(rand::random_range(0..shortest)),
        },
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let watch = match call.state.cache.watch(resource, request).await {
        Ok(watch) => watch,
        // A watch's clients look among its events for what is wrong with its revision.
        Err(error @ (CacheError::Expired { .. } | CacheError::TooLarge { .. })) => {
            let event = error_event(&cache_failure(&error));
            return Ok(Reply::Watch(stream::once(async { Ok(event) }).boxed()));
        }
        Err(error) => return Err(cache_failure(&error)),
    };
    let events = Events {
        watch,
        deadline,
        shutdown: call.state.shutdown.clone(),
        form: Former { accepted, include, resource, columns_sent: false },
        over: false,
    };
    let stream =
        stream::unfold(events, |mut events| async move { events.next().await.map(|event| (Ok(event), events)) });
    Ok(Reply::Watch(stream.boxed()))
}

fn error_event(status: &Status) -> WatchEvent {
    let object = serde_json::to_vec(status).unwrap_or_default();
    WatchEvent { kind: EventType::Error, object: object.into() }
}

struct Events {
    watch: Watch,
    deadline: Instant,
    shutdown: Shutdown,
    form: Former,
    over: bool,
}

impl Events {
    /// The next event; `None` ends the stream.
    async fn next(&mut self) -> Option<WatchEvent> {
        if self.over {
            return None;
        }
        let item = tokio::select! {
            biased;
            () = self.shutdown.triggered() => None,
            item = self.watch.next() => Some(item),
            () = tokio::time::sleep_until(self.deadline) => None,
        };
        match item {
            Some(Ok(item)) => Some(self.form.form(item.kind, item.object)),
            // Ending without a word makes the client watch again from what it has.
            Some(Err(error @ WatchEnd::Expired { .. })) => {
                self.over = true;
                Some(error_event(&Status::expired(error.to_string())))
            }
            Some(Err(WatchEnd::Lagged | WatchEnd::Closed)) => None,
            None => {
                self.over = true;
                self.watch.bookmark().map(|item| self.form.form(item.kind, item.object))
            }
        }
    }
}

/// Turns whole objects into what the client asked for.
struct Former {
    accepted: Accepted,
    include: IncludeObject,
    resource: &'static Resource,
    columns_sent: bool,
}

impl Former {
    fn form(&mut self, kind: EventType, object: Bytes) -> WatchEvent {
        // A Status is what it is in every form.
        if kind == EventType::Error {
            return WatchEvent { kind, object };
        }
        if self.accepted.form == Form::Object {
            return match render::served(self.resource, object) {
                Ok(object) => WatchEvent { kind, object },
                Err(status) => error_event(&status),
            };
        }
        if self.accepted.form == Form::Metadata {
            return WatchEvent { kind, object: render::partial_text(&object, self.accepted.meta_version()) };
        }
        let Ok(value) = serde_json::from_slice::<Value>(&object) else {
            return WatchEvent { kind, object };
        };
        WatchEvent { kind, object: self.table(kind, &value).to_string().into() }
    }

    /// One row; the columns are told once.
    fn table(&mut self, kind: EventType, object: &Value) -> Value {
        let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
        let bookmark = kind == EventType::Bookmark;
        let rows = (!bookmark).then_some(object);
        let mut table = table::render(self.resource, rows, meta, self.include, clock::now_seconds());
        if bookmark {
            // A bookmark's row has its metadata, which says whether the initial events are over.
            table["rows"] = json!([{ "cells": [], "object": render::partial(object) }]);
        }
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        render::set_version(&mut table, self.accepted);
        table
    }
}
