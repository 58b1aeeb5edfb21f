//! `underpass cluster join-token`, and the agent of `underpass cluster add`.

use anyhow::{Context, Result, bail};
use time::OffsetDateTime;
use underpass_api::client::{ClientError, Match, Server};
use underpass_api::{
    AgentMade, AgentRequest, Client, JoinTokenMade, JoinTokenRequest, JoinTokenView, SERVER,
    ServerInfo, segment,
};
use underpass_core::{AgentRole, ClusterName};
use underpass_terminal::{hand_over, say, show};
use zeroize::Zeroizing;

use super::{manifest, print_table, timestamp};
use crate::args::{FirstAgent, JoinToken, NewJoinToken, Output};
use crate::paste;
use crate::secret_file::SecretFile;

/// The flags that lead an agent to the server, in words that a shell takes for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) url: String,
    pub(super) ca_pin: String,
}

/// The command of an agent whose server is not known, or not plain to a shell.
const UNKNOWN: &str = "`underpass-server ca-pin`, on the server's machine, prints the --ca-pin.";

pub(super) async fn run(client: &Client, command: JoinToken) -> Result<()> {
    match command {
        JoinToken::Create {
            cluster,
            join,
            output,
        } => {
            let place = Place::of(output)?;
            let made = make(client, &cluster, request(join, false)).await?;
            tell(client, &made, place).await?;
        }
        JoinToken::List { cluster } => {
            let tokens: Vec<JoinTokenView> = client.list(&path(&cluster)).await?;
            let rows = tokens.iter().map(row).collect::<Result<Vec<_>>>()?;
            let header = [
                "ID",
                "ROLE",
                "USES LEFT",
                "CREATED",
                "EXPIRES",
                "DESCRIPTION",
            ];
            print_table(&header, &rows);
        }
        JoinToken::Delete { cluster, id } => {
            let path = format!("{}/{}", path(&cluster), segment(&id));
            client.delete(&path, Match::Anything).await?;
            say!("Join token {id} of cluster {cluster} is deleted. Agents that have joined stay.");
        }
    }
    Ok(())
}

/// Makes the cluster where there is none, and the credential of an agent.
pub(super) async fn add(
    client: &Client,
    cluster: &ClusterName,
    agent: FirstAgent,
) -> Result<Added> {
    let place = Place::of(agent.output)?;
    let added = |secret| Added { secret, place };
    if agent.static_token {
        let wanted = AgentRequest {
            cluster: cluster.clone(),
            make_cluster: true,
        };
        let made = client.post("/v1/agents", &wanted).await?;
        return Ok(added(Secret::Static(made)));
    }
    let Some(image) = agent.manifest else {
        let made = make(client, cluster, request(agent.join, true)).await?;
        return Ok(added(Secret::Join(made)));
    };
    if agent.join.role != AgentRole::Cluster {
        bail!(
            "--manifest is for agents of the role cluster, which share a key in a Secret; leave out --role"
        );
    }
    // Before there is a token that nobody sees.
    let way = way(client.get(SERVER).await, client);
    let way = way.context("the server does not tell a URL and a CA pin that manifests can hold")?;
    let made = make(client, cluster, request(agent.join, true)).await?;
    let yaml = manifest::yaml(&made, &image, &way)?;
    Ok(added(Secret::Manifest(yaml)))
}

/// A credential that was made for an agent, and is to be shown.
pub(super) struct Added {
    secret: Secret,
    place: Place,
}

enum Secret {
    Join(JoinTokenMade),
    /// The text that holds it.
    Manifest(Zeroizing<String>),
    Static(AgentMade),
}

/// Where a secret goes.
enum Place {
    Stdout,
    File(SecretFile),
}

impl Place {
    fn of(output: Output) -> Result<Self> {
        match output.output {
            Some(path) => Ok(Self::File(SecretFile::prepare(&path)?)),
            None => Ok(Self::Stdout),
        }
    }

    /// The end of a sentence about the secret.
    fn told(&self) -> String {
        match self {
            Self::Stdout => "which is shown only now:".to_owned(),
            Self::File(file) => format!("which is in {} only.", file.path().display()),
        }
    }

    /// The name of the secret's file in the agent's command.
    fn file(&self) -> &str {
        match self {
            Self::Stdout => "FILE",
            Self::File(file) => file.path().to_str().and_then(paste::word).unwrap_or("FILE"),
        }
    }

    fn line(self, secret: &str) -> Result<()> {
        match self {
            Self::Stdout => show(secret),
            Self::File(file) => drop(file.write(&Zeroizing::new(format!("{secret}\n")))?),
        }
        Ok(())
    }

    fn text(self, text: &str) -> Result<()> {
        match self {
            Self::Stdout => hand_over(text),
            Self::File(file) => drop(file.write(text)?),
        }
        Ok(())
    }
}

