//! libcontainer names the causes of its failures only in its tracing output, part of it from
//! processes that it forked: this puts warnings and errors into a file that all of them share.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// More of the log is not quoted.
const MAX_QUOTE: u64 = 4096;

/// The shim's own log file.
#[derive(Debug)]
pub(super) struct ShimLog {
    file: File,
}

impl ShimLog {
    /// Opens the file and sends this process's events there.
    pub(super) fn install(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let subscriber = ToFile { file: file.try_clone()? };
        // A second call in one process would be a mistake of no consequence: the first stays.
        let _ = tracing::subscriber::set_global_default(subscriber);
        Ok(Self { file })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where the log ends now.
    pub(super) fn mark(&mut self) -> u64 {
        self.file.seek(SeekFrom::End(0)).unwrap_or_default()
    }

    /// The first error logged since `mark`: the one closest to the cause.
    pub(super) fn cause_since(&mut self, mark: u64) -> Option<String> {
        self.file.seek(SeekFrom::Start(mark)).ok()?;
        let mut text = Vec::new();
        (&self.file).take(MAX_QUOTE).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines().find_map(|line| line.strip_prefix("ERROR ").map(str::to_owned))
    }
}

#[derive(Debug)]
struct ToFile {
    file: File,
}

impl Subscriber for ToFile {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::WARN)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        line.0.push('\n');
        // Nowhere to complain about the place for complaints.
        let _ = (&self.file).write_all(line.0.as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}
