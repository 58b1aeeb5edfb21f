//! Facts about a connection.

use rustls_pki_types::CertificateDer;

use crate::Peer;

/// How a connection's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http/1.1`, which upgrades need; also where ALPN chose nothing.
    Http1,
    /// `h2`.
    Http2,
}

impl Protocol {
    /// The listener's protocols, in its order of preference.
    pub const ALPN: [&'static [u8]; 2] = [b"h2", b"http/1.1"];

    /// Reads ALPN's choice.
    pub fn from_alpn(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

/// Facts about a connection that its listener knows.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer, by the socket or a trusted PROXY protocol header.
    pub peer: Peer,
    /// The protocol that ALPN chose.
    pub protocol: Protocol,
    /// The name that the client asked TLS for (SNI), where it named one.
    pub server_name: Option<Box<str>>,
    /// The certificate chain that the client showed, as it came, and whose key it proved to hold; empty without one.
    /// Nothing else of it is verified: an authenticator does that, with the CAs of its configuration.
    pub certificates: Vec<CertificateDer<'static>>,
}
