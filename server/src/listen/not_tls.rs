//! The protocol of a client whose first bytes are not TLS's.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A protocol, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1: a request, or one for a head alone.
    Http {
        head: bool,
    },
    Http2,
    Ssh,
    ProxyProtocol,
    SomethingElse,
}

const HTTP: Speaks = Speaks::Http { head: false };

/// The protocols' beginnings.
const BEGINNINGS: [(&[u8], Speaks); 13] = [
    (b"GET ", HTTP),
    (b"HEAD ", Speaks::Http { head: true }),
    (b"POST ", HTTP),
    (b"PUT ", HTTP),
    (b"PATCH ", HTTP),
    (b"DELETE ", HTTP),
    (b"OPTIONS ", HTTP),
    (b"CONNECT ", HTTP),
    (b"PRI * HTTP/2.0\r\n", Speaks::Http2),
    (b"SSH-", Speaks::Ssh),
    (b"PROXY TCP", Speaks::ProxyProtocol),
    (b"PROXY UNKNOWN", Speaks::ProxyProtocol),
    (b"\r\n\r\n\0\r\nQUIT\n", Speaks::ProxyProtocol),
];

impl Speaks {
    /// Reads as much as tells it. The caller has a deadline.
    ///
    /// # Errors
    /// Those of `io`.
    pub(super) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut came = Vec::with_capacity(16);
        loop {
            if let Some(speaks) = Self::of(&came) {
                return Ok(speaks);
            }
            // One byte at a time, of a few: the rest may be a whole request, which is to be discarded.
            let mut byte = [0];
            if io.read(&mut byte).await? == 0 {
                return Ok(Self::SomethingElse);
            }
            came.extend_from_slice(&byte);
        }
    }

    /// The protocol of a client that has sent these bytes; nothing where more have to come.
    fn of(came: &[u8]) -> Option<Self> {
        let mut may_be = false;
        for (beginning, speaks) in BEGINNINGS {
            if came.starts_with(beginning) {
                return Some(speaks);
            }
            may_be |= beginning.starts_with(came);
        }
        (!may_be).then_some(Self::SomethingElse)
    }

    /// For metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Http2 => "http2",
            Self::Ssh => "ssh",
            Self::ProxyProtocol => "proxy protocol",
            Self::SomethingElse => "other",
        }
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http { .. } => "the client speaks HTTP; this port is for HTTPS",
            Self::Http2 => "the client speaks HTTP/2 without TLS; this port is for HTTPS",
            Self::Ssh => "the client speaks SSH",
            Self::ProxyProtocol => {
                "the client begins with a PROXY protocol header, and --proxy-protocol-from does not name its address"
            }
            Self::SomethingElse => "the client's first bytes are of no protocol that is known here",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn protocols_are_known_by_their_beginnings() {
        for (came, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], HTTP),
            (b"HEAD / HTTP/1.0\r\n", Speaks::Http { head: true }),
            (b"PUT /x HTTP/1.1\r\n", HTTP),
            (b"PATCH /x HTTP/1.1\r\n", HTTP),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Speaks::Http2),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Speaks::Ssh),
            (b"PROXY TCP4 1.2.3.4", Speaks::ProxyProtocol),
            (b"\r\n\r\n\0\r\nQUIT\n\x21", Speaks::ProxyProtocol),
            (b"GETS", Speaks::SomethingElse),
            (b"get / HTTP/1.1", Speaks::SomethingElse),
            (b"PRI * HTTP/1.1", Speaks::SomethingElse),
            (b"\x03\0\0\x13", Speaks::SomethingElse),
            (b"\xff", Speaks::SomethingElse),
            // An end.
            (b"GE", Speaks::SomethingElse),
        ] {
            let speaks = Speaks::read(&mut &*came).await.unwrap();
            assert_eq!(speaks, expected, "{}", came.escape_ascii());
        }
    }
}
