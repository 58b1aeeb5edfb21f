//! The cluster that the agent serves.

mod kubeconfig;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::client::AuthError;
use kube::{Client, Config};
use underpass_core::{AgentRole, BoxError};
use underpass_upstream::{ApiServer, ApiServerOptions, ConfigSource};

use crate::cli::Cli;

/// The first wait after an API server that does not answer. Doubled by each further one.
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// The longest.
const CHECK_AGAIN_MAX: Duration = Duration::from_secs(60);

/// The API server, from the kubeconfig or from the pod's own credentials. It is not asked, and no credential plugin is run: an agent
/// whose API server is away, or whose plugin fails, connects all the same, so that users hear what is wrong, and requests find it as
/// soon as it is back.
pub(crate) async fn api_server(cli: &Cli) -> Result<ApiServer> {
    let options = ApiServerOptions {
        policy: cli.impersonation(),
        ..ApiServerOptions::default()
    };
    let source = Source::of(cli);
    Ok(ApiServer::from_source(Arc::new(source), options).await?)
}

/// The same for an agent that may do without: one on a node that runs in no pod and has no kubeconfig serves other targets alone.
pub(crate) async fn api_server_of(cli: &Cli) -> Result<Option<ApiServer>> {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if cli.key.role() == AgentRole::Node && cli.kubeconfig.is_none() && !in_pod {
        return Ok(None);
    }
    api_server(cli).await.map(Some)
}

/// The same in the place of one that serves: there has to be a credential.
pub(crate) async fn next_api_server_of(cli: &Cli) -> Result<Option<ApiServer>> {
    let next = api_server_of(cli).await?;
    if let Some(next) = &next {
        next.try_credential().await?;
    }
    Ok(next)
}

/// kube's client. Its making runs a credential plugin, and waits for it. kube's errors repeat what the plugin has printed, which may
/// be a token; here they do not.
pub(crate) async fn client(config: Config) -> Result<Client, kube::Error> {
    let making = tokio::task::spawn_blocking(move || Client::try_from(config));
    let made = making.await;
    made.unwrap_or_else(|error| Err(kube::Error::Service(error.into())))
        .map_err(|error| match error {
            kube::Error::Auth(
                AuthError::ExecPluginFailed
                | AuthError::AuthExecStart(_)
                | AuthError::AuthExecRun { .. }
                | AuthError::AuthExecParse(_)
                | AuthError::MalformedTokenExpirationDate(_),
            ) => {
                let why = "the exec plugin gave no token; run it by hand to see why";
                kube::Error::Auth(AuthError::AuthExec(why.to_owned()))
            }
            other => other,
        })
}

/// The way to the API server, as it is now.
pub(crate) async fn config(cli: &Cli) -> Result<Config> {
    config_of(cli.kubeconfig.clone(), cli.context.clone()).await
}

