//! Which app a token was made for.
//!
//! A GitHub token does not name its audience: any OAuth app that a member of the organization has ever authorized holds one,
//! and could log in as them (RFC 6819, section 4.4.2.6; the confused deputy of RFC 9700, section 2.3). GitHub answers for one
//! app whether a token is one of its own, to callers that know the app's secret.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::api::{Api, ApiError};
use crate::{AuthenticateError, ConfigError, CredentialError, Misconfigured, config::not_empty};

/// The apps whose tokens count.
#[derive(Clone)]
pub enum GitHubAudience {
    /// Tokens that this OAuth or GitHub App got for a user, and no other: neither those of other apps nor personal ones.
    App {
        /// Its client id.
        client_id: String,
        /// Its client secret. It is cleared from memory when dropped, and not in `Debug`.
        client_secret: Zeroizing<String>,
    },
    /// Every token: personal ones, and those of each app that a member of the organizations has authorized. Each of these apps
    /// can then be that member here.
    AnyApp,
}

impl fmt::Debug for GitHubAudience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App { client_id, .. } => write!(f, "App({client_id:?}, …)"),
            Self::AnyApp => f.write_str("AnyApp"),
        }
    }
}

#[derive(Deserialize)]
struct Checked {
    app: App,
}

#[derive(Deserialize)]
struct App {
    client_id: String,
}

impl GitHubAudience {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let Self::App {
            client_id,
            client_secret,
        } = self
        else {
            return Ok(());
        };
        not_empty("app.clientID", client_id)?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !client_id.bytes().all(legal) {
            let why = "must be letters, digits, '.', '-' and '_', as GitHub shows it";
            return Err(ConfigError::new(
                "app.clientID",
                Misconfigured::Invalid(why),
            ));
        }
        not_empty("app.clientSecretFile", client_secret)
    }

    /// Is the token meant for us?
    pub(super) async fn includes(&self, token: &str, api: &Api) -> Result<(), AuthenticateError> {
        let Self::App {
            client_id,
            client_secret,
        } = self
        else {
            return Ok(());
        };
        let basic = Zeroizing::new(format!("{client_id}:{}", client_secret.as_str()));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(basic.as_bytes())));
        let basic = HeaderValue::from_str(&basic).map_err(|_| ApiError::App(None))?;
        // A token is letters, digits and underscores by now: nothing in it ends the text.
        let body = Zeroizing::new(format!("{{\"access_token\":\"{token}\"}}"));
        let path = format!("/applications/{client_id}/token");
        let response = api
            .post(&path, basic, Bytes::copy_from_slice(body.as_bytes()))
            .await?;
        match response.status() {
            StatusCode::OK => {}
            // Another app's, a personal one, or none at all: GitHub does not tell them apart.
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
                return Err(CredentialError::Audience.into());
            }
            other => return Err(ApiError::App(Some(other)).into()),
        }
        let checked: Checked = super::api::read(&response)?;
        if checked.app.client_id != *client_id {
            return Err(CredentialError::Audience.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_11_debug_shows_no_app_secret() {
        let app = GitHubAudience::App {
            client_id: "Iv1.a".to_owned(),
            client_secret: Zeroizing::new("hidden".to_owned()),
        };
        assert_eq!(format!("{app:?}"), "App(\"Iv1.a\", …)");
        app.check().unwrap();
        for (client_id, secret, field) in [
            ("", "x", "app.clientID"),
            ("a/../b", "x", "app.clientID"),
            ("Iv1.a", " ", "app.clientSecretFile"),
        ] {
            let app = GitHubAudience::App {
                client_id: client_id.to_owned(),
                client_secret: Zeroizing::new(secret.to_owned()),
            };
            assert_eq!(app.check().unwrap_err().field, field);
        }
    }
}
