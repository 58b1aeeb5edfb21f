//! A user's order to the target: the first bytes of every connection.

use std::time::Duration;

/// Bytes of an encoded order.
pub(crate) const LENGTH: usize = 9;

/// The target's task on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send back what comes.
    Echo,
    /// Drop what comes.
    Sink,
    /// Send without end: so many bytes in a second, or as many as are taken where it is zero.
    Pour(u64),
    /// Send a byte each time so long has passed.
    Tick(Duration),
}

impl Order {
    /// A letter, and a number in network order.
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        let (letter, number) = match self {
            Self::Echo => (b'E', 0),
            Self::Sink => (b'S', 0),
            Self::Pour(rate) => (b'P', rate),
            Self::Tick(pause) => (b'T', u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
        };
        let [a, b, c, d, e, f, g, h] = u64::to_be_bytes(number);
        [letter, a, b, c, d, e, f, g, h]
    }

    /// `None` for what is no order.
    pub(crate) fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let [letter, number @ ..] = bytes;
        match (letter, u64::from_be_bytes(number)) {
            (b'E', 0) => Some(Self::Echo),
            (b'S', 0) => Some(Self::Sink),
            (b'P', rate) => Some(Self::Pour(rate)),
            (b'T', millis) => Some(Self::Tick(Duration::from_millis(millis))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_is_understood() {
        for order in [
            Order::Echo,
            Order::Sink,
            Order::Pour(0),
            Order::Pour(125_000_000),
            Order::Tick(Duration::from_millis(20)),
        ] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        // The peers' programs of ours write this one themselves.
        assert_eq!(Order::Echo.encode(), [b'E', 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Order::decode(*b"X\0\0\0\0\0\0\0\0"), None);
        assert_eq!(Order::decode(*b"E\0\0\0\0\0\0\0\x01"), None);
    }
}
