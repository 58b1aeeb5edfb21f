//! One line of JSON there, and one back.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use underpass_api::{REGISTRATION_LINE, RegistrationAnswer, RegistrationRequest};
use underpass_tunnel::{ReadHalf, Stream};
use zeroize::Zeroizing;

use crate::limits;

/// Why an agent was not answered.
#[derive(Debug, Error)]
pub(super) enum Unanswered {
    #[error("the stream ended")]
    Io(#[from] io::Error),
    #[error("nothing came within {} s", limits::REGISTRATION_TIME.as_secs())]
    Silent,
}

/// Reads the agent's line, and writes what `decide` makes of it; of a line that is none, or too long, it gets `None`.
///
/// # Cancel safety
/// Dropping the future resets the stream; a decision stays.
pub(super) async fn answer(
    stream: Stream,
    decide: impl AsyncFnOnce(Option<RegistrationRequest>) -> RegistrationAnswer,
) -> Result<RegistrationAnswer, Unanswered> {
    let (mut from, mut to) = stream.into_split();
    let line = match timeout(limits::REGISTRATION_TIME, line(&mut from)).await {
        Ok(line) => line?,
        Err(_) => return Err(Unanswered::Silent),
    };
    // The error would quote the text.
    let request = line.and_then(|line| serde_json::from_slice(&line).ok());
    let answer = decide(request).await;
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::from)?;
    text.push(b'\n');
    to.write_all(&text).await?;
    to.shutdown().await?;
    Ok(answer)
}

/// The line, without its end; `None` where it has none, is too long, or is not the last one.
async fn line(from: &mut ReadHalf) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::new());
    let mut piece = Zeroizing::new([0; 4096]);
    loop {
        let read = from.read(&mut piece[..]).await?;
        let piece = piece.get(..read).unwrap_or_default();
        if let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (rest, more) = piece.split_at(end);
            line.extend_from_slice(rest);
            let is_whole = more.len() == 1 && line.len() <= REGISTRATION_LINE;
            return Ok(is_whole.then_some(line));
        }
        line.extend_from_slice(piece);
        if piece.is_empty() || line.len() > REGISTRATION_LINE {
            return Ok(None);
        }
    }
}
