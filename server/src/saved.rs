//! Logins of the person at this machine, a file for each server.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use http::Uri;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use underpass_api::TokenMade;

/// What a login gave. Only its owner can read the file.
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
}

impl Saved {
    /// What to keep of a new token.
    pub(crate) fn new(url: &Uri, ca_pem: Option<String>, made: TokenMade) -> Result<Self> {
        let about = made.about;
        let expires = about.expires.context("the token has no end")?;
        Ok(Self {
            url: url.to_string(),
            ca_pem,
            user: about.user,
            token_id: about.id,
            token: made.token,
            created: about.created,
            expires,
            renewable_until: about.renewable_until,
        })
    }

    /// The login at this server, if there is one.
    pub(crate) fn find(url: &Uri) -> Result<Option<Self>> {
        let path = path(url)?;
        let text = match fs::read(&path) {
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

    pub(crate) fn forget(url: &Uri) -> Result<()> {
        let path = path(url)?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// When it is time for another token: at half the life of this one, so that a server that is away for a while costs
    /// nobody their login.
    pub(crate) fn half_life(&self) -> OffsetDateTime {
        self.created + (self.expires - self.created) / 2
    }

    pub(crate) fn is_renewable(&self, now: OffsetDateTime) -> bool {
        self.renewable_until.is_some_and(|until| until > now)
    }

    /// # Errors
    /// It has ended: what to do about it.
    pub(crate) fn must_count(&self, now: OffsetDateTime) -> Result<()> {
        if self.expires <= now {
            let url = self.url.trim_end_matches('/');
            bail!("the login at {url} has ended; `underpass-server login --api {url}`");
        }
        Ok(())
    }
}

/// Below `$XDG_CONFIG_HOME`, or `~/.config` (XDG Base Directory Specification).
fn path(url: &Uri) -> Result<PathBuf> {
    let folder = match std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").filter(|path| !path.is_empty());
            let home = home.context("there is no HOME to keep logins in")?;
            PathBuf::from(home).join(".config")
        }
    };
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
    Ok(folder
        .join("underpass/logins")
        .join(format!("{host}_{port}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

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
