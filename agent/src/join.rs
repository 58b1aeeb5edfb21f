//! Joining: the agent registers the key that it has made itself, with a join token, and needs the token no more.
//!
//! It joins when it has just made its key, and when the server says that it does not know the key. The way to the server is the
//! tunnel's: the same servers, CA, pin and proxy.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use rand::RngExt;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use underpass_api::client::{ClientError, Credential, Server};
use underpass_api::{
    Client, JOIN, JOIN_TOKEN_PREFIX, JoinAnswer, JoinRefusal, JoinRequest, Problem,
};
use underpass_core::files::Stamps;
use underpass_core::{AgentRole, ClusterName, Labels};
use underpass_tunnel::{AgentKey, Backoff, JoinProof, chain, tls};
use zeroize::Zeroizing;

use crate::cli::Cli;
use crate::connection::{Files, proxy};
use crate::files::read;
use crate::key::{self, KeyOptions};
use crate::limits;

/// The variable with the join token itself. It is none of the command line's: every user of the machine sees that.
const VARIABLE: &str = "UNDERPASS_JOIN_TOKEN";

/// The join token of this agent.
pub(crate) enum Joining {
    /// In a file, which is read for each attempt.
    File(PathBuf),
    /// From the environment.
    Given(Zeroizing<String>),
    /// None: the pod's ServiceAccount's token stands for it, in a file that the kubelet renews.
    Account(PathBuf, ClusterName),
}

/// Why the agent has not joined.
#[derive(Debug, Error)]
pub(crate) enum NotJoined {
    #[error("cannot join: {0:#}")]
    Files(anyhow::Error),
    #[error("the server refuses the join: {0}")]
    Refused(JoinRefusal, #[source] Problem),
    #[error("cannot join at {server}")]
    Server {
        server: String,
        #[source]
        error: ClientError,
    },
}

impl Joining {
    /// The join token that the command line or the environment names; `None` where there is none.
    pub(crate) fn of(cli: &Cli) -> Result<Option<Self>> {
        let given = std::env::var(VARIABLE).unwrap_or_default();
        Self::choose(&cli.key, Zeroizing::new(given))
    }

    fn choose(key: &KeyOptions, given: Zeroizing<String>) -> Result<Option<Self>> {
        let given = (!given.is_empty()).then_some(given);
        if let (Some(path), Some(cluster)) = (&key.join_service_account_token, &key.cluster) {
            if given.is_some() {
                bail!("give --join-service-account-token or {VARIABLE}, not both");
            }
            return Ok(Some(Self::Account(path.clone(), cluster.clone())));
        }
        match (&key.join_token_file, given) {
            (Some(_), Some(_)) => {
                bail!("there are two join tokens: give --join-token-file or {VARIABLE}, not both")
            }
            (Some(path), None) => Ok(Some(Self::File(path.clone()))),
            // An agent with a static token has no use for one.
            (None, given) => Ok(given.filter(|_| key.is_own()).map(Self::Given)),
        }
    }

    /// Joins, however long that takes.
    ///
    /// # Cancel safety
    /// The key may be registered nevertheless. The next join with the same token finds that out, at no use of it.
    pub(crate) async fn join(&self, cli: &Cli) {
        let mut backoff = Backoff::new(limits::JOIN_AGAIN, limits::JOIN_AGAIN_MOST);
        loop {
            let stamps = self.stamps();
            let attempted = self.attempt(cli).await;
            count(&attempted);
            let error = match attempted {
                Ok(joined) => return self.keep(cli, &joined).await,
                Err(NotJoined::Refused(JoinRefusal::KeyKnown, _)) => {
                    return tracing::info!("the agent's key is registered already");
                }
                Err(error) => error,
            };
            if let NotJoined::Refused(refusal, _) = &error {
                let advice = advice(*refusal);
                let pause = limits::JOIN_REFUSED;
                let when = match self {
                    Self::File(_) | Self::Account(..) => ", or when the token's file changes",
                    Self::Given(_) => "",
                };
                tracing::error!(
                    "{}; {advice} (trying again in {pause:.0?}{when})",
                    chain(&error)
                );
                self.changed(&stamps, pause).await;
                backoff.reset();
                continue;
            }
            // The wait that the server asks for is the same one for many agents, which must not come back together.
            let pause = error.retry_after() + backoff.failed(rand::random());
            tracing::warn!("{} (trying again in {pause:.1?})", chain(&error));
            self.changed(&stamps, pause).await;
        }
    }

