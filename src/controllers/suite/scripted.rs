//! A transport for controllers whose caches a test fills itself: takes every write, and keeps it.

use bytes::Bytes;
use naru_client::{Error, Request, Transport, WatchStream};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Answers each write with what was written.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    written: Mutex<Vec<(String, Value)>>,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What was written so far to addresses that end so.
    pub(crate) fn bodies(&self, end: &str) -> Vec<Value> {
        let written = self.written.lock().unwrap();
        written.iter().filter(|(uri, _)| uri.ends_with(end)).map(|(_, body)| body.clone()).collect()
    }
}

#[async_trait::async_trait]
impl Transport for Scripted {
    async fn send(&self, request: Request) -> Result<Bytes, Error> {
        if request.method != http::Method::GET {
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            let uri = request.uri.split('?').next().unwrap_or_default().to_owned();
            self.written.lock().unwrap().push((uri, body));
        }
        Ok(request.body)
    }

    async fn watch(&self, _: Request) -> Result<WatchStream, Error> {
        Err(Error::Connection("nothing to be watched".to_owned()))
    }
}
