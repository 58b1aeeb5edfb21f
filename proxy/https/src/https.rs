//! A provider's HTTPS.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use super::connector::Connector;
use underpass_core::{BoxError, Brief, limits};
use underpass_http_proxy::{Proxy, ProxyConfigError};
use underpass_pem::PemError;

/// The CAs that a server's certificate may come from. A certificate that is read as one of them is trusted itself as well, as OpenSSL and
/// Go do: a file may hold the self-signed certificate of the server.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Those that were read, byte for byte; none of the system's.
    file: Arc<[CertificateDer<'static>]>,
}

/// There are no certificates to trust.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// The text holds no certificate, or one that cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate that cannot be a trust anchor.
    #[error("not a CA certificate")]
    Certificate(#[source] rustls::Error),
    /// The system trusts nobody.
    #[error("the operating system has no CA certificates that can be read")]
    Empty,
}

impl Roots {
    /// The CAs that the system trusts.
    ///
    /// # Errors
    /// The system has none.
    pub fn system() -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self {
            store: Arc::new(roots),
            file: Arc::default(),
        })
    }

    /// Reads CA certificates.
    ///
    /// # Errors
    /// One of them cannot be used, or there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        let file: Arc<[_]> = underpass_pem::certificates(pem)?.into();
        for certificate in file.iter() {
            let added = roots.add(certificate.clone());
            added.map_err(RootsError::Certificate)?;
        }
        Ok(Self {
            store: Arc::new(roots),
            file,
        })
    }

    /// The certificates themselves.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }

    /// TLS that trusts them, and nobody else.
    ///
    /// # Errors
    /// The cryptography has no protocol version in common with TLS: never, as it is built.
    pub fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = underpass_trust::trusting(self.store(), Arc::clone(&self.file), provider)?;
        Ok(builder.with_no_client_auth())
    }
}

/// A provider's HTTPS, with bounds. It follows no redirect (security rule 2), so that a credential goes where the
/// configuration says and nowhere else.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "hyper's client has none")]
pub struct Https(Client<HttpsConnector<Connector>, Full<Bytes>>);

