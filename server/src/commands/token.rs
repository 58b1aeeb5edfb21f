//! `underpass-server token`

use anyhow::Result;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::print_table;
use crate::access::{Access, TokenSummary};
use crate::cli::Token;
use crate::data_dir::DataDir;

pub(crate) fn run(data: &DataDir, command: Token) -> Result<()> {
    match command {
        Token::List { user } => {
            let tokens = Access::read(data)?.tokens(user.as_deref());
            let rows = tokens.iter().map(row).collect::<Result<Vec<_>>>()?;
            print_table(&["ID", "USER", "CREATED", "EXPIRES"], &rows);
        }
        Token::Revoke { id } => {
            let token = Access::edit(data, |access| access.revoke_token(&id))?;
            eprintln!("Token {} of {} is revoked.", token.id, token.user);
        }
    }
    Ok(())
}

fn row(token: &TokenSummary) -> Result<Vec<String>> {
    let expires = match token.expires {
        Some(expires) if expires <= OffsetDateTime::now_utc() => "expired".to_owned(),
        Some(expires) => expires.format(&Rfc3339)?,
        None => "never".to_owned(),
    };
    Ok(vec![
        token.id.clone(),
        token.user.clone(),
        token.created.format(&Rfc3339)?,
        expires,
    ])
}
