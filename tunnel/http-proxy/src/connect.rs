//! The exchange with a proxy: CONNECT (RFC 9110, section 9.3.6) over HTTP/1.1.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::limits;
use crate::proxy::ProxyEnvError;
use crate::socks;

/// Header lines that a proxy's answer may have.
const HEADERS: usize = 64;

/// Why a proxy gave no way to the server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The environment names no proxy that can be used.
    #[error(transparent)]
    Environment(#[from] ProxyEnvError),
    /// An `https://` proxy's certificate is not trusted.
    #[error("the proxy's certificate is not trusted (if its CA is not the system's, name it)")]
    Untrusted(#[source] rustls::Error),
    /// TLS to the proxy failed.
    #[error("TLS to the proxy failed (is it an http:// proxy?)")]
    Tls(#[source] io::Error),
    /// The connection to the proxy failed.
    #[error("the connection to the proxy failed")]
    Io(#[source] io::Error),
    /// The proxy wants credentials (407).
    #[error(
        "the proxy {} (407){}",
        if *.given { "refuses the user and password that it was given" } else { "wants a user and password" },
        offers(.schemes)
    )]
    Credentials {
        /// Whether it was told.
        given: bool,
        /// The schemes of authentication that it takes.
        schemes: Vec<String>,
    },
    /// The proxy does not allow it (403).
    #[error("the proxy does not allow connections to the server (403)")]
    Forbidden,
    /// The proxy does not reach the server (502, 503 or 504).
    #[error("the proxy cannot reach the server ({status})")]
    Unreachable {
        /// The HTTP status.
        status: u16,
    },
    /// The proxy answered something else than success.
    #[error("the proxy answered {status} to CONNECT")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not HTTP.
    #[error("what answers is no HTTP proxy (or one to be reached with https://)")]
    Malformed(#[source] httparse::Error),
    /// The answer is too long.
    #[error(
        "the proxy's answer has more than {} bytes or {HEADERS} header lines",
        limits::PROXY_ANSWER
    )]
    TooLarge,
    /// The proxy ended the connection instead of answering.
    #[error("the proxy closed the connection without an answer")]
    Closed,
    /// A SOCKS5 proxy wants credentials, or refuses them.
    #[error(
        "the proxy {}",
        if *.given { "refuses the user and password that it was given" } else { "wants a user and password" }
    )]
    SocksCredentials {
        /// Whether it was told.
        given: bool,
    },
    /// A SOCKS5 proxy makes no connection to the server.
    #[error("the proxy gives no way to the server: {}", socks::meaning(*.reply))]
    SocksRefused {
        /// The reply of RFC 1928, section 6.
        reply: u8,
    },
    /// The answer is not SOCKS5.
    #[error("what answers is no SOCKS5 proxy")]
    NoSocks,
    /// SOCKS5 cannot carry it.
    #[error("the server's name is too long for a SOCKS5 proxy")]
    LongName,
    /// Bytes came behind the answer, where only the server could have sent some, which does not speak
    /// first.
    #[error("the proxy sent bytes of its own behind its answer")]
    Surplus,
}

/// The schemes that the proxy offers, if Basic is not one of them.
fn offers(schemes: &[String]) -> String {
    if schemes.is_empty() || schemes.iter().any(|s| s.eq_ignore_ascii_case("basic")) {
        return String::new();
    }
    format!(
        "; it takes {}, and this side knows Basic only",
        schemes.join(", ")
    )
}

/// Asks the proxy at the other end of `io` for a way to `authority`. Afterwards `io` leads to the server.
pub(super) async fn connect(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    authority: &str,
    authorization: Option<&str>,
) -> Result<(), ProxyError> {
    let request = request(authority, authorization);
    io.write_all(request.as_bytes())
        .await
        .map_err(ProxyError::Io)?;
    io.flush().await.map_err(ProxyError::Io)?;
    let mut received = Vec::with_capacity(limits::PROXY_ANSWER);
    let mut passed = 0;
    loop {
        let room = limits::PROXY_ANSWER.saturating_sub(received.len());
        if room == 0 {
            return Err(ProxyError::TooLarge);
        }
        let mut limited = (&mut *io).take(u64::try_from(room).unwrap_or(u64::MAX));
        match limited.read_buf(&mut received).await {
            Ok(0) => return Err(ProxyError::Closed),
            Ok(_) => {}
            Err(error) => return Err(ProxyError::Io(error)),
        }
        while let Some(answer) = Answer::parse(received.get(passed..).unwrap_or_default())? {
            passed += answer.length;
            // 1xx precedes the answer (RFC 9110, section 15.2); 101 would be an unrequested
            // upgrade.
            if (100..200).contains(&answer.status) && answer.status != 101 {
                continue;
            }
            answer.outcome(authorization.is_some())?;
            return if passed == received.len() {
                Ok(())
            } else {
                Err(ProxyError::Surplus)
            };
        }
    }
}

fn request(authority: &str, authorization: Option<&str>) -> Zeroizing<String> {
    let agent = concat!("underpass/", env!("CARGO_PKG_VERSION"));
    let credentials = authorization.map_or(0, str::len);
    let mut request = Zeroizing::new(String::with_capacity(
        200 + 2 * authority.len() + credentials,
    ));
    for part in ["CONNECT ", authority, " HTTP/1.1\r\nHost: ", authority] {
        request.push_str(part);
    }
    for part in ["\r\nUser-Agent: ", agent, "\r\n"] {
        request.push_str(part);
    }
    if let Some(authorization) = authorization {
        for part in ["Proxy-Authorization: ", authorization, "\r\n"] {
            request.push_str(part);
        }
    }
    request.push_str("\r\n");
    request
}