    /// Keeps the role, and the node, beside the key: the next start knows them.
    async fn keep(&self, cli: &Cli, joined: &JoinAnswer) {
        tell(joined, cli.key.role());
        let node = match (self, joined.role) {
            // The cluster has said which, to the server alone.
            (Self::Account(..), _) | (_, AgentRole::Cluster) => None,
            (Self::File(_) | Self::Given(_), AgentRole::Node) => cli.key.node(),
        };
        if let Err(error) = key::joined(cli, joined.role, node).await {
            tracing::warn!(
                "the role is not kept beside the key, so give --role {} at the next start: {error:#}",
                joined.role
            );
        }
    }

    /// Joins after a moment, which is another one for each agent.
    ///
    /// # Cancel safety
    /// As [`join`](Self::join).
    pub(crate) async fn join_again(&self, cli: &Cli) {
        let spread = rand::rng().random_range(0.0..1.0);
        sleep(limits::JOIN_SPREAD.mul_f64(spread)).await;
        self.join(cli).await;
    }

    /// The servers are asked in turn until one answers.
    async fn attempt(&self, cli: &Cli) -> Result<JoinAnswer, NotJoined> {
        let asking = self.ready(cli).map_err(NotJoined::Files)?;
        let mut last = None;
        for server in &asking.servers {
            let url = server.url();
            let joining = Client::at(server.clone());
            match joining.post(&asking.path, &asking.request).await {
                Ok(joined) => return Ok(joined),
                Err(error) => {
                    match refused(&error) {
                        // Another server may have an agent of the cluster's, and this one may in a moment.
                        None | Some((JoinRefusal::CannotReview, _)) => {}
                        Some((refusal, problem)) => {
                            return Err(NotJoined::Refused(refusal, problem));
                        }
                    }
                    last = Some(NotJoined::Server { server: url, error });
                }
            }
        }
        let none = || NotJoined::Files(anyhow::anyhow!("no --server is named"));
        Err(last.unwrap_or_else(none))
    }

    /// Reads the files. They are small, and on a disk of the agent's own.
    fn ready(&self, cli: &Cli) -> Result<Asking> {
        let files = Files::read(cli)?;
        let (key, token) = (files.key(cli)?, self.token()?);
        let proxy = proxy(cli, &files)?;
        let trust = files.trust(cli)?;
        let credential = Credential::Bearer(token.clone());
        let server = |server: &underpass_tunnel::ServerAddress| {
            let (url, tls) = (format!("https://{server}"), tls::client(&trust)?);
            Ok(Server::with_tls(&url, tls, proxy.as_ref(), &credential)?)
        };
        Ok(Asking {
            servers: cli.servers.iter().map(server).collect::<Result<_>>()?,
            path: match self {
                Self::Account(_, cluster) => format!("{JOIN}?cluster={cluster}"),
                Self::File(_) | Self::Given(_) => JOIN.to_owned(),
            },
            request: JoinRequest {
                // Of a pod the cluster says it.
                node: match self {
                    Self::Account(..) => None,
                    Self::File(_) | Self::Given(_) => cli.key.node(),
                },
                labels: cli.key.labels()?,
                ..request(&key, &token, cli.key.role)
            },
        })
    }

    fn token(&self) -> Result<Zeroizing<String>> {
        let (text, place) = match self {
            Self::File(path) => (
                read(path, limits::JOIN_TOKEN_FILE_BYTES)?,
                path.display().to_string(),
            ),
            Self::Given(token) => (token.clone(), VARIABLE.to_owned()),
            Self::Account(path, _) => {
                let text = read(path, limits::ACCOUNT_TOKEN_FILE_BYTES)?;
                let token = Zeroizing::new(text.trim().to_owned());
                if token.split('.').count() != 3 {
                    bail!("{} holds no ServiceAccount's token", path.display());
                }
                return Ok(token);
            }
        };
        let token = Zeroizing::new(text.trim().to_owned());
        if !token.starts_with(JOIN_TOKEN_PREFIX) {
            bail!(
                "{place} holds no join token, which starts with {JOIN_TOKEN_PREFIX} (a token that starts with upa_ is for \
                 --token-file)"
            );
        }
        Ok(token)
    }

    fn stamps(&self) -> Stamps {
        match self {
            Self::File(path) | Self::Account(path, _) => Stamps::of(vec![path.clone()]),
            Self::Given(_) => Stamps::default(),
        }
    }

