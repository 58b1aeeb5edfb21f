//! The server that a command asks.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use clap::ArgMatches;
use clap::parser::ValueSource;
use http::Uri;
use underpass_api::Client;
use underpass_api::client::{Credential, Server};
use underpass_core::{BoxError, files, limits};
use underpass_forward::Credentials;
use underpass_https::{Roots, https_url};
use underpass_session::{SessionConfig, Transports};
use zeroize::Zeroizing;

use crate::args::Which;
use crate::logins::{Saved, fresh};
use crate::paste;
use crate::proxy;
use crate::roots::roots;

/// The socket of a server that was started in this folder without flags.
const SOCKET: &str = "underpass-data/api.sock";

/// Both ways to name a server, for errors.
const WAYS: &str = "name one with --api URL, after `underpass login --api URL`, or on the server's machine with \
                    --socket PATH, which is api.sock in the server's data directory";

/// The socket in this folder is of no use without a word of the user.
const ANOTHERS: &str =
    "underpass-data/api.sock is another user's; if you trust that server, name it with --socket";

impl Which {
    /// A flag beats the other way's variable of the environment.
    pub(crate) fn prefer_flags(&mut self, matches: &ArgMatches) {
        let is_flag = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        match (is_flag("api"), is_flag("socket")) {
            (true, false) => self.socket = None,
            (false, true) => self.api = None,
            _ => {}
        }
        if is_flag("api") {
            // The environment's token and CA are for the environment's server, and not for this one.
            let is_set = |name| matches.value_source(name) == Some(ValueSource::EnvVariable);
            self.api_token_file.take_if(|_| is_set("api_token_file"));
            self.api_ca_file.take_if(|_| is_set("api_ca_file"));
        }
    }

    /// A client of the server.
    pub(crate) async fn client(&self) -> Result<Client> {
        match (&self.api, &self.socket) {
            (Some(_), Some(_)) => {
                bail!("--api and --socket name two servers; give one of them")
            }
            (Some(url), None) => Ok(Client::at(self.server(url).await?)),
            (None, Some(path)) => Ok(Client::at_socket(path)),
            (None, None) if is_our_socket(Path::new(SOCKET)) => {
                Ok(Client::at_socket_of(SOCKET, user()))
            }
            (None, None) => {
                let login = self.only_login();
                let login = if is_socket(Path::new(SOCKET)) {
                    login.context(ANOTHERS)?
                } else {
                    login?
                };
                Ok(Client::at(fresh(login).await?.server()?))
            }
        }
    }

    /// The server at --api, without a credential, or with that of --api-token-file.
    pub(crate) fn server_to_log_in(&self) -> Result<(Server, Option<String>)> {
        let url = self.api.as_deref();
        let url = url.context("name the server: --api URL, or UNDERPASS_API")?;
        self.named(url)
    }

    /// The server for connections to services, with the credential that it gets for each of them.
    pub(crate) async fn server_to_forward(&self) -> Result<underpass_forward::Server> {
        let (url, roots, credentials) = self.server_for_streams().await?;
        let proxy = underpass_https::Proxy::from_env();
        Ok(underpass_forward::Server::new(
            &url,
            &roots,
            proxy.as_ref(),
            credentials,
        )?)
    }

    /// A session with the server, with the credential of each request.
    pub(crate) async fn session(&self, transports: Transports) -> Result<SessionConfig> {
        let (url, roots, credentials) = self.server_for_streams().await?;
        let mut config = SessionConfig::new(url, roots, credentials);
        config.proxy = underpass_https::Proxy::from_env();
        config.transports = transports;
        config.software = concat!("underpass/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(config)
    }

    /// The same server, for a request of its own.
    pub(crate) async fn server_of(&self, config: &SessionConfig) -> Result<Server> {
        let bearer = config.credentials.bearer().await;
        let bearer = bearer.map_err(|error| anyhow::anyhow!(error))?;
        proxy::server(&config.url, &config.roots, &Credential::Bearer(bearer))
    }

    /// The server's URL, its CAs, and the credential, which is asked for each time.
    async fn server_for_streams(&self) -> Result<(String, Roots, Arc<dyn Credentials>)> {
        let credentials: Arc<dyn Credentials> = match (&self.api, &self.api_token_file) {
            (Some(_), Some(path)) => Arc::new(TokenFile(path.clone())),
            _ if self.api.is_none() && self.socket.is_some() => {
                bail!(
                    "the server's socket leads to no cluster: log in at the server, and name it with --api URL"
                )
            }
            _ => {
                // A login that has ended is known before anything listens.
                fresh(self.login()?).await?;
                Arc::new(OwnLogin(self.clone()))
            }
        };
        let url = match (&self.api, &self.api_token_file) {
            (Some(url), Some(_)) => url.clone(),
            _ => self.login()?.url,
        };
        let roots = roots(self.ca_pem()?.as_deref())?;
        Ok((url, roots, credentials))
    }

    /// The CA of the server that [`Which::client`] reaches over HTTPS, as PEM; `None` where the system trusts it.
    pub(crate) fn ca_pem(&self) -> Result<Option<String>> {
        match (&self.api, &self.api_token_file) {
            (Some(url), Some(_)) => Ok(self.named(url)?.1),
            _ => Ok(self.login()?.ca_pem),
        }
    }

    /// The login at --api, or the only one.
    pub(crate) fn login(&self) -> Result<Saved> {
        let Some(url) = &self.api else {
            return self.only_login();
        };
        let saved = Saved::find(&parsed(url)?)?;
        self.trusting(saved.with_context(|| no_login(url))?)
    }

    /// The login's server, with the CA of the command line where that names one.
    fn trusting(&self, saved: Saved) -> Result<Saved> {
        Ok(match self.given_ca()? {
            None => saved,
            given => Saved {
                ca_pem: given,
                ..saved
            },
        })
    }

    fn given_ca(&self) -> Result<Option<String>> {
        let Some(path) = &self.api_ca_file else {
            return Ok(None);
        };
        let pem = files::read_text_once(path, limits::PEM_FILE_BYTES);
        let mut pem = pem.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(std::mem::take(&mut *pem)))
    }

