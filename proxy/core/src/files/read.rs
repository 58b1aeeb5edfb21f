//! Reading a file without waiting for another program for ever.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{event, fs::OFlags};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits;

/// Why a file is not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileFault {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A pipe, a device or a folder.
    #[error("it is no regular file: a pipe or a device would be empty when it is read again")]
    NoFile,
    /// It has more bytes.
    #[error("it is too long: it may have {0} bytes")]
    TooLong(u64),
    /// A pipe that no program has open for writing.
    #[error("it is a pipe, and for {0:?} no program has opened it for writing")]
    NoWriter(Duration),
    /// A pipe or a device whose end does not come.
    #[error("it is a pipe or a device, and its end has not come within {0:?}")]
    NoEnd(Duration),
}

impl From<FileFault> for io::Error {
    fn from(fault: FileFault) -> Self {
        let kind = match fault {
            FileFault::Io(error) => return error,
            FileFault::NoFile => io::ErrorKind::InvalidInput,
            FileFault::TooLong(_) => io::ErrorKind::FileTooLarge,
            FileFault::NoWriter(_) | FileFault::NoEnd(_) => io::ErrorKind::TimedOut,
        };
        Self::new(kind, fault)
    }
}

/// Opens a regular file of at most so many bytes. Blocks, but for no other program: a FIFO would wait for its writer.
///
/// # Errors
/// The system's, or it is another kind of file, or a longer one.
pub fn open(path: &Path, most: u64) -> Result<(File, Metadata), FileFault> {
    let (file, found) = open_any(path)?;
    if !found.is_file() {
        return Err(FileFault::NoFile);
    }
    short(&found, most)?;
    Ok((file, found))
}

/// Reads a regular file of at most so many bytes, which may be read again. Blocks, but for no other program.
///
/// # Errors
/// See [`open`].
pub fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let (file, _) = open(path, most)?;
    Ok(rest(file, most)?)
}

/// [`read`], of text.
///
/// # Errors
/// See [`open`]; or it is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    text(read(path, most)?)
}

/// Reads a file that is read once in a program's life: so it may be a pipe, such as a shell makes of `<(command)`. Blocks for
/// [`limits::PIPE_WRITER_TIME`] where no program writes, and for [`limits::PIPE_TIME`] where one does.
///
/// # Errors
/// The system's, or it is longer, or its end does not come.
pub fn read_once(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let (file, found) = open_any(path)?;
    if found.is_file() || found.is_dir() {
        short(&found, most)?;
        return Ok(rest(file, most)?);
    }
    Ok(Pipe::new(file).rest(most)?)
}

/// [`read_once`], of text.
///
/// # Errors
/// See [`read_once`]; or it is no UTF-8.
pub fn read_text_once(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    text(read_once(path, most)?)
}

fn open_any(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

fn short(found: &Metadata, most: u64) -> Result<(), FileFault> {
    match found.len() > most {
        true => Err(FileFault::TooLong(most)),
        false => Ok(()),
    }
}

fn rest(file: File, most: u64) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    within(bytes, most)
}

/// A file may have grown since its length was asked for.
fn within(bytes: Zeroizing<Vec<u8>>, most: u64) -> Result<Zeroizing<Vec<u8>>, FileFault> {
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= most) {
        true => Ok(bytes),
        false => Err(FileFault::TooLong(most)),
    }
}

/// The error repeats nothing of the text.
fn text(mut bytes: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<String>> {
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            let why = "it is no text in UTF-8";
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

/// A pipe or a device, which gives no more than it has.
struct Pipe {
    file: File,
    began: Instant,
    /// A program has it open, or had.
    written: bool,
}

impl Pipe {
    fn new(file: File) -> Self {
        Self {
            file,
            began: Instant::now(),
            written: false,
        }
    }

    fn rest(mut self, most: u64) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        let mut bytes = Zeroizing::new(Vec::new());
        let mut part = Zeroizing::new(vec![0; 4096]);
        loop {
            match self.file.read(&mut part) {
                // The same is read of a pipe that no program has opened yet.
                Ok(0) if !self.may_still_come()? => return Ok(bytes),
                Ok(0) => {}
                Ok(read) => {
                    self.written = true;
                    bytes.extend_from_slice(part.get(..read).unwrap_or_default());
                    bytes = within(bytes, most)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a first writer where there has been none.
    fn may_still_come(&mut self) -> Result<bool, FileFault> {
        use std::os::unix::fs::FileTypeExt as _;

        if self.written || !self.file.metadata()?.file_type().is_fifo() {
            return Ok(false);
        }
        self.until(event::PollFlags::IN, limits::PIPE_WRITER_TIME)?
            .then_some(true)
            .ok_or(FileFault::NoWriter(limits::PIPE_WRITER_TIME))
            .inspect(|_| self.written = true)
    }

    fn wait(&mut self) -> Result<(), FileFault> {
        self.written = true;
        match self.until(event::PollFlags::IN, limits::PIPE_TIME)? {
            true => Ok(()),
            false => Err(FileFault::NoEnd(limits::PIPE_TIME)),
        }
    }

    /// Waits for bytes or the end, until so long after the beginning.
    fn until(&self, flags: event::PollFlags, time: Duration) -> Result<bool, FileFault> {
        loop {
            let left = time.saturating_sub(self.began.elapsed());
            let left = event::Timespec::try_from(left).map_err(io::Error::other)?;
            let mut polled = [event::PollFd::new(&self.file, flags)];
            match event::poll(&mut polled, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, path::PathBuf, thread};

    use super::*;

    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        path
    }

    #[test]
    fn rule_23_a_pipe_is_no_file_that_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for path in [&fifo(folder.path()), folder.path(), Path::new("/dev/null")] {
            let error = open(path, 64).unwrap_err();
            assert!(matches!(error, FileFault::NoFile), "{error}");
        }
        let error = read(&folder.path().join("none"), 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let path = folder.path().join("long");
        fs::write(&path, [b'x'; 65]).unwrap();
        for error in [
            read(&path, 64).unwrap_err(),
            read_once(&path, 64).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
        }
        assert_eq!(*read_text(&path, 65).unwrap(), "x".repeat(65));
        fs::write(&path, [0xff]).unwrap();
        read_text(&path, 64).unwrap_err();
    }

    #[test]
    fn rule_23_a_pipe_without_a_writer_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_once(&fifo(folder.path()), 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = error.to_string();
        assert!(error.contains("no program has opened it"), "{error}");
    }

    #[test]
    fn a_file_that_is_read_once_may_be_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let writing = {
            let path = path.clone();
            thread::spawn(move || {
                // Returns when the reader has opened it.
                let mut file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all(b"one ").unwrap();
                file.write_all(b"two").unwrap();
            })
        };
        assert_eq!(*read_text_once(&path, 64).unwrap(), "one two");
        writing.join().unwrap();
        assert!(read_once(Path::new("/dev/null"), 64).unwrap().is_empty());
        let error = read_once(Path::new("/dev/zero"), 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let folder = read_once(folder.path(), 1 << 20).unwrap_err();
        assert_eq!(folder.kind(), io::ErrorKind::IsADirectory);
    }
}
