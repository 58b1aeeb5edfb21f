//! Runs with real processes.

mod damage;
mod ends;
mod exclusive;
mod once;
mod world;
