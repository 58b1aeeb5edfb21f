//! Logins of this machine's user, a file for each server.

mod renew;

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use http::Uri;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use underpass_api::TokenMade;
use underpass_api::client::{Credential, Server};

pub(crate) use self::renew::{description, fresh};
use crate::roots::roots;

/// A login. Only its owner can read the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    pub(crate) url: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) user: String,
    pub(crate) token_id: String,
    pub(crate) token: Zeroizing<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) expires: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) renewable_until: Option<OffsetDateTime>,
    /// The tokens that this one was renewed from, and which still work, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replaced: Vec<Replaced>,
}

/// A token of the login that another one has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replaced {
    pub(crate) id: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) expires: OffsetDateTime,
}

impl Saved {
    /// The login of a new token.
    pub(crate) fn new(url: String, ca_pem: Option<String>, made: TokenMade) -> Result<Self> {
        let about = made.about;
        let expires = about.expires.context("the token has no end")?;
        must_be_plain(&made.token)?;
        Ok(Self {
            url,
            ca_pem,
            user: about.user,
            token_id: about.id,
            token: made.token,
            created: about.created,
            expires,
            renewable_until: about.renewable_until,
            replaced: Vec::new(),
        })
    }

    /// The same login with a new token.
    pub(crate) fn renewed(&self, made: TokenMade, now: OffsetDateTime) -> Result<Self> {
        let mut renewed = Self::new(self.url.clone(), self.ca_pem.clone(), made)?;
        let this = Replaced {
            id: self.token_id.clone(),
            expires: self.expires,
        };
        let before = self.replaced.iter().cloned().chain([this]);
        renewed.replaced = before.filter(|token| token.expires > now).collect();
        Ok(renewed)
    }

    /// The login at this server, if there is one.
    pub(crate) fn find(url: &Uri) -> Result<Option<Self>> {
        Self::read(&path(url)?)
    }

    /// Every login.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let folder = folder()?;
        let cannot = || format!("cannot list {}", folder.display());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(cannot),
        };
        let mut logins = Vec::new();
        for entry in entries {
            let path = entry.with_context(cannot)?.path();
            // Beside them there may be the half of one that a crash left.
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                logins.extend(Self::read(&path)?);
            }
        }
        logins.sort_by(|one, other| one.url.cmp(&other.url));
        Ok(logins)
    }

    /// The server, with the login's token as the credential.
    pub(crate) fn server(&self) -> Result<Server> {
        let credential = Credential::Bearer(self.token.clone());
        let roots = roots(self.ca_pem.as_deref())?;
        Ok(Server::new(&self.url, &roots, &credential)?)
    }

    /// The URL, as people write it.
    pub(crate) fn shown_url(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let saved = serde_json::from_slice(&text);
        let saved = saved.with_context(|| format!("{} is no login", path.display()))?;
        Ok(Some(saved))
    }

    /// Keeps it, in place of the one before: as a whole or not at all.
    pub(crate) fn save(&self) -> Result<()> {
        let path = path(&self.url.parse()?)?;
        let folder = path.parent().context("a login has no folder")?;
        let shown = || format!("cannot write {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(shown)?;
        // Temporary files are made readable by their owner only.
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(shown)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
            .with_context(shown)?;
        file.persist(&path).with_context(shown)?;
        Ok(())
    }

    pub(crate) fn forget(&self) -> Result<()> {
        let path = path(&self.url.parse()?)?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The time to renew the token: half of its life, so that a login survives a server that is away for a while.
    pub(crate) fn half_life(&self) -> OffsetDateTime {
        self.created + (self.expires - self.created) / 2
    }

    pub(crate) fn is_renewable(&self, now: OffsetDateTime) -> bool {
        self.renewable_until.is_some_and(|until| until > now)
    }

    /// # Errors
    /// It has ended. The error says how to log in again.
    pub(crate) fn must_count(&self, now: OffsetDateTime) -> Result<()> {
        if self.expires <= now {
            let url = self.shown_url();
            bail!("the login at {url} has ended: run `underpass login --api {url}`");
        }
        Ok(())
    }
}

/// A token is shown and written as it is: a server's word must not move a terminal's cursor.
pub(crate) fn must_be_plain(token: &str) -> Result<()> {
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("the server's token holds characters that no token has");
    }
    Ok(())
}

/// Below `$XDG_CONFIG_HOME`, or `~/.config` (XDG Base Directory Specification).
fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
            let home = home.context("there is no HOME to keep logins in")?;
            PathBuf::from(home).join(".config")
        }
    };
    Ok(folder.join("underpass/logins"))
}

fn path(url: &Uri) -> Result<PathBuf> {
    let host = url.host().context("the URL has no host")?;
    let port = url.port_u16().unwrap_or(443);
    let host: String = host
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
                c
            } else {
                '_'
            }
        })
        .collect();
    Ok(folder()?.join(format!("{host}_{port}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_23_a_servers_token_is_plain() {
        must_be_plain("upt_abc").unwrap();
        for token in ["", "a b", "a\u{9b}2J", "a\u{202e}b", "a\n"] {
            must_be_plain(token).unwrap_err();
        }
    }

    #[test]
    fn a_login_knows_the_tokens_that_it_replaced() {
        let now = OffsetDateTime::now_utc();
        let token = |id: &str, hours: i64| TokenMade {
            token: "upt_x".to_owned().into(),
            about: serde_json::from_value(serde_json::json!({
                "id": id, "revision": 1, "user": "alice",
                "created": "2026-01-01T00:00:00Z",
                "expires": (now + time::Duration::hours(hours))
                    .format(&time::format_description::well_known::Rfc3339)
                    .unwrap(),
                "scope": {}, "description": "",
            }))
            .unwrap(),
        };
        let first = Saved::new("https://u".to_owned(), None, token("a", 1)).unwrap();
        let second = first.renewed(token("b", 12), now).unwrap();
        let third = second.renewed(token("c", 12), now).unwrap();
        let ids =
            |saved: &Saved| -> Vec<_> { saved.replaced.iter().map(|r| r.id.clone()).collect() };
        assert_eq!(ids(&third), ["a", "b"]);
        let later = third
            .renewed(token("d", 12), now + time::Duration::hours(2))
            .unwrap();
        assert_eq!(ids(&later), ["b", "c"], "one that has ended needs nothing");
    }

    #[test]
    fn a_server_has_one_file() {
        let name = |url: &str| {
            let path = path(&url.parse().unwrap()).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name("https://u.example.org"), "u.example.org_443.json");
        assert_eq!(
            name("https://u.example.org:8443/"),
            "u.example.org_8443.json"
        );
        assert_eq!(name("https://[::1]:1"), "_::1__1.json".replace(':', "_"));
    }
}
