//! Logins of this machine's user, a file for each server.

mod device_apps;
mod files;
mod lock;
mod renew;
mod revoke;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use http::Uri;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use underpass_api::TokenMade;
use underpass_api::client::{Credential, Server};
use underpass_core::limits;

pub(crate) use self::device_apps::DeviceApp;
pub(crate) use self::lock::Lock;
pub(crate) use self::renew::{description, fresh};
pub(crate) use self::revoke::{revoke, revoke_unkept};
use crate::paste;
use crate::proxy;
use crate::roots::roots;

/// A login. Only its owner can read the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    pub(crate) url: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) user: String,
    /// The authenticator that vouched for the user; none for users of the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authenticated_by: Option<String>,
    pub(crate) token_id: String,
    pub(crate) token: Zeroizing<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) expires: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) renewable_until: Option<OffsetDateTime>,
    /// The tokens that this one was renewed from, and those of the same user's logins before, as long as they work; the oldest
    /// first.
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
            authenticated_by: about.authenticated_by,
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
        renewed.replaced = self.tokens(now);
        Ok(renewed)
    }

    /// This login in place of the same user's before: its logout ends both. The old tokens work until then, since streams are
    /// open with them, and tokens for others rest on them.
    ///
    /// A login of another user is given back. The server takes none of its tokens back for this one.
    pub(crate) fn in_place_of(mut self, before: Self, now: OffsetDateTime) -> (Self, Option<Self>) {
        let owner = |login: &Self| (login.user.clone(), login.authenticated_by.clone());
        if owner(&self) != owner(&before) {
            return (self, Some(before));
        }
        let mut replaced = before.tokens(now);
        // The server has ended those beyond it.
        let beyond = replaced.len().saturating_sub(limits::LOGINS_PER_IDENTITY);
        replaced.drain(..beyond);
        self.replaced = replaced;
        (self, None)
    }

    /// Its tokens that still work, the oldest first.
    fn tokens(&self, now: OffsetDateTime) -> Vec<Replaced> {
        let this = Replaced {
            id: self.token_id.clone(),
            expires: self.expires,
        };
        let tokens = self.replaced.iter().cloned().chain([this]);
        tokens.filter(|token| token.expires > now).collect()
    }

    /// The end of its last token.
    pub(crate) fn ends(&self) -> OffsetDateTime {
        let before = self.replaced.iter().map(|token| token.expires);
        before.fold(self.expires, OffsetDateTime::max)
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
        proxy::server(&self.url, &roots, &credential)
    }

    /// The URL, as people write it.
    pub(crate) fn shown_url(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = files::read(path)? else {
            return Ok(None);
        };
        let saved = serde_json::from_slice(&text);
        let saved = saved.with_context(|| format!("{} is no login", path.display()))?;
        Ok(Some(saved))
    }

    /// Keeps it, in place of the one before: as a whole or not at all.
    pub(crate) fn save(&self, _lock: &Lock) -> Result<()> {
        let text = Zeroizing::new(serde_json::to_vec_pretty(self)?);
        files::write(&path(&self.url.parse()?)?, &text)
    }

    pub(crate) fn forget(&self, _lock: &Lock) -> Result<()> {
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

    /// Is it time to renew it?
    fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.half_life() && self.is_renewable(now)
    }

    /// # Errors
    /// It has ended. The error says how to log in again.
    pub(crate) fn must_count(&self, now: OffsetDateTime) -> Result<()> {
        if self.expires <= now {
            let url = self.shown_url();
            let pasted = paste::url_or_placeholder(url);
            bail!("the login at {url} has ended: run `underpass login --api {pasted}`");
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

fn folder() -> Result<PathBuf> {
    Ok(files::folder()?.join("logins"))
}

fn path(url: &Uri) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{}.json", files::stem(url)?)))
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

    fn token(id: &str, user: &str, authenticated_by: Option<&str>, hours: i64) -> TokenMade {
        let expires = OffsetDateTime::now_utc() + time::Duration::hours(hours);
        TokenMade {
            token: "upt_x".to_owned().into(),
            about: serde_json::from_value(serde_json::json!({
                "id": id, "revision": 1, "user": user, "authenticatedBy": authenticated_by,
                "created": "2026-01-01T00:00:00Z",
                "expires": expires
                    .format(&time::format_description::well_known::Rfc3339)
                    .unwrap(),
                "scope": {}, "description": "",
            }))
            .unwrap(),
        }
    }

    fn login(made: TokenMade) -> Saved {
        Saved::new("https://u".to_owned(), None, made).unwrap()
    }

    fn replaced(saved: &Saved) -> Vec<String> {
        saved.replaced.iter().map(|r| r.id.clone()).collect()
    }

    #[test]
    fn a_login_knows_the_tokens_that_it_replaced() {
        let now = OffsetDateTime::now_utc();
        let of_alice = |id: &str, hours| token(id, "alice", None, hours);
        let first = login(of_alice("a", 1));
        let second = first.renewed(of_alice("b", 12), now).unwrap();
        let third = second.renewed(of_alice("c", 12), now).unwrap();
        assert_eq!(replaced(&third), ["a", "b"]);
        let later = third
            .renewed(of_alice("d", 12), now + time::Duration::hours(2))
            .unwrap();
        assert_eq!(
            replaced(&later),
            ["b", "c"],
            "one that has ended needs nothing"
        );
    }

    #[test]
    fn a_login_takes_the_same_users_tokens_along() {
        let now = OffsetDateTime::now_utc();
        let short = || login(token("new", "alice", Some("ldap/corp"), 1));
        let before = login(token("old", "alice", Some("ldap/corp"), 12));
        let ends = before.expires;
        let (after, others) = short().in_place_of(before, now);
        assert_eq!(replaced(&after), ["old"]);
        assert_eq!(after.ends(), ends, "the old token outlives the new one");
        assert!(others.is_none());
        // To the server they are two users: it takes neither's tokens back for the other.
        for (user, by) in [
            ("alice", None),
            ("alice", Some("github/hub")),
            ("bob", Some("ldap/corp")),
        ] {
            let before = login(token("old", user, by, 12));
            let (after, others) = short().in_place_of(before, now);
            assert_eq!(replaced(&after), [""; 0]);
            assert_eq!(others.unwrap().token_id, "old");
        }
    }

    /// A script may log in each time it runs.
    #[test]
    fn a_login_takes_no_more_tokens_along_than_a_server_keeps() {
        let now = OffsetDateTime::now_utc();
        let mut last = login(token("0", "alice", None, 12));
        for number in 1..limits::LOGINS_PER_IDENTITY + 10 {
            let next = login(token(&number.to_string(), "alice", None, 12));
            (last, _) = next.in_place_of(last, now);
        }
        let kept = replaced(&last);
        assert_eq!(kept.len(), limits::LOGINS_PER_IDENTITY);
        assert_eq!((kept[0].as_str(), kept[199].as_str()), ("9", "208"));
    }
}
