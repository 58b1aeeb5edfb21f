//! Where the API server is, and how a connection to it is made.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use underpass_dial::{ADDRESS_DELAY, Resolve, ServerAddress, SystemResolver, UsedUp, staggered};
use underpass_http_proxy::{ProxyDialer, ProxyError};

use super::{
    ApiServerError,
    places::{Placed, Places},
    proxy, tls,
};
use underpass_core::{BoxedIo, Rejection, limits};

/// Why there is no connection to the API server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name does not resolve, or nothing listens there.
    #[error("cannot connect to the API server at {address}")]
    Tcp {
        /// Host and port.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The proxy's name does not resolve, or nothing listens there.
    #[error("cannot connect to the proxy at {address}")]
    ProxyTcp {
        /// Host and port.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The proxy gives no way to the API server.
    #[error("the proxy gives no way to the API server")]
    Proxy(#[source] ProxyError),
    /// The TLS handshake failed; most often the certificate is not trusted.
    #[error("the TLS handshake with the API server failed")]
    Tls(#[source] io::Error),
    /// Neither connected nor refused in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// It was connected and closed again at once.
    #[error("the API server closed the connection")]
    Closed,
    /// The HTTP handshake failed.
    #[error("the API server does not speak HTTP")]
    Http(#[source] hyper::Error),
}

impl ConnectError {
    /// The reason for the caller, without addresses or details of the certificate.
    pub(super) fn rejection(&self) -> Rejection {
        match self.used_up() {
            Some(UsedUp::Ports) => {
                return Rejection::ApiServerUnreachable(
                    "on the machine that connects to it no local port is left, or no address to connect from",
                );
            }
            Some(UsedUp::Files) => {
                return Rejection::ApiServerUnreachable(
                    "on the machine that connects to it no open file is left",
                );
            }
            None => {}
        }
        match self {
            Self::Tcp { .. } => Rejection::ApiServerUnreachable("cannot connect"),
            Self::ProxyTcp { .. } => {
                Rejection::ApiServerUnreachable("cannot connect to the proxy in front of it")
            }
            Self::Proxy(_) => {
                Rejection::ApiServerUnreachable("the proxy in front of it gives no way to it")
            }
            Self::Tls(error) => Rejection::ApiServerUnreachable(tls_trouble(error)),
            Self::Closed => Rejection::ApiServerUnreachable("it closed the connection"),
            Self::Timeout => Rejection::Timeout("a connection to the API server"),
            Self::Http(_) => Rejection::ApiServerUnreachable("it does not speak HTTP"),
        }
    }
}

impl ConnectError {
    /// The resource of this machine that there is no connection for want of.
    fn used_up(&self) -> Option<UsedUp> {
        match self {
            Self::Tcp { source, .. } | Self::ProxyTcp { source, .. } => UsedUp::of(source),
            _ => None,
        }
    }
}

/// The usual causes of a failed handshake, in an operator's words.
fn tls_trouble(error: &io::Error) -> &'static str {
    use rustls::{CertificateError, Error};

    let error = error.get_ref().and_then(|error| error.downcast_ref());
    match error {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            // A CA of the same name with another key signs badly.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not signed by the CA"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            // One of webpki's own: most often a critical extension, as of policies, in the chain.
            CertificateError::Other(_) => {
                "its certificate chain has something that is not supported here"
            }
            _ => "its certificate is not valid",
        },
        Some(Error::AlertReceived(_)) => "it refused the TLS handshake",
        _ => "the TLS handshake failed",
    }
}

/// The protocols offered by ALPN.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offer {
    /// HTTP/2 if possible.
    Both,
    /// HTTP/1.1 only: upgrades exist nowhere else (kube-apiserver has no RFC 8441).
    Http1,
}

/// A new connection.
#[allow(missing_debug_implementations, reason = "a trait object")]
pub(super) struct Connected {
    pub(super) io: BoxedIo,
    pub(super) http2: bool,
}

/// The address, and everything that connections share (TLS session tickets included).
#[derive(Debug)]
pub(super) struct Endpoint {
    resolver: Arc<dyn Resolve>,
    /// Without brackets, where it is an address of IPv6.
    name: String,
    port: u16,
    /// Connections go through it.
    proxy: Option<ProxyDialer>,
    authority: String,
    host: HeaderValue,
    base: Uri,
    version: Uri,
    prefix: String,
    tls: Option<Mutex<Arc<Tls>>>,
    /// The last TLS handshake failed.
    distrusted: AtomicBool,
}

struct Tls {
    /// As the configuration says it.
    config: rustls::ClientConfig,
    /// A plugin's client certificate, which is shown in place of the configuration's.
    shown: Option<Arc<CertifiedKey>>,
    both: TlsConnector,
    http1: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(super) fn new(
        config: &kube::Config,
        tls: rustls::ClientConfig,
        places: Option<&Arc<dyn Places>>,
    ) -> Result<Self, ApiServerError> {
        let base = config.cluster_url.clone();
        let bad = || ApiServerError::Url(base.to_string());
        let secure = match base.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = base.host().ok_or_else(bad)?;
        let port = base.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let plain_host = host.trim_start_matches('[').trim_end_matches(']');
        let name = tls::said(config.tls_server_name.as_deref());
        let name = name.unwrap_or(plain_host).to_owned();
        let tls = if secure {
            let name = name.try_into().map_err(ApiServerError::ServerName)?;
            Some(Mutex::new(Arc::new(Tls::new(tls, None, name))))
        } else {
            None
        };
        let authority = base.authority().ok_or_else(bad)?;
        let prefix = base.path().trim_end_matches('/').to_owned();
        let version = with_path(&base, format!("{prefix}/version")).map_err(|_| bad())?;
        Ok(Self {
            resolver: match places {
                None => Arc::new(SystemResolver),
                Some(places) => Arc::new(Placed::new(Arc::clone(places))),
            },
            name: plain_host.to_owned(),
            port,
            proxy: proxy::of(config)?,
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?,
            authority: authority.as_str().to_owned(),
            prefix,
            version,
            base,
            tls,
            distrusted: AtomicBool::new(false),
        })
    }

    /// Connections show this client certificate from now on; the configuration's own without one. True where it is another than
    /// before.
    pub(super) fn show(&self, certificate: Option<Arc<CertifiedKey>>) -> bool {
        let Some(tls) = &self.tls else {
            return false;
        };
        let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (&tls.shown, &certificate) {
            (Some(shown), Some(new)) => Arc::ptr_eq(shown, new) || shown.cert == new.cert,
            (None, None) => true,
            _ => false,
        };
        if same {
            return false;
        }
        *tls = Arc::new(Tls::new(tls.config.clone(), certificate, tls.name.clone()));
        true
    }

    fn tls(&self) -> Option<Arc<Tls>> {
        let tls = self.tls.as_ref()?.lock();
        Some(Arc::clone(&tls.unwrap_or_else(PoisonError::into_inner)))
    }

    /// Opens a connection.
    pub(super) async fn connect(&self, offer: Offer) -> Result<Connected, ConnectError> {
        let connecting = self.connect_now(offer);
        let limit = tokio::time::timeout(limits::API_SERVER_CONNECT_TIMEOUT, connecting);
        limit.await.map_err(|_| ConnectError::Timeout)?
    }

    /// The first of the name's addresses, or of the proxy's, that answers, with TLS: one at which packets are dropped, or
    /// connections are accepted and nothing is said, does not keep the next one waiting.
    async fn connect_now(&self, offer: Offer) -> Result<Connected, ConnectError> {
        let (name, port) = match &self.proxy {
            None => (self.name.as_str(), self.port),
            Some(proxy) => {
                let place = proxy.place();
                place.map_err(|error| ConnectError::Proxy(error.clone().into()))?
            }
        };
        let found = underpass_dial::addresses(&*self.resolver, name, port).await;
        let found = found.map_err(|source| {
            let place = ServerAddress::new(name, port).to_string();
            self.not_connected(place, source)
        })?;
        let attempts = found
            .into_iter()
            .map(|address| self.connect_to(address, offer));
        staggered(attempts, ADDRESS_DELAY)
            .await
            .map_err(most_telling)
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        offer: Offer,
    ) -> Result<Connected, ConnectError> {
        let tcp = underpass_dial::connect_to(address).await;
        let tcp = tcp.map_err(|source| self.not_connected(address.to_string(), source))?;
        match &self.proxy {
            None => self.secure(tcp, offer).await,
            Some(proxy) => {
                let server = ServerAddress::new(self.name.as_str(), self.port);
                let io = proxy.open(tcp, &server).await;
                self.secure(io.map_err(ConnectError::Proxy)?, offer).await
            }
        }
    }

    fn not_connected(&self, address: String, source: io::Error) -> ConnectError {
        match self.proxy {
            None => ConnectError::Tcp { address, source },
            Some(_) => ConnectError::ProxyTcp { address, source },
        }
    }

    /// TLS on a connection that leads to the API server.
    async fn secure<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        io: T,
        offer: Offer,
    ) -> Result<Connected, ConnectError> {
        let Some(tls) = self.tls() else {
            return Ok(Connected {
                io: Box::new(io),
                http2: false,
            });
        };
        let connector = match offer {
            Offer::Both => &tls.both,
            Offer::Http1 => &tls.http1,
        };
        let stream = connector
            .connect(tls.name.clone(), io)
            .await
            .map_err(ConnectError::Tls);
        self.distrusted.store(stream.is_err(), Ordering::Relaxed);
        let stream = stream?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            io: Box::new(stream),
            http2,
        })
    }

    /// The API server's URL of a request's target. The target's bytes stay as they are.
    ///
    /// Below a path prefix (an API server behind another front) dot segments are refused: they would lead out
    /// of the prefix, to another cluster of that front, with this agent's credential (security rule 2).
    pub(super) fn url(&self, target: Option<&PathAndQuery>) -> Result<Uri, Rejection> {
        let target = target.ok_or(Rejection::BadRequest("the target is not a path"))?;
        if !self.prefix.is_empty() && target.path().split('/').any(is_dots) {
            return Err(Rejection::BadRequest("the path has dot segments"));
        }
        let joined = format!("{}{target}", self.prefix);
        with_path(&self.base, joined).map_err(|_| Rejection::BadRequest("the target is not a path"))
    }

    /// The URL of the API server's version.
    pub(super) fn version_url(&self) -> Uri {
        self.version.clone()
    }

    /// The last TLS handshake failed: the API server's certificate was not trusted, or ours was refused.
    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// The prefix of the URLs' paths; empty for most.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Host and port, as requests name them.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Writes the `Host` that HTTP/1.1 needs.
    pub(super) fn write_host(&self, headers: &mut HeaderMap) {
        headers.insert(header::HOST, self.host.clone());
    }
}

