//! The receiving end: a byte stream in, payload and control frames out.

use bytes::{Bytes, BytesMut};

use super::{CONTROL_MAX, Closing, FramingError, Header, Mask, Opcode};
use crate::limits;
use crate::stream_id::Role;

/// Decoded input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// The next bytes of the multiplexer's: a slice of the read buffer, not a copy.
    Payload(Bytes),
    /// To be answered with a Pong of the same payload.
    Ping(Bytes),
    /// The peer is alive.
    Pong,
    /// Nothing comes behind it.
    Close(Closing),
}

/// Cuts WebSocket frames from read bytes, and unmasks them.
///
/// The caller appends what it reads to one buffer and calls [`decode`](Self::decode) on it until
/// that gives nothing; then the buffer holds the beginning of a header or of a control
/// frame, [`UNDECODED_MAX`](Self::UNDECODED_MAX) bytes at the most.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the peer is a client, which masks.
    masked: bool,
    /// Payload of a binary frame that has not come yet, with the mask at its next byte.
    payload: u64,
    mask: Option<Mask>,
    /// Of the message that the last binary frame began or continued and did not end: the bytes
    /// announced so far.
    message: Option<u64>,
    /// A control frame whose payload has not come in full.
    control: Option<Header>,
}

impl Decoder {
    /// Bytes that [`decode`](Self::decode) leaves in the buffer at the most.
    pub const UNDECODED_MAX: usize = CONTROL_MAX;

    /// For the end of `role`.
    pub fn new(role: Role) -> Self {
        Self {
            masked: role == Role::Acceptor,
            payload: 0,
            mask: None,
            message: None,
            control: None,
        }
    }

    /// The next thing in `buffer`, which it is taken from; `None` where more has to be read first.
    ///
    /// # Errors
    /// Where the bytes are no WebSocket that carries a multiplexer: the connection cannot go on.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Received>, FramingError> {
        loop {
            if self.payload > 0 {
                return Ok(self.payload(buffer));
            }
            if let Some(header) = self.control {
                return self.control(header, buffer);
            }
            let Some(header) = Header::decode(buffer)? else {
                return Ok(None);
            };
            self.begin(header)?;
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), FramingError> {
        let masked = header.mask.is_some();
        if masked != self.masked {
            return Err(FramingError::Masking { masked });
        }
        if header.opcode.is_control() {
            self.control = Some(header);
            return Ok(());
        }
        let before = match (header.opcode, self.message) {
            (Opcode::Continuation, Some(len)) => len,
            (Opcode::Binary, None) => 0,
            _ => return Err(FramingError::Fragments),
        };
        let len = before.saturating_add(header.len);
        if len > limits::WEBSOCKET_MESSAGE as u64 {
            return Err(FramingError::TooLong { len });
        }
        self.message = (!header.fin).then_some(len);
        self.payload = header.len;
        self.mask = header.mask;
        Ok(())
    }

    fn payload(&mut self, buffer: &mut BytesMut) -> Option<Received> {
        if buffer.is_empty() {
            return None;
        }
        let len = usize::try_from(self.payload).map_or(buffer.len(), |len| len.min(buffer.len()));
        let mut bytes = buffer.split_to(len);
        self.payload -= len as u64;
        if let Some(mask) = &mut self.mask {
            mask.apply(&mut bytes);
        }
        Some(Received::Payload(bytes.freeze()))
    }

