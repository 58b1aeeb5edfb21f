//! Peers that break the protocol.

use std::time::Duration;

use bytes::Bytes;
use underpass_proto::limits;
use underpass_tunnel::transport::HalfError;
use underpass_tunnel::{CloseCode, ResetCode, SessionError};

use crate::harness::{Kind, acceptor_config, key, raw, until, within};
use crate::peer::{OPEN, PING, RawAgent, RawStream, frame, open_frame, prove, say_hello};

async fn refused_stream(kind: Kind, header: Bytes, end: bool, code: ResetCode) {
    let agent = RawAgent::connect(kind).await;
    let mut bad = agent.open().await;
    bad.send(header).await.unwrap();
    if end {
        bad.finish().await;
    }
    assert_eq!(bad.reset_code().await, code);
    assert_undisturbed(&agent).await;
    drop((bad, agent.transport, agent.control));
}

/// The session is open, and takes streams.
async fn assert_undisturbed(agent: &RawAgent) {
    let mut good = agent.open().await;
    good.send(open_frame(40)).await.unwrap();
    good.send(Bytes::from_static(b"hello")).await.unwrap();
    good.finish().await;
    let incoming = within("a good stream is taken", agent.session.accept())
        .await
        .unwrap();
    let mut stream = incoming.accept().await.unwrap();
    let whole = crate::bytes::read_whole(&mut stream).await.unwrap();
    assert_eq!(whole, b"hello");
    drop(stream);
    assert!(agent.session.is_open());
    until("no stream is left", || agent.session.open_streams() == 0).await;
}

pub(crate) async fn a_malformed_open_header_costs_the_stream(kind: Kind) {
    let class_of_the_future = frame(OPEN, &[0, 9, 0, 0]);
    refused_stream(kind, class_of_the_future, false, ResetCode::HeaderInvalid).await;
    let other_frame = frame(PING, &[0; 8]);
    refused_stream(kind, other_frame, false, ResetCode::HeaderInvalid).await;
}

pub(crate) async fn an_oversized_open_header_costs_the_stream(kind: Kind) {
    // The length alone is enough: the body is not waited for.
    let whole = frame(OPEN, &vec![0; limits::OPEN_FRAME + 1]);
    refused_stream(kind, whole.slice(..16), false, ResetCode::HeaderTooLarge).await;
}

pub(crate) async fn a_stream_that_ends_before_its_header(kind: Kind) {
    refused_stream(
        kind,
        open_frame(0).slice(..3),
        true,
        ResetCode::HeaderInvalid,
    )
    .await;
}

/// The session ends with `code` on both sides.
async fn ends_with(mut agent: RawAgent, code: CloseCode) {
    assert_eq!(
        agent.control.close_code().await,
        code.to_wire(),
        "what the peer is told"
    );
    let error = within("the session ends", agent.session.closed()).await;
    assert_eq!(error.close_code(), Some(code), "{error:?}");
}

async fn control_frame_ends_with(kind: Kind, bytes: Bytes, code: CloseCode) {
    let mut agent = RawAgent::connect(kind).await;
    agent.control.send(bytes).await.unwrap();
    ends_with(agent, code).await;
}

pub(crate) async fn garbage_on_the_control_stream_ends_the_session(kind: Kind) {
    control_frame_ends_with(kind, frame(PING, &[0; 3]), CloseCode::FrameEncoding).await;
    control_frame_ends_with(kind, frame(PING, &[0; 9]), CloseCode::FrameEncoding).await;
}

pub(crate) async fn an_oversized_control_frame_ends_the_session(kind: Kind) {
    let oversized = frame(PING, &vec![0; limits::CONTROL_FRAME + 1]).slice(..3);
    control_frame_ends_with(kind, oversized, CloseCode::FrameTooLarge).await;
}

pub(crate) async fn a_frame_that_has_no_place_ends_the_session(kind: Kind) {
    for unexpected in [0x01, 0x04, OPEN, 0x3f] {
        let bytes = frame(unexpected, &[]);
        control_frame_ends_with(kind, bytes, CloseCode::UnexpectedFrame).await;
    }
}

pub(crate) async fn a_stream_id_of_the_wrong_side_ends_the_session(kind: Kind) {
    let agent = RawAgent::connect(kind).await;
    let mut stream = agent.open().await;
    stream.send(open_frame(1)).await.unwrap();
    ends_with(agent, CloseCode::StreamId).await;
}

pub(crate) async fn a_stream_id_in_use_ends_the_session(kind: Kind) {
    let agent = RawAgent::connect(kind).await;
    let mut first = agent.open().await;
    first.send(open_frame(6)).await.unwrap();
    let incoming = within("it comes in", agent.session.accept()).await.unwrap();
    let mut second = agent.open().await;
    second.send(open_frame(6)).await.unwrap();
    ends_with(agent, CloseCode::StreamId).await;
    drop(incoming);
}

pub(crate) async fn a_control_stream_that_ends_ends_the_session(kind: Kind) {
    let mut agent = RawAgent::connect(kind).await;
    agent.control.finish().await;
    let error = within("the session ends", agent.session.closed()).await;
    assert!(matches!(error, SessionError::Transport(_)), "{error:?}");
}

pub(crate) async fn streams_before_authentication_are_not_kept(kind: Kind) {
    let (transport, mut server) = raw(kind, acceptor_config()).await;
    let mut control = RawStream::new(transport.open().await.unwrap());
    let key = key(1);
    let handshake = say_hello(&mut control, &key).await;
    let mut early = Vec::new();
    for id in 0..30 {
        // QUIC does not even let it open one.
        let opening = tokio::time::timeout(Duration::from_millis(200), transport.open());
        let Ok(stream) = opening.await else { break };
        let mut stream = RawStream::new(stream.unwrap());
        stream.send(open_frame(id * 2)).await.unwrap();
        early.push(stream);
    }
    assert_eq!(early.is_empty(), kind == Kind::Quic);
    let (control, session) = tokio::join!(prove(control, &key, handshake), server.session());
    for mut stream in early {
        let error = stream.frame().await.unwrap_err();
        assert!(matches!(error, HalfError::Reset(_)), "{error:?}");
    }
    let mut good = RawStream::new(within("opens", transport.open()).await.unwrap());
    good.send(open_frame(62)).await.unwrap();
    let incoming = within("it comes in", session.accept()).await.unwrap();
    assert_eq!(incoming.id().to_wire().into_inner(), 62);
    assert_eq!(session.open_streams(), 1);
    drop((control, good));
}

/// A peer that sends PINGs without end and reads no answers gets bounded memory.
pub(crate) async fn a_flood_of_pings_is_answered_or_ended(kind: Kind) {
    let mut agent = RawAgent::connect(kind).await;
    let pings = Bytes::from(frame(PING, &[1; 8]).repeat(400));
    let flood = async { while agent.control.send(pings.clone()).await.is_ok() {} };
    let (error, ()) = tokio::join!(within("the session ends", agent.session.closed()), flood);
    assert_eq!(error.close_code(), Some(CloseCode::Overloaded), "{error:?}");
}
