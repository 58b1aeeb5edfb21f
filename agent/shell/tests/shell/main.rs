//! Shells with real terminals and real programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod ends;
mod flow;
mod guard;
mod opening;
mod terminal;
mod viewers;
mod world;
