//! The store as the rest of this crate writes to it: values are sealed on their way in, and opened by whoever
//! reads them. The store itself knows no kinds and no keys.

use crate::encryption::{Keyring, OpenError};
use bytes::Bytes;
use naru_store::{Store, Write, WriteError};
use std::sync::Arc;
use tokio::sync::watch;

/// The store with the keys of the moment. Cloning shares both.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    store: Store,
    keyring: Arc<watch::Sender<Arc<Keyring>>>,
}

impl Storage {
    /// The store, whose values are written and read with these keys.
    pub(crate) fn new(store: Store, keyring: Keyring) -> Self {
        Self { store, keyring: Arc::new(watch::Sender::new(Arc::new(keyring))) }
    }

    /// The store itself, whose values are as they lie on the disk.
    pub(crate) fn raw(&self) -> &Store {
        &self.store
    }

    /// The keys of the moment.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.borrow().clone()
    }

    /// From now on other keys.
    pub(crate) fn set_keyring(&self, keyring: Keyring) {
        self.keyring.send_replace(Arc::new(keyring));
    }

    /// Tells of every change of the keys.
    pub(crate) fn keyring_changes(&self) -> watch::Receiver<Arc<Keyring>> {
        self.keyring.subscribe()
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> i64 {
        self.store.revision()
    }

    /// Writes a plain value.
    pub(crate) async fn write(&self, mut write: Write) -> Result<i64, WriteError> {
        if let Some(value) = write.value.take() {
            let sealed = self.keyring.borrow().seal(&write.key, value);
            write.value = Some(sealed.map_err(|error| WriteError::Io(error.to_string()))?);
        }
        self.store.write(write).await
    }

    /// The plain form of a stored value.
    pub(crate) fn open(&self, key: &str, value: &Bytes) -> Result<Bytes, OpenError> {
        self.keyring.borrow().open(key, value)
    }
}
