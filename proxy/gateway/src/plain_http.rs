//! An answer to a client that speaks HTTP where TLS is due.

use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Standing, linger::Lingering, written};
use underpass_core::Rejection;

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
    let mut io = Lingering::new(io, Arc::default(), standing);
    io.write_all(&written::refusal(&WHY, head)).await?;
    io.shutdown().await
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
}
