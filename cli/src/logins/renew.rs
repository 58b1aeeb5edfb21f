//! Tokens in the place of others.

use anyhow::Result;
use time::OffsetDateTime;
use underpass_api::{Client, LOGIN, LoginRequest, TokenMade};
use underpass_terminal::say;

use super::revoke::revoke_unkept;
use super::{Lock, Saved};

/// The login, with a new token from its half-life on. Where it cannot be renewed, the old token still works.
///
/// # Errors
/// It has ended.
pub(crate) async fn fresh(saved: Saved) -> Result<Saved> {
    let now = OffsetDateTime::now_utc();
    saved.must_count(now)?;
    if !saved.is_due(now) {
        return Ok(saved);
    }
    let lock = match Lock::try_of(&saved.url.parse()?) {
        Ok(Some(lock)) => lock,
        // Another process renews it. To wait for it would be to wait for its server.
        Ok(None) => return Ok(saved),
        Err(error) => return Ok(not_renewed(saved, &error)),
    };
    // Another process may have renewed it since it was read.
    let Some(found) = Saved::find(&saved.url.parse()?)? else {
        anyhow::bail!("the login at {} was just removed", saved.shown_url());
    };
    let saved = Saved {
        ca_pem: saved.ca_pem,
        ..found
    };
    saved.must_count(now)?;
    if !saved.is_due(now) {
        return Ok(saved);
    }
    renew(saved, now, &lock).await
}

async fn renew(saved: Saved, now: OffsetDateTime, lock: &Lock) -> Result<Saved> {
    let request = LoginRequest {
        description: description(),
        ..LoginRequest::default()
    };
    let client = Client::at(saved.server()?);
    let made: TokenMade = match client.post(LOGIN, &request).await {
        Ok(made) => made,
        Err(error) => return Ok(not_renewed(saved, &error.into())),
    };
    let about = made.about.clone();
    let kept = saved.renewed(made, now);
    let kept = kept.and_then(|renewed| renewed.save(lock).map(|()| renewed));
    match kept {
        Ok(renewed) => Ok(renewed),
        Err(error) => {
            revoke_unkept(&client, &about).await;
            Ok(not_renewed(saved, &error))
        }
    }
}

fn not_renewed(saved: Saved, error: &anyhow::Error) -> Saved {
    say!("underpass: the login is not renewed: {error:#}");
    saved
}

/// The description of a login's token: where it is.
pub(crate) fn description() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(64).collect();
    match name.as_str() {
        "" => "login from somewhere".to_owned(),
        name => format!("login from {name}"),
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::super::files::FOLDER;
    use super::*;

    /// A login at a closed port.
    fn login(token: &str, age: Duration) -> Saved {
        let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let now = OffsetDateTime::now_utc();
        Saved {
            url: "https://localhost:1".to_owned(),
            ca_pem: Some(ca.cert.pem()),
            user: "alice".to_owned(),
            authenticated_by: None,
            token_id: token.to_owned(),
            token: token.to_owned().into(),
            created: now - age,
            expires: now - age + Duration::hours(12),
            renewable_until: Some(now + Duration::days(1)),
            replaced: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_login_that_was_renewed_meanwhile_is_not_renewed_again() {
        let folder = tempfile::tempdir().unwrap();
        FOLDER.set(Some(folder.path().to_owned()));
        let read = || login("old", Duration::hours(8));
        let lock = Lock::of(&read().url.parse().unwrap()).await.unwrap();
        login("new", Duration::ZERO).save(&lock).unwrap();
        let busy = fresh(read()).await.unwrap();
        assert_eq!(&*busy.token, "old", "the other process is still at it");
        drop(lock);
        let found = fresh(read()).await.unwrap();
        assert_eq!(&*found.token, "new");
        let lock = Lock::of(&found.url.parse().unwrap()).await.unwrap();
        found.forget(&lock).unwrap();
        drop(lock);
        let ended = fresh(read()).await.err().unwrap().to_string();
        assert!(ended.contains("was just removed"), "{ended}");
    }
}