/// The head of a proxy's answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    length: usize,
    status: u16,
    schemes: Vec<String>,
}

impl Answer {
    /// `None` where more has to arrive. Called again for each piece of at most
    /// [`limits::PROXY_ANSWER`] bytes: a proxy that sends them one by one costs some milliseconds.
    fn parse(received: &[u8]) -> Result<Option<Self>, ProxyError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(received) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ProxyError::TooLarge),
            Err(error) => return Err(ProxyError::Malformed(error)),
        };
        let schemes = response
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"))
            .filter_map(|header| scheme(header.value))
            .collect();
        Ok(Some(Self {
            length,
            status: response.code.unwrap_or_default(),
            schemes,
        }))
    }

    fn outcome(self, given: bool) -> Result<(), ProxyError> {
        match self.status {
            // RFC 9110, section 9.3.6: any 2xx; Content-Length is ignored.
            200..300 => Ok(()),
            403 => Err(ProxyError::Forbidden),
            407 => Err(ProxyError::Credentials {
                given,
                schemes: self.schemes,
            }),
            status @ 502..=504 => Err(ProxyError::Unreachable { status }),
            status => Err(ProxyError::Refused { status }),
        }
    }
}

/// The scheme's name at the front of a challenge (RFC 9110, section 11.3), as far as it may be shown.
fn scheme(challenge: &[u8]) -> Option<String> {
    let name: String = challenge
        .iter()
        .map(|byte| char::from(*byte))
        .take_while(|char| char.is_ascii_alphanumeric() || "-_".contains(*char))
        .take(32)
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "u.example.org:443";

    /// The outcome of an answer that arrives in pieces, and the request that the proxy got.
    async fn exchange(
        pieces: &[&[u8]],
        authorization: Option<&str>,
    ) -> (Result<(), ProxyError>, String) {
        let (mut here, mut there) = tokio::io::duplex(64 * 1024);
        let proxy = async {
            let mut asked = vec![0; 4096];
            let length = there.read(&mut asked).await.unwrap();
            for piece in pieces {
                // Its reader may have had enough.
                let _ = there.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            drop(there);
            String::from_utf8(asked[..length].to_vec()).unwrap()
        };
        let connecting = async {
            let result = connect(&mut here, AUTHORITY, authorization).await;
            drop(here);
            result
        };
        tokio::join!(connecting, proxy)
    }

    async fn answered(answer: &str) -> Result<(), ProxyError> {
        exchange(&[answer.as_bytes()], None).await.0
    }

    #[tokio::test]
    async fn the_proxy_is_asked_for_the_server() {
        let ok = b"HTTP/1.1 200 Connection established\r\n\r\n";
        let (result, asked) = exchange(&[ok], None).await;
        result.unwrap();
        assert!(
            asked.starts_with("CONNECT u.example.org:443 HTTP/1.1\r\nHost: u.example.org:443\r\n"),
            "{asked}"
        );
        assert!(asked.ends_with("\r\n\r\n") && !asked.contains("Authorization"));
        let (result, asked) = exchange(&[ok], Some("Basic eDp5")).await;
        result.unwrap();
        assert!(
            asked.contains("\r\nProxy-Authorization: Basic eDp5\r\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn every_success_is_one_however_it_arrives() {
        for answer in [
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 204\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\n",
        ] {
            answered(answer).await.unwrap();
            let pieces: Vec<_> = answer.as_bytes().chunks(1).collect();
            exchange(&pieces, None).await.0.unwrap();
        }
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        for (answer, told) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\nbody", "does not allow"),
            (
                "HTTP/1.1 504 Gateway Timeout\r\n\r\n",
                "cannot reach the server (504)",
            ),
            ("HTTP/1.1 405 No\r\n\r\n", "answered 405"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered 101"),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://portal\r\n\r\n",
                "answered 302",
            ),
            ("SSH-2.0-OpenSSH_9.9\r\n", "no HTTP proxy"),
            ("\u{15}\u{3}\u{1}\0\u{2}\u{2}", "no HTTP proxy"),
            ("HTTP/1.1 200 OK\r\n", "closed the connection"),
            ("", "closed the connection"),
            ("HTTP/1.1 200 OK\r\n\r\nx", "bytes of its own"),
        ] {
            let error = answered(answer).await.unwrap_err();
            assert!(error.to_string().contains(told), "{answer:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_wants_credentials_says_which() {
        let offer = |schemes: &str| format!("HTTP/1.1 407 Who?\r\n{schemes}\r\n");
        for (schemes, authorization, told) in [
            (
                "Proxy-Authenticate: Basic realm=\"x\"\r\n",
                None,
                "the proxy wants a user and password (407)",
            ),
            (
                "",
                Some("Basic eDp5"),
                "the proxy refuses the user and password that it was given (407)",
            ),
            (
                "Proxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\nProxy-Authenticate: \"\r\n",
                None,
                "the proxy wants a user and password (407); it takes Negotiate, NTLM, and this side knows Basic only",
            ),
        ] {
            let (result, _) = exchange(&[offer(schemes).as_bytes()], authorization).await;
            assert_eq!(result.unwrap_err().to_string(), told);
        }
    }

    #[tokio::test]
    async fn an_answer_is_bounded() {
        let long = format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "y".repeat(limits::PROXY_ANSWER)
        );
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000);
        for answer in [long, many, endless] {
            let error = answered(&answer).await.unwrap_err();
            assert!(matches!(error, ProxyError::TooLarge), "{error:?}");
        }
    }
}
