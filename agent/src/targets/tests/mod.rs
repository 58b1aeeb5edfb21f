//! Streams over a session in memory, to sockets of this machine.

mod operations;
mod permissions;
mod services;
mod streams;
mod world;

pub(crate) use self::world::{Ends, pair};
