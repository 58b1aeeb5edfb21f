//! GitHub's REST API, as far as it identifies users (API version 2022-11-28).

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{AuthenticateError, CredentialError};
use underpass_core::limits;
use underpass_https::{Https, HttpsError};

/// The API of one GitHub.
pub(super) struct Api {
    https: Https,
    base: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct User {
    pub(super) login: String,
    pub(super) id: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Organization {
    pub(super) login: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Team {
    pub(super) slug: String,
    pub(super) organization: Organization,
}

/// Why GitHub has said nothing of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("GitHub cannot be asked")]
    Https(#[source] HttpsError),
    #[error("GitHub answered {0}")]
    Status(StatusCode),
    #[error("GitHub's limit of requests is reached")]
    Limited,
    #[error(
        "GitHub does not say whether a token is the configured app's{}; are its client id and secret right?",
        .0.map(|status| format!(" ({status})")).unwrap_or_default()
    )]
    App(Option<StatusCode>),
    #[error("GitHub's answer leads to another server")]
    Astray,
    #[error(
        "the lists of the user's organizations or teams have more than {} pages",
        limits::GITHUB_PAGES
    )]
    TooManyPages,
}

impl From<ApiError> for AuthenticateError {
    fn from(error: ApiError) -> Self {
        Self::unavailable(error)
    }
}

impl Api {
    pub(super) fn new(https: Https, base: &str) -> Self {
        Self {
            https,
            base: base.trim_end_matches('/').to_owned(),
        }
    }

    pub(super) async fn user(&self, token: &str) -> Result<User, AuthenticateError> {
        let response = self.get(&format!("{}/user", self.base), token).await?;
        Ok(read(&response)?)
    }

    pub(super) async fn organizations(
        &self,
        token: &str,
    ) -> Result<Vec<Organization>, AuthenticateError> {
        self.list("/user/orgs", token).await
    }

    pub(super) async fn teams(&self, token: &str) -> Result<Vec<Team>, AuthenticateError> {
        self.list("/user/teams", token).await
    }

    /// Every page of a list.
    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        token: &str,
    ) -> Result<Vec<T>, AuthenticateError> {
        let mut found = Vec::new();
        let mut url = format!("{}{path}?per_page=100", self.base);
        for _ in 0..limits::GITHUB_PAGES {
            let response = self.get(&url, token).await?;
            if is_partial(&response) {
                tracing::warn!(
                    list = path,
                    "GitHub leaves organizations out whose single sign-on the token is not authorized for: they and their teams do \
                     not count until its owner authorizes it there"
                );
            }
            found.extend(read::<Vec<T>>(&response)?);
            match next(&response) {
                None => return Ok(found),
                // The token goes where the configuration says.
                Some(next) if self.is_ours(&next) => url = next,
                Some(_) => return Err(ApiError::Astray.into()),
            }
        }
        Err(ApiError::TooManyPages.into())
    }

    fn is_ours(&self, url: &str) -> bool {
        let (Ok(ours), Ok(theirs)) = (self.base.parse::<Uri>(), url.parse::<Uri>()) else {
            return false;
        };
        ours.scheme() == theirs.scheme() && ours.authority() == theirs.authority()
    }

    /// Asks as an app, with its secret.
    pub(super) async fn post(
        &self,
        path: &str,
        mut authorization: HeaderValue,
        body: Bytes,
    ) -> Result<Response<Bytes>, ApiError> {
        authorization.set_sensitive(true);
        let request = asking(Request::post(format!("{}{path}", self.base)), authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|error| ApiError::Https(HttpsError::Request(error)))?;
        self.send(request).await
    }

    /// Gives every answer but the one that GitHub's limit of requests is reached, which is 403 or 429.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ApiError> {
        let response = self.https.send(request).await.map_err(ApiError::Https)?;
        match response.status() {
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS if is_limited(&response) => {
                Err(ApiError::Limited)
            }
            _ => Ok(response),
        }
    }

    async fn get(&self, url: &str, token: &str) -> Result<Response<Bytes>, AuthenticateError> {
        let line = Zeroizing::new(format!("Bearer {token}"));
        let mut line = HeaderValue::from_str(&line).map_err(|_| CredentialError::Malformed)?;
        line.set_sensitive(true);
        let request = asking(Request::get(url), line).body(Full::default());
        let request = request.map_err(|error| ApiError::Https(HttpsError::Request(error)))?;
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED => Err(CredentialError::Unknown.into()),
            // The token lacks a scope, or the organization's single sign-on.
            StatusCode::FORBIDDEN => Err(CredentialError::NotAllowed.into()),
            other => Err(ApiError::Status(other).into()),
        }
    }
}

/// The headers of every request to this API.
fn asking(request: http::request::Builder, authorization: HeaderValue) -> http::request::Builder {
    request
        .header(header::AUTHORIZATION, authorization)
        .header(header::ACCEPT, "application/vnd.github+json")
        .header("x-github-api-version", "2022-11-28")
}

pub(super) fn read<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, ApiError> {
    serde_json::from_slice(response.body())
        .map_err(|error| ApiError::Https(HttpsError::Malformed(error)))
}

/// Either of GitHub's limits: nothing remains, or a time to wait is said.
fn is_limited(response: &Response<Bytes>) -> bool {
    let none = |value: &HeaderValue| value == "0";
    let headers = response.headers();
    response.status() == StatusCode::TOO_MANY_REQUESTS
        || headers.contains_key(header::RETRY_AFTER)
        || headers.get("x-ratelimit-remaining").is_some_and(none)
}

/// `X-GitHub-SSO: partial-results; organizations=1,2`
fn is_partial(response: &Response<Bytes>) -> bool {
    let said = response.headers().get("x-github-sso");
    said.is_some_and(|said| said.as_bytes().starts_with(b"partial-results"))
}

/// The next page (RFC 8288, as GitHub writes it): `<URL>; rel="next", …`
fn next(response: &Response<Bytes>) -> Option<String> {
    let line = response.headers().get(header::LINK)?.to_str().ok()?;
    line.split(',').find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|p| p.trim() == "rel=\"next\"");
        is_next.then(|| url.to_owned())
    })
}
