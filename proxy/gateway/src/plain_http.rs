//! An answer to a client that speaks HTTP where TLS is due, in its own version.

use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Standing;
use underpass_core::Rejection;
use underpass_http::serve::{Lingering, written_refusal};

/// Go's servers say the same, without a Status.
const WHY: Rejection = Rejection::BadRequest(
    "the client sent an HTTP request to a port for HTTPS: use https:// in its address",
);

/// Answers a client that has begun to send a request without TLS, and closes the connection such that the answer arrives: bytes
/// that come are discarded for a while. `head`: the client has asked for a head alone.
///
/// # Errors
/// The client is gone.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub async fn refuse_plain_http<I>(io: I, standing: Standing, head: bool) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Lingering::new(io, Arc::default(), || standing.discards());
    io.write_all(&written_refusal(&WHY, head)).await?;
    io.shutdown().await
}

/// The same of a client that has begun with the preface of HTTP/2. It reads frames (RFC 9113, section 3.4): a server begins with SETTINGS, and
/// GOAWAY ends the connection with a reason, which clients show.
///
/// # Errors
/// The client is gone.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub async fn refuse_plain_http2<I>(io: I, standing: Standing) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Lingering::new(io, Arc::default(), || standing.discards());
    io.write_all(&goaway()).await?;
    io.shutdown().await
}

/// A server's whole connection: SETTINGS without any, and GOAWAY before the first stream.
fn goaway() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const INADEQUATE_SECURITY: [u8; 4] = [0, 0, 0, 12];
    let why = WHY.to_string();
    let last_stream = [0; 4];
    let payload = [&last_stream, &INADEQUATE_SECURITY, why.as_bytes()].concat();
    let mut frames = Vec::new();
    for (kind, payload) in [(SETTINGS, &[][..]), (GOAWAY, &payload)] {
        let [_, length @ ..] = u32::try_from(payload.len())
            .unwrap_or_default()
            .to_be_bytes();
        frames.extend_from_slice(&length);
        frames.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
        frames.extend_from_slice(payload);
    }
    frames
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    async fn asked(head: bool) -> (String, String) {
        let (mut client, server) = duplex(16 * 1024);
        let serving = tokio::spawn(refuse_plain_http(server, Standing::default(), head));
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        serving.await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn a_client_without_tls_gets_a_status() {
        let (head, body) = asked(false).await;
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"], "BadRequest");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.contains("HTTP request to a port for HTTPS"),
            "{message}"
        );
        // The head alone, which says as much.
        assert_eq!(asked(true).await, (head, String::new()));
    }

    #[tokio::test]
    async fn a_client_of_http2_without_tls_reads_the_reason() {
        let (client, server) = duplex(16 * 1024);
        let serving = tokio::spawn(refuse_plain_http2(server, Standing::default()));
        let (sender, connection) = h2::client::handshake(client).await.unwrap();
        let error = connection.await.unwrap_err();
        assert!(error.is_remote() && error.is_go_away(), "{error:?}");
        assert_eq!(error.reason(), Some(h2::Reason::INADEQUATE_SECURITY));
        let said = format!("{error:?}");
        assert!(said.contains("HTTP request to a port for HTTPS"), "{said}");
        drop(sender);
        serving.await.unwrap().unwrap();
    }
}
