//! Typed client over the `Transport` trait, with informers, work queues and an event recorder.

pub mod transport;