impl Added {
    pub(super) async fn show(self, client: &Client) -> Result<()> {
        let Self { secret, place } = self;
        match secret {
            Secret::Join(made) => tell(client, &made, place).await?,
            Secret::Manifest(yaml) => {
                say!("Manifests of an agent, with a join token, {}", place.told());
                place.text(&yaml)?;
                say!("In the cluster, apply first what");
                say!("  underpass-agent rbac --key-secret {}", manifest::KEY);
                say!("prints, and then these.");
            }
            Secret::Static(made) => {
                let cluster = &made.agent.cluster;
                say!(
                    "A static token for an agent of cluster {cluster}, {}",
                    place.told()
                );
                let file = format!("--token-file {}", place.file());
                let is_kept = matches!(place, Place::File(_));
                place.line(&made.token)?;
                say_how(way(client.get(SERVER).await, client), &file, is_kept);
            }
        }
        Ok(())
    }
}

pub(super) fn path(cluster: &ClusterName) -> String {
    format!("/v1/clusters/{cluster}/join-tokens")
}

async fn make(
    client: &Client,
    cluster: &ClusterName,
    wanted: JoinTokenRequest,
) -> Result<JoinTokenMade, ClientError> {
    client.post(&path(cluster), &wanted).await
}

fn request(wanted: NewJoinToken, make_cluster: bool) -> JoinTokenRequest {
    JoinTokenRequest {
        role: wanted.role,
        uses: Some(wanted.uses),
        expires_in_seconds: Some(wanted.expires.as_secs()),
        make_cluster,
        description: wanted.description.unwrap_or_default(),
    }
}

async fn tell(client: &Client, made: &JoinTokenMade, place: Place) -> Result<()> {
    let JoinTokenView {
        cluster,
        uses,
        expires,
        ..
    } = &made.about;
    let agents = match uses {
        1 => "an agent".to_owned(),
        uses => format!("{uses} agents"),
    };
    let told = place.told();
    say!("A join token for {agents} of cluster {cluster}, until {expires}, {told}");
    let files = format!("--join-token-file {} --key-file agent.key", place.file());
    let is_kept = matches!(place, Place::File(_));
    place.line(&made.token)?;
    say_how(way(client.get(SERVER).await, client), &files, is_kept);
    Ok(())
}

/// How to start the agent.
fn say_how(way: Option<Way>, files: &str, is_kept: bool) {
    for line in how(way, files, is_kept) {
        say!("{line}");
    }
}

fn how(way: Option<Way>, files: &str, is_kept: bool) -> Vec<String> {
    let Some(Way { url, ca_pin }) = way else {
        let line = match is_kept {
            false => format!("Save it in a file for `underpass-agent {files}`; {UNKNOWN}"),
            true => format!("It is for `underpass-agent {files}`; {UNKNOWN}"),
        };
        return vec![line];
    };
    let first = match is_kept {
        false => "Save it in a file, and start the agent:",
        true => "Start the agent:",
    };
    vec![
        first.to_owned(),
        format!("  underpass-agent --server {url} --ca-pin {ca_pin} {files}"),
    ]
}

/// The token has been made, and is shown, if the server's answer is missing. People paste the way into a shell, which a hostile text
/// could command.
fn way(info: Result<ServerInfo, ClientError>, client: &Client) -> Option<Way> {
    let info = info.ok()?;
    let digits = info.ca_pin.strip_prefix("sha256:")?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    // The URL by which this program reaches the server works.
    let url = client.server().map_or(info.url, Server::url);
    let url = paste::url(&url)?.to_owned();
    let ca_pin = info.ca_pin;
    Some(Way { url, ca_pin })
}

fn row(token: &JoinTokenView) -> Result<Vec<String>> {
    let expires = match token.expires {
        expires if expires <= OffsetDateTime::now_utc() => "expired".to_owned(),
        expires => timestamp(expires)?,
    };
    Ok(vec![
        token.id.clone(),
        token.role.to_string(),
        format!("{} of {}", token.uses_left, token.uses),
        timestamp(token.created)?,
        expires,
        token.description.clone(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_can_be_copied() {
        let client = Client::at_socket("/nowhere");
        let files = "--join-token-file FILE --key-file agent.key";
        let early = way(Err(ClientError::NoServer("/nowhere".into())), &client);
        let told = how(early, files, false).join("\n");
        assert!(told.contains("underpass-server ca-pin"), "{told}");
        let pin = "sha256:ab";
        let info = ServerInfo {
            url: "https://u.example.org:8443".to_owned(),
            ca_pem: String::new(),
            ca_pin: pin.to_owned(),
            cluster_domain: None,
            tls_cluster_domain: None,
            version: String::new(),
        };
        let wanted = format!("--server https://u.example.org:8443 --ca-pin {pin} {files}");
        let told = how(way(Ok(info.clone()), &client), files, false).join("\n");
        assert!(told.contains(&wanted), "{told}");
        for (url, ca_pin) in [
            ("https://u", "sha256:ab\nAll done. Run: evil"),
            ("https://u", "sha256:ab; evil #"),
            ("https://u;evil", pin),
            ("https://u/$(evil)", pin),
        ] {
            let info = ServerInfo {
                url: url.to_owned(),
                ca_pin: ca_pin.to_owned(),
                ..info.clone()
            };
            assert_eq!(way(Ok(info), &client), None, "rule 23");
        }
    }
}
