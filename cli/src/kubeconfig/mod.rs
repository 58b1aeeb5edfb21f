//! Kubeconfigs: those that lead through a server are written, and those of clusters that a server reaches without an agent
//! are read.

mod read;
mod write;

pub(crate) use self::{
    read::read_kubeconfig,
    write::{Credential, Kubeconfig},
};
