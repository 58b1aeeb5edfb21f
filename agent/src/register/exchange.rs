//! One line of JSON to the server, and one back (PROTOCOL.md, "Registered credentials").

use std::io;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use underpass_api::{
    CREDENTIALS_TARGET, REGISTRATION_LINE, RegistrationAnswer, RegistrationRequest,
};
use underpass_tunnel::{OpenError, OpenRequest, ResetCode, Session, Stream, StreamError};
use zeroize::Zeroizing;

use super::RegisterError;
use crate::limits;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum ExchangeError {
    #[error("there is no stream to the server")]
    Open(#[source] OpenError),
    #[error("the server takes no credential: {reason}")]
    Refused { code: ResetCode, reason: String },
    #[error("the stream ended")]
    Stream(#[source] StreamError),
    #[error("the stream ended")]
    Io(#[source] io::Error),
    #[error("the credential has more than {REGISTRATION_LINE} bytes")]
    TooLong,
    #[error("the server did not answer in time")]
    Timeout,
    #[error("the server's answer cannot be read")]
    Unreadable,
}

impl ExchangeError {
    /// Does the server keep no credential of this agent's cluster, by its own word? Any other refusal may be over in a moment, and says
    /// nothing of a credential that is there.
    pub(super) fn is_none_kept(&self) -> bool {
        let Self::Refused { code, .. } = self else {
            return false;
        };
        matches!(code, ResetCode::Forbidden | ResetCode::UnknownTarget)
    }
}

/// Says what `making` gives, once the server has said that it listens.
///
/// # Cancel safety
/// The server may have heard it.
pub(super) async fn ask(
    session: &Session,
    making: impl Future<Output = Result<RegistrationRequest, RegisterError>>,
) -> Result<RegistrationAnswer, RegisterError> {
    let request = OpenRequest {
        target: CREDENTIALS_TARGET.to_owned(),
        ..OpenRequest::default()
    };
    let mut stream = session.open(request).await.map_err(ExchangeError::Open)?;
    match stream.accepted().await {
        Ok(()) => {}
        Err(StreamError::Refused { code, reason }) => {
            return Err(ExchangeError::Refused { code, reason }.into());
        }
        Err(error) => return Err(ExchangeError::Stream(error).into()),
    }
    let line = Zeroizing::new(line(&making.await?)?);
    let answered = timeout(limits::REGISTER_ANSWER_TIME, answer(stream, &line));
    Ok(answered.await.map_err(|_| ExchangeError::Timeout)??)
}

fn line(request: &RegistrationRequest) -> Result<Vec<u8>, ExchangeError> {
    let mut line = serde_json::to_vec(request).map_err(|error| ExchangeError::Io(error.into()))?;
    if line.len() > REGISTRATION_LINE {
        return Err(ExchangeError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

async fn answer(mut stream: Stream, line: &[u8]) -> Result<RegistrationAnswer, ExchangeError> {
    stream.write_all(line).await.map_err(ExchangeError::Io)?;
    stream.flush().await.map_err(ExchangeError::Io)?;
    let mut read = Vec::new();
    loop {
        let piece = stream.read_bytes().await.map_err(ExchangeError::Stream)?;
        let Some(piece) = piece else {
            return Err(ExchangeError::Unreadable);
        };
        read.extend_from_slice(&piece);
        if read.len() > limits::REGISTER_ANSWER_BYTES {
            return Err(ExchangeError::Unreadable);
        }
        if let Some(line) = read.strip_suffix(b"\n") {
            return serde_json::from_slice(line).map_err(|_| ExchangeError::Unreadable);
        }
    }
}
