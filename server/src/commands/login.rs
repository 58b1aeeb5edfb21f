//! `underpass-server login`, `logout`, `credential` and `whoami`

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Uri;
use serde_json::json;
use time::OffsetDateTime;
use underpass_core::Scope;
use underpass_https::{DeviceLogin, Roots};
use zeroize::Zeroizing;

use super::{list, print_table, timestamp};
use crate::cli::Login;
use crate::client::{Client, Elsewhere, Remote};
use crate::saved::Saved;
use underpass_api::{LOGIN, LoginRequest, LoginWays, Myself, TokenMade};
use underpass_terminal::{hand_over, say};

pub(crate) async fn log_in(elsewhere: &Elsewhere, options: Login) -> Result<()> {
    let url = url(elsewhere)?;
    let mut remote = Remote::new(url, elsewhere)?;
    if options.device {
        let token = device_login(remote.clone()).await?;
        remote.authorization = Some(Zeroizing::new(format!("Bearer {}", *token)));
    } else if remote.authorization.is_none() {
        let user = match options.user {
            Some(user) => user,
            None => bail!(
                "say who you are: --user NAME, --device, or --api-token-file FILE with a token of your identity provider"
            ),
        };
        let password = read_password(
            options.password_file.as_deref(),
            &format!("Password of {user}: "),
        )?;
        let basic = Zeroizing::new(format!("{user}:{}", *password));
        let basic = Zeroizing::new(BASE64.encode(basic.as_bytes()));
        remote.authorization = Some(Zeroizing::new(format!("Basic {}", *basic)));
    }
    let request = LoginRequest {
        expires_in_seconds: options.expires.map(|expires| expires.as_secs()),
        scope: Scope::default(),
        description: format!("login from {}", host()),
    };
    let (url, ca_pem) = (remote.url.clone(), remote.ca_pem.clone());
    let made: TokenMade = Client::Https(remote).post(LOGIN, &request).await?;
    let saved = Saved::new(&url, ca_pem, made)?;
    saved.save()?;
    say!(
        "Logged in at {} as {}, until {}{}.",
        saved.url.trim_end_matches('/'),
        saved.user,
        timestamp(saved.expires)?,
        match saved.renewable_until {
            Some(until) => format!("; renewed as it is used, until {}", timestamp(until)?),
            None => String::new(),
        }
    );
    say!(
        "`underpass-server kubeconfig --exec --api {}` writes a kubeconfig that uses this login.",
        saved.url.trim_end_matches('/')
    );
    Ok(())
}

/// Gives the identity provider's token, once its owner has confirmed it.
async fn device_login(remote: Remote) -> Result<Zeroizing<String>> {
    let ways: LoginWays = Client::Https(remote).get(LOGIN).await?;
    let way = ways
        .device
        .context("this server has no identity provider for logins with a code")?;
    let roots = match &way.ca_pem {
        Some(pem) => Roots::from_pem(pem.as_bytes())?,
        None => Roots::system()?,
    };
    let provider = DeviceLogin::new(&way.url, &roots, way.client_id)?;
    let login = provider.begin().await?;
    say!(
        "Open {} and type the code {}",
        login.verification_uri(),
        login.user_code()
    );
    Ok(provider.wait(&login).await?)
}

pub(crate) async fn log_out(elsewhere: &Elsewhere) -> Result<()> {
    let parsed: Uri = url(elsewhere)?.parse()?;
    let saved = Saved::find(&parsed)?;
    let saved = saved.with_context(|| format!("there is no login at {parsed}"))?;
    let path = format!("/v1/tokens/{}", saved.token_id);
    let remote = Remote::of(&saved)?;
    // The file goes in any case: what is left at the server ends by itself.
    let revoked = Client::Https(remote).delete(&path).await;
    Saved::forget(&parsed)?;
    match revoked {
        Ok(()) => say!("Logged out at {}.", saved.url.trim_end_matches('/')),
        Err(error) => say!(
            "The login is forgotten here; its token ends {}: {error:#}",
            timestamp(saved.expires)?
        ),
    }
    Ok(())
}

/// What kubectl asks for (`client.authentication.k8s.io/v1`).
pub(crate) async fn print_credential(elsewhere: &Elsewhere) -> Result<()> {
    let parsed: Uri = url(elsewhere)?.parse()?;
    let saved = Saved::find(&parsed)?.with_context(|| {
        let url = parsed.to_string();
        let url = url.trim_end_matches('/');
        format!("nobody has logged in at {url}; `underpass-server login --api {url}`")
    })?;
    let saved = fresh(saved).await?;
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {
            "token": *saved.token,
            // So that whoever runs for long comes again while there is time for another one.
            "expirationTimestamp": timestamp(match saved.is_renewable(OffsetDateTime::now_utc()) {
                true => saved.half_life().max(OffsetDateTime::now_utc()),
                false => saved.expires,
            })?,
        },
    });
    hand_over(&Zeroizing::new(format!("{credential}\n")));
    Ok(())
}

/// The login, with another token where it is time for one.
pub(crate) async fn fresh(saved: Saved) -> Result<Saved> {
    let now = OffsetDateTime::now_utc();
    saved.must_count(now)?;
    if now < saved.half_life() || !saved.is_renewable(now) {
        return Ok(saved);
    }
    let request = LoginRequest {
        description: format!("login from {}", host()),
        ..LoginRequest::default()
    };
    let remote = Remote::of(&saved)?;
    let (url, ca_pem) = (remote.url.clone(), remote.ca_pem.clone());
    match Client::Https(remote).post(LOGIN, &request).await {
        Ok(made) => {
            let renewed = Saved::new(&url, ca_pem, made)?;
            renewed.save()?;
            Ok(renewed)
        }
        // The old one still counts.
        Err(error) => {
            say!("underpass-server: the login is not renewed: {error:#}");
            Ok(saved)
        }
    }
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

fn url(elsewhere: &Elsewhere) -> Result<&str> {
    elsewhere
        .api
        .as_deref()
        .context("say which server: --api URL, or UNDERPASS_API")
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(64).collect();
    if name.is_empty() {
        "somewhere".to_owned()
    } else {
        name
    }
}

/// Asks at the terminal, or reads the first line of a file; `-` is standard input.
pub(super) fn read_password(file: Option<&Path>, prompt: &str) -> Result<Zeroizing<String>> {
    let text = match file {
        Some(path) if path == Path::new("-") => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Zeroizing::new(text.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None if !std::io::stdin().is_terminal() => {
            bail!(
                "there is nobody to ask for a password; give --password-file FILE, or - for standard input"
            )
        }
        None => Zeroizing::new(rpassword::prompt_password(prompt)?),
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("the password is empty");
    }
    Ok(Zeroizing::new(line.to_owned()))
}
