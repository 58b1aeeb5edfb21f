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
    /// Why the certificate that the client showed is not among these. It identifies nobody.
    pub unusable_certificate: Option<UnusableCertificate>,
}

/// Why a certificate that a client showed proves nothing: the signature of the handshake cannot be verified with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client certificate {}", self.told())]
#[non_exhaustive]
pub enum UnusableCertificate {
    /// It has no extensions, so that it does not say its use.
    Version,
    /// It is no certificate, or one with parts that are not understood.
    Unreadable,
    /// It has a critical extension that is not known here, and may say that it is not meant for this.
    Extension,
    /// Its key is of another kind, or too short or too long.
    Key,
    /// More certificates came with it than [`limits::CLIENT_INTERMEDIATES`](crate::limits::CLIENT_INTERMEDIATES).
    TooManyIntermediates,
}

impl UnusableCertificate {
    /// The fault, for its owner: the rest of a sentence about the certificate.
    pub fn told(self) -> &'static str {
        match self {
            Self::Version => {
                "is of X.509 version 1 or 2: make one of version 3, with the extended key usage clientAuth (openssl x509 \
                 -req takes extensions with -extfile or -copy_extensions)"
            }
            Self::Unreadable => "cannot be read",
            Self::Extension => {
                "has a critical extension that is not supported here: make one without it, or not critical"
            }
            Self::Key => {
                "has a key that is not supported: use RSA with 2048 to 8192 bits, ECDSA with P-256, P-384 or P-521, or Ed25519"
            }
            Self::TooManyIntermediates => "came with too many intermediate certificates",
        }
    }
}
