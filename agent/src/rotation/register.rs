//! Registering the next key, on a stream to the server.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream,
};
use tokio::time::timeout;
use underpass_api::{AGENT_KEY, NextKeyAnswer, NextKeyChallenge, NextKeyRefusal, NextKeyRequest};
use underpass_tunnel::{
    Dialer, DialerError, KeyChange, KeyError, ResetCode, RotationProof, Session, Stream,
    StreamError,
};

use crate::key::OwnKey;
use crate::limits;

/// Why the next key is not registered, or may be.
#[derive(Debug, Error)]
pub(super) enum NotRegistered {
    #[error("the server is of a version that does not rotate keys")]
    OldServer,
    #[error("{detail}")]
    Refused {
        reason: NextKeyRefusal,
        detail: String,
    },
    #[error("no stream to the server")]
    Dial(#[source] DialerError),
    #[error("the stream to the server broke")]
    Stream(#[source] StreamError),
    #[error("the stream to the server ended early")]
    Io(#[from] io::Error),
    #[error("the server does not answer within {} s", limits::NEXT_KEY_TIME.as_secs())]
    Timeout,
    #[error("the server does not answer in a way that this agent understands")]
    Unreadable(#[from] serde_json::Error),
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
}

/// Registers the next key, with the proofs of both. Gives whether it was registered now, and not before.
///
/// # Cancel safety
/// It may be registered. The same again finds that out.
pub(super) async fn register(
    session: &Session,
    key: &OwnKey,
    next: &OwnKey,
) -> Result<bool, NotRegistered> {
    let asking = timeout(limits::NEXT_KEY_TIME, ask(session, key, next)).await;
    match asking.map_err(|_| NotRegistered::Timeout)?? {
        NextKeyAnswer::Registered { is_new } => Ok(is_new),
        NextKeyAnswer::Refused { reason, detail } => Err(NotRegistered::Refused { reason, detail }),
    }
}

async fn ask(
    session: &Session,
    key: &OwnKey,
    next: &OwnKey,
) -> Result<NextKeyAnswer, NotRegistered> {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = dialled.map_err(NotRegistered::Dial)?;
    stream.accepted().await.map_err(|error| match error {
        StreamError::Refused {
            code: ResetCode::UnknownTarget,
            ..
        } => NotRegistered::OldServer,
        error => NotRegistered::Stream(error),
    })?;
    let mut stream = BufStream::new(stream);
    let challenge: NextKeyChallenge = read(&mut stream).await?;
    let change = KeyChange {
        session: session.info().id.0,
        challenge: challenge.challenge,
        key: key.public(),
        next: next.public(),
        agent: &challenge.agent,
    };
    let request = NextKeyRequest {
        key: key.public().to_string(),
        next_key: next.public().to_string(),
        proof: RotationProof::new(&key.key()?, &change).to_string(),
        next_proof: RotationProof::new(&next.key()?, &change).to_string(),
    };
    write(&mut stream, &request).await?;
    read(&mut stream).await
}

/// One line. Bounded.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> Result<T, NotRegistered> {
    let mut line = Vec::new();
    let mut bounded = from.take(limits::KEY_LINE);
    bounded.read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

pub(super) async fn write(
    to: &mut BufStream<Stream>,
    value: &impl Serialize,
) -> Result<(), NotRegistered> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await?;
    Ok(())
}
