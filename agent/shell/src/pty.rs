//! Pseudoterminals.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr, tcsetwinsize};
use tokio::io::unix::AsyncFd;

use crate::size::Size;

/// The agent's side of a terminal.
#[derive(Debug)]
pub(crate) struct Master(AsyncFd<OwnedFd>);

/// A new terminal: the agent's side, and the program's.
pub(crate) fn open(size: Size) -> io::Result<(Master, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // By the descriptor and not by its path, which may lead elsewhere in another mount namespace.
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut attributes = tcgetattr(&slave)?;
    // The backspace of a line that the kernel edits takes a whole character.
    attributes.input_modes |= InputModes::IUTF8;
    tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    tcsetwinsize(&master, size.into())?;
    fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((Master(watch(master)?), slave))
}

#[expect(
    deprecated,
    reason = "unsound for types that let go of their descriptor, which an OwnedFd does not; what follows it needs `unsafe`"
)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}

impl Master {
    /// Reads some output: none once no process has the terminal any more.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?));
            match read {
                // Linux says so when the last descriptor of the other side is closed.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes some input. It waits while the program reads none of what it has.
    ///
    /// # Cancel safety
    /// Nothing is written where the future is dropped.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            let written = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?));
            match written {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return written,
                Err(_would_block) => {}
            }
        }
    }

    /// Has the kernel tell the program.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        Ok(tcsetwinsize(&self.0, size.into())?)
    }
}
