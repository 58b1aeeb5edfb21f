//! How the subcommands reach the API: the running server's socket, the directory itself where no server runs, or a server
//! elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH, IF_NONE_MATCH, USER_AGENT,
};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use underpass_authenticate::Roots;
use underpass_direct::{DirectClusters, Plugins};
use zeroize::Zeroizing;

use crate::api::{Api, Requester};
use crate::commands::login;
use crate::data_dir::DataDir;
use crate::saved::Saved;
use crate::{directory, limits, secrets, socket};
use underpass_api::{List, Problem, segment};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take until either a server answers here or none runs.
const SETTLED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Where the API is.
pub(crate) enum Client {
    /// The server that runs on this data directory.
    Socket(DataDir),
    /// Nobody runs on it.
    Here(Api),
    /// A server elsewhere.
    Https(Remote),
}

/// A server elsewhere, and what it is asked with.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) url: Uri,
    /// Whose certificate it has; what the system trusts without.
    pub(crate) ca_pem: Option<String>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) authorization: Option<Zeroizing<String>>,
}

/// What the command line says of a server elsewhere.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "A server elsewhere")]
pub(crate) struct Elsewhere {
    /// Ask the server at this URL instead of the one of the data directory
    #[arg(long, global = true, env = "UNDERPASS_API", value_name = "URL")]
    pub(crate) api: Option<String>,
    /// CA certificate of that server, as PEM; what the system trusts without it
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_API_CA_FILE",
        value_name = "FILE"
    )]
    pub(crate) api_ca_file: Option<PathBuf>,
    /// File with the token to ask it with
    #[arg(
        long,
        global = true,
        env = "UNDERPASS_API_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub(crate) api_token_file: Option<PathBuf>,
}

impl Client {
    /// Finds the API.
    pub(crate) async fn find(
        data: &std::path::Path,
        elsewhere: &Elsewhere,
        keys: &[PathBuf],
    ) -> Result<Self> {
        match &elsewhere.api {
            Some(url) => Ok(Self::Https(Remote::known(url, elsewhere).await?)),
            None => Self::local(DataDir::open(data)?, keys).await,
        }
    }

    /// A server may be starting or stopping right now: until it is known whether one runs, both are tried.
    async fn local(data: DataDir, keys: &[PathBuf]) -> Result<Self> {
        let deadline = Instant::now() + SETTLED;
        loop {
            if socket::connect(&data).await?.is_some() {
                return Ok(Self::Socket(data));
            }
            match directory::try_open(&data).await {
                Ok(directory) => {
                    let keys = secrets::open(&data, keys, &directory)?;
                    let direct = Arc::new(DirectClusters::new(keys, Plugins::NotHere));
                    return Ok(Self::Here(Api::offline(directory, direct)));
                }
                Err(error) if directory::is_in_use(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None, &[]).await
    }

    /// All pages of a list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut after = None::<String>;
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = match &after {
                Some(after) => {
                    format!("{path}{separator}after={}", segment(after))
                }
                None => path.to_owned(),
            };
            let list: List<T> = self.get(&page).await?;
            items.extend(list.items);
            after = list.next;
            if after.is_none() {
                return Ok(items);
            }
        }
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::POST, path, Some(body), &[]).await
    }

    /// Sets an object to what it should be, whether it is there or not.
    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        let whatever = |header, value| [(header, HeaderValue::from_static(value))];
        let make = whatever(IF_NONE_MATCH, "*");
        match self
            .call(Method::PUT, path, Some(body.clone()), &make)
            .await
        {
            Ok(made) => Ok(made),
            Err(error) if is_conflict(&error) => {
                let replace = whatever(IF_MATCH, "*");
                self.call(Method::PUT, path, Some(body), &replace).await
            }
            Err(error) => Err(error),
        }
    }

    /// Sets something that is never shown.
    pub(crate) async fn put_nothing<B: Serialize>(&self, path: &str, body: &B) -> Result<()> {
        let body = serde_json::to_vec(body)?;
        let request = self.request(Method::PUT, path, Some(body), &[])?;
        self.answer(request).await.map(drop)
    }

    pub(crate) async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::PATCH, path, Some(body), &[]).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let request = self.request(Method::DELETE, path, None, &[])?;
        self.answer(request).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(http::HeaderName, HeaderValue)],
    ) -> Result<T> {
        let request = self.request(method, path, body, headers)?;
        let bytes = self.answer(request).await?;
        serde_json::from_slice(&bytes)
            .context("the server's answer is not what it should be (is it of another version?)")
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(http::HeaderName, HeaderValue)],
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, "application/json")
            .header(
                USER_AGENT,
                concat!("underpass-server/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::from(body.unwrap_or_default()))?)
    }

    /// The answer to a request that went well.
    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let answered = async {
            match self {
                Self::Here(api) => {
                    let response = api.answer(request, Requester::Operator, None).await;
                    let (head, body) = response.into_parts();
                    Ok((head.status, collect(body).await?))
                }
                Self::Socket(data) => {
                    let stream = socket::connect(data).await?;
                    let stream = stream.context("the server has just stopped; try again")?;
                    exchange(stream, "localhost", request).await
                }
                Self::Https(remote) => remote.exchange(request).await,
            }
        };
        let (status, bytes) = tokio::time::timeout(PATIENCE, answered)
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))??;
        if status.is_success() {
            return Ok(bytes);
        }
        if let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) {
            let hint = hint(&problem);
            let error = anyhow::Error::from(problem);
            return Err(match hint {
                Some(hint) => error.context(hint),
                None => error,
            });
        }
        bail!("the server answered {status}");
    }
}

