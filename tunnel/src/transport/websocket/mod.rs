//! WebSocket (RFC 6455): binary messages that carry a multiplexer's bytes.
//!
//! Message boundaries mean nothing. Which multiplexer it is, the subprotocol says. TLS below and
//! the HTTP upgrade are the caller's, except for [`connect`]; tungstenite does the handshake, and
//! the framing below yamux.

mod head;
mod messages;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;
use underpass_proto::stream_id::Role;

use self::head::Head;
use self::messages::Messages;
use super::mux::MuxTransport;
use super::yamux::YamuxTransport;
use super::{Transport, TransportKind};
use crate::role::ConnectorRole;

/// The path that a server takes agents' WebSockets on.
pub const PATH: &str = "/v1/tunnel";

/// The same of users.
pub const USER_PATH: &str = "/v1/tunnel/user";

/// The path of connectors in this role.
pub const fn path(role: ConnectorRole) -> &'static str {
    match role {
        ConnectorRole::Agent => PATH,
        ConnectorRole::User => USER_PATH,
    }
}

/// Which multiplexer a WebSocket's messages carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subprotocol {
    /// Our own (PROTOCOL.md, "Streams over underpass.v1").
    Underpass,
    /// yamux, for peers with a yamux library (PROTOCOL.md, "Streams over yamux").
    Yamux,
}

impl Subprotocol {
    /// All of them, the preferred one first: it costs a third of the other per byte.
    pub const ALL: [Self; 2] = [Self::Underpass, Self::Yamux];

    /// The name in `Sec-WebSocket-Protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Underpass => "underpass.v1",
            Self::Yamux => "underpass.yamux.v1",
        }
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As a header's value, or as a sentence's part.
fn list(subprotocols: &[Subprotocol]) -> String {
    let names: Vec<_> = subprotocols.iter().map(|one| one.name()).collect();
    names.join(", ")
}

/// Why a WebSocket could not be agreed on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The server's address makes no URL.
    #[error("`{0}` is no host for a WebSocket URL")]
    Host(String),
    /// The server answered something else than an upgrade.
    #[error("the server answered {status} instead of upgrading to WebSocket{}", hint(.body))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of its body.
        body: String,
    },
    /// The server upgraded, but not to a multiplexer that was offered.
    #[error("the server chose the WebSocket subprotocol {0:?}, which was not offered")]
    Subprotocol(Option<String>),
    /// The client offers no multiplexer that this server speaks.
    #[error(
        "no common WebSocket subprotocol: the client offers {0:?}, this side speaks {ours}",
        ours = list(&Subprotocol::ALL)
    )]
    NotOffered(Vec<String>),
    /// The exchange itself failed.
    #[error("WebSocket handshake failed")]
    Protocol(#[source] Box<WebSocketError>),
}

fn hint(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(": {body}")
    }
}

/// Upgrades a connection to `host`, on which TLS is done, as an agent's client. `offers` are the
/// multiplexers that the server may choose from, [`Subprotocol::ALL`] in the ordinary case.
///
/// # Errors
/// Where the server does not upgrade to a multiplexer that was offered.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub async fn connect<S>(
    io: S,
    host: &str,
    remote: Option<SocketAddr>,
    offers: &[Subprotocol],
) -> Result<Arc<dyn Transport>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    connect_as(ConnectorRole::Agent, io, host, remote, offers).await
}

