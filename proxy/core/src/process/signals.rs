//! Signals. Those that end a process by default, and that others send to have something else, end none of ours.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process, from the moment on at which they were asked for.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
    user_2: Signal,
    /// Caught, so that a write beyond the limit of a file's size (`RLIMIT_FSIZE`) is an error and no end.
    _file_size: Signal,
}

/// The wish behind a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// End: SIGTERM, SIGINT.
    Stop(&'static str),
    /// Read files again: SIGHUP, which service managers send for it; SIGUSR1 and SIGUSR2, which rotators of logs send to other
    /// programs.
    Reload(&'static str),
}

impl Signals {
    /// Catches them.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(Number::XFSZ.as_raw()))?,
        })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload("SIGHUP"),
            _ = self.user_1.recv() => Asked::Reload("SIGUSR1"),
            _ = self.user_2.recv() => Asked::Reload("SIGUSR2"),
        }
    }

    /// Waits for the next one that asks to stop, and passes over others.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Asked::Stop(signal) => return signal,
                Asked::Reload(signal) => {
                    tracing::info!(signal, "passed over");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn signals_that_end_a_process_by_default_are_wishes() {
        let mut signals = Signals::listen().unwrap();
        for (signal, asked) in [
            (Number::HUP, Asked::Reload("SIGHUP")),
            (Number::USR1, Asked::Reload("SIGUSR1")),
            (Number::USR2, Asked::Reload("SIGUSR2")),
            (Number::INT, Asked::Stop("SIGINT")),
            (Number::TERM, Asked::Stop("SIGTERM")),
        ] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(signals.next().await, asked);
        }
        kill_process(getpid(), Number::XFSZ).unwrap();
        kill_process(getpid(), Number::HUP).unwrap();
        kill_process(getpid(), Number::TERM).unwrap();
        assert_eq!(signals.stop().await, "SIGTERM");
    }
}
