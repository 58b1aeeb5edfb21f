//! The agent as a process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod harness;
mod kubeconfig;
mod log;
mod operations;
mod policy;
mod rotation;
mod server;
mod services;
mod signals;
mod targets;
