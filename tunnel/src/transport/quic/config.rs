//! QUIC settings and their costs.

use std::fmt;
#[cfg(feature = "qlog")]
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// The smallest datagram that every path of QUIC's carries (RFC 9000, section 14).
pub(super) const DATAGRAM_MIN: u16 = 1200;

/// Ten datagrams of this size, which quinn sends in one batch, are what the kernel takes at the most
/// (65,507 bytes). Of a larger batch the kernel takes nothing, and quinn takes that for loss: with
/// 8,952 bytes every full batch is lost, until the path counts as one of 1,200.
pub(super) const DATAGRAM_MAX: u16 = 6550;

/// Smaller, and a single batch of datagrams does not fit.
const BUFFER_MIN: usize = 64 * 1024;

/// Larger ones are kernel memory that bad times fill, and delay in front of every byte.
const BUFFER_MAX: usize = 256 * 1024 * 1024;

/// How QUIC uses its sockets and its memory. The defaults suit servers and agents alike.
///
/// ```
/// use underpass_tunnel::transport::quic::{Offload, QuicConfig};
///
/// # fn main() -> Result<(), underpass_tunnel::transport::quic::QuicConfigError> {
/// let config = QuicConfig::default()
///     .offload(Offload::Off)
///     .max_datagram(1452)?
///     .socket_buffer(4 * 1024 * 1024)?;
/// # let _ = config;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    pub(super) offload: Offload,
    pub(super) congestion: Congestion,
    pub(super) max_datagram: u16,
    pub(super) socket_buffer: usize,
    pub(super) send_window: u32,
    #[cfg(feature = "qlog")]
    pub(super) qlog: Option<PathBuf>,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            offload: Offload::Auto,
            congestion: Congestion::Rate,
            max_datagram: DATAGRAM_MAX,
            socket_buffer: 2 * 1024 * 1024,
            send_window: 16 * 1024 * 1024,
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

/// Whether the kernel cuts batches of bytes into datagrams (generic segmentation offload, GSO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offload {
    /// Where a batch that is sent through loopback arrives as it should; tried once in a process,
    /// which takes a millisecond.
    #[default]
    Auto,
    /// Without trying. Batches that the network card refuses are still noticed, and lost.
    On,
    /// Never: each datagram is a system call. Costs twice the CPU per byte, and more.
    Off,
}

impl Offload {
    const NAMES: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

impl FromStr for Offload {
    type Err = QuicConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(Self::NAMES, text).ok_or_else(|| QuicConfigError::Offload(text.to_owned()))
    }
}

