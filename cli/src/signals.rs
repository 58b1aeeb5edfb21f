//! Signals that ask this program to stop.

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Ctrl-C, SIGTERM and SIGHUP. While this is there, none of them ends the program by itself.
pub(crate) struct Signals {
    interrupted: unix::Signal,
    terminated: unix::Signal,
    hung_up: unix::Signal,
}

impl Signals {
    /// Before a command leaves anything on this machine that is removed at its end: a file, a socket.
    pub(crate) fn listen() -> Result<Self> {
        let of = |kind| unix::signal(kind).context("cannot wait for signals");
        Ok(Self {
            interrupted: of(SignalKind::interrupt())?,
            terminated: of(SignalKind::terminate())?,
            hung_up: of(SignalKind::hangup())?,
        })
    }

    /// The next one since [`listen`](Self::listen), or since the last.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupted.recv() => Signal::INT,
            _ = self.terminated.recv() => Signal::TERM,
            _ = self.hung_up.recv() => Signal::HUP,
        }
    }
}
