//! An HTTP proxy on loopback that knows CONNECT, and its ways to misbehave.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use underpass_tunnel::{Proxy, ProxyUrl};

use crate::server::Pki;

/// `alice:s3cr@t` in Basic's form.
const AUTHORIZATION: &str = "Proxy-Authorization: Basic YWxpY2U6czNjckB0";

/// The same in the proxy's URL.
pub(crate) const CREDENTIALS: &str = "alice:s3cr%40t";

const CHALLENGE: &str = "HTTP/1.1 407 Proxy Authentication Required\r\n\
    Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 3\r\n\r\nno\n";

/// The proxy's behaviour.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Carries bytes for clients with the password, to the port that they ask for on this machine;
    /// ignores the host's name.
    Carry,
    /// Gives this answer, and keeps the connection open.
    Answer(Vec<u8>),
    /// Says nothing.
    Silent,
    /// Hangs up.
    HangUp,
}

/// Dropping it ends its listener, not its connections.
pub(crate) struct HttpProxy {
    port: u16,
    tls: bool,
    asked: Arc<Mutex<Vec<String>>>,
    _listening: JoinSet<()>,
}

impl HttpProxy {
    pub(crate) async fn start() -> Self {
        Self::with(Manner::Carry, None).await
    }

    /// Over TLS where there is a certificate.
    pub(crate) async fn with(manner: Manner, tls: Option<&Pki>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let acceptor = tls.map(|pki| TlsAcceptor::from(Arc::new(pki.tls())));
        let mut listening = JoinSet::new();
        listening.spawn(serve(listener, acceptor, manner, Arc::clone(&asked)));
        Self {
            port,
            tls: tls.is_some(),
            asked,
            _listening: listening,
        }
    }

    /// The proxy's URL, with these credentials.
    pub(crate) fn url(&self, credentials: &str) -> ProxyUrl {
        let scheme = if self.tls { "https" } else { "http" };
        let at = if credentials.is_empty() { "" } else { "@" };
        let url = format!("{scheme}://{credentials}{at}127.0.0.1:{}", self.port);
        url.parse().unwrap()
    }

    /// For a client with the password.
    pub(crate) fn config(&self) -> Proxy {
        Proxy::new(self.url(CREDENTIALS))
    }

    /// Whereto it was asked to connect.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// A connection through the proxy, as a stranger makes it.
    pub(crate) async fn connect(&self, port: u16) -> TcpStream {
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .unwrap();
        let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n{AUTHORIZATION}\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut tcp).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        tcp
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    manner: Manner,
    asked: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, manner, asked) = (tls.clone(), manner.clone(), Arc::clone(&asked));
        // Its end is the end of both connections.
        tokio::spawn(async move {
            tcp.set_nodelay(true).unwrap();
            match tls {
                None => talk(tcp, manner, &asked).await,
                Some(tls) => {
                    if let Ok(io) = tls.accept(tcp).await {
                        talk(io, manner, &asked).await;
                    }
                }
            }
        });
    }
}

async fn talk(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    manner: Manner,
    asked: &Mutex<Vec<String>>,
) {
    let Some(head) = head(&mut io).await else {
        return;
    };
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("CONNECT"), "{head}");
    let authority = words.next().unwrap().to_owned();
    let port: u16 = authority.rsplit_once(':').unwrap().1.parse().unwrap();
    asked.lock().unwrap().push(authority);
    let answer = match manner {
        Manner::HangUp => return,
        Manner::Silent => Vec::new(),
        Manner::Answer(answer) => answer,
        Manner::Carry if head.lines().any(|line| line == AUTHORIZATION) => {
            return carry(io, port).await;
        }
        Manner::Carry => CHALLENGE.into(),
    };
    let _ = io.write_all(&answer).await;
    // Until the other side has had enough.
    let _ = io.read(&mut [0]).await;
}

async fn carry(mut io: impl AsyncRead + AsyncWrite + Unpin, port: u16) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        let _ = io.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    server.set_nodelay(true).unwrap();
    let established = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n";
    if io.write_all(established).await.is_ok() {
        let _ = copy_bidirectional(&mut io, &mut server).await;
    }
}

/// Reads up to the empty line.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}
