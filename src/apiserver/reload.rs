//! Configuration files that are read again while the server runs.

use futures::future::BoxFuture;
use naru_base::Shutdown;
use std::path::PathBuf;
use std::time::Duration;

/// How often a file is looked at. Mounted ConfigMaps change by renamed links, which watches of a file do not see.
const INTERVAL: Duration = Duration::from_secs(10);
/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Calls `apply` with the file's text each time it has changed. A text that is refused is named in the log, and the
/// old one stays in force.
pub(crate) fn on_change(
    what: &'static str,
    path: PathBuf,
    mut known: String,
    shutdown: Shutdown,
    apply: impl Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
) {
    naru_base::spawn(what, async move {
        while shutdown.guard(tokio::time::sleep(INTERVAL)).await.is_some() {
            let small = tokio::fs::metadata(&path).await.is_ok_and(|file| file.len() <= MAX_FILE);
            let Ok(text) = tokio::fs::read_to_string(&path).await else { continue };
            if !small || text == known {
                continue;
            }
            known.clone_from(&text);
            match apply(text).await {
                Ok(()) => tracing::info!("{what}: {} read again", path.display()),
                Err(reason) => tracing::error!("{what}: {} stays as it was: {reason}", path.display()),
            }
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn what_a_file_says_anew_is_applied_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let shutdown = Shutdown::new();
        let (sender, mut applied) = mpsc::channel(4);
        on_change("test", path.clone(), "old".to_owned(), shutdown.clone(), move |text| {
            let sender = sender.clone();
            Box::pin(async move {
                let refused = text == "bad";
                sender.send(text).await.map_err(|error| error.to_string())?;
                if refused { Err("no".to_owned()) } else { Ok(()) }
            })
        });
        for text in ["bad", "new"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(applied.recv().await.unwrap(), text);
        }
        tokio::time::sleep(INTERVAL * 3).await;
        shutdown.trigger();
        assert_eq!(applied.recv().await, None, "the same text is not applied again");
    }
}