/// The same in this role.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_as<S>(
    role: ConnectorRole,
    io: S,
    host: &str,
    remote: Option<SocketAddr>,
    offers: &[Subprotocol],
) -> Result<Arc<dyn Transport>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let unusable = || UpgradeError::Host(host.to_owned());
    let mut request = format!("wss://{host}{}", path(role))
        .into_client_request()
        .map_err(|_| unusable())?;
    let offered = HeaderValue::try_from(list(offers)).map_err(|_| unusable())?;
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, offered);
    let config = Some(messages::config());
    let (socket, response) =
        tokio_tungstenite::client_async_with_config(request, Head::new(io), config)
            .await
            .map_err(refused)?;
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let subprotocol = offers
        .iter()
        .find(|offer| chosen.is_some_and(|chosen| chosen == offer.name()));
    let Some(subprotocol) = subprotocol else {
        let chosen = chosen.map(|chosen| String::from_utf8_lossy(chosen.as_bytes()).into_owned());
        return Err(UpgradeError::Subprotocol(chosen));
    };
    let role = Role::Connector;
    Ok(match subprotocol {
        Subprotocol::Underpass => {
            let (io, received) = socket.into_inner().into_parts();
            Arc::new(MuxTransport::start(
                io,
                received,
                role,
                TransportKind::WebSocket,
                remote,
            ))
        }
        Subprotocol::Yamux => {
            let messages = Messages::new(socket);
            Arc::new(YamuxTransport::start(
                messages,
                role,
                TransportKind::WebSocket,
                remote,
            ))
        }
    })
}

fn refused(error: WebSocketError) -> UpgradeError {
    match error {
        WebSocketError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
            let status = response.status().as_u16();
            UpgradeError::Refused {
                status,
                body: body.trim().to_owned(),
            }
        }
        error => UpgradeError::Protocol(Box::new(error)),
    }
}

/// The answer to a client's upgrade request, and the multiplexer that it names; the connection then
/// goes to [`accept`].
///
/// # Errors
/// Where the request is no WebSocket upgrade, or offers no multiplexer that this side speaks.
pub fn respond(request: &Request<()>) -> Result<(Response<()>, Subprotocol), UpgradeError> {
    let mut response =
        create_response(request).map_err(|error| UpgradeError::Protocol(Box::new(error)))?;
    let offered: Vec<_> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    let chosen = Subprotocol::ALL
        .into_iter()
        .find(|ours| offered.iter().any(|name| name == ours.name()));
    let Some(chosen) = chosen else {
        return Err(UpgradeError::NotOffered(offered));
    };
    let name = HeaderValue::from_static(chosen.name());
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    Ok((response, chosen))
}

/// Serves a connection whose client was answered with [`respond`], which chose `subprotocol`.
pub async fn accept<S>(
    io: S,
    subprotocol: Subprotocol,
    remote: Option<SocketAddr>,
) -> Arc<dyn Transport>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let role = Role::Acceptor;
    match subprotocol {
        Subprotocol::Underpass => Arc::new(MuxTransport::start(
            io,
            Bytes::new(),
            role,
            TransportKind::WebSocket,
            remote,
        )),
        Subprotocol::Yamux => {
            let config = Some(messages::config());
            let socket = WebSocketStream::from_raw_socket(io, WebSocketRole::Server, config).await;
            let messages = Messages::new(socket);
            Arc::new(YamuxTransport::start(
                messages,
                role,
                TransportKind::WebSocket,
                remote,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(offers: &[&'static str]) -> Request<()> {
        let mut request = Request::get(PATH)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for offer in offers {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, *offer);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn our_multiplexer_is_chosen_where_it_is_offered() {
        for (offers, expected) in [
            (
                &["underpass.v1, underpass.yamux.v1"][..],
                Subprotocol::Underpass,
            ),
            (
                &["underpass.yamux.v1", "x", "underpass.v1"],
                Subprotocol::Underpass,
            ),
            (&["x, underpass.yamux.v1 "], Subprotocol::Yamux),
        ] {
            let (response, chosen) = respond(&request(offers)).unwrap();
            assert_eq!(chosen, expected, "{offers:?}");
            let named = response.headers().get(SEC_WEBSOCKET_PROTOCOL).unwrap();
            assert_eq!(named, chosen.name());
        }
    }

    #[test]
    fn who_offers_none_is_told_which_there_are() {
        let error = respond(&request(&["soap, wamp"])).unwrap_err().to_string();
        for part in ["soap", "underpass.v1", "underpass.yamux.v1"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(
            matches!(respond(&request(&[])), Err(UpgradeError::NotOffered(none)) if none.is_empty())
        );
    }
}
