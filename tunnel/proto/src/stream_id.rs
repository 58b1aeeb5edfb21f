//! Stream ids, given out by the session and not by the transport.

use std::fmt;

use super::VarInt;

/// Which end of a session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that dialled: the agent.
    Connector,
    /// The side that was dialled: the server.
    Acceptor,
}

impl Role {
    /// The other end.
    pub const fn peer(self) -> Self {
        match self {
            Self::Connector => Self::Acceptor,
            Self::Acceptor => Self::Connector,
        }
    }
}

/// A stream's number in its session (PROTOCOL.md, "Stream ids").
///
/// The lowest bit names the side that opened it: 0 the connector, 1 the acceptor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(VarInt);

impl StreamId {
    /// The first id that `initiator` uses.
    pub const fn first(initiator: Role) -> Self {
        match initiator {
            Role::Connector => Self(VarInt::from_u32(0)),
            Role::Acceptor => Self(VarInt::from_u32(1)),
        }
    }

    /// The id that the same side uses next, or `None` once 2^61 of them are spent.
    pub fn next(self) -> Option<Self> {
        VarInt::try_from(self.0.into_inner() + 2).ok().map(Self)
    }

    /// The side that opened the stream.
    pub const fn initiator(self) -> Role {
        if self.0.into_inner() & 1 == 0 {
            Role::Connector
        } else {
            Role::Acceptor
        }
    }

    /// How many ids the same side uses before this one.
    pub(crate) const fn index(self) -> u64 {
        self.0.into_inner() >> 1
    }

    #[cfg(test)]
    pub(crate) fn from_index(initiator: Role, index: u64) -> Self {
        let first = Self::first(initiator).0.into_inner();
        Self(VarInt::try_from(2 * index + first).expect("a small index"))
    }

    /// From the wire: any integer is a stream id.
    pub const fn from_wire(value: VarInt) -> Self {
        Self(value)
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> VarInt {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.into_inner())
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({self}, of the {:?})", self.initiator())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_initiator_and_never_meet() {
        for role in [Role::Connector, Role::Acceptor] {
            let mut id = StreamId::first(role);
            for _ in 0..100 {
                assert_eq!(id.initiator(), role);
                assert_ne!(id, StreamId::first(role.peer()));
                id = id.next().unwrap();
            }
        }
    }

    #[test]
    fn ids_run_out_without_wrapping() {
        assert_eq!(StreamId::from_wire(VarInt::MAX).next(), None);
    }
}
