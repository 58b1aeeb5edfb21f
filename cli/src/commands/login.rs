//! `underpass login`, `logout`, `credential` and `whoami`

use anyhow::{Context, Result, bail};
use http::Uri;
use serde_json::json;
use time::OffsetDateTime;
use underpass_api::client::{Credential, Server};
use underpass_api::{Client, LOGIN, LoginRequest, LoginWays, Myself, TokenMade};
use underpass_core::Scope;
use underpass_https::{DeviceLogin, Proxy};
use underpass_terminal::{hand_over, say};
use zeroize::Zeroizing;

use super::{list, print_table, timestamp};
use crate::args::{Login, Which};
use crate::logins::{DeviceApp, Lock, Saved, description, fresh, revoke, revoke_unkept};
use crate::password::read_password;
use crate::paste;
use crate::proxy;
use crate::roots::roots;
use crate::which::parsed;

pub(crate) async fn log_in(which: &Which, options: Login) -> Result<()> {
    if which.api_token_file.is_some() && (options.device || options.user.is_some()) {
        bail!("--api-token-file is a login of its own: give it alone, or --user, or --device");
    }
    let (server, ca_pem) = which.server_to_log_in()?;
    let url = server.url();
    let roots = roots(ca_pem.as_deref())?;
    let with = |credential| proxy::server(&url, &roots, &credential);
    let server = if options.device {
        let named = options.same_app_as.as_deref().map(parsed).transpose()?;
        with(Credential::Bearer(
            device_login(server, named.as_ref()).await?,
        ))?
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
    let saved = log_in_at(server, ca_pem, &request).await?;
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
        paste::url_or_placeholder(saved.shown_url())
    );
    Ok(())
}

/// Makes the token, and keeps it in place of the login before.
async fn log_in_at(
    server: Server,
    ca_pem: Option<String>,
    request: &LoginRequest,
) -> Result<Saved> {
    let url = server.url();
    let parsed = parsed(&url)?;
    // Until the file is written: a renewal of the login before must not come between.
    let lock = Lock::of(&parsed).await?;
    let before = Saved::find(&parsed).unwrap_or_else(|error| {
        say!(
            "underpass: the login before is replaced, and its tokens end by themselves: {error:#}"
        );
        None
    });
    let made: TokenMade = Client::at(server).post(LOGIN, request).await?;
    let about = made.about.clone();
    let now = OffsetDateTime::now_utc();
    let saved = Saved::new(url, ca_pem, made)?;
    let (saved, anothers) = match before {
        None => (saved, None),
        Some(before) => saved.in_place_of(before, now),
    };
    if let Err(error) = saved.save(&lock) {
        revoke_unkept(&Client::at(saved.server()?), &about).await;
        return Err(error);
    }
    if let Some(login) = anothers.filter(|login| login.ends() > now) {
        let revoked = revoke(&Client::at(login.server()?), &login).await;
        if let Err(error) = revoked {
            say!(
                "underpass: the login of {} before is not revoked, and ends {}: {:#}",
                login.user,
                timestamp(login.ends())?,
                anyhow::Error::from(error)
            );
        }
    }
    Ok(saved)
}

/// Gives the identity provider's token, once its owner has confirmed it.
async fn device_login(server: Server, same_app_as: Option<&Uri>) -> Result<Zeroizing<String>> {
    let (url, host) = (server.url(), server.authority().to_owned());
    let ways: LoginWays = Client::at(server).get(LOGIN).await?;
    let way = ways
        .device
        .context("this server has no identity provider for logins with a code")?;
    let roots = roots(way.ca_pem.as_deref())?;
    let provider = DeviceLogin::new(
        &way.url,
        &roots,
        Proxy::from_env().as_ref(),
        way.client_id.clone(),
    )?;
    let app = DeviceApp::new(url, provider.origin(), way.client_id)?;
    app.check(same_app_as)?;
    let login = provider.begin().await?;
    say!(
        "{host} gets a token of yours from {}, for the app {}. If the page there names an organization or an app that is not \
         {host}'s, do not confirm.",
        provider.origin(),
        app.client_id()
    );
    say!(
        "Open {} and type the code {}",
        login.verification_uri(),
        login.user_code()
    );
    let token = provider.wait(&login).await?;
    app.remember(same_app_as).await?;
    Ok(token)
}

pub(crate) async fn log_out(which: &Which) -> Result<()> {
    let url = parsed(&which.login()?.url)?;
    // A renewal that is under way would bring the login back.
    let lock = Lock::of(&url).await?;
    let saved = which.login()?;
    let client = Client::at(saved.server()?);
    let revoked = revoke(&client, &saved).await;
    // The file goes in any case: the tokens at the server end by themselves.
    saved.forget(&lock)?;
    match revoked {
        Ok(()) => say!("Logged out at {}.", saved.shown_url()),
        Err(error) => say!(
            "The login is removed here; its last token ends {}: {:#}",
            timestamp(saved.ends())?,
            anyhow::Error::from(error)
        ),
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
