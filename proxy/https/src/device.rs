//! Device login (RFC 8628), as GitHub has it: a user confirms a code in a browser, and a program gets a token.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{Https, HttpsConfigError, HttpsError, Proxy, Roots, https_url};
use underpass_core::{Brief, limits};

/// A GitHub whose users may log in with a device code.
pub struct DeviceLogin {
    https: Https,
    codes: Uri,
    tokens: Uri,
    client_id: String,
}

/// A login that waits for its user.
#[derive(Deserialize)]
pub struct DeviceAuthorization {
    device_code: Zeroizing<String>,
    user_code: String,
    verification_uri: String,
    expires_in: u64,
    #[serde(default = "five")]
    interval: u64,
}

/// RFC 8628, section 3.2.
fn five() -> u64 {
    5
}

/// Why a GitHub cannot be asked for device logins.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceConfigError {
    /// No app has this id.
    #[error("the client id is empty")]
    ClientId,
    /// Logins are for `https://HOST[:PORT][/PATH]` only.
    #[error("the URL is not https://HOST[:PORT][/PATH]")]
    Url,
    /// There is no TLS, or no proxy, to ask over.
    #[error(transparent)]
    Https(HttpsConfigError),
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// GitHub has not answered, or not in a way that can be understood.
    #[error("GitHub cannot be asked")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The user has said no.
    #[error("the login was declined")]
    Declined,
    /// The user has said nothing in time.
    #[error("the login's code has expired")]
    Expired,
    /// GitHub's page for the code is on another origin than GitHub, or is no page.
    #[error(
        "the page for the code is {page:?}, and not on {provider}: a code that is typed elsewhere could confirm somebody else's \
         login, so do not open it"
    )]
    Page {
        /// The URL in GitHub's answer.
        page: String,
        /// The provider's origin.
        provider: String,
    },
    /// The code cannot be typed.
    #[error("the provider's code holds characters that no code has")]
    Code,
    /// GitHub does not take the client or the code.
    #[error("GitHub refuses the login: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<Zeroizing<String>>,
    error: Option<String>,
    interval: Option<u64>,
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization")
            .field("verification_uri", &self.verification_uri)
            .finish_non_exhaustive()
    }
}

impl DeviceAuthorization {
    /// The code that the user types.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Where the user types it.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }
}

impl fmt::Debug for DeviceLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceLogin")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl DeviceLogin {
    /// For the OAuth or GitHub App `client_id` of the GitHub at `url` (`https://github.com`), through this proxy where it is not
    /// excepted.
    ///
    /// # Errors
    /// The field that cannot be used.
    pub fn new(
        url: &str,
        roots: &Roots,
        proxy: Option<&Proxy>,
        client_id: String,
    ) -> Result<Self, DeviceConfigError> {
        let url = url.trim_end_matches('/');
        if client_id.trim().is_empty() {
            return Err(DeviceConfigError::ClientId);
        }
        let page = |path: &str| https_url(&format!("{url}/{path}")).ok_or(DeviceConfigError::Url);
        Ok(Self {
            https: Https::new(roots, proxy).map_err(DeviceConfigError::Https)?,
            codes: page("login/device/code")?,
            tokens: page("login/oauth/access_token")?,
            client_id,
        })
    }

    /// Begins a login: show the user where to go, and the code; then [`DeviceLogin::wait`].
    ///
    /// # Errors
    /// GitHub refuses the client, or does not answer; or its page for the code is not its own.
    pub async fn begin(&self) -> Result<DeviceAuthorization, DeviceError> {
        let body = format!("client_id={}&scope=read:org", encode(&self.client_id));
        let begun: DeviceAuthorization = self.post(&self.codes, Zeroizing::new(body)).await?;
        // Another server's page confirms another login: a provider could hand out the code of one that it has begun there.
        let page = https_url(&begun.verification_uri);
        if page.is_none_or(|page| origin(&page) != origin(&self.codes)) {
            return Err(DeviceError::Page {
                page: begun.verification_uri,
                provider: self.origin(),
            });
        }
        // It stands in a sentence of the program's.
        let is_code = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if begun.user_code.is_empty() || !begun.user_code.bytes().all(is_code) {
            return Err(DeviceError::Code);
        }
        Ok(begun)
    }

    /// The provider that confirms logins, and gives their tokens: `https://HOST[:PORT]`.
    pub fn origin(&self) -> String {
        match origin(&self.codes) {
            (host, 443) => format!("https://{host}"),
            (host, port) => format!("https://{host}:{port}"),
        }
    }

    /// Waits for the user, and gives the token, which is a bearer token for GitHub's API.
    ///
    /// # Errors
    /// The user has declined or was too slow, or GitHub does not answer.
    ///
    /// # Cancel safety
    /// Dropping the future gives the login up; it may be waited for again until it expires.
    pub async fn wait(
        &self,
        login: &DeviceAuthorization,
    ) -> Result<Zeroizing<String>, DeviceError> {
        let life = Duration::from_secs(login.expires_in).min(limits::DEVICE_LOGIN);
        let end = Instant::now() + life;
        let mut interval = Duration::from_secs(login.interval).min(life);
        interval = interval.max(limits::DEVICE_INTERVAL);
        loop {
            if Instant::now() + interval >= end {
                return Err(DeviceError::Expired);
            }
            tokio::time::sleep(interval).await;
            let body = format!(
                "client_id={}&device_code={}&grant_type=urn:ietf:params:oauth:grant-type:device_code",
                encode(&self.client_id),
                encode(&login.device_code),
            );
            let answer: Answer = self.post(&self.tokens, Zeroizing::new(body)).await?;
            if let Some(token) = answer.access_token {
                return Ok(token);
            }
            // RFC 8628, section 3.5.
            match answer.error.as_deref() {
                Some("authorization_pending") => {}
                Some("slow_down") => {
                    let said = answer.interval.map(Duration::from_secs);
                    let longer = interval + Duration::from_secs(5);
                    interval = said.unwrap_or(longer).max(interval).min(life);
                }
                Some("access_denied") => return Err(DeviceError::Declined),
                Some("expired_token") => return Err(DeviceError::Expired),
                other => {
                    return Err(DeviceError::Refused(
                        other.unwrap_or("no reason").to_owned(),
                    ));
                }
            }
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        url: &Uri,
        body: Zeroizing<String>,
    ) -> Result<T, DeviceError> {
        let unavailable = |error: HttpsError| DeviceError::Unavailable(Box::new(error));
        let request = Request::post(url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|error| unavailable(HttpsError::Request(error)))?;
        let response = self.https.send(request).await.map_err(unavailable)?;
        if response.status() != StatusCode::OK {
            return Err(unavailable(HttpsError::Status(response.status())));
        }
        serde_json::from_slice(response.body())
            .map_err(|error| unavailable(HttpsError::Malformed(Brief(error))))
    }
}

/// RFC 6454, section 4, of an `https` URL.
fn origin(url: &Uri) -> (String, u16) {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    (host, url.port_u16().unwrap_or(443))
}

/// Escapes all but letters, digits and `-_.`.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
