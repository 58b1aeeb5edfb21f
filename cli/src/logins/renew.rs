//! Tokens in the place of others.

use anyhow::Result;
use time::OffsetDateTime;
use underpass_api::{Client, LOGIN, LoginRequest};
use underpass_terminal::say;

use super::Saved;

/// The login, with a new token from its half-life on.
pub(crate) async fn fresh(saved: Saved) -> Result<Saved> {
    let now = OffsetDateTime::now_utc();
    saved.must_count(now)?;
    if now < saved.half_life() || !saved.is_renewable(now) {
        return Ok(saved);
    }
    let request = LoginRequest {
        description: description(),
        ..LoginRequest::default()
    };
    let client = Client::at(saved.server()?);
    match client.post(LOGIN, &request).await {
        Ok(made) => {
            let renewed = saved.renewed(made, now)?;
            renewed.save()?;
            Ok(renewed)
        }
        // The old token still works.
        Err(error) => {
            let error = anyhow::Error::from(error);
            say!("underpass: the login is not renewed: {error:#}");
            Ok(saved)
        }
    }
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
