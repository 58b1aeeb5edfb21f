//! A peer that is no session: it can send any bytes.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use underpass_proto::VarInt;
use underpass_proto::frame::{FrameReader, RawFrame};
use underpass_proto::handshake::{self, AwaitChallenge, AwaitHello, Local, NewSession};
use underpass_proto::limits;
use underpass_proto::secret::SessionSecret;
use underpass_proto::settings::{KeepaliveInterval, ResumeWindow};
use underpass_tunnel::transport::{BiStream, HalfError, Transport, TransportError};
use underpass_tunnel::{AgentKey, ResetCode, Session};

use crate::harness::{Kind, RawServer, acceptor_config, key, raw, within};

pub(crate) const PING: u64 = 0x05;
pub(crate) const PONG: u64 = 0x06;
pub(crate) const OPEN: u64 = 0x10;
pub(crate) const ANSWER: u64 = 0x11;
pub(crate) const CLOSE: u64 = 0x08;

/// Any frame, well-formed or not.
pub(crate) fn frame(kind: u64, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    VarInt::try_from(kind).unwrap().encode(&mut out);
    VarInt::try_from(body.len() as u64)
        .unwrap()
        .encode(&mut out);
    out.extend_from_slice(body);
    out.freeze()
}

/// A good OPEN.
pub(crate) fn open_frame(id: u8) -> Bytes {
    frame(OPEN, &[id, 1, 1, b't', 0])
}

/// One stream of a transport, as frames.
pub(crate) struct RawStream {
    pub(crate) stream: BiStream,
    reader: FrameReader,
}

impl RawStream {
    pub(crate) fn new(stream: BiStream) -> Self {
        Self {
            stream,
            reader: FrameReader::new(limits::OPEN_FRAME),
        }
    }

    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), HalfError> {
        let send = &mut self.stream.send;
        while !bytes.is_empty() {
            poll_fn(|cx| send.poll_write_bytes(cx, &mut bytes)).await?;
        }
        poll_fn(|cx| send.poll_flush(cx)).await
    }

    pub(crate) async fn finish(&mut self) {
        let send = &mut self.stream.send;
        within("it ends", poll_fn(|cx| send.poll_finish(cx)))
            .await
            .unwrap();
    }

    pub(crate) async fn bytes(&mut self) -> Result<Option<Bytes>, HalfError> {
        let recv = &mut self.stream.recv;
        within("bytes come", poll_fn(|cx| recv.poll_read_bytes(cx, 4096))).await
    }

    /// The next frame, or `None` at the clean end.
    pub(crate) async fn frame(&mut self) -> Result<Option<RawFrame>, HalfError> {
        loop {
            if let Some(frame) = self.reader.next().unwrap() {
                return Ok(Some(frame));
            }
            match self.bytes().await? {
                Some(bytes) => self.reader.push(&bytes),
                None => return Ok(None),
            }
        }
    }

    pub(crate) async fn must(&mut self) -> RawFrame {
        self.frame().await.unwrap().expect("a frame, not an end")
    }

    /// The code of the CLOSE that ends the session, or of the connection's own close.
    pub(crate) async fn close_code(&mut self) -> u64 {
        loop {
            match self.frame().await {
                Ok(Some(frame)) if frame.kind == CLOSE => {
                    return VarInt::decode(&mut frame.body.clone())
                        .unwrap()
                        .into_inner();
                }
                Ok(Some(_)) => {}
                Err(HalfError::Transport(TransportError::ClosedByPeer { code, .. })) => {
                    return code.to_wire();
                }
                other => panic!("no CLOSE but {other:?}"),
            }
        }
    }

    /// The code with which the peer must end a stream of which it knows nothing.
    pub(crate) async fn reset_code(&mut self) -> ResetCode {
        match self.frame().await {
            Err(HalfError::Reset(code)) => code,
            other => panic!("no reset but {other:?}"),
        }
    }
}

pub(crate) fn local() -> Local {
    Local {
        max_streams: 100.try_into().unwrap(),
        resume_window: ResumeWindow::ZERO,
        software: "hostile/1".to_owned(),
    }
}

/// An agent that has been let in, driven by the test.
pub(crate) struct RawAgent {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) control: RawStream,
    /// The server's end.
    pub(crate) session: Session,
    _server: RawServer,
}

impl RawAgent {
    pub(crate) async fn connect(kind: Kind) -> Self {
        let (transport, mut server) = raw(kind, acceptor_config()).await;
        let control = RawStream::new(transport.open().await.unwrap());
        let (control, session) = tokio::join!(log_in(control, key(1)), server.session());
        Self {
            transport,
            control,
            session,
            _server: server,
        }
    }

    pub(crate) async fn open(&self) -> RawStream {
        RawStream::new(
            within("a stream opens", self.transport.open())
                .await
                .unwrap(),
        )
    }
}

pub(crate) async fn log_in(mut control: RawStream, key: AgentKey) -> RawStream {
    let handshake = say_hello(&mut control, &key).await;
    prove(control, &key, handshake).await
}

pub(crate) async fn say_hello(
    control: &mut RawStream,
    key: &AgentKey,
) -> AwaitChallenge<NewSession> {
    let (handshake, hello) = AwaitChallenge::start(&local(), key, [7; 16], &NewSession);
    control.send(hello).await.unwrap();
    handshake
}

pub(crate) async fn prove(
    mut control: RawStream,
    key: &AgentKey,
    handshake: AwaitChallenge<NewSession>,
) -> RawStream {
    let challenge = control.must().await;
    let (handshake, proof) = handshake.handle_challenge(challenge, key).unwrap();
    control.send(proof).await.unwrap();
    handshake.handle_answer(control.must().await).unwrap();
    control
}

/// The server's end of a handshake, which lets everyone in.
pub(crate) async fn let_in(transport: &dyn Transport) -> RawStream {
    let mut control = RawStream::new(transport.accept().await.unwrap());
    let handshake = AwaitHello::start([3; 32]);
    let (handshake, challenge) = handshake.handle_hello(control.must().await).unwrap();
    control.send(challenge).await.unwrap();
    handshake.handle_proof(control.must().await).unwrap();
    let welcome = handshake::welcome(
        &local(),
        [5; 16],
        SessionSecret::new([6; 32]),
        KeepaliveInterval::default(),
        "edge-1".try_into().unwrap(),
    );
    transport.authenticated();
    control.send(welcome).await.unwrap();
    control
}
