//! Takes a changed configuration over while the server runs. One that cannot be used changes nothing.

use super::Keyring;
use crate::cache::Cache;
use crate::storage::Storage;
use naru_base::{FileWatch, Shutdown};
use std::path::{Path, PathBuf};

/// Follows the file until the shutdown.
pub(crate) async fn follow(path: PathBuf, storage: Storage, cache: Cache, mut read: Vec<u8>, shutdown: Shutdown) {
    let mut watch = match FileWatch::new(&path) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(
                "changes of the encryption configuration {} need a restart, the file cannot be watched: {error}",
                path.display()
            );
            return;
        }
    };
    loop {
        // Also once before anything is told: it may have changed since the start.
        if let Ok(text) = tokio::fs::read(&path).await
            && text != read
        {
            take_over(&path, &text, &storage, &cache);
            read = text;
        }
        if shutdown.guard(watch.changed()).await.is_none_or(|seen| seen.is_err()) {
            return;
        }
    }
}

fn take_over(path: &Path, text: &[u8], storage: &Storage, cache: &Cache) {
    match Keyring::parse(text) {
        Ok(keyring) => {
            tracing::info!("the encryption configuration {} has changed and is in use now", path.display());
            storage.set_keyring(keyring);
            // What no key fitted may be readable now.
            cache.reread();
        }
        Err(error) => tracing::error!(
            "the encryption configuration {} has changed and cannot be used, the one before stays in use: {error}",
            path.display()
        ),
    }
}
