//! An agent registers its next key, on a stream that it opens: the challenge, its two proofs, the answer.

use std::io;
use std::sync::Arc;

use metrics::counter;
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::task::JoinError;
use underpass_api::{NextKeyAnswer, NextKeyChallenge, NextKeyRefusal, NextKeyRequest};
use underpass_core::ClusterName;
use underpass_directory::{Agent, ChangeError, Rotation, RotationError};
use underpass_tunnel::{
    IncomingStream, KeyChange, PublicKey, RotationProof, Session, StreamError, chain,
};

use super::Rotations;
use super::told::{KeyEvent, Outcome};
use crate::limits;

/// Why the agent has no answer.
#[derive(Debug, Error)]
enum Unanswered {
    #[error("the stream is gone")]
    Stream(#[from] StreamError),
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("the session's agent was revoked")]
    Revoked,
    #[error("the agent took too long to register its next key")]
    Timeout,
    #[error("the answer was given up")]
    GivenUp(#[from] JoinError),
}

/// Why the next key is not registered. The text is for the agent.
#[derive(Debug, Error)]
enum Refused {
    #[error("the request cannot be read")]
    Malformed,
    #[error("a proof is not by its key for this session and challenge")]
    BadProof,
    #[error("this agent, or its cluster, rotates keys too fast: try again later")]
    TooSoon,
    #[error("the audit log takes no event now: try again later")]
    Unwritten,
    #[error("the agent has proved its next key just now, which becomes its key: try again later")]
    Proved,
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        Self::Rotation(error.into())
    }
}

impl Refused {
    fn reason(&self) -> NextKeyRefusal {
        match self {
            Self::Malformed => NextKeyRefusal::Malformed,
            Self::BadProof => NextKeyRefusal::BadProof,
            Self::TooSoon => NextKeyRefusal::TooSoon,
            Self::Unwritten | Self::Proved => NextKeyRefusal::Unavailable,
            Self::Rotation(error) => match error {
                RotationError::NoAgent => NextKeyRefusal::Revoked,
                RotationError::StaticToken => NextKeyRefusal::StaticToken,
                RotationError::NotCurrent => NextKeyRefusal::NotCurrent,
                RotationError::KeyKnown => NextKeyRefusal::KeyKnown,
                _ => NextKeyRefusal::Unavailable,
            },
        }
    }

    /// The store's errors are the log's alone.
    fn detail(&self) -> String {
        match self.reason() {
            NextKeyRefusal::Unavailable => {
                "the server cannot write the next key down now: try again later".to_owned()
            }
            _ => self.to_string(),
        }
    }
}

/// An agent's line about its next key.
struct Asked {
    session: Session,
    challenge: NextKeyChallenge,
    cluster: ClusterName,
    line: Vec<u8>,
}

impl Rotations {
    /// Answers one stream, whose session has one at a time.
    pub(in crate::tunnel) async fn serve(
        self: &Arc<Self>,
        session: &Session,
        incoming: IncomingStream,
    ) {
        if let Err(error) = self.answer(session, incoming).await {
            tracing::debug!(session = %session.info().id, "{}", chain(&error));
        }
    }

    async fn answer(
        self: &Arc<Self>,
        session: &Session,
        incoming: IncomingStream,
    ) -> Result<(), Unanswered> {
        let snapshot = self.directory.snapshot();
        let (agent, object) = super::agent_of(session, &snapshot).ok_or(Unanswered::Revoked)?;
        let challenge = NextKeyChallenge {
            challenge: rand::random(),
            agent: agent.to_owned(),
        };
        let (mut stream, line) = in_time(challenged(incoming, &challenge)).await?;
        let asked = Asked {
            session: session.clone(),
            challenge,
            cluster: object.cluster.clone(),
            line,
        };
        // A slow disk, or an agent that goes away, keeps no change from its event.
        let this = Arc::clone(self);
        let answer = tokio::spawn(async move { this.decide(&asked).await }).await?;
        in_time(async {
            write(&mut stream, &answer).await?;
            Ok(stream.shutdown().await?)
        })
        .await
    }

    async fn decide(&self, asked: &Asked) -> NextKeyAnswer {
        let agent = asked.challenge.agent.as_str();
        let event = KeyEvent {
            agent,
            cluster: &asked.cluster,
            remote: asked.session.remote().map(|remote| remote.ip()),
        };
        match self.register(asked, &event).await {
            Ok(is_new) => {
                counter!("underpass_agent_key_rotations_total", "outcome" => "registered")
                    .increment(1);
                NextKeyAnswer::Registered { is_new }
            }
            Err(refused) => {
                counter!("underpass_agent_key_rotations_total", "outcome" => "refused")
                    .increment(1);
                tracing::debug!(agent, "no next key: {}", chain(&refused));
                event.write(&self.audit, Outcome::Refused(refused.reason()));
                NextKeyAnswer::Refused {
                    reason: refused.reason(),
                    detail: refused.detail(),
                }
            }
        }
    }

