//! Streams over a session in memory, to sockets of this machine.

mod permissions;
mod services;
mod streams;
mod world;
