//! Runs with real processes.

mod ends;
mod once;
mod world;