    /// Waits for so long, or until the token's file has changed.
    async fn changed(&self, stamps: &Stamps, at_most: Duration) {
        let end = Instant::now() + at_most;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            sleep(left.min(limits::JOIN_TOKEN_FILE_AGE)).await;
            if stamps.have_changed().await {
                return tracing::info!("the join token's file has changed: joining again");
            }
        }
    }
}

/// All that is sent, and where.
struct Asking {
    servers: Vec<Server>,
    path: String,
    request: JoinRequest,
}

fn request(key: &AgentKey, token: &str, role: Option<AgentRole>) -> JoinRequest {
    JoinRequest {
        public_key: key.public_key().to_string(),
        proof: JoinProof::new(key, token).to_string(),
        cluster: None,
        role,
        node: None,
        labels: Labels::default(),
    }
}

/// The server's refusal, where it has refused.
fn refused(error: &ClientError) -> Option<(JoinRefusal, Problem)> {
    let problem = error.problem()?;
    Some((problem.reason?, problem.clone()))
}

impl NotJoined {
    /// The server's wish, where it has one.
    fn retry_after(&self) -> Duration {
        let seconds = match self {
            Self::Server { error, .. } => error.problem().and_then(|p| p.retry_after_seconds),
            _ => None,
        };
        let wait = Duration::from_secs(seconds.unwrap_or_default());
        wait.min(limits::JOIN_REFUSED)
    }
}

fn count(attempted: &Result<JoinAnswer, NotJoined>) {
    let outcome = match attempted {
        Ok(_) | Err(NotJoined::Refused(JoinRefusal::KeyKnown, _)) => "joined",
        Err(NotJoined::Refused(..)) => "refused",
        Err(_) => "failed",
    };
    metrics::counter!("underpass_agent_join_attempts_total", "outcome" => outcome).increment(1);
}

fn tell(joined: &JoinAnswer, role: AgentRole) {
    tracing::info!(
        cluster = %joined.cluster, role = %joined.role, agent = joined.agent,
        "joined: the server knows the agent's key, and the join token is needed no more"
    );
    if joined.role != role {
        tracing::info!("the agent is in the role {} from now on", joined.role);
    }
}

