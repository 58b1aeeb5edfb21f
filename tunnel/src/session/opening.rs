//! Streams on a new transport stream: this side's and the peer's, new ones and those that move.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use underpass_proto::DecodeError;
use underpass_proto::chain;
use underpass_proto::frame::{self, Attach, Attached, Body, FrameReader, Open, RawFrame};
use underpass_proto::session::{Beginning, Taken, Violation};

use super::incoming::{self, HeaderError};
use super::io::StreamIo;
use super::link::LinkHandle;
use super::shared::Shared;
use super::{now, write_all};
use crate::limits;
use crate::transport::{BiStream, HalfError, TransportError};

/// Bytes read in one go while a frame arrives.
const READ: usize = 16 * 1024;

/// Puts a new stream of this side on the transport where it belongs. Where there is none, or it fails, the
/// next transport takes the stream.
pub(super) async fn open(shared: &Arc<Shared>, io: &Arc<StreamIo>) {
    if let Some(link) = shared.link_for(io.id()) {
        // Why a transport cannot take it, its driver hears, too.
        let _ = begin(shared, &link, io).await;
    }
}

/// Puts a stream of this side on a new transport, and hands over its bytes.
pub(super) async fn resume(shared: Arc<Shared>, link: Arc<LinkHandle>, io: Arc<StreamIo>) {
    if let Err(error) = begin(&shared, &link, &io).await {
        tracing::debug!(stream = %io.id(), "not resumed: {}", chain(&error));
    }
}

