//! The agent as a process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod harness;
mod policy;
mod server;
mod signals;
mod targets;
