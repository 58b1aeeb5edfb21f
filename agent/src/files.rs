//! Small files of the agent's own: keys, tokens and CAs.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_core::files::{self, FileFault};
use zeroize::Zeroizing;

/// Why a file has no text to use.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error(
        "{} is no regular file: a pipe or a device would be empty when it is read again", .0.display()
    )]
    NoFile(PathBuf),
    #[error("{} is too long: it may have {most} bytes", path.display())]
    TooLong { path: PathBuf, most: u64 },
}

impl FileError {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Read(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a regular file of at most so many bytes. Blocks, but for no other program: a FIFO would wait for its writer.
pub(crate) fn open(path: &Path, most: u64) -> Result<(File, Metadata), FileError> {
    let cannot = |error| FileError::Read(path.to_owned(), error);
    files::open(path, most).map_err(|fault| match fault {
        FileFault::NoFile => FileError::NoFile(path.to_owned()),
        FileFault::TooLong(most) => FileError::TooLong {
            path: path.to_owned(),
            most,
        },
        fault => cannot(fault.into()),
    })
}

/// Reads the text of a file that [`open`] has opened. Blocks.
pub(crate) fn text(file: File, path: &Path, most: u64) -> Result<Zeroizing<String>, FileError> {
    let mut text = Zeroizing::new(String::new());
    let read = file.take(most).read_to_string(&mut text);
    read.map_err(|error| FileError::Read(path.to_owned(), error))?;
    Ok(text)
}

/// Opens and reads a file. Blocks.
pub(crate) fn read(path: &Path, most: u64) -> Result<Zeroizing<String>, FileError> {
    let (file, _) = open(path, most)?;
    text(file, path, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        for path in [&path, folder.path(), Path::new("/dev/null")] {
            let error = read(path, 64).unwrap_err();
            assert!(matches!(error, FileError::NoFile(_)), "{error}");
        }
        let error = read(&folder.path().join("none"), 64).unwrap_err();
        assert!(error.is_missing(), "{error}");
        let path = folder.path().join("long");
        std::fs::write(&path, [b'x'; 65]).unwrap();
        let error = read(&path, 64).unwrap_err();
        assert!(matches!(error, FileError::TooLong { most: 64, .. }));
        assert_eq!(*read(&path, 65).unwrap(), "x".repeat(65));
    }
}