/// The same, by a kubeconfig and a context of it.
pub(crate) async fn config_of(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<Config> {
    let source = Source {
        kubeconfig,
        context,
    };
    let loading = tokio::task::spawn_blocking(move || source.load());
    let loaded = loading.await.context("the kubeconfig was not read")?;
    loaded.map_err(anyhow::Error::from_boxed)
}

/// Logs what is wrong with the API server until it answers.
pub(crate) async fn report(api_server: &ApiServer) {
    let mut wait = CHECK_AGAIN;
    loop {
        match api_server.check().await {
            Ok(version) => return tracing::info!(%version, "the API server answers"),
            Err(error) => tracing::warn!(
                "the API server does not answer: {} (asking again in {wait:?})",
                underpass_tunnel::chain(&error)
            ),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(CHECK_AGAIN_MAX);
    }
}

/// The command line's choice, which is read again when its files change.
#[derive(Debug)]
struct Source {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

impl ConfigSource for Source {
    fn load(&self) -> Result<Config, BoxError> {
        let Some(path) = &self.kubeconfig else {
            let config = Config::incluster();
            return Ok(
                config.context("not running in a pod with a ServiceAccount: give --kubeconfig")?
            );
        };
        Ok(kubeconfig::load(path, self.context.clone())?)
    }

    fn files(&self) -> Vec<PathBuf> {
        let Some(path) = &self.kubeconfig else {
            return Vec::new();
        };
        // One that cannot be read names nothing, and says so where it is loaded.
        let read = kubeconfig::read(path).unwrap_or_default();
        let clusters = read.clusters.into_iter().filter_map(|named| named.cluster);
        let authorities = clusters.filter_map(|cluster| cluster.certificate_authority);
        let authorities = authorities.map(PathBuf::from);
        std::iter::once(path.clone()).chain(authorities).collect()
    }
}

impl Source {
    fn of(cli: &Cli) -> Self {
        Self {
            kubeconfig: cli.kubeconfig.clone(),
            context: cli.context.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn cli(kubeconfig: &Path) -> Cli {
        let pin = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        let usual = [
            "underpass-agent",
            "--server",
            "https://a",
            "--token-file",
            "t",
            "--ca-pin",
            pin,
            "--kubeconfig",
        ];
        let kubeconfig = kubeconfig.to_str().unwrap();
        Cli::try_parse_from(usual.into_iter().chain([kubeconfig])).unwrap()
    }

    fn write(path: &Path, server: &str) {
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority: ca}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        std::fs::write(path, kubeconfig).unwrap();
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        std::fs::write(path.with_file_name("ca"), ca.cert.pem()).unwrap();
    }

    #[tokio::test]
    async fn a_silent_api_server_does_not_delay_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        write(&path, &format!("https://{}", silent.local_addr().unwrap()));
        let cli = cli(&path);
        let api_server = tokio::select! {
            made = api_server(&cli) => made.unwrap(),
            _ = silent.accept() => panic!("it waits for the API server"),
        };
        // It is asked behind the agent's back.
        tokio::select! {
            () = report(&api_server) => panic!("nobody has answered"),
            asked = silent.accept() => drop(asked.unwrap()),
        }
    }

    #[tokio::test]
    async fn an_api_server_that_comes_late_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Config::new(url.parse().unwrap());
        let options = ApiServerOptions {
            insecure: true,
            ..ApiServerOptions::default()
        };
        let api_server = ApiServer::new(config, options).await.unwrap();
        let answering = async {
            drop(listener.accept().await.unwrap());
            let mut tcp = listener.accept().await.unwrap().0;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{\"gitVersion\":\"v1\"}";
            tcp.write_all(answer.as_bytes()).await.unwrap();
            tcp
        };
        let both = async { tokio::join!(report(&api_server), answering) };
        let reported = tokio::time::timeout(Duration::from_secs(30), both).await;
        reported.expect("it has answered");
    }

    #[test]
    fn the_files_of_a_kubeconfig_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let source = Source {
            kubeconfig: Some(path.clone()),
            context: None,
        };
        assert_eq!(source.files(), std::slice::from_ref(&path));
        write(&path, "https://a");
        assert_eq!(source.files(), [path, dir.path().join("ca")]);
    }

    /// A kubeconfig is like that while something writes it.
    #[tokio::test]
    async fn rule_11_an_agent_that_starts_on_half_a_kubeconfig_shows_nothing_of_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        write(&path, "https://a");
        let whole = std::fs::read_to_string(&path).unwrap();
        let secret = "hunter2-and-more";
        let mut wrong = 0;
        for user in ["{token: \"SECRET\"}", "\n    token: 'SECRET'", "[SECRET]"] {
            let users = format!("users:\n- name: u\n  user: {user}\n");
            let text = whole.clone() + &users.replace("SECRET", secret);
            let start = text.find(secret).unwrap();
            for end in start..text.len() {
                std::fs::write(&path, &text[..end]).unwrap();
                let Err(error) = api_server(&cli(&path)).await else {
                    continue;
                };
                wrong += 1;
                let told = format!("{error:#}\n{error:?}\n{error:#?}");
                assert!(!told.contains("hunter"), "{told}");
                assert!(told.contains("line "), "{told}");
            }
        }
        assert!(wrong > 3 * secret.len(), "{wrong}");
    }
}
