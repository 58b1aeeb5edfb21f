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
