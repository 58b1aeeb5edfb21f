//! A transport's path statistics.

use std::time::Duration;

/// A transport's account of its connection and path, as of now.
///
/// `None`: the transport does not measure it. Over TCP the kernel keeps most of this to itself.
/// Counters begin with the connection and never fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PathStats {
    /// The smoothed round-trip time.
    pub round_trip: Option<Duration>,
    /// Bytes that may be in flight, unacknowledged: the congestion controller's window.
    pub congestion_window: Option<u64>,
    /// How often loss or the network's own mark made that window smaller.
    pub congestion_events: Option<u64>,
    /// Packets sent.
    pub sent_packets: Option<u64>,
    /// Packets of these that were lost: acknowledged neither in time nor in order.
    pub lost_packets: Option<u64>,
    /// Bytes sent, with the transport's own, without those of IP, and of UDP or TCP.
    pub sent_bytes: Option<u64>,
    /// Bytes received, likewise.
    pub received_bytes: Option<u64>,
    /// The largest datagram that the path is known to carry, in bytes of UDP payload.
    pub max_datagram: Option<u16>,
    /// How often the path stopped carrying datagrams of the size that it had carried, so that it had
    /// to be found anew.
    pub black_holes: Option<u64>,
}
