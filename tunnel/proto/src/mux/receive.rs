//! The receiving end: checks a peer's frames and applies them.

use bytes::Bytes;

use super::error::Violation;
use super::frame::Header;
use super::number::Number;
use super::schedule::Rank;
use super::stream::Stream;
use super::{Event, Key, Mux};
use crate::frame::Class;
use crate::limits;

/// A DATA frame whose payload is arriving.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload {
    number: Number,
    left: usize,
    fin: bool,
}

impl Mux {
    /// Takes arrived bytes. Payload goes to its stream without being copied, unless it is short.
    ///
    /// # Errors
    /// Where the peer broke a rule. Nothing may follow.
    pub fn receive(&mut self, mut bytes: Bytes) -> Result<(), Violation> {
        loop {
            if let Some(payload) = self.payload.take() {
                if payload.left > 0 && bytes.is_empty() {
                    self.payload = Some(payload);
                    return Ok(());
                }
                let piece = bytes.split_to(payload.left.min(bytes.len()));
                self.deliver(payload, piece)?;
            } else {
                match self.reader.next(&mut bytes)? {
                    Some((number, header)) => self.handle(number, header)?,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Whether the bytes received so far end with a frame's end.
    pub fn is_between_frames(&self) -> bool {
        self.payload.is_none() && self.reader.is_empty()
    }

    fn handle(&mut self, number: Number, header: Header) -> Result<(), Violation> {
        let key = self.find(number)?;
        let stream = key.and_then(|key| Some((key, self.table.get(key)?)));
        match (header, stream) {
            (Header::Data { len, fin }, stream) => {
                if let Some((_, stream)) = stream {
                    stream.recv.check_open(number)?;
                }
                let left = len;
                self.payload = Some(Payload { number, left, fin });
            }
            // Frames of a stream that is gone here may have been under way.
            (_, None) => {}
            (Header::Reset(code), Some((key, stream))) => {
                stream.recv.check_open(number)?;
                self.held -= stream.recv.ended(Err(code));
                self.wake_reader(key);
                self.reschedule(key);
            }
            (Header::Stop(code), Some((key, stream))) => {
                stream.recv.check_stop(number)?;
                stream.send.stopped(code);
                if std::mem::take(&mut stream.send.waiting) {
                    self.events.push(Event::Writable(key));
                }
                self.reschedule(key);
            }
        }
        Ok(())
    }

    /// The stream of a number, which a first frame opens; `None` where it is gone.
    fn find(&mut self, number: Number) -> Result<Option<Key>, Violation> {
        if let Some(key) = self.table.find(number) {
            return Ok(Some(key));
        }
        if number.opener() == self.role {
            return if number < self.next_number {
                Ok(None)
            } else {
                Err(Violation::NotOpened(number))
            };
        }
        if self.seen.is_some_and(|seen| number <= seen) {
            return Ok(None);
        }
        let first = self.seen.replace(number).is_none();
        let max = if self.trusted {
            limits::MUX_STREAMS
        } else {
            limits::MUX_STREAMS_UNAUTHENTICATED
        };
        if self.remote >= max {
            return Err(Violation::TooManyStreams(max));
        }
        self.remote += 1;
        let rank = if number == Number::CONTROL {
            Rank::Control
        } else {
            Class::default().into()
        };
        let key = self.table.insert(Stream::new(Some(number), rank));
        if first || self.trusted {
            self.incoming.push_back(key);
            self.events.push(Event::Opened);
        } else {
            // Before it is authenticated, a peer has no use for more than the control stream.
            self.release_send(key);
            self.release_recv(key);
        }
        Ok(Some(key))
    }

    fn deliver(&mut self, payload: Payload, piece: Bytes) -> Result<(), Violation> {
        let Payload { number, left, fin } = payload;
        let left = left - piece.len();
        if left > 0 {
            self.payload = Some(Payload { number, left, fin });
        }
        let end = fin && left == 0;
        // Looked up for each piece: the stream may have gone since the last one.
        let Some(key) = self.table.find(number) else {
            return Ok(());
        };
        let Some(stream) = self.table.get(key) else {
            return Ok(());
        };
        if !stream.recv.is_discarding() {
            let (stream_max, connection_max) = if self.trusted {
                (limits::MUX_STREAM_RECEIVE, limits::MUX_CONNECTION_RECEIVE)
            } else {
                (limits::MUX_UNAUTHENTICATED, limits::MUX_UNAUTHENTICATED)
            };
            self.held += piece.len();
            if stream.recv.held() + piece.len() > stream_max {
                let max = stream_max;
                return Err(Violation::StreamOverflow { number, max });
            }
            if self.held > connection_max {
                let max = connection_max;
                return Err(Violation::ConnectionOverflow { max });
            }
            stream.recv.push(piece);
        }
        if end {
            self.held -= stream.recv.ended(Ok(()));
        }
        self.wake_reader(key);
        if end {
            self.reschedule(key);
        }
        Ok(())
    }

    fn wake_reader(&mut self, key: Key) {
        if let Some(stream) = self.table.get(key)
            && std::mem::take(&mut stream.recv.waiting)
        {
            self.events.push(Event::Readable(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::code::ResetCode;
    use crate::mux::Ended;
    use crate::stream_id::Role;

    fn mux() -> Mux {
        let mut mux = Mux::new(Role::Acceptor);
        mux.authenticated();
        mux
    }

    /// A DATA frame whose payload is one allocation, however many frames have it.
    fn data(mux: &mut Mux, stream: u64, payload: &Bytes) -> Result<(), Violation> {
        let mut head = BytesMut::new();
        let header = Header::Data {
            len: payload.len(),
            fin: false,
        };
        let number = crate::VarInt::try_from(stream).unwrap();
        header.encode(Number::from_wire(number), &mut head);
        mux.receive(head.freeze())?;
        mux.receive(payload.clone())
    }

    #[test]
    fn what_all_streams_hold_has_a_limit_and_what_is_read_counts_no_more() {
        let mut mux = mux();
        let payload = Bytes::from(vec![7; limits::MUX_DATA]);
        let per_stream = limits::MUX_STREAM_RECEIVE / payload.len();
        let frames = limits::MUX_CONNECTION_RECEIVE / payload.len();
        for i in 0..frames {
            let stream = 2 * (i / per_stream) as u64;
            data(&mut mux, stream, &payload).unwrap();
        }
        assert_eq!(mux.held(), limits::MUX_CONNECTION_RECEIVE);
        let first = mux.accept().unwrap();
        assert_eq!(mux.poll_read(first, 1), Ok(Some(payload.slice(..1))));
        let last = 2 * (frames / per_stream) as u64;
        data(&mut mux, last, &payload.slice(..1)).unwrap();
        let max = limits::MUX_CONNECTION_RECEIVE;
        assert_eq!(
            data(&mut mux, last, &payload.slice(..1)),
            Err(Violation::ConnectionOverflow { max })
        );
    }

    #[test]
    fn a_reset_and_a_dropped_reader_give_back_what_was_held() {
        let mut mux = mux();
        let payload = Bytes::from(vec![7; 10_000]);
        data(&mut mux, 0, &payload).unwrap();
        data(&mut mux, 2, &payload).unwrap();
        let (first, second) = (mux.accept().unwrap(), mux.accept().unwrap());
        mux.receive(Bytes::from_static(&[0x42, 0, 5])).unwrap();
        assert_eq!(mux.held(), 10_000);
        mux.release_recv(second);
        assert_eq!(mux.held(), 0);
        data(&mut mux, 2, &payload).unwrap();
        assert_eq!(mux.held(), 0, "nobody wants it");
        let code = ResetCode::from_wire(5);
        assert_eq!(mux.poll_read(first, 1), Err(Err(Ended::Reset(code))));
    }

    #[test]
    fn the_connectors_peer_is_trusted_at_once_and_the_acceptors_is_not() {
        let payload = Bytes::from(vec![7; limits::MUX_DATA]);
        let mut connector = Mux::new(Role::Connector);
        data(&mut connector, 1, &payload).unwrap();
        data(&mut connector, 1, &payload).unwrap();
        let mut acceptor = Mux::new(Role::Acceptor);
        data(&mut acceptor, 0, &payload).unwrap();
        let max = limits::MUX_UNAUTHENTICATED;
        let overflow = Violation::StreamOverflow {
            number: Number::CONTROL,
            max,
        };
        assert_eq!(data(&mut acceptor, 0, &payload), Err(overflow));
    }
}