impl Remote {
    /// A server elsewhere, with the token that the command line names, or that of a login.
    async fn known(url: &str, elsewhere: &Elsewhere) -> Result<Self> {
        let remote = Self::new(url, elsewhere)?;
        if remote.authorization.is_some() {
            return Ok(remote);
        }
        match Saved::find(&remote.url)? {
            Some(saved) => Self::of(&login::fresh(saved).await?),
            None => {
                let url = url.trim_end_matches('/');
                bail!(
                    "log in first (`underpass-server login --api {url}`), or give --api-token-file"
                );
            }
        }
    }

    /// The server of a login.
    pub(crate) fn of(saved: &Saved) -> Result<Self> {
        let bearer = Zeroizing::new(format!("Bearer {}", *saved.token));
        Self::with(&saved.url, saved.ca_pem.clone(), Some(bearer))
    }

    pub(crate) fn new(url: &str, elsewhere: &Elsewhere) -> Result<Self> {
        let authorization = match &elsewhere.api_token_file {
            None => None,
            Some(path) => {
                let shown = path.display();
                let text = std::fs::read_to_string(path).map(Zeroizing::new);
                let text = text.with_context(|| format!("cannot read {shown}"))?;
                Some(Zeroizing::new(format!("Bearer {}", text.trim())))
            }
        };
        let ca_pem = match &elsewhere.api_ca_file {
            None => None,
            Some(path) => {
                let pem = std::fs::read_to_string(path);
                Some(pem.with_context(|| format!("cannot read {}", path.display()))?)
            }
        };
        Self::with(url, ca_pem, authorization)
    }

    fn with(
        url: &str,
        ca_pem: Option<String>,
        authorization: Option<Zeroizing<String>>,
    ) -> Result<Self> {
        let wrong = || format!("{url:?} is not https://HOST[:PORT]");
        let parsed: Uri = url.parse().with_context(wrong)?;
        let bare = parsed.path() == "/" && parsed.query().is_none();
        if parsed.scheme_str() != Some("https") || parsed.host().is_none() || !bare {
            bail!(wrong());
        }
        let roots = match &ca_pem {
            None => {
                Roots::system().context("the system has no CA certificates; give --api-ca-file")?
            }
            Some(pem) => Roots::from_pem(pem.as_bytes()).context("the CA file cannot be used")?,
        };
        Ok(Self {
            url: parsed,
            ca_pem,
            tls: Arc::new(roots.client()?),
            authorization,
        })
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(443);
        if let Some(authorization) = &self.authorization {
            let mut value = HeaderValue::from_str(authorization)
                .context("the token holds characters that no token has")?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((plain, port))
            .await
            .with_context(|| format!("cannot connect to {host}:{port}"))?;
        let name = ServerName::try_from(plain.to_owned())?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls
            .connect(name, tcp)
            .await
            .with_context(|| format!("no TLS with {host}:{port} (is --api-ca-file its CA?)"))?;
        let authority = self
            .url
            .authority()
            .map_or(host, |authority| authority.as_str());
        exchange(stream, authority, request).await
    }
}

async fn exchange<I>(
    io: I,
    host: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes)>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    request.headers_mut().insert(HOST, host.parse()?);
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let bytes = collect(body).await?;
    driver.abort();
    Ok((head.status, bytes))
}

/// What somebody at a command line does about it.
fn hint(problem: &Problem) -> Option<String> {
    let missing = problem.status == StatusCode::NOT_FOUND.as_u16();
    let about = problem.about.as_ref().filter(|_| missing)?;
    let name = &about.name;
    match about.kind.as_str() {
        "cluster" => Some(format!(
            "`underpass-server cluster add {name}` makes the cluster"
        )),
        "user" => Some(format!("`underpass-server user add {name}` makes the user")),
        _ => None,
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|problem| problem.status == StatusCode::CONFLICT.as_u16())
}

async fn collect<B>(body: B) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, limits::API_ANSWER);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => {
            Err(anyhow::anyhow!(error).context("the answer was cut off, or is too large"))
        }
    }
}
