//! Stream numbers on the wire of one connection.

use std::fmt;

use crate::VarInt;
use crate::stream_id::Role;

/// A stream's number on one connection. The lowest bit names the side that opened it: 0 the
/// connector, 1 the acceptor.
///
/// It is not the session's [`StreamId`](crate::stream_id::StreamId): a stream of the session
/// may be carried by one connection after the other, and has another number on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u64);

impl Number {
    /// The number of the control stream: the connector's first.
    pub const CONTROL: Self = Self(0);

    /// The first one that `opener` uses.
    pub(super) const fn first(opener: Role) -> Self {
        match opener {
            Role::Connector => Self(0),
            Role::Acceptor => Self(1),
        }
    }

    /// The one that the same side uses next.
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 2)
    }

    /// Whether the wire can carry it: 2^61 streams of one side can be opened on a connection.
    pub(super) const fn is_usable(self) -> bool {
        self.0 <= VarInt::MAX.into_inner()
    }

    /// Which side opened the stream.
    pub const fn opener(self) -> Role {
        if self.0 & 1 == 0 {
            Role::Connector
        } else {
            Role::Acceptor
        }
    }

    pub(super) const fn from_wire(value: VarInt) -> Self {
        Self(value.into_inner())
    }

    pub(super) fn to_wire(self) -> VarInt {
        // No stream is opened with a number that is not usable.
        VarInt::try_from(self.0).unwrap_or(VarInt::MAX)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
