//! The cache, over a real store.

