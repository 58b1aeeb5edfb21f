//! The apps of device logins, and the servers that got tokens of them.
//!
//! A server says for which app of an identity provider a person confirms a login, and gets the token. A hostile server could name
//! the app of another one, which it learns there as anybody does, and come in there with the token: the provider's page shows
//! the other one's genuine app. So an app belongs to the first server that got a token of it. This outlives the logins.

use anyhow::{Context, Result};
use http::Uri;
use serde::{Deserialize, Serialize};

use super::{Lock, files};
use crate::paste;

const FILE: &str = "device-apps.json";

/// The longest client id. GitHub's have 20 characters.
const CLIENT_ID_BYTES: usize = 256;

/// An app, and a server that gets tokens of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceApp {
    /// `https://HOST[:PORT]`
    server: String,
    /// The origin of the identity provider.
    provider: String,
    client_id: ClientId,
}

/// The id of an app at its provider. It has one spelling, so that no server gets around a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct ClientId(String);

/// Why a server gets no token of an app.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeviceAppError {
    /// The provider could read it as another id.
    #[error(
        "the server's client id {0:?} is empty or too long, or holds other characters than letters, digits, '.', '-' and '_'"
    )]
    ClientId(String),
    /// The token would let the server come in at another one.
    #[error(
        "no login: {server} asks for a token of the app {client_id:?} at {provider}, which {owner} got tokens of; with one, {server} \
         could log in there as you. If one organization runs both servers, and lets them share the app, add `--same-app-as {paste}`"
    )]
    AnotherServers {
        /// The server of this login.
        server: String,
        client_id: String,
        provider: String,
        /// The server that got a token of the app first.
        owner: String,
        /// The same, for a command line.
        paste: String,
    },
    /// The user named a server with another app.
    #[error(
        "{server} asks for a token of the app {client_id:?}, and no login at {named} was made with that app"
    )]
    NotThatApp {
        server: String,
        client_id: String,
        named: String,
    },
}

impl TryFrom<String> for ClientId {
    type Error = DeviceAppError;

    fn try_from(id: String) -> Result<Self, DeviceAppError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        if id.is_empty() || id.len() > CLIENT_ID_BYTES || !id.bytes().all(plain) {
            return Err(DeviceAppError::ClientId(id));
        }
        Ok(Self(id))
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

impl PartialEq for ClientId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ClientId {}

/// Every server that got a token of an app, the first one first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    apps: Vec<DeviceApp>,
}

impl DeviceApp {
    /// The app that a server says.
    ///
    /// # Errors
    /// Its id is none.
    pub(crate) fn new(
        server: String,
        provider: String,
        client_id: String,
    ) -> Result<Self, DeviceAppError> {
        Ok(Self {
            server,
            provider,
            client_id: client_id.try_into()?,
        })
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id.0
    }

    /// May the server get a token of the app?
    ///
    /// # Errors
    /// The app is another server's, and the user has not said that they share it (`same_app_as`).
    pub(crate) fn check(&self, same_app_as: Option<&Uri>) -> Result<()> {
        Ok(Known::read()?.check(self, same_app_as)?)
    }

    /// Notes that the server gets a token of the app. This comes ahead of the token: a server may keep one and refuse the login.
    ///
    /// # Errors
    /// As [`DeviceApp::check`]: another login may have been made meanwhile. Or it cannot be written.
    pub(crate) async fn remember(self, same_app_as: Option<&Uri>) -> Result<()> {
        let _lock = Lock::wait("device-apps").await?;
        let mut known = Known::read()?;
        known.check(&self, same_app_as)?;
        if !known.apps.iter().any(|app| app.is_same(&self)) {
            known.apps.push(self);
            known.write()?;
        }
        Ok(())
    }

    fn is_of(&self, server: &str) -> bool {
        let stem = |url: &str| url.parse().ok().and_then(|url| files::stem(&url).ok());
        stem(&self.server) == stem(server)
    }

    /// The provider's URL is not compared: ids of two providers are never the same by chance, and one provider has many URLs.
    fn is_same(&self, other: &Self) -> bool {
        self.client_id == other.client_id && self.is_of(&other.server)
    }
}

impl Known {
    fn read() -> Result<Self> {
        let path = files::folder()?.join(FILE);
        match files::read(&path)? {
            None => Ok(Self::default()),
            // An empty list would give every app to the next server.
            Some(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is not the list of apps of device logins: restore it, or remove it and log in only at servers that you know", path.display())),
        }
    }

    fn write(&self) -> Result<()> {
        files::write(
            &files::folder()?.join(FILE),
            &serde_json::to_vec_pretty(self)?,
        )
    }

    fn check(&self, app: &DeviceApp, same_app_as: Option<&Uri>) -> Result<(), DeviceAppError> {
        let with_app = self
            .apps
            .iter()
            .filter(|known| known.client_id == app.client_id);
        let owners: Vec<_> = with_app.collect();
        if let Some(named) = same_app_as {
            let named = named.to_string();
            if owners.iter().any(|owner| owner.is_of(&named)) {
                return Ok(());
            }
            return Err(DeviceAppError::NotThatApp {
                server: app.server.clone(),
                client_id: app.client_id.0.clone(),
                named: named.trim_end_matches('/').to_owned(),
            });
        }
        match owners.first() {
            None => Ok(()),
            // The user has said so before.
            Some(_) if owners.iter().any(|owner| owner.is_of(&app.server)) => Ok(()),
            Some(owner) => Err(DeviceAppError::AnotherServers {
                server: app.server.clone(),
                client_id: app.client_id.0.clone(),
                provider: app.provider.clone(),
                owner: owner.server.clone(),
                paste: paste::url_or_placeholder(&owner.server).to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(server: &str, client_id: &str) -> DeviceApp {
        let github = "https://github.com".to_owned();
        DeviceApp::new(server.to_owned(), github, client_id.to_owned()).unwrap()
    }

    #[test]
    fn rule_6_an_app_is_the_first_servers() {
        let mut known = Known::default();
        let corp = app("https://corp", "Iv1.a");
        assert_eq!(known.check(&corp, None), Ok(()));
        known.apps.push(corp);
        assert_eq!(known.check(&app("https://Corp:443", "Iv1.a"), None), Ok(()));
        assert_eq!(known.check(&app("https://other", "Iv1.b"), None), Ok(()));
        for (server, client_id) in [
            ("https://evil", "Iv1.a"),
            ("https://evil", "iV1.A"),
            ("https://corp:8443", "Iv1.a"),
        ] {
            let refused = known.check(&app(server, client_id), None);
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("`--same-app-as https://corp`"), "{said}");
        }
        // Two servers of one organization.
        let staging = app("https://staging", "Iv1.a");
        let named = "https://corp/".parse().unwrap();
        assert_eq!(known.check(&staging, Some(&named)), Ok(()));
        known.apps.push(staging.clone());
        assert_eq!(known.check(&staging, None), Ok(()), "said once");
        let astray = known.check(&app("https://evil", "Iv1.evil"), Some(&named));
        assert!(matches!(astray, Err(DeviceAppError::NotThatApp { .. })));
    }

    #[test]
    fn rule_6_a_client_id_has_one_spelling() {
        for id in [
            "",
            "Iv1.a ",
            "Iv1.a\0",
            "Iv1.a%20",
            "Iv1.a&x=y",
            "Iv1.\u{430}",
            &"a".repeat(257),
        ] {
            let parsed = ClientId::try_from(id.to_owned());
            assert!(parsed.is_err(), "{id:?}");
        }
    }
}
