//! WebSocket framing (RFC 6455, section 5) for a byte stream in binary messages.
//!
//! Only the part that a multiplexer needs: binary messages whose boundaries mean nothing, and the control
//! frames. Payload is given out as it arrives, not message by message, so that nothing is assembled
//! and nothing waits for a message's end. The HTTP handshake (section 4) is the transport's.

mod decoder;
mod header;
mod mask;

pub use decoder::{Decoder, Received};
pub use header::{CONTROL_MAX, Header, Opcode};
pub use mask::Mask;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::code::CloseCode;
use super::limits;

/// Bytes of a close reason: a control frame's room beside its status code.
const CLOSE_REASON_MAX: usize = CONTROL_MAX - 2;

/// The status codes from here on are private use (RFC 6455, section 7.4.2); ours are this and a
/// [`CloseCode`].
const CLOSE_BASE: u16 = 4000;

/// Why received bytes are no WebSocket that carries a multiplexer. The peer, or something between
/// it and us, is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FramingError {
    /// A reserved bit is set; no extension was agreed on.
    #[error("a WebSocket frame uses an extension that was not agreed on")]
    Reserved,
    /// The opcode has no meaning.
    #[error("unknown WebSocket opcode {0:#x}")]
    Opcode(u8),
    /// A text message, where only binary ones have a meaning.
    #[error("a WebSocket text message, where only binary ones have a meaning")]
    Text,
    /// A client's frame without a mask, or a server's with one.
    #[error("a WebSocket frame that is {}", if *.masked { "masked by a server" } else { "not masked by a client" })]
    Masking {
        /// Whether it was masked.
        masked: bool,
    },
    /// The length is not encoded in the fewest bytes, or is 2^63 or more.
    #[error("a WebSocket frame's length is badly encoded")]
    Length,
    /// A message goes beyond its limit.
    #[error(
        "a WebSocket message of {len} bytes and more, the limit is {}",
        limits::WEBSOCKET_MESSAGE
    )]
    TooLong {
        /// Bytes of it that were announced so far.
        len: u64,
    },
    /// A fragment that continues nothing, or a message within a message.
    #[error("WebSocket fragments out of order")]
    Fragments,
    /// A control frame in fragments, or longer than 125 bytes.
    #[error("a WebSocket control frame that is fragmented or too long")]
    Control,
    /// A Close with half a status code.
    #[error("a WebSocket Close with half a status code")]
    CloseStatus,
}

impl FramingError {
    /// The status that a Close tells the peer (RFC 6455, section 7.4.1).
    pub const fn status(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

/// A peer's close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The status code, where it gave one.
    pub status: Option<u16>,
    /// For people. No more than 123 bytes.
    pub reason: String,
}

impl Closing {
    /// A session's close code, as this protocol writes it.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        let code = u16::try_from(code.to_wire()).unwrap_or(u16::MAX);
        Self::with_status(CLOSE_BASE.saturating_add(code).min(4999), reason)
    }

    /// Any status.
    pub fn with_status(status: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(CLOSE_REASON_MAX);
        Self {
            status: Some(status),
            reason: reason.get(..end).unwrap_or_default().to_owned(),
        }
    }

    /// The session's close code, where it is one.
    pub fn code(&self) -> Option<CloseCode> {
        let code = self.status?.checked_sub(CLOSE_BASE)?;
        (code < 1000).then(|| CloseCode::from_wire(code.into()))
    }

    /// The payload of the Close.
    pub fn encode(&self) -> Bytes {
        let mut payload = BytesMut::new();
        if let Some(status) = self.status {
            payload.put_u16(status);
            payload.put_slice(self.reason.as_bytes());
        }
        payload.freeze()
    }

    fn decode(mut payload: &[u8]) -> Result<Self, FramingError> {
        let status = match payload.split_first_chunk() {
            Some((status, reason)) => {
                payload = reason;
                Some(u16::from_be_bytes(*status))
            }
            None if payload.is_empty() => None,
            None => return Err(FramingError::CloseStatus),
        };
        Ok(Self {
            status,
            reason: String::from_utf8_lossy(payload).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_carries_the_sessions_code() {
        let close = Closing::new(CloseCode::Revoked, "gone");
        assert_eq!(close.encode()[..], *b"\x0f\xabgone", "4011");
        assert_eq!(Closing::decode(&close.encode()), Ok(close.clone()));
        assert_eq!(close.code(), Some(CloseCode::Revoked));
        let other = CloseCode::Other(1 << 40);
        assert_eq!(Closing::new(other, "").status, Some(4999));
    }

    #[test]
    fn a_close_of_somebody_else_has_no_code_of_the_session() {
        for (payload, status) in [(&b""[..], None), (b"\x03\xe9away", Some(1001))] {
            let close = Closing::decode(payload).unwrap();
            assert_eq!((close.status, close.code()), (status, None));
        }
        assert_eq!(Closing::decode(b"\x03"), Err(FramingError::CloseStatus));
    }

    #[test]
    fn a_reason_fits_a_control_frame_and_ends_between_characters() {
        let close = Closing::new(CloseCode::Shutdown, &"ä".repeat(100));
        assert_eq!(close.reason.len(), 122);
        assert!(close.encode().len() <= CONTROL_MAX);
    }
}
