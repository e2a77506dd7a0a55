//! Where audit events are written: one thread with a bounded queue, and files that are rotated.

use super::batch::{Batching, Usual};
use super::queue::{Mode, Outlet, Queue, queue};
use crate::clock;
use crate::flags::AuditBatchFlags;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Events that may wait to be written; further ones are dropped, or waited for when that is asked for.
const QUEUE: usize = 10_000;
/// Size at which a file is full, unless the flags say otherwise.
const FILE_MIB: u32 = 100;

/// How files are rotated.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rotation {
    pub(super) max_mib: Option<u32>,
    pub(super) max_backups: u32,
    pub(super) max_age_days: u32,
    pub(super) compress: bool,
}

/// Lines of a file are written as they come.
const USUAL: Usual = Usual { size: 1, wait: Duration::ZERO, throttled: false };

/// Opens the file, `-` being standard output, and starts the thread that writes.
pub(super) fn open(path: &Path, flags: &AuditBatchFlags, rotation: Rotation) -> io::Result<Queue> {
    let out = if path == Path::new("-") { Out::Stdout } else { Out::File(Rotating::open(path, rotation)?) };
    let mode = Mode::parse(flags.mode.as_deref(), Mode::Blocking);
    let (queue, outlet) = queue(flags.buffer_size.unwrap_or(QUEUE), mode);
    let batching = Batching::new(flags, mode, USUAL);
    // A thread of its own, since disks are slow; its runtime only tells the time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let write = move || runtime.block_on(write_all(out, batching, outlet));
    std::thread::Builder::new().name("audit-log".to_owned()).spawn(write)?;
    Ok(queue)
}

async fn write_all(mut out: Out, mut batching: Batching, mut outlet: Outlet) {
    while let Some(batch) = batching.collect(&mut outlet).await {
        let mut good = true;
        for line in &batch.lines {
            if let Err(error) = out.write(line) {
                tracing::error!(%error, "an audit event could not be written");
                good = false;
            }
        }
        batch.done(good);
    }
}

enum Out {
    Stdout,
    File(Rotating),
}

impl Out {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Out::Stdout => io::stdout().lock().write_all(line),
            Out::File(file) => file.write(line),
        }
    }
}

/// A file that is put aside when it is full.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Rotation,
}

impl Rotating {
    fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, rotation })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let most = u64::from(self.rotation.max_mib.filter(|mib| *mib > 0).unwrap_or(FILE_MIB)) << 20;
        let size = line.len() as u64;
        if self.size > 0 && self.size + size > most {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += size;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut at = clock::now_micros() / 1000;
        // A name that is taken would be overwritten.
        while self.backup(at).exists() {
            at += 1;
        }
        fs::rename(&self.path, self.backup(at))?;
        self.file = append_to(&self.path)?;
        self.size = 0;
        if let Err(error) = self.clean() {
            tracing::warn!(%error, "old audit logs could not be removed");
        }
        Ok(())
    }

    /// `audit-2026-01-02T03-04-05.006.log` beside `audit.log`.
    fn backup(&self, at_millis: i64) -> PathBuf {
        let (stem, extension) = self.parts();
        let time = jiff::Timestamp::from_millisecond(at_millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.path.with_file_name(format!("{stem}-{}{extension}", time.strftime("%Y-%m-%dT%H-%M-%S%.3f")))
    }

    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = text(self.path.extension());
        (text(self.path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
    }

    /// Removes the old files that are too many or too old, and compresses the others if asked to.
    fn clean(&self) -> io::Result<()> {
        let (stem, extension) = self.parts();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<(i64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let time = name.strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-'));
            let time = time.map(|rest| rest.strip_suffix(".gz").unwrap_or(rest));
            let time = time.and_then(|rest| rest.strip_suffix(&extension)).and_then(backup_time);
            old.extend(time.map(|time| (time, path)));
        }
        old.sort_unstable_by_key(|(time, _)| std::cmp::Reverse(*time));
        let oldest = match self.rotation.max_age_days {
            0 => i64::MIN,
            days => clock::now_seconds() - i64::from(days) * 86_400,
        };
        let most = match self.rotation.max_backups {
            0 => usize::MAX,
            most => most as usize,
        };
        for (i, (time, path)) in old.iter().enumerate() {
            if i >= most || *time < oldest {
                fs::remove_file(path)?;
            } else if self.rotation.compress && path.extension().is_none_or(|extension| extension != "gz") {
                compress(path)?;
            }
        }
        Ok(())
    }
}

/// The time in the name of an old file, in seconds.
fn backup_time(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let time = time.replace('-', ":");
    format!("{date}T{time}Z").parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let target = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&name)?;
    let mut encoder = GzEncoder::new(target, Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let rotation = Rotation { max_mib: Some(1), max_backups: 2, max_age_days: 1, compress: true };
        let mut log = Rotating::open(&path, rotation).unwrap();
        fs::write(dir.path().join("logs/audit-2001-01-01T00-00-00.000.log"), "old").unwrap();
        fs::write(dir.path().join("logs/audit-notes.log"), "not ours").unwrap();
        let line = vec![b'x'; 700 << 10];
        for _ in 0..5 {
            log.write(&line).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names[0].ends_with(".log.gz") && names[1].ends_with(".log.gz"), "{names:?}");
        assert_eq!(names[2..], ["audit-notes.log", "audit.log"]);
        assert_eq!(fs::metadata(&path).unwrap().len(), 700 << 10);
    }
}
