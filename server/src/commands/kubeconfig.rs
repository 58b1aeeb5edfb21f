//! `underpass-server kubeconfig`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use underpass_proxy::kubeconfig::Kubeconfig as Writer;

use super::serve::URL;
use crate::access::Access;
use crate::cli::Kubeconfig;
use crate::data_dir::DataDir;
use crate::pki::Ca;

pub(crate) fn run(data: &DataDir, options: Kubeconfig) -> Result<()> {
    let Kubeconfig {
        user,
        clusters,
        groups,
        expires,
        server,
        output,
    } = options;
    let ca_pem = Ca::certificate(data)?;
    let server = match server {
        Some(server) => server,
        None => data.read(URL)?.with_context(|| {
            format!(
                "{} does not exist: start `underpass-server serve` once, or give --server",
                data.path(URL).display()
            )
        })?,
    };
    let (token, made, new) = Access::edit(data, |access| {
        let made = access.ensure_user(&user)?;
        access.join_groups(&user, &groups)?;
        let new = access.grant(&user, &clusters)?;
        Ok((access.issue_token(&user, Some(expires))?, made, new))
    })?;
    if made {
        eprintln!("User {user} is made.");
    }
    for cluster in new {
        eprintln!("User {user} may now reach cluster {cluster}.");
    }
    let kubeconfig = Writer {
        server: server.trim(),
        ca_pem: Some(&ca_pem),
        user: &user,
        token: &token,
        clusters: &clusters,
        prefix: "underpass-",
    };
    let yaml = kubeconfig.to_yaml()?;
    match output {
        None => print!("{}", *yaml),
        Some(path) => {
            write_private(&path, &yaml)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The file holds a token. An existing file loses what it held, and its wider permissions.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    file.write_all(text.as_bytes())
}
