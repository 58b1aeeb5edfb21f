//! The frames of an established session's control stream.

use bytes::{Bytes, BytesMut};

use super::{
    Ack, Body, Close, Credit, DecodeError, Done, GoAway, Leave, Ping, Pong, Primary, RawFrame,
    Refuse, ResetStream, Sequence, StopSending, encode, to_bytes,
};

/// A frame of an established control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Are you there?
    Ping(Ping),
    /// I am.
    Pong(Pong),
    /// The session is over.
    Close(Close),
    /// This transport is over.
    Leave(Leave),
    /// Lasting frames arrived.
    Ack(Ack),
    /// Which lasting frame follows.
    Sequence(Sequence),
    /// A stream's bytes arrived, and more may follow.
    Credit(Credit),
    /// This link is the primary one.
    Primary(Primary),
    /// A frame that outlives the transport.
    Lasting(Lasting),
}

/// A frame that is sent again on the next transport until the peer has it, and that counts only
/// once (PROTOCOL.md, "Lasting frames").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lasting {
    /// Open no new streams.
    GoAway(GoAway),
    /// A stream is not taken.
    Refuse(Refuse),
    /// A direction of a stream ended early.
    ResetStream(ResetStream),
    /// A direction of a stream is not read any more.
    StopSending(StopSending),
    /// A direction of a stream arrived whole.
    Done(Done),
}

impl Control {
    /// Reads a frame of the control stream.
    ///
    /// # Errors
    /// Where the type has no place on an established control stream, or the body is malformed.
    pub fn decode(frame: RawFrame) -> Result<Self, DecodeError> {
        match u32::try_from(frame.kind) {
            Ok(Ping::TYPE) => frame.decode().map(Self::Ping),
            Ok(Pong::TYPE) => frame.decode().map(Self::Pong),
            Ok(Close::TYPE) => frame.decode().map(Self::Close),
            Ok(Leave::TYPE) => frame.decode().map(Self::Leave),
            Ok(Ack::TYPE) => frame.decode().map(Self::Ack),
            Ok(Sequence::TYPE) => frame.decode().map(Self::Sequence),
            Ok(Credit::TYPE) => frame.decode().map(Self::Credit),
            Ok(Primary::TYPE) => frame.decode().map(Self::Primary),
            _ => Lasting::decode(frame).map(Self::Lasting),
        }
    }

    /// Whether it is about the link on which it stands, and so may stand on a lane.
    pub fn is_of_the_link(&self) -> bool {
        matches!(
            self,
            Self::Ping(_) | Self::Pong(_) | Self::Close(_) | Self::Leave(_)
        )
    }

    /// Whether it answers something of the receiver's: the path carries both ways.
    pub(crate) fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Pong(_) | Self::Ack(_) | Self::Credit(_) | Self::Lasting(Lasting::Done(_))
        )
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Ping(body) => encode(body, out),
            Self::Pong(body) => encode(body, out),
            Self::Close(body) => encode(body, out),
            Self::Leave(body) => encode(body, out),
            Self::Ack(body) => encode(body, out),
            Self::Sequence(body) => encode(body, out),
            Self::Credit(body) => encode(body, out),
            Self::Primary(body) => encode(body, out),
            Self::Lasting(body) => out.extend_from_slice(&body.to_bytes()),
        }
    }
}

impl Lasting {
    fn decode(frame: RawFrame) -> Result<Self, DecodeError> {
        match u32::try_from(frame.kind) {
            Ok(GoAway::TYPE) => frame.decode().map(Self::GoAway),
            Ok(Refuse::TYPE) => frame.decode().map(Self::Refuse),
            Ok(ResetStream::TYPE) => frame.decode().map(Self::ResetStream),
            Ok(StopSending::TYPE) => frame.decode().map(Self::StopSending),
            Ok(Done::TYPE) => frame.decode().map(Self::Done),
            _ => Err(DecodeError::UnexpectedFrame(frame.kind)),
        }
    }

    /// The frame as bytes.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::GoAway(body) => to_bytes(body),
            Self::Refuse(body) => to_bytes(body),
            Self::ResetStream(body) => to_bytes(body),
            Self::StopSending(body) => to_bytes(body),
            Self::Done(body) => to_bytes(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameReader, Proof};
    use super::*;

    #[test]
    fn a_handshake_frame_has_no_place_on_an_established_control_stream() {
        let proof = Proof {
            signature: [7; 64],
            resumption: None,
        };
        let raw = FrameReader::new(Proof::MAX)
            .read_all(&to_bytes(&proof))
            .unwrap();
        assert_eq!(
            Control::decode(raw),
            Err(DecodeError::UnexpectedFrame(u64::from(Proof::TYPE)))
        );
    }
}