/// Why a stream is not on a transport. Another transport may take it.
#[derive(Debug, Error)]
enum BeginError {
    #[error("no stream of the transport")]
    Transport(#[from] TransportError),
    #[error("the stream of the transport ended")]
    Half(#[from] HalfError),
    #[error("no answer to ATTACH")]
    Unanswered,
    #[error("malformed answer to ATTACH")]
    Answer(#[from] DecodeError),
}

async fn begin(
    shared: &Arc<Shared>,
    link: &LinkHandle,
    io: &Arc<StreamIo>,
) -> Result<(), BeginError> {
    let Some(beginning) = io.begin(shared, link.id) else {
        return Ok(());
    };
    let mut stream = link.transport.open().await?;
    let leg = match beginning {
        Beginning::Open(leg) => {
            io.open(shared, leg, stream);
            leg
        }
        Beginning::Attach(attach) => {
            // A peer that answers none would have each move leave a task behind.
            let (attached, rest) = tokio::select! {
                answer = ask(&mut stream, &attach) => answer?,
                () = io.leaves(shared, attach.leg) => return Ok(()),
            };
            io.attach(shared, attach.leg, stream, attached, rest);
            attach.leg
        }
    };
    io.pump(shared, leg).await;
    Ok(())
}

async fn ask(stream: &mut BiStream, attach: &Attach) -> Result<(Attached, Bytes), BeginError> {
    write_all(stream.send.as_mut(), frame::to_bytes(attach)).await?;
    let mut reader = FrameReader::new(limits::CONTROL_FRAME);
    loop {
        if let Some(raw) = reader.next()? {
            return Ok((raw.decode()?, reader.into_rest()));
        }
        match poll_fn(|cx| stream.recv.poll_read_bytes(cx, READ)).await? {
            Some(bytes) => reader.push(&bytes),
            None => return Err(BeginError::Unanswered),
        }
    }
}

/// Reads the first frame of a new transport stream, and passes it on. A bad one costs that
/// stream; only an id that the peer may not use, or an offset that cannot be, costs the session.
pub(super) async fn take(
    shared: Arc<Shared>,
    link: Arc<LinkHandle>,
    mut stream: BiStream,
) -> Result<(), Violation> {
    let first = tokio::time::timeout(limits::OPEN_HEADER_TIME, read_first(&mut stream)).await;
    match first.unwrap_or(Err(HeaderError::Timeout)).and_then(parse) {
        Ok((First::Attach(attach), _, _)) => take_attach(&shared, &link, stream, attach),
        Ok((First::Open(open), len, rest)) => take_open(&shared, &link, stream, open, len, rest),
        Err(error) => {
            discard(&shared, &mut stream, &error);
            Ok(())
        }
    }
}

/// The frame, how many bytes it took, and the bytes behind it.
type Parsed<F> = (F, u64, Bytes);

/// The first frame of a transport stream of the peer's.
enum First {
    Open(Open),
    Attach(Attach),
}

fn parse((frame, len, rest): Parsed<RawFrame>) -> Result<Parsed<First>, HeaderError> {
    let first = if frame.kind == u64::from(Attach::TYPE) {
        First::Attach(frame.decode()?)
    } else {
        First::Open(frame.decode()?)
    };
    Ok((first, len, rest))
}

/// A stream of an unknown id can only be ended below the session.
fn discard(shared: &Shared, stream: &mut BiStream, error: &HeaderError) {
    let reason = chain(error);
    shared.log_refused(&reason);
    stream.send.reset(error.code());
    stream.recv.stop(error.code());
}

async fn read_first(stream: &mut BiStream) -> Result<Parsed<RawFrame>, HeaderError> {
    let mut reader = FrameReader::new(limits::OPEN_FRAME);
    let mut read = 0;
    loop {
        if let Some(frame) = reader.next()? {
            let rest = reader.into_rest();
            let len = read - rest.len() as u64;
            return Ok((frame, len, rest));
        }
        let bytes = poll_fn(|cx| stream.recv.poll_read_bytes(cx, READ)).await;
        match bytes.map_err(broken)? {
            Some(bytes) => {
                read += bytes.len() as u64;
                reader.push(&bytes);
            }
            None => return Err(HeaderError::Ended),
        }
    }
}

fn broken(error: HalfError) -> HeaderError {
    match error {
        HalfError::Malformed(error) => HeaderError::Decode(error),
        error => HeaderError::Broken(error),
    }
}

fn take_open(
    shared: &Arc<Shared>,
    link: &LinkHandle,
    stream: BiStream,
    open: Open,
    len: u64,
    rest: Bytes,
) -> Result<(), Violation> {
    let id = open.stream;
    let read = len + rest.len() as u64;
    let taken = shared.with(|core| core.take_open(link.id, id, len, read, now()))?;
    if taken == Taken::New
        && let Some(io) = shared.io(id)
    {
        io.classify(shared, open.class);
        io.take(shared, stream, rest);
        incoming::announce(Arc::clone(shared), io, open);
    }
    Ok(())
}

fn take_attach(
    shared: &Arc<Shared>,
    link: &LinkHandle,
    stream: BiStream,
    attach: Attach,
) -> Result<(), Violation> {
    let taken = shared.with(|core| core.take_attach(link.id, attach.stream, attach.leg))?;
    if taken == Taken::Nobodys {
        return Ok(());
    }
    let Some(io) = shared.io(attach.stream) else {
        return Ok(());
    };
    let mut answer = Ok(None);
    let went = io.take_attached(shared, stream, || {
        answer = shared.with(|core| core.attached(attach));
        answer.ok().flatten()
    });
    answer?;
    if taken == Taken::New {
        incoming::read_open(Arc::clone(shared), Arc::clone(&io));
    }
    if went.is_some() {
        let shared = Arc::clone(shared);
        // It ends with the transport, if not before.
        tokio::spawn(async move { io.pump(&shared, attach.leg).await });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use underpass_proto::frame::{Class, Leg};
    use underpass_proto::session::{LinkId, LinkRole};
    use underpass_proto::stream_id::{Role, StreamId};

    use underpass_proto::code::ResetCode;

    use super::*;
    use crate::session::shared::tests::{join, link, session};
    use crate::transport::{RecvStream, SendStream};

    /// Half of a stream on which nothing comes, and that takes bytes or does not.
    struct Half {
        takes: bool,
        _held: Arc<()>,
    }

    impl Half {
        fn both(takes: bool, held: &Arc<()>) -> BiStream {
            let half = || Self {
                takes,
                _held: Arc::clone(held),
            };
            BiStream {
                send: Box::new(half()),
                recv: Box::new(half()),
            }
        }

        fn poll<T>(&self, taken: T) -> Poll<Result<T, HalfError>> {
            match self.takes {
                true => Poll::Ready(Ok(taken)),
                false => Poll::Pending,
            }
        }
    }

    impl SendStream for Half {
        fn poll_write(
            &mut self,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<Result<usize, HalfError>> {
            self.poll(data.len())
        }

        fn poll_write_bytes(
            &mut self,
            _: &mut Context<'_>,
            data: &mut Bytes,
        ) -> Poll<Result<(), HalfError>> {
            if self.takes {
                data.clear();
            }
            self.poll(())
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
            self.poll(())
        }

        fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
            self.poll(())
        }

        fn reset(&mut self, _: ResetCode) {}
    }

    impl RecvStream for Half {
        fn poll_read_bytes(
            &mut self,
            _: &mut Context<'_>,
            _: usize,
        ) -> Poll<Result<Option<Bytes>, HalfError>> {
            Poll::Pending
        }

        fn stop(&mut self, _: ResetCode) {}
    }

    fn attach(stream: StreamId, leg: Leg) -> Attach {
        Attach {
            stream,
            leg,
            received: 0,
            limit: 1000,
        }
    }

    /// The two come on links whose drivers run beside each other.
    #[tokio::test]
    async fn an_attach_that_has_overtaken_its_open_keeps_the_stream() {
        let (shared, _supervision, _main) = session().await;
        let _standby = join(&shared, LinkId(1), LinkRole::Standby).await;
        let id = StreamId::first(Role::Acceptor);
        let open = Open {
            stream: id,
            class: Class::Default,
            target: String::new(),
            header: Bytes::new(),
        };
        let len = frame::to_bytes(&open).len() as u64;
        let taken = shared.with(|core| core.take_open(LinkId::FIRST, id, len, len, now()));
        assert_eq!(taken.unwrap(), Taken::New);
        let (first, second) = (Arc::new(()), Arc::new(()));
        let later = link(&shared, LinkId(1));
        let leg = Leg::FIRST.next();
        let moved = Half::both(true, &second);
        take_attach(&shared, &later, moved, attach(id, leg)).unwrap();
        let io = shared.io(id).unwrap();
        io.take(&shared, Half::both(true, &first), Bytes::new());
        assert_eq!(Arc::strong_count(&first), 1, "that leg is over");
        assert_eq!(Arc::strong_count(&second), 3);
        // The other way round, an earlier ATTACH finds a later one's halves.
        let mut answer = Some(Some(()));
        let late = io.take_attached(&shared, Half::both(true, &first), || {
            answer.take();
            shared.with(|core| core.attached(attach(id, Leg::FIRST)).unwrap())
        });
        assert!(late.is_none() && answer.is_none());
        assert_eq!(Arc::strong_count(&second), 3);
    }

    /// Of a peer that gives its transport streams no room, and moves a stream again and again.
    #[tokio::test]
    async fn rule_23_moves_to_where_nothing_is_taken_leave_no_tasks() {
        let (shared, _supervision, _main) = session().await;
        let id = StreamId::first(Role::Acceptor);
        let main = link(&shared, LinkId::FIRST);
        let tasks = tokio::runtime::Handle::current().metrics();
        let (mut leg, held) = (Leg::FIRST, Arc::new(()));
        for _ in 0..300 {
            leg = leg.next();
            take_attach(&shared, &main, Half::both(false, &held), attach(id, leg)).unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        assert!(tasks.num_alive_tasks() < 20, "{}", tasks.num_alive_tasks());
        assert!(Arc::strong_count(&held) <= 3);
        // Its end is the last one's.
        shared.with(|core| core.refuse(id, ResetCode::Cancelled, "over"));
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn rule_23_few_streams_that_begin_with_attach_withhold_their_open() {
        let (shared, _supervision, _main) = session().await;
        let main = link(&shared, LinkId::FIRST);
        let held = Arc::new(());
        let mut id = Some(StreamId::first(Role::Acceptor));
        let mut refused = 0;
        for _ in 0..limits::STREAMS_OPENING + 50 {
            let stream = id.unwrap();
            id = stream.next();
            let half = Half::both(true, &held);
            take_attach(&shared, &main, half, attach(stream, Leg::FIRST.next())).unwrap();
            refused += usize::from(shared.opens().is_none());
        }
        assert_eq!(refused, 51);
    }
}
