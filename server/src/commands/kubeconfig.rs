//! `underpass-server kubeconfig`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use underpass_authenticate::Token;
use underpass_core::{ClusterName, Scope};
use underpass_gateway::kubeconfig::{Credential, Kubeconfig as Writer};
use zeroize::Zeroizing;

use super::serve::URL;
use crate::cli::Kubeconfig;
use crate::client::{Client, Remote};
use crate::data_dir::DataDir;
use crate::pki::Ca;
use underpass_api::{AccessGiven, AccessRequest, Myself, TokenRequest};
use underpass_terminal::{hand_over, say};

pub(crate) async fn run(client: &Client, data: &Path, options: Kubeconfig) -> Result<()> {
    let yaml = if options.exec {
        of_login(client, &options).await?
    } else {
        with_token(client, data, &options).await?
    };
    match &options.output {
        None => hand_over(&yaml),
        Some(path) => {
            write_private(path, &yaml)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes a token for a user.
async fn with_token(
    client: &Client,
    data: &Path,
    options: &Kubeconfig,
) -> Result<Zeroizing<String>> {
    let place = Place::find(client, data, options.server.clone())?;
    let user = options.user.as_ref().context("say whose it is: --user")?;
    let wanted = AccessRequest {
        links: Default::default(),
        user: user.clone(),
        groups: options.groups.clone(),
        clusters: options.clusters.clone(),
        all_clusters: false,
        role: options.role,
        token: Some(TokenRequest {
            expires_in_seconds: Some(options.expires.as_secs()),
            scope: Scope {
                clusters: None,
                read_only: options.read_only,
            },
            description: "kubeconfig".to_owned(),
            ..TokenRequest::default()
        }),
    };
    let given: AccessGiven = client.post("/v1/access", &wanted).await?;
    let token = given.token.context("the server has made no token")?;
    let token = Token::parse(&token.token).context("the server's token cannot be read")?;
    if given.made {
        say!("User {user} is made.");
    }
    for cluster in given.granted {
        say!("User {user} may now reach cluster {cluster}.");
    }
    place.write(user.as_str(), Credential::Token(&token), &options.clusters)
}

/// Uses the login at a server elsewhere.
async fn of_login(client: &Client, options: &Kubeconfig) -> Result<Zeroizing<String>> {
    let Client::Https(remote) = client else {
        bail!("--exec needs a server elsewhere: --api URL");
    };
    let me: Myself = client.get("/v1/self").await?;
    let reachable: Vec<_> = me
        .clusters
        .into_iter()
        .map(|cluster| cluster.name)
        .collect();
    let clusters = match options.clusters.as_slice() {
        [] => reachable,
        some => match some.iter().find(|cluster| !reachable.contains(cluster)) {
            None => some.to_vec(),
            Some(cluster) => bail!("{} may not reach cluster {cluster}", me.user),
        },
    };
    if clusters.is_empty() {
        bail!("{} may not reach any cluster", me.user);
    }
    let place = Place::of(remote, options.server.clone());
    let url = remote.url.to_string();
    let arguments = ["credential", "--api", url.trim_end_matches('/')].map(str::to_owned);
    let credential = Credential::Exec {
        command: "underpass-server",
        arguments: &arguments,
        install_hint: "underpass-server gives kubectl the token of your login; it has to be found in the PATH",
    };
    let host = remote
        .url
        .authority()
        .map_or("", |authority| authority.as_str());
    place.write(&format!("{}@{host}", me.user), credential, &clusters)
}

/// Where kubectl finds the server, and whose certificate it has.
struct Place {
    server: String,
    ca_pem: Option<String>,
}

impl Place {
    fn of(remote: &Remote, server: Option<String>) -> Self {
        let url = remote.url.to_string();
        Self {
            server: server.unwrap_or_else(|| url.trim_end_matches('/').to_owned()),
            ca_pem: remote.ca_pem.clone(),
        }
    }

    fn write(
        &self,
        user: &str,
        credential: Credential<'_>,
        clusters: &[ClusterName],
    ) -> Result<Zeroizing<String>> {
        let kubeconfig = Writer {
            server: self.server.trim(),
            ca_pem: self.ca_pem.as_deref(),
            user,
            credential,
            clusters,
            prefix: "underpass-",
        };
        Ok(kubeconfig.to_yaml()?)
    }

    fn find(client: &Client, data: &Path, server: Option<String>) -> Result<Self> {
        if let Client::Https(remote) = client {
            return Ok(Self::of(remote, server));
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
