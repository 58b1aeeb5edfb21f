//! `underpass login`, `logout`, `credential` and `whoami`

use anyhow::{Context, Result, bail};
use http::StatusCode;
use serde_json::json;
use time::OffsetDateTime;
use underpass_api::client::{ClientError, Credential, Match, Server};
use underpass_api::{Client, LOGIN, LoginRequest, LoginWays, Myself, TokenMade};
use underpass_core::Scope;
use underpass_https::DeviceLogin;
use underpass_terminal::{hand_over, say};
use zeroize::Zeroizing;

use super::{list, print_table, timestamp};
use crate::args::{Login, Which};
use crate::logins::{Saved, description, fresh};
use crate::password::read_password;
use crate::roots::roots;

pub(crate) async fn log_in(which: &Which, options: Login) -> Result<()> {
    if which.api_token_file.is_some() && (options.device || options.user.is_some()) {
        bail!("--api-token-file is a login of its own: give it alone, or --user, or --device");
    }
    let (server, ca_pem) = which.server_to_log_in()?;
    let roots = roots(ca_pem.as_deref())?;
    let with = |credential| Server::new(&server.url(), &roots, &credential);
    let server = if options.device {
        with(Credential::Bearer(device_login(server.clone()).await?))?
    } else if which.api_token_file.is_none() {
        let Some(user) = options.user else {
            bail!(
                "name a user with --user NAME, or use --device, or --api-token-file FILE with a token of your identity provider"
            );
        };
        let prompt = format!("Password of {user}: ");
        let password = read_password(options.password_file.as_deref(), &prompt)?;
        with(Credential::Password { user, password })?
    } else {
        server
    };
    let request = LoginRequest {
        expires_in_seconds: options.expires.map(|expires| expires.as_secs()),
        scope: Scope::default(),
        description: description(),
    };
    let url = server.url();
    let made: TokenMade = Client::at(server).post(LOGIN, &request).await?;
    let saved = Saved::new(url, ca_pem, made)?;
    saved.save()?;
    say!(
        "Logged in at {} as {}, until {}{}.",
        saved.shown_url(),
        saved.user,
        timestamp(saved.expires)?,
        match saved.renewable_until {
            Some(until) => format!("; renewed by use until {}", timestamp(until)?),
            None => String::new(),
        }
    );
    say!(
        "`underpass kubeconfig --exec --api {}` writes a kubeconfig that uses this login.",
        saved.shown_url()
    );
    Ok(())
}

/// Gives the identity provider's token, once its owner has confirmed it.
async fn device_login(server: Server) -> Result<Zeroizing<String>> {
    let ways: LoginWays = Client::at(server).get(LOGIN).await?;
    let way = ways
        .device
        .context("this server has no identity provider for logins with a code")?;
    let roots = roots(way.ca_pem.as_deref())?;
    let provider = DeviceLogin::new(&way.url, &roots, way.client_id)?;
    let login = provider.begin().await?;
    say!(
        "Open {} and type the code {}",
        login.verification_uri(),
        login.user_code()
    );
    Ok(provider.wait(&login).await?)
}

pub(crate) async fn log_out(which: &Which) -> Result<()> {
    let saved = which.login()?;
    let client = Client::at(saved.server()?);
    let revoked = revoke(&client, &saved).await;
    // The file goes in any case: the tokens at the server end by themselves.
    saved.forget()?;
    match revoked {
        Ok(()) => say!("Logged out at {}.", saved.shown_url()),
        Err(error) => say!(
            "The login is removed here; its token ends {}: {:#}",
            timestamp(saved.expires)?,
            anyhow::Error::from(error)
        ),
    }
    Ok(())
}

/// Revokes the login's token and the ones that it was renewed from, the oldest first: each takes what was made with it along.
async fn revoke(client: &Client, saved: &Saved) -> Result<(), ClientError> {
    let now = OffsetDateTime::now_utc();
    let before = saved.replaced.iter().filter(|token| token.expires > now);
    let ids = before.map(|token| &token.id).chain([&saved.token_id]);
    let mut any = false;
    for id in ids {
        let path = format!("/v1/tokens/{id}");
        match client.delete(&path, Match::Anything).await {
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

/// Writes an `ExecCredential` (`client.authentication.k8s.io/v1`) for kubectl.
pub(crate) async fn print_credential(which: &Which) -> Result<()> {
    let saved = fresh(which.login()?).await?;
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "token": *saved.token,
            // A client that runs for long asks again while the token can still be renewed.
            "expirationTimestamp": timestamp(match saved.is_renewable(OffsetDateTime::now_utc()) {
                true => saved.half_life().max(OffsetDateTime::now_utc()),
                false => saved.expires,
            })?,
        },
    });
    hand_over(&Zeroizing::new(format!("{credential}\n")));
    Ok(())
}

pub(crate) async fn who_am_i(client: &Client) -> Result<()> {
    let me: Myself = client.get("/v1/self").await?;
    say!(
        "{}{}{}, groups {}",
        me.user,
        me.authenticated_by
            .map(|by| format!(" ({by})"))
            .unwrap_or_default(),
        if me.administrator {
            ", administrator"
        } else {
            ""
        },
        list(&me.groups)
    );
    let rows: Vec<_> = me
        .clusters
        .iter()
        .map(|cluster| {
            let roles = cluster.roles.iter().map(ToString::to_string);
            vec![cluster.name.to_string(), list(&roles.collect::<Vec<_>>())]
        })
        .collect();
    print_table(&["CLUSTER", "ROLES"], &rows);
    Ok(())
}
