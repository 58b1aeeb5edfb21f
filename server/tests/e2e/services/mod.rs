//! Connections to services of a cluster and to its nodes, and requests to them, by the programs that people run.

mod calls;
mod cut;
mod forward;
mod grpc;
mod many;
mod nodes;
mod others;
mod pages;
mod programs;
mod refused;
mod site;

pub(crate) use programs::{curl, output};