    fn control(
        &mut self,
        header: Header,
        buffer: &mut BytesMut,
    ) -> Result<Option<Received>, FramingError> {
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if buffer.len() < len {
            return Ok(None);
        }
        self.control = None;
        let mut payload = BytesMut::from(buffer.get(..len).unwrap_or_default());
        let _ = buffer.split_to(len);
        if let Some(mut mask) = header.mask {
            mask.apply(&mut payload);
        }
        Ok(Some(match header.opcode {
            Opcode::Ping => Received::Ping(payload.freeze()),
            Opcode::Close => Received::Close(Closing::decode(&payload)?),
            _ => Received::Pong,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CloseCode;

    fn frame(fin: bool, opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> BytesMut {
        let mut out = BytesMut::new();
        let mask = key.map(Mask::new);
        let len = payload.len() as u64;
        let header = Header {
            fin,
            opcode,
            len,
            mask,
        };
        header.encode(&mut out);
        match mask {
            Some(mut mask) => mask.append(payload, &mut out),
            None => out.extend_from_slice(payload),
        }
        out
    }

    /// All that comes of `wire`, payload put together, when it arrives in pieces of `piece` bytes.
    fn decode(
        role: Role,
        wire: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, Vec<Received>), FramingError> {
        let mut decoder = Decoder::new(role);
        let mut buffer = BytesMut::new();
        let (mut payload, mut rest) = (Vec::new(), Vec::new());
        for bytes in wire.chunks(piece) {
            buffer.extend_from_slice(bytes);
            while let Some(received) = decoder.decode(&mut buffer)? {
                match received {
                    Received::Payload(bytes) => payload.extend_from_slice(&bytes),
                    other => rest.push(other),
                }
            }
            assert!(buffer.len() <= Decoder::UNDECODED_MAX);
        }
        Ok((payload, rest))
    }

    #[test]
    fn fragments_with_control_frames_between_them_make_one_stream() {
        for (role, key) in [
            (Role::Connector, None),
            (Role::Acceptor, Some([0x37, 0xfa, 0x21, 0x3d])),
        ] {
            let close = Closing::new(CloseCode::Shutdown, "bye");
            let wire = [
                frame(false, Opcode::Binary, b"one ", key),
                frame(true, Opcode::Ping, b"there?", key),
                frame(false, Opcode::Continuation, b"", key),
                frame(true, Opcode::Continuation, b"two ", key),
                frame(true, Opcode::Pong, b"", key),
                frame(true, Opcode::Binary, b"three", key),
                frame(true, Opcode::Close, &close.encode(), key),
            ]
            .concat();
            for piece in 1..=wire.len() {
                let (payload, rest) = decode(role, &wire, piece).unwrap();
                assert_eq!(payload, b"one two three");
                let ping = Received::Ping(Bytes::from_static(b"there?"));
                let expected = [ping, Received::Pong, Received::Close(close.clone())];
                assert_eq!(rest, expected);
            }
        }
    }

    #[test]
    fn masking_is_the_clients_and_only_the_clients() {
        let masked = frame(true, Opcode::Binary, b"x", Some([1; 4]));
        let bare = frame(true, Opcode::Ping, b"x", None);
        for (role, wire, masked) in [
            (Role::Connector, masked, true),
            (Role::Acceptor, bare, false),
        ] {
            let error = decode(role, &wire, 100).unwrap_err();
            assert_eq!(error, FramingError::Masking { masked });
        }
    }

    #[test]
    fn messages_have_an_order_and_a_limit() {
        let refused =
            |frames: &[BytesMut]| decode(Role::Connector, &frames.concat(), 1000).unwrap_err();
        let begin = frame(false, Opcode::Binary, b"x", None);
        let orphan = frame(true, Opcode::Continuation, b"x", None);
        assert_eq!(refused(&[orphan]), FramingError::Fragments);
        assert_eq!(
            refused(&[begin.clone(), begin.clone()]),
            FramingError::Fragments
        );
        let mut rest = BytesMut::new();
        let header = Header {
            fin: true,
            opcode: Opcode::Continuation,
            len: limits::WEBSOCKET_MESSAGE as u64,
            mask: None,
        };
        header.encode(&mut rest);
        let len = limits::WEBSOCKET_MESSAGE as u64 + 1;
        assert_eq!(refused(&[begin, rest]), FramingError::TooLong { len });
    }

    #[test]
    fn payload_is_a_slice_of_what_was_read() {
        let mut buffer = frame(true, Opcode::Binary, &[7; 5000], None);
        let start = buffer.as_ptr() as usize;
        let received = Decoder::new(Role::Connector).decode(&mut buffer).unwrap();
        let Some(Received::Payload(payload)) = received else {
            panic!("payload, not {received:?}");
        };
        assert_eq!(payload.as_ptr() as usize, start + 4, "behind the header");
    }
}
