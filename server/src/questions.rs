//! Questions to agents, each on a stream of its own, and their answers: lines of JSON.

use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;
use underpass_core::Target;
use underpass_tunnel::{Dialer, DialerError, ResetCode, Session, Stream, StreamError};

use crate::limits;

/// Why an agent gives no answer. The text is for the caller, and the source for the log.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error("the agent is not connected any more")]
    Gone,
    #[error("the agent refuses: {reason}")]
    Refused { code: ResetCode, reason: String },
    #[error("there is no stream to the agent: try again later")]
    Dial(#[source] DialerError),
    #[error("the agent went away, or did not answer in time; it may have the question")]
    Lost(#[source] StreamError),
    #[error("the agent went away while it was asked; it may have the question")]
    Unasked(#[source] std::io::Error),
    #[error("the agent does not answer in a way that this server understands")]
    Unreadable,
}

impl From<StreamError> for AskError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Refused { code, reason } => Self::Refused { code, reason },
            error => Self::Lost(error),
        }
    }
}

/// An answer, as it comes: a `T` in each line.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    stream: Stream,
    /// Bytes that were read, from the next line on or in its midst.
    read: Bytes,
    /// The beginning of the next line, which was read before them.
    begun: Vec<u8>,
    lines: PhantomData<fn() -> T>,
}

/// Asks an agent, as the caller whose encoded identity this is.
///
/// # Errors
/// The agent did not take the question. Nothing was asked where it is gone, refuses, or has no stream.
///
/// # Cancel safety
/// The question may have been taken.
pub(crate) async fn ask<T>(
    session: &Session,
    target: &Target,
    identity: &Bytes,
    question: &impl Serialize,
) -> Result<Answer<T>, AskError> {
    let mut line = serde_json::to_vec(question).map_err(|_| AskError::Unreadable)?;
    line.push(b'\n');
    let dialer = Dialer::new(session.clone(), target.to_string()).header(identity.clone());
    let mut stream = dialer.dial().await.map_err(AskError::Dial)?;
    stream.accepted().await?;
    let asked = async {
        stream.write_all(&line).await?;
        stream.flush().await
    };
    asked.await.map_err(AskError::Unasked)?;
    Ok(Answer {
        stream,
        read: Bytes::new(),
        begun: Vec::new(),
        lines: PhantomData,
    })
}

impl<T: DeserializeOwned> Answer<T> {
    /// The next line; `None` where the agent has no more to say.
    ///
    /// # Errors
    /// The agent is gone, or says something else.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, AskError> {
        loop {
            let end = self.read.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(self.read.len());
            if self.begun.len().saturating_add(length) > limits::NODE_LINE {
                return Err(AskError::Unreadable);
            }
            if let Some(end) = end {
                let line = self.read.split_to(end.saturating_add(1));
                return match self.begun.is_empty() {
                    true => read(&line),
                    false => {
                        self.begun.extend_from_slice(&line);
                        read(&std::mem::take(&mut self.begun))
                    }
                };
            }
            self.begun.extend_from_slice(&self.read);
            self.read.clear();
            // An agent that sends faster than its lines are read would keep other tasks, and the time of this one, waiting.
            yield_now().await;
            match self.stream.read_bytes().await? {
                Some(bytes) => self.read = bytes,
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(AskError::Unreadable),
            }
        }
    }

    /// Tells the agent something while it answers: a line.
    ///
    /// # Errors
    /// The agent is gone.
    ///
    /// # Cancel safety
    /// A part of the line may have been written.
    pub(crate) async fn tell(&mut self, words: &impl Serialize) -> Result<(), AskError> {
        let mut line = serde_json::to_vec(words).map_err(|_| AskError::Unreadable)?;
        line.push(b'\n');
        let telling = async {
            self.stream.write_all(&line).await?;
            self.stream.flush().await
        };
        telling.await.map_err(AskError::Unasked)
    }

    /// Gives the answer up, and tells the agent why.
    pub(crate) fn reset(self, code: ResetCode) {
        self.stream.reset(code);
    }
}

fn read<T: DeserializeOwned>(line: &[u8]) -> Result<Option<T>, AskError> {
    let read = serde_json::from_slice(line);
    read.map(Some).map_err(|_| AskError::Unreadable)
}
