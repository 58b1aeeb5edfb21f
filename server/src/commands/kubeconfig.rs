//! `underpass-server kubeconfig`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use underpass_proxy::Scope;
use underpass_proxy::authenticate::Token;
use underpass_proxy::kubeconfig::Kubeconfig as Writer;

use super::serve::URL;
use crate::api::{AccessGiven, AccessRequest, TokenRequest};
use crate::cli::Kubeconfig;
use crate::client::Client;
use crate::data_dir::DataDir;
use crate::pki::Ca;

pub(crate) async fn run(client: &Client, data: &Path, options: Kubeconfig) -> Result<()> {
    let Kubeconfig {
        user,
        clusters,
        groups,
        role,
        expires,
        read_only,
        server,
        output,
    } = options;
    let place = Place::find(client, data, server)?;
    let wanted = AccessRequest {
        user: user.clone(),
        groups,
        clusters: clusters.clone(),
        all_clusters: false,
        role,
        token: Some(TokenRequest {
            expires_in_seconds: Some(expires.as_secs()),
            scope: Scope {
                clusters: None,
                read_only,
            },
            description: "kubeconfig".to_owned(),
            ..TokenRequest::default()
        }),
    };
    let given: AccessGiven = client.post("/v1/access", &wanted).await?;
    let token = given.token.context("the server has made no token")?;
    let token = Token::parse(&token.token).context("the server's token cannot be read")?;
    if given.made {
        eprintln!("User {user} is made.");
    }
    for cluster in given.granted {
        eprintln!("User {user} may now reach cluster {cluster}.");
    }
    let kubeconfig = Writer {
        server: place.server.trim(),
        ca_pem: place.ca_pem.as_deref(),
        user: user.as_str(),
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

/// Where kubectl finds the server, and whose certificate it has.
struct Place {
    server: String,
    ca_pem: Option<String>,
}

impl Place {
    fn find(client: &Client, data: &Path, server: Option<String>) -> Result<Self> {
        if let Client::Https(remote) = client {
            let url = remote.url.to_string();
            return Ok(Self {
                server: server.unwrap_or_else(|| url.trim_end_matches('/').to_owned()),
                ca_pem: remote.ca_pem.clone(),
            });
        }
        let data = DataDir::open(data)?;
        let ca_pem = Ca::certificate(&data)?;
        let server = match server {
            Some(server) => server,
            None => data.read(URL)?.with_context(|| {
                format!(
                    "{} does not exist: start `underpass-server serve` once, or give --server",
                    data.path(URL).display()
                )
            })?,
        };
        Ok(Self {
            server,
            ca_pem: Some(ca_pem),
        })
    }
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