    /// Gives whether it is registered now, and not before.
    async fn register(&self, asked: &Asked, event: &KeyEvent<'_>) -> Result<bool, Refused> {
        let agent = asked.challenge.agent.as_str();
        let may = self.pace.take(asked.cluster.as_str(), agent);
        may.ok_or(Refused::TooSoon)?;
        let wanted: NextKeyRequest =
            serde_json::from_slice(&asked.line).map_err(|_| Refused::Malformed)?;
        let (key, next) = proven(&wanted, &asked.session, &asked.challenge)?;
        let (key, next) = (key.to_string(), next.to_string());
        let ready = self.audit.ready().await;
        ready.map_err(|_stuck| Refused::Unwritten)?;
        let rotation = Rotation {
            agent,
            key: &key,
            next: &next,
        };
        let mut before = None;
        let change = self.directory.change(|draft| {
            let waits = draft
                .get::<Agent>(agent)
                .and_then(|agent| agent.object.next_key.clone());
            before = waits.map(|waits| waits.key);
            // Its holder has proved it, and has heard that: nothing displaces it any more.
            if let Some(waits) = before.as_ref().filter(|waits| **waits != next)
                && self.is_replacing(waits)
            {
                return Err(Refused::Proved);
            }
            Ok(draft.register_next_key(&rotation)?)
        });
        let (is_new, instead_of) = match change.await {
            Ok(changed) => (changed.value.is_new, changed.value.instead_of),
            // The directory has read again what the store has.
            Err(Refused::Rotation(RotationError::Change(ChangeError::Unknown(error)))) => {
                let snapshot = self.directory.snapshot();
                let standing = snapshot.standing_of_key(&next);
                if !matches!(standing, Some((holder, _, _)) if holder == agent) {
                    event.write(&self.audit, Outcome::Unsure { next: &next });
                    return Err(ChangeError::Unknown(error).into());
                }
                (true, before.filter(|waited| *waited != next))
            }
            Err(refused) => return Err(refused),
        };
        if is_new {
            let instead_of = instead_of.as_deref();
            let next = next.as_str();
            event.write(&self.audit, Outcome::Registered { next, instead_of });
        }
        Ok(is_new)
    }
}

/// The agent's line, once it has the challenge.
async fn challenged(
    incoming: IncomingStream,
    challenge: &NextKeyChallenge,
) -> Result<(BufStream<underpass_tunnel::Stream>, Vec<u8>), Unanswered> {
    let mut stream = BufStream::new(incoming.accept().await?);
    write(&mut stream, challenge).await?;
    let mut line = Vec::new();
    let mut bounded = (&mut stream).take(limits::NEXT_KEY_LINE);
    bounded.read_until(b'\n', &mut line).await?;
    Ok((stream, line))
}

async fn in_time<T>(work: impl Future<Output = Result<T, Unanswered>>) -> Result<T, Unanswered> {
    let worked = tokio::time::timeout(limits::NEXT_KEY_TIME, work).await;
    worked.map_err(|_| Unanswered::Timeout)?
}

/// The current key and the next one, which the agent has proved to hold.
fn proven(
    wanted: &NextKeyRequest,
    session: &Session,
    challenge: &NextKeyChallenge,
) -> Result<(PublicKey, PublicKey), Refused> {
    let key: PublicKey = wanted.key.parse().map_err(|_| Refused::Malformed)?;
    let next: PublicKey = wanted.next_key.parse().map_err(|_| Refused::Malformed)?;
    let change = KeyChange {
        session: session.info().id.0,
        challenge: challenge.challenge,
        key,
        next,
        agent: &challenge.agent,
    };
    let is_by = |proof: &str, key: &PublicKey| {
        let proof: Result<RotationProof, _> = proof.parse();
        proof.is_ok_and(|proof| proof.is_by(key, &change))
    };
    match is_by(&wanted.proof, &key) && is_by(&wanted.next_proof, &next) {
        true => Ok((key, next)),
        false => Err(Refused::BadProof),
    }
}

async fn write(
    stream: &mut BufStream<underpass_tunnel::Stream>,
    value: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}
