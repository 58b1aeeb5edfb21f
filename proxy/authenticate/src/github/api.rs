//! GitHub's REST API, as far as it identifies users (API version 2022-11-28).

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{AuthenticateError, CredentialError};
use underpass_core::{Brief, limits};
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

/// The kinds of questions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    User,
    List,
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
    /// A secondary limit is one, too, and so is an outage: neither says anything about the user.
    #[error("GitHub refuses to answer, and does not say that the token is why")]
    Refused,
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
        match error {
            // The next attempt finds as many.
            ApiError::TooManyPages => CredentialError::Identity(error.to_string()).into(),
            error => Self::unavailable(error),
        }
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
        let url = format!("{}/user", self.base);
        let response = self.get(Asked::User, &url, token).await?;
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
            let response = self.get(Asked::List, &url, token).await?;
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

    async fn get(
        &self,
        what: Asked,
        url: &str,
        token: &str,
    ) -> Result<Response<Bytes>, AuthenticateError> {
        let line = Zeroizing::new(format!("Bearer {token}"));
        let mut line = HeaderValue::from_str(&line).map_err(|_| CredentialError::Malformed)?;
        line.set_sensitive(true);
        let request = asking(Request::get(url), line).body(Full::default());
        let request = request.map_err(|error| ApiError::Https(HttpsError::Request(error)))?;
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED => Err(CredentialError::Unknown.into()),
            // The user themselves are never out of reach of their token.
            StatusCode::FORBIDDEN if what == Asked::List && is_not_enough(&response) => {
                Err(CredentialError::NotAllowed.into())
            }
            StatusCode::FORBIDDEN => Err(ApiError::Refused.into()),
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
        .map_err(|error| ApiError::Https(HttpsError::Malformed(Brief(error))))
}

/// Scopes of which each lets a token see its owner's organizations and teams.
const MEMBERSHIP: [&str; 4] = ["read:org", "write:org", "admin:org", "user"];

/// A 403 says that the token is why: an organization wants a single sign-on first, or the token's scopes do not suffice. Of a
/// fine-grained token GitHub names no scopes.
fn is_not_enough(response: &Response<Bytes>) -> bool {
    let said = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.split(',').map(str::trim).collect::<Vec<_>>())
    };
    let sso = response.headers().get("x-github-sso");
    if sso.is_some_and(|sso| sso.as_bytes().starts_with(b"required")) {
        return true;
    }
    let accepted = said("x-accepted-oauth-scopes").filter(|accepted| *accepted != [""]);
    let accepted = accepted.unwrap_or_else(|| MEMBERSHIP.to_vec());
    said("x-oauth-scopes").is_some_and(|has| !has.iter().any(|scope| accepted.contains(scope)))
}

/// Either of GitHub's limits: nothing remains, or a time to wait is said. A secondary limit may say neither.
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
