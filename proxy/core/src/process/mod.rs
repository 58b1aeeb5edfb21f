//! Open files and signals of a program of ours.

mod files;
mod signals;

pub use self::{
    files::raise_open_files,
    signals::{Asked, Signals},
};
