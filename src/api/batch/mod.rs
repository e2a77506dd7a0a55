//! Work that ends: Jobs and CronJobs.

pub mod cron_job;
pub mod indexes;
pub mod job;
mod policy;
pub mod schedule;
mod spec;
mod status;
