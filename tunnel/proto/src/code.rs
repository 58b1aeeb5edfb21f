//! Error codes of sessions and streams (PROTOCOL.md, "Error codes").

use std::fmt;

use bytes::BytesMut;

use super::VarInt;

/// Defines a code type: known values by name, and any others that a newer peer may send.
macro_rules! codes {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A code that this version does not know.
            Other(u64),
        }

        impl $name {
            #[cfg(test)]
            pub(crate) const KNOWN: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            pub const fn to_wire(self) -> u64 {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Other(value) => value,
                }
            }

            pub(crate) fn encode(self, out: &mut BytesMut) {
                // Every code but `Other` fits; an `Other` that came from the wire does too.
                VarInt::try_from(self.to_wire()).unwrap_or(VarInt::MAX).encode(out);
            }

            /// From the number on the wire. Every number has a meaning: an unknown one is
            /// kept, so that a log can show it.
            pub const fn from_wire(value: u64) -> Self {
                match value {
                    $($value => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Other(value) => write!(f, "code {value:#x}"),
                }
            }
        }
    };
}

codes! {
    /// Why a session ended.
    CloseCode {
        /// Planned end: nothing went wrong.
        Shutdown = 0x00, "shutdown";
        /// A frame that cannot be decoded.
        FrameEncoding = 0x01, "malformed frame";
        /// A frame or a field above its limit.
        FrameTooLarge = 0x02, "frame too large";
        /// A well-formed frame where it has no place.
        UnexpectedFrame = 0x03, "unexpected frame";
        /// A stream id of the wrong side, or one in use.
        StreamId = 0x04, "invalid stream id";
        /// No protocol version in common.
        Version = 0x05, "no common protocol version";
        /// The peer is not known, or could not prove who it is.
        Unauthenticated = 0x06, "unauthenticated";
        /// The handshake took too long.
        HandshakeTimeout = 0x07, "handshake timeout";
        /// Nothing was heard from the peer for too long.
        KeepaliveTimeout = 0x08, "keepalive timeout";
        /// A newer session of the same agent process took this one's place.
        Superseded = 0x09, "superseded by a newer session";
        /// The peer is over a limit of its own and asks to come back later.
        Overloaded = 0x0a, "overloaded";
        /// The peer's identity was withdrawn.
        Revoked = 0x0b, "identity revoked";
        /// A fault of the closing side.
        Internal = 0x0c, "internal error";
        /// The session cannot be carried on: its secret was not proven, or the transport comes late.
        ResumeRefused = 0x0d, "resume refused";
        /// Offsets that cannot be: bytes acknowledged that were not sent, or sent without credit.
        FlowControl = 0x0e, "flow control violated";
        /// This transport is not needed any more; the session goes on.
        TransportLeft = 0x0f, "transport left";
        /// Another key has taken the place of the connector's.
        KeyReplaced = 0x10, "key replaced";
    }
}

codes! {
    /// Why a stream was refused, reset or stopped.
    ResetCode {
        /// The side that sent it lost interest: nothing went wrong.
        Cancelled = 0x00, "cancelled";
        /// The target exists, and policy forbids it.
        Forbidden = 0x01, "forbidden by the peer's policy";
        /// The peer serves no such target.
        UnknownTarget = 0x02, "unknown target";
        /// The open header cannot be decoded.
        HeaderInvalid = 0x03, "malformed open header";
        /// The open header is above its limit.
        HeaderTooLarge = 0x04, "open header too large";
        /// The open header did not arrive in time.
        HeaderTimeout = 0x05, "open header timeout";
        /// The target could not be reached.
        TargetUnreachable = 0x06, "target unreachable";
        /// The target failed in the middle.
        TargetFailed = 0x07, "target failed";
        /// The session that carried the stream ended.
        SessionEnded = 0x08, "session ended";
        /// The peer takes no new streams: it is about to go away.
        GoingAway = 0x09, "peer is going away";
        /// The peer is over a limit of its own.
        Overloaded = 0x0a, "overloaded";
        /// A fault of the resetting side.
        Internal = 0x0b, "internal error";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_survives_the_wire() {
        for code in CloseCode::KNOWN {
            assert_eq!(CloseCode::from_wire(code.to_wire()), *code);
        }
        for code in ResetCode::KNOWN {
            assert_eq!(ResetCode::from_wire(code.to_wire()), *code);
        }
    }

    #[test]
    fn an_unknown_code_is_kept() {
        assert_eq!(ResetCode::from_wire(0x4242), ResetCode::Other(0x4242));
        assert_eq!(ResetCode::Other(0x4242).to_wire(), 0x4242);
        assert_eq!(ResetCode::Other(0x4242).to_string(), "code 0x4242");
    }
}
