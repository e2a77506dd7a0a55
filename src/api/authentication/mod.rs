//! authentication.k8s.io/v1: who is who.

pub mod self_subject_review;
pub mod token_review;
