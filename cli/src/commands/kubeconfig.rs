//! `underpass kubeconfig`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use underpass_api::{
    AccessGiven, AccessRequest, Client, Myself, SERVER, ServerInfo, TokenMade, TokenRequest,
};
use underpass_core::{ClusterName, Name, Scope};
use underpass_terminal::{hand_over, say};
use zeroize::Zeroizing;

use crate::args::{Kubeconfig, Which};
use crate::kubeconfig::{Credential, Kubeconfig as Writer, Place, Way, choose};
use crate::logins::{fresh, must_be_plain, revoke_unkept};

pub(crate) async fn run(which: &Which, options: Kubeconfig) -> Result<()> {
    if options.exec {
        return write(&options, &of_login(which, &options).await?);
    }
    let client = which.client().await?;
    let place = ServerEntry::find(which, &client).await?;
    let way = place.way(&options, &client, &options.clusters).await?;
    let (user, token) = make_token(&client, &options).await?;
    let credential = Credential::Token(&token.token);
    let yaml = place.write(&options, user.as_str(), credential, &way, &options.clusters);
    let written = yaml.and_then(|yaml| write(&options, &yaml));
    if written.is_err() {
        revoke_unkept(&client, &token.about).await;
    }
    written
}

fn write(options: &Kubeconfig, yaml: &str) -> Result<()> {
    match &options.output {
        None => hand_over(yaml),
        Some(path) => {
            write_private(path, yaml).with_context(|| format!("cannot write {}", path.display()))?
        }
    }
    Ok(())
}

/// Makes a token for a user.
async fn make_token(client: &Client, options: &Kubeconfig) -> Result<(Name, TokenMade)> {
    let user = options.user.as_ref().context("name a user: --user")?;
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
    must_be_plain(&token.token)?;
    if given.made {
        say!("User {user} is added.");
    }
    for cluster in given.granted {
        say!("User {user} may now reach cluster {cluster}.");
    }
    Ok((user.clone(), token))
}

/// Uses a saved login.
async fn of_login(which: &Which, options: &Kubeconfig) -> Result<Zeroizing<String>> {
    let login = which.login().context("--exec needs a saved login")?;
    let login = fresh(login).await?;
    let server = login.server()?;
    let (url, authority) = (server.url(), server.authority().to_owned());
    let client = Client::at(server);
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
    let arguments = ["credential", "--api", url.as_str()].map(str::to_owned);
    let credential = Credential::Exec {
        command: "underpass",
        arguments: &arguments,
        install_hint: "underpass gives kubectl the token of your login; it must be in the PATH",
    };
    let place = ServerEntry {
        server: url,
        ca_pem: login.ca_pem,
        is_reachable: true,
    };
    let way = place.way(options, &client, &clusters).await?;
    place.write(
        options,
        &format!("{}@{authority}", me.user),
        credential,
        &way,
        &clusters,
    )
}

/// The server's URL in a kubeconfig, and the CA of its certificate.
struct ServerEntry {
    server: String,
    ca_pem: Option<String>,
    /// This program reaches it there.
    is_reachable: bool,
}

impl ServerEntry {
    /// As this program reaches it, or as the server knows itself.
    async fn find(which: &Which, client: &Client) -> Result<Self> {
        if let Some(server) = client.server() {
            return Ok(Self {
                server: server.url(),
                ca_pem: which.ca_pem()?,
                is_reachable: true,
            });
        }
        let info: ServerInfo = client.get(SERVER).await?;
        Ok(Self {
            server: info.url,
            ca_pem: Some(info.ca_pem),
            is_reachable: false,
        })
    }

    /// The server's URL there.
    fn url<'a>(&'a self, options: &'a Kubeconfig) -> &'a str {
        options.server.as_deref().unwrap_or(&self.server)
    }

    /// How clusters are named there.
    async fn way(
        &self,
        options: &Kubeconfig,
        client: &Client,
        clusters: &[ClusterName],
    ) -> Result<Way> {
        let cluster = clusters.first().context("name a cluster: --cluster")?;
        let place = Place {
            server: self.url(options),
            ca_pem: self.ca_pem.as_deref(),
            is_own: options.server.is_none(),
            is_reachable: self.is_reachable,
        };
        choose(options.style, client, &place, cluster).await
    }

    fn write(
        &self,
        options: &Kubeconfig,
        user: &str,
        credential: Credential<'_>,
        way: &Way,
        clusters: &[ClusterName],
    ) -> Result<Zeroizing<String>> {
        let kubeconfig = Writer {
            server: self.url(options),
            ca_pem: self.ca_pem.as_deref(),
            user,
            credential,
            way,
            clusters,
            prefix: "underpass-",
        };
        Ok(kubeconfig.to_yaml()?)
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
