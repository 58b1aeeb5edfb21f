//! The connector's end of a handshake.

use std::marker::PhantomData;

use bytes::Bytes;

use super::{
    HandshakeError, Local, PROOF_CONTEXT, RESUMPTION_CONTEXT, VERSIONS, clip_software,
    refuse_close, transcript,
};
use crate::DecodeError;
use crate::frame::{
    self, Body, Challenge, Hello, Proof, Purpose, RawFrame, Resumed, Welcome, Wish,
};
use crate::key::AgentKey;
use crate::secret::SessionSecret;
use crate::session::LinkRole;

/// The question of a connector in its HELLO. It decides how the handshake can end.
pub trait Ask: sealed::Sealed {
    /// How the handshake ends where it is a good one.
    type Outcome;

    /// HELLO's word for it.
    fn purpose(&self) -> Purpose;

    /// The secret of the session that is to be resumed.
    fn secret(&self) -> Option<&SessionSecret>;

    /// Reads the acceptor's last frame.
    ///
    /// # Errors
    /// Where it answers another question.
    fn outcome(answer: RawFrame) -> Result<Self::Outcome, DecodeError>;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::NewSession {}
    impl Sealed for super::ThatSession {}
    impl Sealed for super::EitherSession {}
}

/// Asks for a new session.
#[derive(Debug, Clone, Copy)]
pub struct NewSession;

impl Ask for NewSession {
    type Outcome = Welcome;

    fn purpose(&self) -> Purpose {
        Purpose::NewSession
    }

    fn secret(&self) -> Option<&SessionSecret> {
        None
    }

    fn outcome(answer: RawFrame) -> Result<Welcome, DecodeError> {
        answer.decode()
    }
}

/// A connector's knowledge of a session that it resumes.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// The session's id.
    pub session: [u8; 16],
    /// Its secret.
    pub secret: SessionSecret,
    /// The number of the transport in the session. Each has a higher number than those before.
    pub attempt: u64,
    /// Lasting control frames of the acceptor's that have arrived.
    pub received: u64,
}

impl Resumption {
    fn purpose(&self, wish: Wish) -> Purpose {
        Purpose::Resume {
            session: self.session,
            attempt: self.attempt,
            received: self.received,
            wish,
        }
    }
}

/// Asks for one session and no other.
#[derive(Debug, Clone)]
pub struct ThatSession {
    /// The session.
    pub resumption: Resumption,
    /// The role of the transport in it.
    pub role: LinkRole,
}

impl Ask for ThatSession {
    type Outcome = Resumed;

    fn purpose(&self) -> Purpose {
        self.resumption.purpose(match self.role {
            LinkRole::Main => Wish::Main,
            LinkRole::Lane => Wish::Lane,
            LinkRole::Standby => Wish::Standby,
        })
    }

    fn secret(&self) -> Option<&SessionSecret> {
        Some(&self.resumption.secret)
    }

    fn outcome(answer: RawFrame) -> Result<Resumed, DecodeError> {
        answer.decode()
    }
}

/// Asks for a session, or for a new one where the acceptor does not have it any more.
#[derive(Debug, Clone)]
pub struct EitherSession(pub Resumption);

/// The session that an [`EitherSession`] got.
#[derive(Debug, PartialEq, Eq)]
pub enum Either {
    /// The one that was asked for goes on.
    Resumed(Resumed),
    /// A new one stands.
    New(Welcome),
}

impl Ask for EitherSession {
    type Outcome = Either;

    fn purpose(&self) -> Purpose {
        self.0.purpose(Wish::MainOrNew)
    }

    fn secret(&self) -> Option<&SessionSecret> {
        Some(&self.0.secret)
    }

    fn outcome(answer: RawFrame) -> Result<Either, DecodeError> {
        Ok(if answer.kind == u64::from(Resumed::TYPE) {
            Either::Resumed(answer.decode()?)
        } else {
            Either::New(answer.decode()?)
        })
    }
}

/// A connector that has sent HELLO and waits for CHALLENGE.
#[derive(Debug)]
pub struct AwaitChallenge<A> {
    hello: Bytes,
    secret: Option<SessionSecret>,
    asks: PhantomData<A>,
}

/// A connector that has sent PROOF and waits for the answer.
#[derive(Debug)]
pub struct AwaitAnswer<A> {
    asks: PhantomData<A>,
}

impl<A: Ask> AwaitChallenge<A> {
    /// Begins a handshake. Gives the HELLO to send.
    pub fn start(local: &Local, key: &AgentKey, instance: [u8; 16], ask: &A) -> (Self, Bytes) {
        let hello = frame::to_bytes(&Hello {
            versions: VERSIONS.to_vec(),
            public_key: key.public_key().0,
            instance,
            max_streams: local.max_streams.get(),
            resume_window_ms: local.resume_window.millis(),
            software: clip_software(&local.software),
            purpose: ask.purpose(),
        });
        let waiting = Self {
            hello: hello.clone(),
            secret: ask.secret().cloned(),
            asks: PhantomData,
        };
        (waiting, hello)
    }

    /// Takes the acceptor's first frame. Gives the PROOF to send.
    ///
    /// # Errors
    /// Where the frame ends the handshake.
    pub fn handle_challenge(
        self,
        frame: RawFrame,
        key: &AgentKey,
    ) -> Result<(AwaitAnswer<A>, Bytes), HandshakeError> {
        let challenge: Challenge = refuse_close(frame)?.decode()?;
        if !VERSIONS.contains(&challenge.version) {
            return Err(HandshakeError::VersionNotOffered(challenge.version));
        }
        let challenge = frame::to_bytes(&challenge);
        let resumption = self
            .secret
            .map(|secret| secret.prove(&transcript(RESUMPTION_CONTEXT, &self.hello, &challenge)));
        let proof = Proof {
            signature: key.sign(&transcript(PROOF_CONTEXT, &self.hello, &challenge)),
            resumption,
        };
        Ok((AwaitAnswer { asks: PhantomData }, frame::to_bytes(&proof)))
    }
}

impl<A: Ask> AwaitAnswer<A> {
    /// Takes the acceptor's last frame.
    ///
    /// # Errors
    /// Where the frame ends the handshake.
    pub fn handle_answer(self, frame: RawFrame) -> Result<A::Outcome, HandshakeError> {
        Ok(A::outcome(refuse_close(frame)?)?)
    }
}
