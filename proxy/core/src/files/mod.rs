//! Files that other programs write: reading them without waiting for ever, and whether they have changed.
//!
//! A file that is read again while a program runs is read by [`read()`] or [`read_text`], which refuse what is no regular file, and off the
//! runtime, by [`Readings`], which wait for so long.

mod read;
mod readings;
mod stamps;

pub use self::{
    read::{FileFault, open, read, read_once, read_text, read_text_once},
    readings::{Readings, Stuck},
    stamps::Stamps,
};
