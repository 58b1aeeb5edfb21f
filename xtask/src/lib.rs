//! Parts that the project's commands share with the demo's program.
#![allow(clippy::print_stderr, reason = "a command line prints")]

mod options;
mod steps;

pub use options::{DemoOptions, Through};
pub use steps::{step, watch};
