//! Kubeconfigs: those that lead through a server are written, and those of clusters that a server reaches without an agent
//! are read.

mod choose;
mod read;
mod write;

pub(crate) use self::{
    choose::{Place, choose},
    read::read_kubeconfig,
    write::{Credential, Kubeconfig, Way},
};
