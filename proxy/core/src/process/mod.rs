//! Open files, signals and threads of a program of ours.

mod files;
mod signals;
mod threads;

pub use self::{
    files::raise_open_files,
    signals::{Asked, Signals},
    threads::{BLOCKING_THREAD_IDLE, LAST_TASKS, can_have_threads, keep_blocking_thread},
};
