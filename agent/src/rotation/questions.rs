//! Questions of the server about the key, on streams that it opens.

use tokio::io::{AsyncWriteExt as _, BufStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use underpass_api::{KeyAnswer, KeyQuestion};
use underpass_tunnel::{IncomingStream, ResetCode, chain};

use super::register::{NotRegistered, read, write};
use crate::limits;

/// A question, and the place for its answer.
pub(crate) struct Asked {
    pub(super) question: KeyQuestion,
    pub(super) answer: oneshot::Sender<KeyAnswer>,
}

/// Hands questions to the rotation of the key.
#[derive(Clone)]
pub(crate) struct Questions(mpsc::Sender<Asked>);

impl Questions {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asked, questions) = mpsc::channel(limits::KEY_QUESTIONS);
        (Self(asked), questions)
    }

    /// Serves one stream.
    pub(crate) async fn serve(&self, incoming: IncomingStream) {
        let Ok(place) = self.0.try_reserve() else {
            let reason = "the agent answers other questions about its key: try again later";
            return incoming.refuse(ResetCode::Overloaded, reason);
        };
        if let Err(error) = answer(incoming, place).await {
            tracing::debug!("a question about the key: {}", chain(&error));
        }
    }
}

async fn answer(
    incoming: IncomingStream,
    place: mpsc::Permit<'_, Asked>,
) -> Result<(), NotRegistered> {
    let accepted = incoming.accept().await;
    let mut stream = BufStream::new(accepted.map_err(NotRegistered::Stream)?);
    let reading = timeout(limits::QUESTION_TIME, read(&mut stream)).await;
    let question = reading.map_err(|_| NotRegistered::Timeout)??;
    let (sender, answer) = oneshot::channel();
    place.send(Asked {
        question,
        answer: sender,
    });
    // The connection may be made anew meanwhile, with another key.
    let gone = |_| KeyAnswer::Failed {
        detail: "the agent connects anew: ask again".to_owned(),
    };
    let answer = answer.await.unwrap_or_else(gone);
    write(&mut stream, &answer).await?;
    stream.shutdown().await?;
    Ok(())
}
