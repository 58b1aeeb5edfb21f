//! A reverse tunnel: the side that cannot be dialled dials out, and both sides then open streams.
//!
//! A [`Connector`] (in an agent, behind NAT) dials a server over QUIC or, where UDP does not pass,
//! over WebSocket. An [`Acceptor`] (in the server) turns each connection into a [`Session`], whose
//! agent has proven that it owns an [`AgentKey`]. Either side then [opens](Session::open) and
//! [accepts](Session::accept) [`Stream`]s: reliable, ordered, with half-close and reset codes, the
//! same over every transport.
//!
//! The crate knows nothing of what the streams carry. `docs/PROTOCOL.md` is the wire's reference.
//!
//! # Where to begin
//!
//! - At the side that listens: an [`Acceptor`] with an [`Admission`] that knows the agents' keys; put
//!   its sessions into a [`Registry`].
//! - At the side that dials: a [`Connector`], whose [`run`](Connector::run) keeps a session for ever, over
//!   any transport that works, and gives it to you when it is new.
//! - Either side: a [`Dialer`] for connections to a target by name, or [`Session::open`];
//!   [`Session::accept`] for the other side's streams.
//! - In tests: [`transport::memory`], as below.
//!
//! With the feature `hyper` the [`Dialer`] is a connector for hyper, and so for kube-rs. The repository's
//! `examples/` are programs that run: an echo, a TCP service behind NAT, kube-rs that lists pods.
//!
//! Streams outlive the transport that carries them: when it is lost, the connector brings another, and
//! readers and writers go on at the byte where they were.
//!
//! # A stream through a tunnel
//!
//! ```
//! use std::sync::Arc;
//! use futures_util::future::BoxFuture;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use underpass_tunnel::{
//!     Acceptor, AcceptorConfig, Admission, AgentKey, AgentName, Connector, ConnectorConfig, Denied,
//!     OpenRequest, Proven, PublicKey, transport::memory,
//! };
//!
//! /// Lets in one agent.
//! struct One(PublicKey);
//!
//! impl Admission for One {
//!     fn admit<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, Result<AgentName, Denied>> {
//!         let known = proven.key == self.0;
//!         Box::pin(async move {
//!             if known { Ok("edge-1".try_into()?) } else { Err(Denied::unknown_key()) }
//!         })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = AgentKey::from_seed([7; 32])?; // from random bytes, in earnest
//! let acceptor = Acceptor::new(AcceptorConfig::default(), Arc::new(One(key.public_key())));
//! # let ca_pem = rcgen::generate_simple_self_signed(["x".to_owned()])?.cert.pem().into_bytes();
//! let connector = Connector::new(ConnectorConfig::new("tunnel.example.org", 8443, ca_pem, key))?;
//!
//! let (here, there) = memory::pair(); // `connector.connect()` dials a real server instead
//! let (agent, server) =
//!     tokio::join!(connector.establish(Arc::new(here)), acceptor.accept(Arc::new(there)));
//! let (agent, server) = (agent?, server?.into_session().ok_or("it is new")?);
//!
//! tokio::spawn(async move {
//!     while let Ok(incoming) = agent.accept().await {
//!         let mut stream = incoming.accept().await?;
//!         let (mut read, mut write) = tokio::io::split(&mut stream);
//!         tokio::io::copy(&mut read, &mut write).await?;
//!         write.shutdown().await?;
//!     }
//!     Ok::<_, std::io::Error>(())
//! });
//!
//! let mut stream = server.open(OpenRequest { target: "echo".into(), ..Default::default() }).await?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "hello");
//! # Ok(())
//! # }
//! ```

mod acceptor;
mod buffer;
mod connector;
mod control;
mod copy;
mod dialer;
mod handshake_limiter;
pub mod limits;
mod random;
mod registry;
mod role;
pub mod session;
mod session_limiter;
mod stream;
mod telemetry;
pub mod tls;
pub mod transport;

pub use acceptor::{
    AcceptError, Accepted, Acceptor, AcceptorConfig, Admission, Denied, QuicPeer, Share,
};
pub use connector::{
    AttemptError, ConfigError, ConnectError, Connector, ConnectorConfig, DialError, LinkCount,
    NoProxy, Proxy, ProxyCaError, ProxyConfigError, ProxyEnvError, ProxyError, ProxyUrl,
    ProxyUrlError, Reconnected, Resolve, Route, RouteError, ServerAddress, Status, Step,
    SystemResolver, Transports,
};
pub use copy::{Copied, CopyError, copy_bidirectional, copy_until};
#[cfg(feature = "hyper")]
pub use dialer::HttpIo;
pub use dialer::{Dialer, DialerError};
pub use registry::Registry;
pub use role::ConnectorRole;
pub use session::{
    IncomingStream, LinkLoss, OpenError, OpenRequest, Session, SessionError, SessionId,
    SessionStats,
};
pub use session_limiter::NoRoom;
pub use stream::{ReadHalf, Stream, StreamError, WriteHalf};
pub use telemetry::{describe_metrics, record_sessions};
pub use tls::{CaPin, CertificateError, Trust};
pub use underpass_proto::agent_name::{AgentName, NameTooLong};
pub use underpass_proto::backoff::Backoff;
pub use underpass_proto::code::{CloseCode, ResetCode};
pub use underpass_proto::frame::{Class, GoAway};
pub use underpass_proto::handshake::{HandshakeError, Proven};
pub use underpass_proto::join::{JoinProof, JoinProofError};
pub use underpass_proto::key::{AgentKey, KeyError, PublicKey};
pub use underpass_proto::rotation::{KeyChange, RotationProof, RotationProofError};
pub use underpass_proto::session::{Classes, Ending, LinkEnd, LinkRefused, OpenRefused, Violation};
pub use underpass_proto::settings::{KeepaliveInterval, OutOfRange, ResumeWindow, StreamLimit};
pub use underpass_proto::stream::OffsetError;
pub use underpass_proto::stream_id::{Role, StreamId};
pub use underpass_proto::{DecodeError, chain};