impl Tls {
    fn new(
        config: rustls::ClientConfig,
        shown: Option<Arc<CertifiedKey>>,
        name: ServerName<'static>,
    ) -> Self {
        let mut offering = match &shown {
            Some(certificate) => tls::showing(&config, Arc::clone(certificate)),
            None => config.clone(),
        };
        offering.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = TlsConnector::from(Arc::new(offering.clone()));
        offering.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            config,
            shown,
            both: TlsConnector::from(Arc::new(offering)),
            http1,
            name,
        }
    }
}

fn with_path(base: &Uri, path: String) -> Result<Uri, http::Error> {
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path.into_bytes())?);
    Ok(Uri::from_parts(parts)?)
}

/// An API server that answered and is not trusted says more than an address where nothing listens.
fn most_telling(mut errors: Vec<ConnectError>) -> ConnectError {
    let spoke = |error: &ConnectError| {
        !matches!(
            error,
            ConnectError::Tcp { .. } | ConnectError::ProxyTcp { .. }
        )
    };
    let chosen = errors.iter().position(spoke).unwrap_or_default();
    match errors.is_empty() {
        true => ConnectError::Closed,
        false => errors.swap_remove(chosen),
    }
}

fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    // `%2f` and `\` separate segments for some servers.
    plain
        .replace("%2f", "/")
        .split(['/', '\\'])
        .any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use underpass_dial::testing::{Addresses, SilentAddress};

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        crate::tls::install_crypto();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Endpoint::new(&kube::Config::new(url.parse().unwrap()), tls, None).unwrap()
    }

    fn url(endpoint: &Endpoint, target: &str) -> Result<String, Rejection> {
        endpoint
            .url(Some(&target.parse().unwrap()))
            .map(|url| url.to_string())
    }

    /// Connects where the name has these addresses.
    async fn connect(url: &str, addresses: Vec<SocketAddr>) -> Result<Connected, ConnectError> {
        let mut endpoint = endpoint(url);
        endpoint.resolver = Arc::new(Addresses(addresses));
        endpoint.connect(Offer::Both).await
    }

    #[test]
    fn a_caller_hears_of_what_the_agents_machine_lacks_and_of_no_address() {
        for (errno, what) in [
            (rustix::io::Errno::ADDRNOTAVAIL, "no local port is left"),
            (rustix::io::Errno::MFILE, "no open file is left"),
        ] {
            let address = || "10.0.0.1:6443".to_owned();
            for error in [
                ConnectError::Tcp {
                    address: address(),
                    source: errno.into(),
                },
                ConnectError::ProxyTcp {
                    address: address(),
                    source: errno.into(),
                },
            ] {
                let told = error.rejection().to_string();
                assert!(told.contains(what) && !told.contains("10.0.0.1"), "{told}");
            }
        }
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hide_the_next() {
        let silent = SilentAddress::new().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![silent.address(), listener.local_addr().unwrap()];
        connect("http://api", addresses).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_accepts_and_says_nothing_does_not_hide_the_next() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&mute, &other].map(|listener| listener.local_addr().unwrap());
        tokio::select! {
            _ = connect("https://api", addresses.to_vec()) => panic!("nobody has answered"),
            accepted = other.accept() => drop(accepted.unwrap()),
        }
    }

    #[tokio::test]
    async fn an_api_server_that_spoke_is_told_rather_than_a_closed_port() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![closed, rude.local_addr().unwrap()];
        let refusing = async { drop(rude.accept().await.unwrap()) };
        let (connected, ()) = tokio::join!(connect("https://api", addresses), refusing);
        assert!(matches!(connected, Err(ConnectError::Tls(_))));
    }

    #[test]
    fn paths_are_opaque() {
        let plain = endpoint("https://10.0.0.1:6443");
        for target in ["/", "//x//", "/a%2Fb/../c?x=%20", "/?"] {
            assert_eq!(
                url(&plain, target).unwrap(),
                format!("https://10.0.0.1:6443{target}")
            );
        }
    }

    #[test]
    fn servers_are_written_in_many_ways() {
        for (server, name, port, api) in [
            ("HTTPS://h", "h", 443, "https://h/api"),
            (
                "https://[fd00::1]:6443/",
                "fd00::1",
                6443,
                "https://[fd00::1]:6443/api",
            ),
            ("https://[::1]", "::1", 443, "https://[::1]/api"),
            (
                "https://api.h.:6443",
                "api.h.",
                6443,
                "https://api.h.:6443/api",
            ),
            (
                "https://h/k8s/clusters/x/?q=1#f",
                "h",
                443,
                "https://h/k8s/clusters/x/api",
            ),
        ] {
            let endpoint = endpoint(server);
            assert_eq!(endpoint.name, name);
            assert_eq!(endpoint.port, port);
            assert_eq!(url(&endpoint, "/api").unwrap(), api);
        }
    }

    #[test]
    fn rule_2_a_prefix_cannot_be_left() {
        let nested = endpoint("https://front.example/k8s/clusters/a/");
        assert_eq!(
            url(&nested, "/api?x=..").unwrap(),
            "https://front.example/k8s/clusters/a/api?x=.."
        );
        for target in [
            "/../b/api",
            "/x/%2e%2E/b",
            "/..",
            "/./x",
            "/%2e./b",
            "/..%2fb",
            "/..\\b",
        ] {
            assert!(url(&nested, target).is_err(), "{target}");
        }
    }
}
