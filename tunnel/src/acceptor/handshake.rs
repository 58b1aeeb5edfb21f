//! The acceptor's end of the session handshake, on a transport.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use underpass_proto::agent_name::AgentName;
use underpass_proto::code::CloseCode;
use underpass_proto::frame::Wish;
use underpass_proto::handshake::{self, AwaitHello, Local, Proven, ResumptionClaim};
use underpass_proto::key::PublicKey;
use underpass_proto::secret::SessionSecret;
use underpass_proto::session::Agreed;
use underpass_proto::settings::ResumeWindow;
use underpass_proto::stream_id::Role;

use super::{AcceptError, Acceptor};
use crate::control::HandshakeStream;
use crate::random::random;
use crate::session::{Info, SessionId, Shared};
use crate::session_limiter::Counted;
use crate::transport::Transport;

/// How a handshake goes on, once the connector is known.
pub(super) enum Admitted {
    New(Agreed, SessionSecret, Info, Counted),
    Resumed(Arc<Shared>, ResumptionClaim, PublicKey),
}

/// A handshake that failed.
pub(super) struct Failed {
    pub(super) error: AcceptError,
    /// Where the peer can be told, if there is a stream.
    pub(super) control: Option<HandshakeStream>,
}

/// The bounds of one handshake.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    pub(super) deadline: Instant,
    /// Its place is needed for another.
    pub(super) closed: &'a CancellationToken,
}

impl Within<'_> {
    async fn run<T>(
        self,
        doing: impl Future<Output = Result<T, AcceptError>>,
    ) -> Result<T, AcceptError> {
        tokio::select! {
            result = tokio::time::timeout_at(self.deadline, doing) => {
                result.unwrap_or(Err(AcceptError::Timeout))
            }
            () = self.closed.cancelled() => Err(AcceptError::Overloaded),
        }
    }
}

impl Acceptor {
    pub(super) async fn handshake(
        &self,
        transport: &dyn Transport,
        bounds: Within<'_>,
    ) -> Result<(Admitted, HandshakeStream), Failed> {
        let accepting = async { transport.accept().await.map_err(AcceptError::Transport) };
        let stream = bounds.run(accepting).await.map_err(|error| Failed {
            error,
            control: None,
        })?;
        let mut control = HandshakeStream::new(stream);
        match bounds.run(self.converse(&mut control, transport)).await {
            Ok(admitted) => Ok((admitted, control)),
            Err(error) => Err(Failed {
                error,
                control: Some(control),
            }),
        }
    }

    async fn converse(
        &self,
        control: &mut HandshakeStream,
        transport: &dyn Transport,
    ) -> Result<Admitted, AcceptError> {
        let (handshake, challenge) = AwaitHello::start(random())
            .handle_hello(control.receive().await?)
            .map_err(AcceptError::Handshake)?;
        control.send(challenge).await?;
        let proven = handshake
            .handle_proof(control.receive().await?)
            .map_err(AcceptError::Handshake)?;
        let agent = self
            .admission
            .admit(&proven)
            .await
            .map_err(AcceptError::Denied)?;
        transport.authenticated();
        let owner = self.admission.owner(&proven, &agent);
        if let Some((session, claim)) = self.resumable(&proven, &owner, &agent) {
            claim
                .verify(session.secret())
                .map_err(AcceptError::Handshake)?;
            let received = session.core(|core| core.arrived());
            control.send(handshake::resumed(received)).await?;
            return Ok(Admitted::Resumed(session, claim, proven.key));
        }
        if proven
            .resumption
            .as_ref()
            .is_some_and(|claim| claim.wish != Wish::MainOrNew)
        {
            return Err(AcceptError::NoSession);
        }
        let share = self.admission.share(&proven, &agent);
        let counted = self.session_limiter.enter(&owner, &share)?;
        let (id, secret) = (random(), SessionSecret::new(random()));
        let resume_window = self.config.resume_window.min(proven.resume_window);
        control
            .send(self.welcome(id, secret.clone(), resume_window, agent.clone()))
            .await?;
        let agreed = Agreed {
            local_streams: proven.max_streams,
            remote_streams: self.config.max_streams,
            keepalive: self.config.keepalive,
            resume_window,
        };
        let info = Info {
            id: SessionId(id),
            agent,
            key: proven.key,
            owner,
            instance: proven.instance,
            software: proven.software,
            since: SystemTime::now(),
            role: Role::Acceptor,
            transport: transport.kind(),
            remote: transport.remote(),
        };
        Ok(Admitted::New(agreed, secret, info, counted))
    }

    /// The session that a connector wants to carry on, if it is there and is the same agent's.
    fn resumable(
        &self,
        proven: &Proven,
        owner: &str,
        agent: &str,
    ) -> Option<(Arc<Shared>, ResumptionClaim)> {
        let claim = proven.resumption.clone()?;
        let session = self.sessions().find(&claim.session)?;
        let info = session.info();
        let same = info.owner == owner && info.agent == agent;
        let live = !session.core(|core| core.is_closed());
        (same && live).then_some((session, claim))
    }

    fn welcome(
        &self,
        id: [u8; 16],
        secret: SessionSecret,
        resume_window: ResumeWindow,
        agent: AgentName,
    ) -> Bytes {
        let local = Local {
            max_streams: self.config.max_streams,
            resume_window,
            software: self.config.software.clone(),
        };
        handshake::welcome(&local, id, secret, self.config.keepalive, agent)
    }
}

pub(super) fn close_words(error: &AcceptError) -> (CloseCode, String) {
    let code = match error {
        AcceptError::Overloaded | AcceptError::AddressUnproven | AcceptError::NoRoom(_) => {
            CloseCode::Overloaded
        }
        AcceptError::Quic(_) | AcceptError::Transport(_) => CloseCode::Shutdown,
        AcceptError::Handshake(error) => error.close_code().unwrap_or(CloseCode::Shutdown),
        AcceptError::Timeout => CloseCode::HandshakeTimeout,
        AcceptError::Resume(_) | AcceptError::NoSession => CloseCode::ResumeRefused,
        AcceptError::Role(_) => CloseCode::Unauthenticated,
        AcceptError::Denied(denied) => return (denied.code, denied.reason.clone()),
    };
    (code, underpass_proto::chain(error))
}

/// Sends the connector a CLOSE with the reason, as far as it still listens.
pub(super) async fn tell(control: Option<HandshakeStream>, error: &AcceptError) {
    if matches!(error, AcceptError::Transport(_)) {
        return;
    }
    if let Some(control) = control {
        let (code, reason) = close_words(error);
        control.close(code, &reason).await;
    }
}
