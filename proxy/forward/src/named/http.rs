//! HTTP CONNECT (RFC 9110, section 9.3.6), over HTTP/1.1.

use std::io;

use ::http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use underpass_core::Target;

use crate::{error::OpenError, limits};

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<Option<Target>> {
    let Some(head) = read_head(tcp).await? else {
        answer(
            tcp,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head is too large",
        )
        .await?;
        return Ok(None);
    };
    let mut lines = [httparse::EMPTY_HEADER; limits::HEAD_LINES];
    let mut request = httparse::Request::new(&mut lines);
    let complete = matches!(request.parse(&head), Ok(httparse::Status::Complete(_)));
    let method = request.method.unwrap_or_default();
    if !complete || method != "CONNECT" {
        let words = "this is a proxy for CONNECT, and for SOCKS5: nothing else is served here";
        answer(tcp, StatusCode::METHOD_NOT_ALLOWED, words).await?;
        return Ok(None);
    }
    let target = request.path.unwrap_or_default();
    let target = format!("tcp:{target}").parse().ok();
    if target.is_none() {
        answer(
            tcp,
            StatusCode::BAD_REQUEST,
            "the target of CONNECT is not HOST:PORT",
        )
        .await?;
    }
    Ok(target)
}

/// The head with its empty line, and no byte behind it.
async fn read_head(tcp: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(END) {
        if head.len() >= limits::HEAD_BYTES {
            return Ok(None);
        }
        // Byte by byte, in what the system has: a head is some hundred bytes, once for each connection.
        head.push(tcp.read_u8().await?);
    }
    Ok(Some(head))
}

pub(super) async fn accept(tcp: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
}

pub(super) async fn refuse(
    tcp: &mut (impl AsyncWrite + Unpin),
    error: &OpenError,
) -> io::Result<()> {
    let code = match error {
        // 407 would be about a credential of this listener, which asks for none.
        OpenError::Refused { code, .. } if *code == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            StatusCode::FORBIDDEN
        }
        OpenError::Refused { code, .. } => *code,
        OpenError::TooSlow(_) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    answer(tcp, code, &error.to_string()).await
}

async fn answer(
    tcp: &mut (impl AsyncWrite + Unpin),
    code: StatusCode,
    words: &str,
) -> io::Result<()> {
    let reason = code.canonical_reason().unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{words}\n",
        code.as_u16(),
        words.len() + 1,
    );
    tcp.write_all(answer.as_bytes()).await
}
