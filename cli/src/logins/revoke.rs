//! The end of a login's tokens at its server.

use http::StatusCode;
use time::OffsetDateTime;
use underpass_api::client::{ClientError, Match};
use underpass_api::{Client, TokenView, segment};
use underpass_terminal::say;

use super::Saved;
use crate::paste;

/// Revokes the login's token and the ones before it, the oldest first: each takes the tokens that were made with it along.
pub(crate) async fn revoke(client: &Client, saved: &Saved) -> Result<(), ClientError> {
    let now = OffsetDateTime::now_utc();
    let before = saved.replaced.iter().filter(|token| token.expires > now);
    let ids = before.map(|token| &token.id).chain([&saved.token_id]);
    let mut any = false;
    for id in ids {
        match revoke_one(client, id).await {
            Err(error) if error.is(StatusCode::NOT_FOUND) => {}
            // The token that asks has just gone with the one before.
            Err(error) if error.is(StatusCode::UNAUTHORIZED) && any => {}
            revoked => {
                revoked?;
                any = true;
            }
        }
    }
    Ok(())
}

async fn revoke_one(client: &Client, id: &str) -> Result<(), ClientError> {
    let path = format!("/v1/tokens/{}", segment(id));
    client.delete(&path, Match::Anything).await
}

/// Revokes a token that was just made and could not be kept: no file knows it, so that no logout would end it.
pub(crate) async fn revoke_unkept(client: &Client, token: &TokenView) {
    let Err(error) = revoke_one(client, &token.id).await else {
        return;
    };
    let error = anyhow::Error::from(error);
    say!(
        "underpass: the new token is not kept here, and cannot be revoked: {error:#}. Revoke it with `underpass token revoke {}`",
        paste::word(&token.id).unwrap_or("ID")
    );
}
