//! What a program of ours asks of the system for itself: open files, signals.

mod files;
mod signals;

pub use self::{
    files::raise_open_files,
    signals::{Asked, Signals},
};