/// Why a provider has not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// No connection, or one that ended.
    #[error("the provider cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// The answer is not all there, or too much.
    #[error(
        "the provider's answer was cut off, or is larger than {} bytes",
        limits::PROVIDER_ANSWER_BYTES
    )]
    Answer(#[source] BoxError),
    /// No answer in time.
    #[error("the provider took longer than {:?}", limits::PROVIDER_TIME)]
    TooSlow,
    /// An answer that does not help.
    #[error("the provider answered {0}")]
    Status(http::StatusCode),
    /// Not the JSON that was asked for.
    #[error("the provider's answer is not what it should be")]
    Malformed(#[source] Brief<serde_json::Error>),
    /// No such request can be sent.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
}

/// Why no provider can be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsConfigError {
    /// The cryptography has no protocol version in common with TLS: never, as it is built.
    #[error("there is no TLS to ask over")]
    Tls(#[source] rustls::Error),
    /// The proxy's CAs cannot be used.
    #[error("the proxy cannot be used")]
    Proxy(#[source] ProxyConfigError),
}

impl Https {
    /// A client that trusts `roots`, and goes through this proxy where it is not excepted.
    ///
    /// # Errors
    /// The proxy's CAs cannot be used.
    pub fn new(roots: &Roots, proxy: Option<&Proxy>) -> Result<Self, HttpsConfigError> {
        let connector = Connector::new(proxy).map_err(HttpsConfigError::Proxy)?;
        Self::over(roots, connector)
    }

    /// A client that trusts `roots`, over these connections.
    ///
    /// # Errors
    /// There is no TLS.
    pub fn over(roots: &Roots, connector: Connector) -> Result<Self, HttpsConfigError> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(roots.client().map_err(HttpsConfigError::Tls)?)
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(limits::CHECKS_AT_ONCE)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request, and reads the whole answer, of any status.
    ///
    /// # Errors
    /// There is no whole answer in time.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, HttpsError> {
        let agent = const { http::HeaderValue::from_static("underpass") };
        request.headers_mut().insert(header::USER_AGENT, agent);
        let exchange = async {
            let response = self.0.request(request).await;
            let (parts, body) = response.map_err(HttpsError::Unreachable)?.into_parts();
            let body = Limited::new(body, limits::PROVIDER_ANSWER_BYTES);
            let body = body.collect().await.map_err(HttpsError::Answer)?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(limits::PROVIDER_TIME, exchange)
            .await
            .unwrap_or(Err(HttpsError::TooSlow))
    }

    /// Asks for a JSON document that everybody may read.
    ///
    /// # Errors
    /// There is none, or none in time.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn document<T>(&self, url: &http::Uri) -> Result<T, HttpsError>
    where
        T: serde::de::DeserializeOwned,
    {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .body(Full::default())
            .map_err(HttpsError::Request)?;
        let response = self.send(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(HttpsError::Status(response.status()));
        }
        serde_json::from_slice(response.body()).map_err(|error| HttpsError::Malformed(Brief(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;
    use underpass_dial::testing::{Addresses, SilentAddress};
    use underpass_http_proxy::NoProxy;
    use underpass_http_proxy::testing::{CREDENTIALS, HttpProxy, Manner};

    use super::*;

    /// A certificate for this name, and who trusts it.
    fn identity(name: &str) -> (ServerConfig, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (tls, made.cert.pem())
    }

    /// As `openssl req -x509` makes a server's own certificate: a CA's.
    fn own_ca(name: &str) -> (ServerConfig, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        (tls, certificate.pem())
    }

    /// A provider called `idp.example`, which is at no address that a resolver knows.
    struct Provider {
        address: SocketAddr,
        roots: Roots,
        _answering: JoinSet<()>,
    }

    impl Provider {
        async fn start() -> Self {
            Self::with(identity("idp.example")).await
        }

        async fn with((tls, pem): (ServerConfig, String)) -> Self {
            let roots = Roots::from_pem(pem.as_bytes()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            let mut answering = JoinSet::new();
            answering.spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    // A client that does not trust it goes.
                    let Ok(mut stream) = acceptor.accept(tcp).await else {
                        continue;
                    };
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n\"here\"";
                    let _ = stream.read(&mut [0; 1024]).await;
                    stream.write_all(answer).await.unwrap();
                    // Until the client has had enough.
                    let _ = stream.read(&mut [0]).await;
                }
            });
            Self {
                address,
                roots,
                _answering: answering,
            }
        }

        fn url(&self) -> http::Uri {
            let url = format!("https://idp.example:{}/keys", self.address.port());
            url.parse().unwrap()
        }

        async fn ask(&self, proxy: Option<&Proxy>, addresses: Vec<SocketAddr>) -> Asked {
            let connector = Connector::new(proxy).unwrap();
            let connector = connector.resolving(Arc::new(Addresses(addresses)));
            let https = Https::over(&self.roots, connector).unwrap();
            https.document::<String>(&self.url()).await
        }
    }

    type Asked = Result<String, HttpsError>;

    /// All that an error says.
    fn said(asked: Asked) -> String {
        let error = asked.unwrap_err();
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            said.push_str(&format!(": {error}"));
            source = error.source();
        }
        said
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hide_the_providers_next() {
        let silent = SilentAddress::new().await.unwrap();
        let provider = Provider::start().await;
        let addresses = vec![silent.address(), provider.address];
        assert_eq!(provider.ask(None, addresses).await.unwrap(), "here");
    }

    #[tokio::test]
    async fn a_provider_is_reached_through_the_proxy() {
        let provider = Provider::start().await;
        let proxy = HttpProxy::start().await.unwrap();
        let place = format!("idp.example:{}", provider.address.port());
        // The proxy has an address. The provider's name is the proxy's to resolve.
        let proxy_is_at = |proxy: &HttpProxy| {
            let port = proxy.url("").rsplit_once(':').unwrap().1.parse().unwrap();
            vec![SocketAddr::from(([127, 0, 0, 1], port))]
        };
        let config = proxy.config();
        let asked = provider.ask(Some(&config), proxy_is_at(&proxy)).await;
        assert_eq!(asked.unwrap(), "here");
        assert_eq!(proxy.asked(), [place.as_str()]);
        // Exceptions need none.
        let mut excepted = config;
        excepted.except = NoProxy::from(".example");
        let asked = provider.ask(Some(&excepted), vec![provider.address]).await;
        assert_eq!(asked.unwrap(), "here");
        assert_eq!(proxy.asked().len(), 1);
        // A proxy that is spoken to over TLS.
        let (tls, pem) = identity("127.0.0.1");
        let proxy = HttpProxy::with(Manner::Carry, Some(tls)).await.unwrap();
        let mut over_tls = proxy.config();
        over_tls.ca_pem = Some(pem.into_bytes());
        let asked = provider.ask(Some(&over_tls), proxy_is_at(&proxy)).await;
        assert_eq!(asked.unwrap(), "here");
        assert_eq!(proxy.asked(), [place]);
    }

    #[tokio::test]
    async fn rule_10_a_certificate_of_the_ca_file_is_trusted_itself_for_its_name() {
        let provider = Provider::with(own_ca("idp.example")).await;
        let asked = provider.ask(None, vec![provider.address]).await;
        assert_eq!(asked.unwrap(), "here");
        let other = Provider::with(own_ca("other.example")).await;
        let said = said(other.ask(None, vec![other.address]).await);
        assert!(said.contains("not valid for name"), "{said}");
        // A proxy's as well.
        let (tls, pem) = own_ca("127.0.0.1");
        let proxy = HttpProxy::with(Manner::Carry, Some(tls)).await.unwrap();
        let mut config = proxy.config();
        config.ca_pem = Some(pem.into_bytes());
        let port = proxy.url("").rsplit_once(':').unwrap().1.parse().unwrap();
        let at = vec![SocketAddr::from(([127, 0, 0, 1], port))];
        let asked = provider.ask(Some(&config), at.clone()).await;
        assert_eq!(asked.unwrap(), "here");
        // The same of another key is another one.
        config.ca_pem = Some(own_ca("127.0.0.1").1.into_bytes());
        provider.ask(Some(&config), at).await.unwrap_err();
    }

    #[tokio::test]
    async fn rule_11_errors_name_the_proxy_and_not_its_password() {
        let provider = Provider::start().await;
        let proxy = HttpProxy::start().await.unwrap();
        let port = proxy.url("").rsplit_once(':').unwrap().1.parse().unwrap();
        let at = vec![SocketAddr::from(([127, 0, 0, 1], port))];
        let wrong = Proxy::new(proxy.url("alice:s3cret").parse().unwrap());
        let said_first = said(provider.ask(Some(&wrong), at).await);
        assert!(
            said_first.contains("refuses the user and password"),
            "{said_first}"
        );
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = vec![closed.local_addr().unwrap()];
        drop(closed);
        let said_next = said(provider.ask(Some(&wrong), nobody).await);
        assert!(said_next.contains("cannot be reached"), "{said_next}");
        for said in [said_first, said_next] {
            assert!(said.contains(&proxy.url("")), "{said}");
            assert!(!said.contains("alice") && !said.contains("s3cr"), "{said}");
        }
        assert!(CREDENTIALS.contains("s3cr"));
    }

    #[test]
    fn roots_are_certificates() {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        Roots::from_pem(ca.cert.pem().as_bytes()).unwrap();
        assert!(matches!(Roots::from_pem(b""), Err(RootsError::Pem(_))));
        let cut = b"-----BEGIN CERTIFICATE-----\nMII";
        assert!(Roots::from_pem(cut).is_err());
    }
}
