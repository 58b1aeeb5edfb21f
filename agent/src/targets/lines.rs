//! Streams that carry one question and its answer, in lines of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use underpass_tunnel::{ReadHalf, StreamError, WriteHalf};

use crate::limits;

/// Why a question was not answered to its end.
#[derive(Debug, Error)]
pub(super) enum Unanswered {
    #[error("the stream ended")]
    Stream(#[from] StreamError),
    #[error("the stream ended")]
    Io(#[from] std::io::Error),
    #[error("the question did not come within {} s", limits::QUESTION_TIME.as_secs())]
    Silent,
    #[error("the policy ends the stream")]
    Policy,
}

/// Reads a stream's question; or, for the caller, why there is none to be read.
///
/// # Errors
/// The stream ended, or the question did not come in time.
pub(super) async fn question<T: DeserializeOwned>(
    from: &mut ReadHalf,
) -> Result<Result<T, String>, Unanswered> {
    let line = match timeout(limits::QUESTION_TIME, line(from)).await {
        Ok(read) => read?,
        Err(_) => return Err(Unanswered::Silent),
    };
    Ok(match line.as_deref().map(serde_json::from_slice) {
        Some(Ok(question)) => Ok(question),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it has no end, or is too long".to_owned()),
    })
}

/// The bytes before the first line feed; `None` where the stream ends before it, or where there are too many.
async fn line(from: &mut ReadHalf) -> Result<Option<Vec<u8>>, Unanswered> {
    let mut line = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let read = from.read(&mut piece).await?;
        let piece = piece.get(..read).unwrap_or_default();
        if let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            line.extend(piece.get(..end).unwrap_or_default());
            return Ok((line.len() <= limits::QUESTION_BYTES).then_some(line));
        }
        line.extend(piece);
        if piece.is_empty() || line.len() > limits::QUESTION_BYTES {
            return Ok(None);
        }
    }
}

/// Writes a line of an answer.
pub(super) async fn write(to: &mut WriteHalf, answer: &impl Serialize) -> Result<(), Unanswered> {
    let mut line = serde_json::to_vec(answer).map_err(std::io::Error::from)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await?;
    Ok(())
}
