//! Serves one connection of the front.

use std::sync::Arc;

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, Front, RequestBody, Standing, admit::Revoked, strangers::frames};
use underpass_core::{Body, BoxError, ConnectionInfo, Protocol, limits};
use underpass_http::serve;

/// A client's connection ended by an error: the client broke HTTP, or vanished.
#[derive(Debug, thiserror::Error)]
#[error("the client's connection failed")]
pub struct ServeError(#[source] hyper::Error);

impl Front {
    /// Serves a connection, after its TLS handshake, until it ends and its upgraded streams have ended.
    ///
    /// After [`Front::drain`] it returns once what is in flight is done. HTTP/1.1 requests may upgrade; HTTP/2 ones may
    /// not (RFC 9113, section 8.2.2: hyper resets a stream that tries).
    ///
    /// # Errors
    /// How the client broke the connection; worth a debug line.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection and ends its requests and upgraded streams at once.
    pub async fn serve_connection<I>(
        self: &Arc<Self>,
        io: I,
        info: ConnectionInfo,
    ) -> Result<(), ServeError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.serve_stranger(io, info, Standing::default()).await
    }

    /// The same of a connection that counts as a stranger's until a request on it is authenticated. The caller has
    /// charged the bytes read so far, and ends the future when [`Standing::closed`] is ready.
    ///
    /// # Errors
    /// As [`Front::serve_connection`].
    ///
    /// # Cancel safety
    /// As [`Front::serve_connection`].
    pub async fn serve_stranger<I>(
        self: &Arc<Self>,
        io: I,
        info: ConnectionInfo,
        standing: Standing,
    ) -> Result<(), ServeError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let protocol = info.protocol;
        let connection = Arc::new(Connection::of_stranger(info, standing));
        let _gone = connection.gone.clone().drop_guard();
        let owner = Arc::new(Served {
            front: Arc::clone(self),
            connection: Arc::clone(&connection),
        });
        let serving = async {
            match protocol {
                Protocol::Http1 => serve::http1(io, &owner).await,
                Protocol::Http2 => {
                    let io = frames::charged(io, connection.standing().clone());
                    serve::http2(io, &owner).await
                }
            }
        };
        let served = tokio::select! {
            served = serving => served,
            () = connection.sendings.stalled() => {
                tracing::debug!("the client does not read");
                metrics::counter!("underpass_stalled_clients_total").increment(1);
                Ok(())
            }
        };
        connection.pipes.close();
        if matches!(protocol, Protocol::Http2) {
            // Its streams are gone. Of those that had ended, bytes may still be on their way to a target, which may never read them.
            let passing = tokio::time::timeout(limits::SHUTDOWN_GRACE, connection.pipes.wait());
            if passing.await.is_err() {
                connection.gone.cancel();
            }
        }
        connection.pipes.wait().await;
        served.map_err(ServeError)
    }
}

/// A connection, as it is served.
struct Served {
    front: Arc<Front>,
    connection: Arc<Connection>,
}

impl serve::Owner for Served {
    fn served(&self) -> &serve::Served {
        &self.connection.served
    }

    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        self.front.handle(request, &self.connection).await
    }

    /// Once the front drains, or nothing has been asked for long.
    async fn finish(&self) {
        let activity = self.connection.served.activity();
        tokio::select! {
            () = self.front.draining.begun() => {}
            () = activity.idle_for(self.front.config.idle_timeout) => tracing::debug!("idle connection"),
        }
    }

    async fn cut(&self) {
        self.front.cut.cancelled().await;
    }

    fn charge(&self) -> Option<Box<dyn serve::Charge>> {
        Some(Box::new(self.connection.standing().body()))
    }

    /// They are not charged.
    fn discards(&self) {
        self.connection.standing().discards();
    }

    /// Bytes that are on their way belong to nobody any more.
    fn breaks_off_at_once(error: &BoxError) -> bool {
        error.is::<Revoked>()
    }
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod unreadable;
