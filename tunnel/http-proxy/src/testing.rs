//! An HTTP proxy on loopback that knows CONNECT, and its ways to misbehave.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::Proxy;

/// `alice:s3cr@t` in Basic's form.
const AUTHORIZATION: &str = "Proxy-Authorization: Basic YWxpY2U6czNjckB0";

/// The same in the proxy's URL.
pub const CREDENTIALS: &str = "alice:s3cr%40t";

const CHALLENGE: &str = "HTTP/1.1 407 Proxy Authentication Required\r\n\
    Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 3\r\n\r\nno\n";

/// The proxy's behaviour.
#[derive(Clone, Debug)]
pub enum Manner {
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
#[derive(Debug)]
pub struct HttpProxy {
    port: u16,
    tls: bool,
    config: Box<Proxy>,
    asked: Arc<Mutex<Vec<String>>>,
    _listening: JoinSet<()>,
}

impl HttpProxy {
    /// One that carries bytes.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn start() -> io::Result<Self> {
        Self::with(Manner::Carry, None).await
    }

    /// Over TLS where there is a certificate.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn with(manner: Manner, tls: Option<ServerConfig>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let is_tls = tls.is_some();
        let config = url(is_tls, CREDENTIALS, port).parse();
        let config = Proxy::new(config.map_err(io::Error::other)?);
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let mut listening = JoinSet::new();
        listening.spawn(serve(listener, acceptor, manner, Arc::clone(&asked)));
        Ok(Self {
            port,
            tls: is_tls,
            config: Box::new(config),
            asked,
            _listening: listening,
        })
    }

    /// The proxy's URL, with these credentials.
    pub fn url(&self, credentials: &str) -> String {
        url(self.tls, credentials, self.port)
    }

    /// For a client with the password.
    pub fn config(&self) -> Proxy {
        (*self.config).clone()
    }

    /// Whereto it was asked to connect.
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A connection through the proxy, as a stranger makes it.
    ///
    /// # Errors
    /// The proxy gives no way.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n{AUTHORIZATION}\r\n\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let answer = head(&mut tcp).await;
        if answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return Ok(tcp);
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn url(tls: bool, credentials: &str, port: u16) -> String {
    let scheme = if tls { "https" } else { "http" };
    let at = if credentials.is_empty() { "" } else { "@" };
    format!("{scheme}://{credentials}{at}127.0.0.1:{port}")
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
            // Speed is all that depends on it.
            let _ = tcp.set_nodelay(true);
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
    let authority = head.strip_prefix("CONNECT ");
    let authority = authority.and_then(|rest| rest.split(' ').next());
    let authority = authority.unwrap_or_default().to_owned();
    let port = authority.rsplit_once(':').map(|(_, port)| port.parse());
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(authority);
    let Some(Ok(port)) = port else {
        let _ = io.write_all(b"HTTP/1.1 405 No\r\n\r\n").await;
        return;
    };
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
    // Speed is all that depends on it.
    let _ = server.set_nodelay(true);
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
    String::from_utf8(head).ok()
}
