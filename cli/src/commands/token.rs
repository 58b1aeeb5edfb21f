//! `underpass token`

use anyhow::{Result, bail};
use time::OffsetDateTime;
use underpass_api::client::Match;
use underpass_api::{Client, TokenMade, TokenRequest, TokenView, segment};
use underpass_terminal::{say, show};

use super::{print_table, timestamp};
use crate::args::{NewToken, Token};

pub(crate) async fn run(client: &Client, command: Token) -> Result<()> {
    match command {
        Token::Create(wanted) => {
            let request = request(wanted);
            let made: TokenMade = client.post("/v1/tokens", &request).await?;
            say!(
                "Token {} of {}, which is shown only now:",
                made.about.id,
                made.about.user
            );
            show(&*made.token);
        }
        Token::List { user } => {
            let path = match &user {
                Some(user) => format!("/v1/tokens?user={}", segment(user)),
                None => "/v1/tokens".to_owned(),
            };
            let tokens: Vec<TokenView> = client.list(&path).await?;
            let rows = tokens.iter().map(row).collect::<Result<Vec<_>>>()?;
            let header = [
                "ID",
                "USER",
                "CREATED",
                "EXPIRES",
                "LAST USED",
                "SCOPE",
                "DESCRIPTION",
            ];
            print_table(&header, &rows);
        }
        Token::Revoke { id } => {
            let token = find(client, &id).await?;
            client
                .delete(
                    &format!("/v1/tokens/{}", segment(&token.id)),
                    Match::Anything,
                )
                .await?;
            say!("Token {} of {} is revoked.", token.id, token.user);
        }
    }
    Ok(())
}

fn request(wanted: NewToken) -> TokenRequest {
    let NewToken {
        user,
        expires,
        clusters,
        read_only,
        description,
    } = wanted;
    TokenRequest {
        user,
        expires_in_seconds: Some(expires.as_secs()),
        scope: underpass_core::Scope {
            clusters: (!clusters.is_empty()).then(|| clusters.into_iter().collect()),
            read_only,
        },
        description: description.unwrap_or_default(),
    }
}

/// The one token whose id begins like this.
async fn find(client: &Client, id: &str) -> Result<TokenView> {
    let tokens: Vec<TokenView> = client.list("/v1/tokens").await?;
    let mut found = tokens.into_iter().filter(|token| token.id.starts_with(id));
    match (found.next(), found.next()) {
        (None, _) => bail!("there is no token `{id}` (see `underpass token list`)"),
        (Some(_), Some(_)) => bail!("more than one token starts with `{id}`"),
        (Some(token), None) => Ok(token),
    }
}

fn row(token: &TokenView) -> Result<Vec<String>> {
    let expires = match token.expires {
        Some(expires) if expires <= OffsetDateTime::now_utc() => "expired".to_owned(),
        Some(expires) => timestamp(expires)?,
        None => "never".to_owned(),
    };
    let used = token.last_used.map(timestamp).transpose()?;
    Ok(vec![
        token.id.clone(),
        token.user.clone(),
        timestamp(token.created)?,
        expires,
        used.unwrap_or_else(|| "-".to_owned()),
        scope(&token.scope),
        token.description.clone(),
    ])
}

fn scope(scope: &underpass_core::Scope) -> String {
    let clusters = match &scope.clusters {
        None => "all".to_owned(),
        Some(names) => {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            super::list(&names)
        }
    };
    if scope.read_only {
        format!("{clusters}, read-only")
    } else {
        clusters
    }
}