/// Advice for a refusal.
fn advice(refusal: JoinRefusal) -> &'static str {
    match refusal {
        JoinRefusal::UnknownToken | JoinRefusal::Expired | JoinRefusal::UsedUp => {
            "make another one, with `underpass cluster join-token create CLUSTER`, and put it in the place of this one"
        }
        JoinRefusal::OtherRole => {
            "leave out --role, or make a join token of this role: `underpass cluster join-token create CLUSTER --role ROLE`"
        }
        JoinRefusal::WrongAudience => {
            "give the projected token the server's URL as its audience, as `underpass cluster join-account add` prints it"
        }
        JoinRefusal::AccountNotNamed => {
            "let the account's pods join: `underpass cluster join-account add CLUSTER NAMESPACE/ACCOUNT --role ROLE`"
        }
        JoinRefusal::NoPod => "use a token that the kubelet projects into the pod",
        JoinRefusal::NoNodeName => {
            "join with a join token: the cluster is too old to say on which node a pod runs"
        }
        JoinRefusal::PodHasKey => {
            "keep the key on a volume of the pod's, delete the pod, or revoke the agent with the other key"
        }
        JoinRefusal::KeyReplaced => {
            "give --key-file another file, or delete this one, and a new key is made at the next start; if no other process of this \
             agent has rotated the key, revoke the agent: a thief has"
        }
        JoinRefusal::NodeTaken => {
            "revoke the agent that the node had, with `underpass agent revoke ID`, or give this one another --node-name"
        }
        JoinRefusal::KeyOfAnotherCluster => {
            "give --key-file another file, or delete this one, and a new key is made at the next start"
        }
        _ => "see whether agent and server are of versions that know each other",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;
    use underpass_tunnel::PublicKey;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyOptions,
    }

    fn options(flags: &[&str]) -> KeyOptions {
        let line = [&["x"][..], flags].concat();
        Line::try_parse_from(line).unwrap().key
    }

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn a_join_token_is_in_a_file_or_in_the_environment() {
        let with_file = options(&["--key-file", "k", "--join-token-file", "t"]);
        let chosen = Joining::choose(&with_file, secret("")).unwrap();
        assert!(matches!(chosen, Some(Joining::File(path)) if path == Path::new("t")));
        assert!(Joining::choose(&with_file, secret("upj_x")).is_err());
        let without = options(&["--key-file", "k"]);
        let chosen = Joining::choose(&without, secret("upj_x")).unwrap();
        assert!(matches!(chosen, Some(Joining::Given(_))));
        assert!(Joining::choose(&without, secret("")).unwrap().is_none());
        let fixed = options(&["--token-file", "t"]);
        assert!(Joining::choose(&fixed, secret("upj_x")).unwrap().is_none());
        let alone = ["x", "--token-file", "t", "--join-token-file", "j"];
        Line::try_parse_from(alone).unwrap_err();
    }

    #[test]
    fn a_pod_joins_by_its_own_token_and_no_other() {
        let flags = [
            "--key-file",
            "k",
            "--join-service-account-token",
            "t",
            "--cluster",
            "edge",
        ];
        let chosen = Joining::choose(&options(&flags), secret("")).unwrap();
        assert!(matches!(chosen, Some(Joining::Account(path, cluster))
            if path == Path::new("t") && cluster.as_str() == "edge"));
        assert!(Joining::choose(&options(&flags), secret("upj_x")).is_err());
        for bad in [&flags[..4], &["--key-file", "k", "--cluster", "edge"]] {
            Line::try_parse_from([&["x"][..], bad].concat()).unwrap_err();
        }
        let both = [&flags[..], &["--join-token-file", "j"]].concat();
        Line::try_parse_from([&["x"][..], &both].concat()).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let edge = ClusterName::new("edge").unwrap();
        let joining = Joining::Account(path.clone(), edge);
        fs::write(&path, "upj_secret").unwrap();
        let error = format!("{:#}", joining.token().unwrap_err());
        assert!(error.contains("no ServiceAccount's token") && !error.contains("secret"));
        fs::write(&path, "e30.e30.x\n").unwrap();
        assert_eq!(**joining.token().unwrap(), *"e30.e30.x");
    }

    #[test]
    fn a_file_with_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join.token");
        let joining = Joining::File(path.clone());
        let error = joining.token().unwrap_err();
        assert!(format!("{error:#}").contains("join.token"), "{error:#}");
        for other in ["upa_secret", "upt_secret", ""] {
            fs::write(&path, other).unwrap();
            let error = format!("{:#}", joining.token().unwrap_err());
            assert!(error.contains("--token-file"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        fs::write(&path, "upj_secret\n").unwrap();
        assert_eq!(**joining.token().unwrap(), *"upj_secret");
    }

    #[test]
    fn an_agent_proves_the_key_that_it_registers() {
        let key = AgentKey::from_seed([7; 32]).unwrap();
        let request = request(&key, "upj_x", Some(AgentRole::Node));
        let public: PublicKey = request.public_key.parse().unwrap();
        let proof: JoinProof = request.proof.parse().unwrap();
        assert_eq!(public, key.public_key());
        assert!(proof.is_by(&public, "upj_x"));
        let sent = serde_json::to_string(&request).unwrap();
        assert!(!sent.contains("upj_") && !sent.contains(&key.to_secret_text()[4..]));
    }

    #[test]
    fn a_refusal_is_told_from_a_server_that_is_busy() {
        let problem = |reason: Option<JoinRefusal>, seconds| {
            let mut problem = Problem::new(http::StatusCode::GONE, "no");
            problem.reason = reason;
            problem.retry_after_seconds = seconds;
            ClientError::Problem(problem)
        };
        for refusal in JoinRefusal::ALL {
            let found = refused(&problem(Some(refusal), None)).unwrap();
            assert_eq!(found.0, refusal);
            assert!(!advice(refusal).is_empty());
        }
        let busy = problem(None, Some(7));
        assert!(refused(&busy).is_none());
        let waits = |error| {
            let server = String::new();
            NotJoined::Server { server, error }.retry_after()
        };
        assert_eq!(waits(busy), Duration::from_secs(7));
        // A hostile server does not keep the agent for ever.
        assert_eq!(waits(problem(None, Some(u64::MAX))), limits::JOIN_REFUSED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_looked_at_again_when_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join.token");
        fs::write(&path, "upj_first").unwrap();
        let joining = Joining::File(path.clone());
        let stamps = joining.stamps();
        let begin = Instant::now();
        joining.changed(&stamps, limits::JOIN_REFUSED).await;
        assert!(begin.elapsed() >= limits::JOIN_REFUSED);
        fs::write(&path, "upj_second").unwrap();
        let begin = Instant::now();
        joining.changed(&stamps, limits::JOIN_REFUSED).await;
        assert!(begin.elapsed() <= 2 * limits::JOIN_TOKEN_FILE_AGE);
    }
}
