//! `underpass-server recover`: a new administrator, for a directory that nobody can administer any longer and whose server does
//! not run.
//!
//! The directory gets a user with a name that it never had, so that all other credentials stay as they are: to enable or
//! change a user that is there would be to let in everybody who has a token of that user.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http::Method;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use underpass_audit::{OwnCall, OwnCaller};
use underpass_authenticate::Token;
use underpass_directory::{Directory, Name};
use underpass_https::Proxy;
use underpass_terminal::{say, show};

use crate::data_dir::DataDir;
use crate::directory::{self, DirectoryError};
use crate::{api, audit, first_administrator, limits};

/// Flags of `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// File for the new administrator's token, which must not exist. Without it, NAME.token in the data directory
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    audit: audit::Options,
}

pub(crate) async fn run(folder: &Path, options: Recover) -> Result<()> {
    ensure!(
        folder.join(directory::NAME).is_file(),
        "{} has no directory to recover: name the server's --data-dir, or start `underpass-server serve`, which makes the \
         first administrator",
        folder.display()
    );
    // Root would follow links of the owner's, and leave files that their server cannot open.
    let owner = std::fs::metadata(folder)?.uid();
    ensure!(
        owner == rustix::process::geteuid().as_raw(),
        "{} belongs to the user with the id {owner}: run this as that user, for example with `setpriv --reuid {owner}`",
        folder.display()
    );
    let data = DataDir::open(folder)?;
    let directory = match directory::try_open(&data).await {
        Ok(directory) => directory,
        Err(DirectoryError::InUse(_)) => bail!(
            "a server runs on {0}, and its owner is an administrator there: use `underpass --socket {1}`, for example with \
             `user add NAME --all-clusters --role admin` and `token create --user NAME`",
            folder.display(),
            data.path(crate::socket::NAME).display()
        ),
        Err(error) => return Err(error.into()),
    };
    let made = make(&directory, &data, options).await?;
    say!(
        "The administrator {} is made. The token is in the file below, until {}.",
        made.name,
        made.expires.format(&Rfc3339)?
    );
    say!(
        "Start the server, and use the token with `underpass --api URL --api-token-file FILE`. At the end, `underpass user \
         remove {}` removes this administrator.",
        made.name
    );
    show(made.file.display());
    Ok(())
}

/// A new administrator.
struct Made {
    name: Name,
    file: PathBuf,
    expires: OffsetDateTime,
}

async fn make(directory: &Arc<Directory>, data: &DataDir, options: Recover) -> Result<Made> {
    let received = OffsetDateTime::now_utc();
    let audit_log = audit::open(&options.audit, data, Proxy::from_env().as_ref()).await?;
    let name = Name::new(&format!("recovery-{:08x}", rand::random::<u32>()))?;
    let file = options.token_file;
    let file = file.unwrap_or_else(|| data.path(&format!("{name}.token")));
    // The file first: a token that works and that nobody can read would be of no use.
    let token = Token::generate()?;
    first_administrator::write(&file, &token)
        .with_context(|| format!("cannot write the token {}", file.display()))?;
    audit_log.ready().await?;
    let made = api::new_administrator(directory, &name, &token).await?;
    let expires = made.expires.context("the token has no end")?;
    let details = [
        ("underpass.dev/object".into(), format!("user/{name}")),
        (
            "underpass.dev/subject".into(),
            format!("user:{name} (directory)"),
        ),
        (
            "underpass.dev/grant".into(),
            format!("admin on all clusters; token {} until {expires}", made.id),
        ),
    ];
    audit_log.own_call(&OwnCall {
        caller: OwnCaller::Known(api::Requester::Operator.name()),
        client: None,
        method: &Method::POST,
        path: "/v1/access",
        user_agent: "underpass-server recover",
        received,
        code: 200,
        details: &details,
    });
    let unwritten = audit_log.flush(limits::AUDIT_FLUSH).await;
    ensure!(
        unwritten == 0,
        "the administrator {name} is made, with a token in {}, but the audit log could not be written",
        file.display()
    );
    Ok(Made {
        name,
        file,
        expires,
    })
}
