//! Streams to targets of one cluster, or of one node of it, over connections to the server that are made when they are needed and made anew when they
//! are lost. One task owns the connections.

mod owner;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use underpass_core::{
    ClusterName, NodeName, Target, UNDERPASS_CLUSTER, UNDERPASS_NODE, UNDERPASS_TARGET,
    UNIX_AUTHORITY,
};
use underpass_https::Credentials;
use zeroize::Zeroizing;

use self::owner::{Ask, Owner};
use crate::{
    connection::Place,
    error::{DialError, OpenError},
    limits,
    server::Server,
    stream::Stream,
};

/// How the server is reached, when that changes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// It is connected again.
    Connected,
    /// The last connection was lost; it is tried again.
    Lost,
    /// It cannot be connected; it is tried again. Said once, until it is connected.
    Away(Arc<DialError>),
}

/// Opens streams to targets of one cluster, or of one node of it. Clones are the same one; the last one ends its connections.
#[derive(Clone)]
pub struct Tunnel {
    cluster: HeaderValue,
    node: Option<HeaderValue>,
    credentials: Arc<dyn Credentials>,
    asks: mpsc::Sender<Ask>,
    _owner: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Why a request was not answered.
enum Unanswered {
    /// It was not processed: another connection may take it.
    NotProcessed(h2::Error),
    Failed(OpenError),
}

impl Tunnel {
    /// Streams to `cluster`. `states` hears when the server is lost and found again.
    pub fn new(
        server: Server,
        cluster: &ClusterName,
        states: impl Fn(State) + Send + 'static,
    ) -> Self {
        let (asks, asked) = mpsc::channel(limits::WAITING);
        let credentials = Arc::clone(&server.credentials);
        let owner = Owner::new(server, Box::new(states)).run(asked);
        Self {
            // A cluster's name is always a header.
            cluster: HeaderValue::from_str(cluster.as_str())
                .unwrap_or_else(|_| HeaderValue::from_static("")),
            node: None,
            credentials,
            asks,
            _owner: Arc::new(AbortOnDropHandle::new(tokio::spawn(owner))),
        }
    }

    /// The same with streams to targets at this node, which its own agent connects.
    #[must_use]
    pub fn at_node(self, node: &NodeName) -> Self {
        // So is a node's. An empty one would be refused.
        let name = HeaderValue::from_str(node.as_str());
        let name = name.unwrap_or_else(|_| HeaderValue::from_static(""));
        Self {
            node: Some(name),
            ..self
        }
    }

    /// Opens a stream, once the target has accepted it.
    ///
    /// # Errors
    /// There is no way to the server, or it refuses, or the agent does.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub async fn open(&self, target: &Target) -> Result<Stream, OpenError> {
        let mut attempt = 1;
        loop {
            let token = self.credentials.bearer().await;
            let token = token.map_err(|error| OpenError::Credential(Arc::new(error)))?;
            let place = self.place().await?;
            let number = place.number;
            let request = self.request(target, &token)?;
            let opening = tokio::time::timeout(limits::ANSWER, open(place, request));
            let opened = opening.await;
            match opened.map_err(|_| OpenError::TooSlow(limits::ANSWER))? {
                Ok(stream) => return Ok(stream),
                Err(Unanswered::NotProcessed(error)) => {
                    // The owner may be gone with the program.
                    let _ = self.asks.send(Ask::Retire(number)).await;
                    if attempt == limits::ATTEMPTS {
                        return Err(OpenError::Lost(Arc::new(error)));
                    }
                }
                Err(Unanswered::Failed(error)) => return Err(error),
            }
            attempt += 1;
        }
    }

    async fn place(&self) -> Result<Place, OpenError> {
        let (reply, place) = oneshot::channel();
        let asked = self.asks.try_send(Ask::Place(reply));
        asked.map_err(|_| OpenError::NoRoom)?;
        place.await.unwrap_or(Err(OpenError::NoRoom))
    }

    fn request(
        &self,
        target: &Target,
        token: &Zeroizing<String>,
    ) -> Result<Request<()>, OpenError> {
        let bearer = Zeroizing::new(format!("Bearer {}", **token));
        let wrong = |error: http::Error| OpenError::Target(Arc::new(error));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|error| wrong(error.into()))?;
        bearer.set_sensitive(true);
        let agent = concat!("underpass/", env!("CARGO_PKG_VERSION"));
        let request = Request::builder()
            .method(Method::CONNECT)
            .header(header::PROXY_AUTHORIZATION, bearer)
            .header(header::USER_AGENT, agent)
            .header(UNDERPASS_CLUSTER, self.cluster.clone());
        let request = match &self.node {
            Some(node) => request.header(UNDERPASS_NODE, node.clone()),
            None => request,
        };
        let text = target.to_string();
        let request = match target {
            Target::Tcp(tcp) => request.uri(authority(&tcp.to_string()).map_err(wrong)?),
            _ => request
                .uri(authority(UNIX_AUTHORITY).map_err(wrong)?)
                .header(UNDERPASS_TARGET, text),
        };
        request.body(()).map_err(wrong)
    }
}

fn authority(text: &str) -> Result<Uri, http::Error> {
    Uri::builder().authority(text).build()
}

async fn open(place: Place, request: Request<()>) -> Result<Stream, Unanswered> {
    let ready = place.sender.clone().ready().await;
    let mut sender = ready.map_err(Unanswered::NotProcessed)?;
    let sent = sender.send_request(request, false);
    let (response, send) = sent.map_err(Unanswered::NotProcessed)?;
    // Reset as a whole where it is not answered.
    let (head, recv) = match response.await {
        Ok(response) => response.into_parts(),
        Err(error) if was_not_processed(&error) => return Err(Unanswered::NotProcessed(error)),
        Err(error) => return Err(Unanswered::Failed(OpenError::Lost(Arc::new(error)))),
    };
    if head.status == StatusCode::OK {
        return Ok(Stream::new(send, recv, place));
    }
    let message = refusal(recv).await;
    let message = message.unwrap_or_else(|| "the server refused the connection".to_owned());
    let code = head.status;
    Err(Unanswered::Failed(OpenError::Refused { code, message }))
}

/// RFC 9113, sections 6.8 and 8.7.
fn was_not_processed(error: &h2::Error) -> bool {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    refused || (error.is_go_away() && error.is_remote())
}

/// The message of a `metav1.Status`.
async fn refusal(mut body: RecvStream) -> Option<String> {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece: Bytes = piece.ok()?;
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
        if bytes.len() > limits::REFUSAL_BYTES {
            return None;
        }
    }
    let status: Status = serde_json::from_slice(&bytes).ok()?;
    Some(status.message)
}
