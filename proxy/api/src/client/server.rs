//! A server that is reached over HTTPS.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use underpass_https::{Connector, Proxy, Roots, https_url};
use zeroize::Zeroizing;

use super::{
    Match,
    error::{ClientError, ServerError},
};

/// A credential for the API. It shows nothing of itself.
#[derive(Clone)]
pub enum Credential {
    /// None: for the one path that anybody may ask.
    None,
    /// A bearer token.
    Bearer(Zeroizing<String>),
    /// A name and a password, to log in.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer",
            Self::Password { .. } => "Password",
        })
    }
}

/// A server's URL, the CAs that it may have, and the credential to ask it with.
#[derive(Clone)]
pub struct Server {
    url: Uri,
    authority: HeaderValue,
    name: ServerName<'static>,
    connector: Connector,
    tls: Arc<rustls::ClientConfig>,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The server at `https://HOST[:PORT]`, whose certificate one of `roots` has signed, through this proxy where it is not
    /// excepted.
    ///
    /// # Errors
    /// The URL, the credential or the proxy cannot be used.
    pub fn new(
        url: &str,
        roots: &Roots,
        proxy: Option<&Proxy>,
        credential: &Credential,
    ) -> Result<Self, ServerError> {
        let tls = roots.client().map_err(ServerError::Tls)?;
        Self::with_tls(url, tls, proxy, credential)
    }

    /// The same with TLS of the caller's, who has other means to know the server: a pin, for example.
    ///
    /// # Errors
    /// The URL, the credential or the proxy cannot be used.
    pub fn with_tls(
        url: &str,
        tls: rustls::ClientConfig,
        proxy: Option<&Proxy>,
        credential: &Credential,
    ) -> Result<Self, ServerError> {
        let wrong = || ServerError::Url(url.to_owned());
        let parsed = https_url(url).ok_or_else(wrong)?;
        let authority = parsed.authority().ok_or_else(wrong)?.as_str().to_owned();
        let host = parsed.host().ok_or_else(wrong)?;
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(plain.to_owned()).map_err(|_| wrong())?;
        if parsed.path() != "/" {
            return Err(wrong());
        }
        Ok(Self {
            authority: HeaderValue::from_str(&authority).map_err(|_| wrong())?,
            name,
            url: parsed,
            connector: Connector::new(proxy).map_err(ServerError::Proxy)?,
            tls: Arc::new(tls),
            authorization: authorization(credential)?,
        })
    }

    /// The URL, without a path: `https://HOST[:PORT]`.
    pub fn url(&self) -> String {
        self.url.to_string().trim_end_matches('/').to_owned()
    }

    /// `HOST[:PORT]`, as the URL has it.
    pub fn authority(&self) -> &str {
        self.url
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    pub(super) async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        self.authorize(&mut request);
        self.exchange_for(self.name.clone(), request).await
    }

    pub(super) async fn download(
        &self,
        mut request: Request<Full<Bytes>>,
        pieces: &mut super::Pieces<'_>,
    ) -> Result<Option<String>, ClientError> {
        self.authorize(&mut request);
        let stream = self.connect(self.name.clone()).await?;
        super::download(stream, self.authority.clone(), request, pieces).await
    }

    fn authorize(&self, request: &mut Request<Full<Bytes>>) {
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }

    /// Asks, without a credential, for a cluster at the root of this URL, by its own name in TLS. Nobody gets in there without a
    /// credential, and the server has nothing of its own at the path that is asked for.
    ///
    /// # Errors
    /// There is no cluster, or something in between does not let the name pass.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ask_for_cluster_at_root(&self, name: &str) -> Result<(), ClientError> {
        let unusable = |_| ClientError::Status(StatusCode::MISDIRECTED_REQUEST);
        let name = ServerName::try_from(name.to_owned()).map_err(unusable)?;
        let request = super::request(Method::GET, "/version", None, Match::Anything)?;
        match self.exchange_for(name, request).await?.0 {
            StatusCode::UNAUTHORIZED => Ok(()),
            other => Err(ClientError::Status(other)),
        }
    }

    async fn exchange_for(
        &self,
        name: ServerName<'static>,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.connect(name).await?;
        super::exchange(stream, self.authority.clone(), request).await
    }

    async fn connect(
        &self,
        name: ServerName<'static>,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, ClientError> {
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(443);
        let shown = || format!("{host}:{port}");
        let tcp = self.connector.connect(host, port).await;
        let tcp = tcp.map_err(|error| ClientError::Connect(shown(), error))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(name, tcp).await;
        stream.map_err(|error| ClientError::Tls(shown(), error))
    }
}

fn authorization(credential: &Credential) -> Result<Option<HeaderValue>, ServerError> {
    let text = match credential {
        Credential::None => return Ok(None),
        Credential::Bearer(token) => Zeroizing::new(format!("Bearer {}", **token)),
        Credential::Password { user, password } => {
            let pair = Zeroizing::new(format!("{user}:{}", **password));
            let pair = Zeroizing::new(BASE64.encode(pair.as_bytes()));
            Zeroizing::new(format!("Basic {}", *pair))
        }
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| ServerError::Credential)?;
    value.set_sensitive(true);
    Ok(Some(value))
}
