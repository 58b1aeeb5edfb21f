//! The connector's end of the session handshake, on a transport.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use underpass_proto::chain;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::{Resumed, Welcome};
use underpass_proto::handshake::{Ask, AwaitChallenge, Either};
use underpass_proto::key::{AgentKey, PublicKey};

use super::{ConnectError, Connector};
use crate::control::HandshakeStream;
use crate::limits;
use crate::telemetry;
use crate::transport::Transport;

/// How a good handshake ended, as its metric calls it.
pub(super) trait Outcome {
    fn name(&self) -> &'static str;
}

impl Outcome for Welcome {
    fn name(&self) -> &'static str {
        "new"
    }
}

impl Outcome for Resumed {
    fn name(&self) -> &'static str {
        "resumed"
    }
}

impl Outcome for Either {
    fn name(&self) -> &'static str {
        match self {
            Self::New(welcome) => welcome.name(),
            Self::Resumed(resumed) => resumed.name(),
        }
    }
}

/// A good handshake.
pub(super) struct Agreement<T> {
    pub(super) outcome: T,
    pub(super) control: HandshakeStream,
    /// The key that it has proved.
    pub(super) key: PublicKey,
}

/// A handshake that failed.
struct Failed {
    error: ConnectError,
    /// Where the peer can be told, if there is a stream.
    control: Option<HandshakeStream>,
}

impl Connector {
    /// Shakes hands to the end, and tells the peer where that is a bad one.
    pub(super) async fn shake_hands<A>(
        &self,
        transport: &Arc<dyn Transport>,
        ask: &A,
    ) -> Result<Agreement<A::Outcome>, ConnectError>
    where
        A: Ask<Outcome: Outcome>,
    {
        let begun = Instant::now();
        // It may be renewed meanwhile.
        let key = self.key();
        let result = self.handshake(transport.as_ref(), ask, &key).await;
        let outcome = match &result {
            Ok((outcome, _)) => outcome.name(),
            Err(_) => "failed",
        };
        telemetry::handshake(transport.kind(), outcome, begun.elapsed());
        let Failed { error, control } = match result {
            Ok((outcome, control)) => {
                return Ok(Agreement {
                    outcome,
                    control,
                    key: key.public_key(),
                });
            }
            Err(failed) => failed,
        };
        if let (Some(code), Some(control)) = (error.close_code(), control) {
            control.close(code, &chain(&error)).await;
        }
        let code = error.close_code().unwrap_or(CloseCode::Shutdown);
        transport.close(code, &chain(&error));
        Err(error)
    }

    async fn handshake<A: Ask>(
        &self,
        transport: &dyn Transport,
        ask: &A,
        key: &AgentKey,
    ) -> Result<(A::Outcome, HandshakeStream), Failed> {
        let deadline = Instant::now() + limits::HANDSHAKE_TIME;
        let opened = timeout_at(deadline, transport.open()).await;
        let stream = match opened {
            Ok(opened) => opened.map_err(ConnectError::Transport),
            Err(_) => Err(ConnectError::Timeout),
        };
        let stream = stream.map_err(|error| Failed {
            error,
            control: None,
        })?;
        let mut control = HandshakeStream::new(stream);
        let conversation = timeout_at(deadline, self.converse(&mut control, ask, key)).await;
        match conversation.unwrap_or(Err(ConnectError::Timeout)) {
            Ok(outcome) => Ok((outcome, control)),
            Err(error) => Err(Failed {
                error,
                control: Some(control),
            }),
        }
    }

    async fn converse<A: Ask>(
        &self,
        control: &mut HandshakeStream,
        ask: &A,
        key: &AgentKey,
    ) -> Result<A::Outcome, ConnectError> {
        let (handshake, hello) = AwaitChallenge::start(&self.local, key, self.instance, ask);
        control.send(hello).await?;
        let (handshake, proof) = handshake
            .handle_challenge(control.receive().await?, key)
            .map_err(ConnectError::Handshake)?;
        control.send(proof).await?;
        handshake
            .handle_answer(control.receive().await?)
            .map_err(ConnectError::Handshake)
    }
}
