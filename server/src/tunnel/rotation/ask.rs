//! The server asks an agent about its key.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::Instant;
use underpass_api::{AGENT_KEY, KeyAnswer, KeyQuestion};
use underpass_directory::{Agent, Directory};
use underpass_tunnel::{Dialer, DialerError, PublicKey, ResetCode, Session, StreamError};

use crate::limits;

/// Why the agent does not do it. The text is for the caller, and the source for the log.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("the agent is of a version that does not rotate keys: upgrade it")]
    Unknown,
    #[error("the agent does not rotate its key: {0}")]
    Failed(String),
    #[error(
        "the agent went away while it was asked; `underpass agent list` shows whether it has rotated its key"
    )]
    Gone(#[source] Lost),
    #[error("the agent has not answered within {} s; `underpass agent list` shows whether it has rotated its key", limits::ASK_AGENT_TIME.as_secs())]
    Timeout,
    #[error("the agent does not answer in a way that this server understands")]
    Unreadable(#[source] serde_json::Error),
    #[error("the agent goes on with the key that it had; its log says why")]
    Kept,
    #[error(
        "the agent names a key that is not registered for it; `underpass agent list` shows whether it has rotated its key"
    )]
    Untrue,
    #[error(
        "the agent's next key is registered, and its old key still counts until the agent has proved the next one and the server has \
         written that down; `underpass agent list` shows it"
    )]
    NotYet,
    #[error("the agent was revoked while it was asked")]
    Revoked,
}

/// How the stream went.
#[derive(Debug, Error)]
pub(crate) enum Lost {
    #[error(transparent)]
    Dial(DialerError),
    #[error(transparent)]
    Stream(StreamError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks over this session, and gives the public key that the agent uses then.
///
/// # Cancel safety
/// The agent may do it all the same.
pub(crate) async fn ask(session: &Session, question: KeyQuestion) -> Result<String, AskError> {
    let asking = tokio::time::timeout(limits::ASK_AGENT_TIME, exchange(session, question));
    let line = asking.await.map_err(|_| AskError::Timeout)??;
    match serde_json::from_slice(&line).map_err(AskError::Unreadable)? {
        KeyAnswer::Uses { key } => Ok(key),
        KeyAnswer::Failed { detail } => Err(AskError::Failed(detail)),
    }
}

/// Has the agent with this id rotate the key that it has in `before`, and waits until the directory has the new one as its only key: an
/// agent that says so alone proves nothing. Gives the new key.
///
/// # Cancel safety
/// The agent may do it all the same.
pub(crate) async fn have_rotated(
    session: &Session,
    directory: &Directory,
    id: &str,
    before: &str,
) -> Result<PublicKey, AskError> {
    let end = Instant::now() + limits::ASK_AGENT_TIME;
    let answered = ask(session, KeyQuestion::Rotate {}).await?;
    let key: PublicKey = answered.parse().map_err(|_| AskError::Untrue)?;
    let text = key.to_string();
    if text == before {
        return Err(AskError::Kept);
    }
    let mut changes = directory.changes();
    let replaced = async {
        loop {
            let snapshot = directory.snapshot();
            let agent = snapshot.get::<Agent>(id).ok_or(AskError::Revoked)?;
            if agent.object.key == text {
                return Ok(key);
            }
            if !agent.object.holds(&text) {
                return Err(AskError::Untrue);
            }
            changes.changed().await.map_err(|_gone| AskError::NotYet)?;
        }
    };
    let replaced = tokio::time::timeout_at(end, replaced).await;
    replaced.unwrap_or(Err(AskError::NotYet))
}

async fn exchange(session: &Session, question: KeyQuestion) -> Result<Vec<u8>, AskError> {
    let dialled = Dialer::new(session.clone(), AGENT_KEY).dial().await;
    let mut stream = dialled.map_err(|error| AskError::Gone(Lost::Dial(error)))?;
    stream.accepted().await.map_err(|error| match error {
        StreamError::Refused {
            code: ResetCode::UnknownTarget,
            ..
        } => AskError::Unknown,
        StreamError::Refused { reason, .. } => AskError::Failed(reason),
        error => AskError::Gone(Lost::Stream(error)),
    })?;
    let spoken = async {
        let mut line = serde_json::to_vec(&question)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        let mut bounded = BufReader::new(&mut stream).take(limits::NEXT_KEY_LINE);
        bounded.read_until(b'\n', &mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    spoken.await.map_err(|error| AskError::Gone(error.into()))
}