fn by_name<T>(names: impl IntoIterator<Item = (&'static str, T)>, text: &str) -> Option<T> {
    let mut names = names.into_iter();
    names
        .find(|(name, _)| *name == text)
        .map(|(_, value)| value)
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// How a side finds out how much it may have under way: of what it sends itself, each for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// As much as the path delivers in its shortest round trip, both of which are measured (after BBR,
    /// draft-ietf-ccwg-bbr). Loss below 4% changes nothing, and queues stay short.
    #[default]
    Rate,
    /// Until the path loses something (RFC 9438): a path that loses by itself is hardly used, and keystrokes wait
    /// behind full queues.
    Cubic,
}

impl Congestion {
    const NAMES: [(&'static str, Self); 2] = [("rate", Self::Rate), ("cubic", Self::Cubic)];
}

impl FromStr for Congestion {
    type Err = QuicConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(Self::NAMES, text).ok_or_else(|| QuicConfigError::Congestion(text.to_owned()))
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "rate",
            Self::Cubic => "cubic",
        })
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuicConfigError {
    /// No [`Offload`].
    #[error("`{0}` is none of auto, on, off")]
    Offload(String),
    /// No [`Congestion`].
    #[error("`{0}` is none of rate, cubic")]
    Congestion(String),
    /// A number of bytes outside of its bounds.
    #[error("{what} of {bytes} bytes: at least {min} and at most {max} can work")]
    OutOfBounds {
        /// The setting.
        what: &'static str,
        /// Its value in bytes.
        bytes: u64,
        /// The smallest number of bytes.
        min: u64,
        /// The largest number of bytes.
        max: u64,
    },
}

fn within<T>(what: &'static str, bytes: T, min: T, max: T) -> Result<T, QuicConfigError>
where
    T: Copy + PartialOrd + TryInto<u64>,
{
    let number = |bytes: T| bytes.try_into().unwrap_or(u64::MAX);
    if min <= bytes && bytes <= max {
        return Ok(bytes);
    }
    Err(QuicConfigError::OutOfBounds {
        what,
        bytes: number(bytes),
        min: number(min),
        max: number(max),
    })
}

impl QuicConfig {
    /// Whether batches of datagrams are handed to the kernel in one system call. By default where
    /// that works.
    pub fn offload(self, offload: Offload) -> Self {
        Self { offload, ..self }
    }

    /// How this side finds out how much it may have under way. By default as the path's rate says.
    pub fn congestion(self, congestion: Congestion) -> Self {
        Self { congestion, ..self }
    }

    /// The largest datagram, in bytes of UDP payload, that is looked for on a path and taken from a
    /// peer; 6,550 by default. Every connection starts with 1,200 and finds out what its path
    /// carries, which takes some fifteen round trips and costs nothing but lost probes. 1,200 leaves
    /// it at that: a fifth more datagrams on an ordinary path, for paths that treat large ones badly.
    ///
    /// # Errors
    /// Below 1,200, which QUIC demands of every path, and above 6,550, of which ten make no batch.
    pub fn max_datagram(self, bytes: u16) -> Result<Self, QuicConfigError> {
        let max_datagram = within("datagrams", bytes, DATAGRAM_MIN, DATAGRAM_MAX)?;
        Ok(Self {
            max_datagram,
            ..self
        })
    }

    /// Bytes that the kernel keeps for each direction of each socket: a server has one, an agent one
    /// for each connection; 2 MiB by default, used as far as there is something to keep. More
    /// outlasts longer pauses of the process without loss (2 MiB are 16 ms at 1 Gbit/s), and lets more
    /// bytes queue in front of a keystroke; a sysctl of the system bounds it.
    ///
    /// # Errors
    /// Below 64 KiB, which is one batch of datagrams, and above 256 MiB.
    pub fn socket_buffer(self, bytes: usize) -> Result<Self, QuicConfigError> {
        let socket_buffer = within("a socket buffer", bytes, BUFFER_MIN, BUFFER_MAX)?;
        Ok(Self {
            socket_buffer,
            ..self
        })
    }

    /// Bytes that one connection keeps until its peer has acknowledged them, over all streams;
    /// 16 MiB by default, 1.3 Gbit/s at 100 ms. More is speed on long paths, and memory for each
    /// peer that acknowledges slowly.
    ///
    /// # Errors
    /// Below 64 KiB, which is little more than a batch of datagrams, and above 1 GiB.
    pub fn send_window(self, bytes: u32) -> Result<Self, QuicConfigError> {
        let send_window = within("a send window", bytes, 64 * 1024, 1024 * 1024 * 1024)?;
        Ok(Self {
            send_window,
            ..self
        })
    }

    /// A folder for a trace of every packet (qlog, for tools like qvis): one file for each server and
    /// each connector, flushed when it ends. For looking into a problem: it costs more time than
    /// the packets do, and the files grow without bound.
    #[cfg(feature = "qlog")]
    pub fn qlog(self, folder: impl AsRef<Path>) -> Self {
        Self {
            qlog: Some(folder.as_ref().to_owned()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_their_bounds() {
        let config = QuicConfig::default();
        for bytes in [DATAGRAM_MIN, 1452, DATAGRAM_MAX] {
            assert!(config.clone().max_datagram(bytes).is_ok(), "{bytes}");
        }
        let error = config.clone().max_datagram(8952).unwrap_err();
        assert_eq!(
            error.to_string(),
            "datagrams of 8952 bytes: at least 1200 and at most 6550 can work"
        );
        assert!(config.clone().max_datagram(1199).is_err());
        for bytes in [0, BUFFER_MIN - 1, BUFFER_MAX + 1, usize::MAX] {
            assert!(config.clone().socket_buffer(bytes).is_err(), "{bytes}");
        }
        for bytes in [0, u32::MAX] {
            assert!(config.clone().send_window(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn offload_is_read_as_it_is_written() {
        for (name, offload) in Offload::NAMES {
            assert_eq!(name.parse(), Ok(offload));
            assert_eq!(offload.to_string(), name);
        }
        let error = "yes".parse::<Offload>().unwrap_err();
        assert_eq!(error.to_string(), "`yes` is none of auto, on, off");
    }

    #[test]
    fn congestion_is_read_as_it_is_written() {
        for (name, congestion) in Congestion::NAMES {
            assert_eq!(name.parse(), Ok(congestion));
            assert_eq!(congestion.to_string(), name);
        }
        let error = "bbr".parse::<Congestion>().unwrap_err();
        assert_eq!(error.to_string(), "`bbr` is none of rate, cubic");
    }

    /// quinn's largest batch against the kernel's limit (65,535 bytes with its headers).
    #[test]
    fn a_batch_of_the_largest_datagrams_is_one_that_the_kernel_takes() {
        assert!(10 * u32::from(DATAGRAM_MAX) <= 65_535 - 28);
        assert!(10 * u32::from(DATAGRAM_MAX + 1) > 65_535 - 28);
    }
}