    fn only_login(&self) -> Result<Saved> {
        if self.api_token_file.is_some() {
            bail!("--api-token-file needs the server's URL: --api URL");
        }
        let mut logins = Saved::all()?;
        match (logins.pop(), logins.is_empty()) {
            (Some(login), true) => Ok(login),
            (None, _) => bail!("there is no server to ask: {WAYS}"),
            (Some(last), false) => {
                logins.push(last);
                let urls: Vec<_> = logins.iter().map(Saved::shown_url).collect();
                bail!("there are logins at {}: {WAYS}", urls.join(" and "))
            }
        }
    }

    /// The server at `url`, with the token of the command line or of a login.
    async fn server(&self, url: &str) -> Result<Server> {
        if self.api_token_file.is_some() {
            return Ok(self.named(url)?.0);
        }
        match Saved::find(&parsed(url)?)? {
            Some(saved) => fresh(self.trusting(saved)?).await?.server(),
            None => bail!("{}, or give --api-token-file", no_login(url)),
        }
    }

    fn named(&self, url: &str) -> Result<(Server, Option<String>)> {
        let credential = match &self.api_token_file {
            None => Credential::None,
            Some(path) => Credential::Bearer(token(path, files::read_text_once)?),
        };
        let ca_pem = self.given_ca()?;
        let server = proxy::server(url, &roots(ca_pem.as_deref())?, &credential)?;
        Ok((server, ca_pem))
    }
}

/// The token of --api-token-file, which may be replaced while it is used.
struct TokenFile(PathBuf);

#[async_trait]
impl Credentials for TokenFile {
    async fn bearer(&self) -> Result<Zeroizing<String>, BoxError> {
        let path = self.0.clone();
        // Off the runtime: a file system may hang.
        let reading = tokio::task::spawn_blocking(move || token(&path, files::read_text));
        let read = tokio::time::timeout(limits::FILE_TIME, reading).await;
        Ok(read.context("reading the token takes too long")???)
    }
}

/// The token of the saved login, which is renewed by use.
struct OwnLogin(Which);

#[async_trait]
impl Credentials for OwnLogin {
    async fn bearer(&self) -> Result<Zeroizing<String>, BoxError> {
        Ok(fresh(self.0.login()?).await?.token)
    }
}

fn token(
    path: &Path,
    read: fn(&Path, u64) -> io::Result<Zeroizing<String>>,
) -> Result<Zeroizing<String>> {
    let text = read(path, limits::TOKEN_FILE_BYTES);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

pub(crate) fn parsed(url: &str) -> Result<Uri> {
    let parsed = https_url(url).filter(|parsed| parsed.path() == "/");
    parsed.with_context(|| format!("{url:?} is not https://HOST[:PORT]"))
}

fn no_login(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let pasted = paste::url_or_placeholder(url);
    format!("nobody has logged in at {url}: run `underpass login --api {pasted}`")
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Is this the socket of a server of this user's? In a folder that others can write, they could put a socket of theirs, or a link
/// to one, and would be sent passwords. So neither the socket nor its folder is a link; the server's own user is asked for at
/// each connection ([`Client::at_socket_of`]).
fn is_our_socket(path: &Path) -> bool {
    let folder = path.parent();
    is_socket(path) && is_of(path, user()) && folder.is_some_and(|folder| is_of(folder, user()))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn is_of(path: &Path, user: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.uid() == user && !found.is_symlink())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn rule_9_a_socket_of_another_user_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        assert!(!is_our_socket(&path));
        fs::write(&path, "").unwrap();
        assert!(!is_our_socket(&path), "a file");
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(is_our_socket(&path));
        assert!(!is_of(&path, user() + 1));
        // A link is whose folder it is in, and leads where that one likes.
        let link = folder.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(!is_our_socket(&link));
        let linked = folder.path().join("data");
        std::os::unix::fs::symlink(folder.path(), &linked).unwrap();
        assert!(!is_our_socket(&linked.join("api.sock")));
    }

    #[test]
    fn rule_6_the_environments_token_goes_to_the_environments_server() {
        use clap::{CommandFactory, FromArgMatches};

        use crate::args::Cli;

        let which = |line: &[&str]| {
            // As the environment would have it.
            let command = Cli::command().mut_arg("api_token_file", |arg| {
                arg.env("PATH")
                    .value_parser(clap::value_parser!(std::path::PathBuf))
            });
            let matches = command.get_matches_from(line);
            let mut cli = Cli::from_arg_matches(&matches).unwrap();
            cli.which.prefer_flags(&matches);
            cli.which
        };
        let there = which(&["underpass", "whoami", "--api", "https://other"]);
        assert_eq!(there.api_token_file, None);
        let line = [
            "underpass",
            "whoami",
            "--api",
            "https://u",
            "--api-token-file",
            "t",
        ];
        assert_eq!(which(&line).api_token_file, Some("t".into()));
        assert!(which(&["underpass", "whoami"]).api_token_file.is_some());
    }
}
