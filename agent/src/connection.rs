//! The connection to the server: how it is made, and what is said about it.

mod report;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use underpass_tunnel::{
    AgentKey, Connector, ConnectorConfig, NoProxy, Proxy, PublicKey, ServerAddress, Status,
    Transports, Trust, chain,
};
use zeroize::Zeroizing;

pub(crate) use self::report::report;
use crate::cli::Cli;
use crate::key::{KeyRecord, OwnKey};
use crate::{files, limits};

/// The connector to the server, and the files that it was made of.
pub(crate) struct Connection {
    pub(crate) connector: Connector,
    /// As the connector has them.
    files: Mutex<Files>,
    /// The last complaint about files, which costs no line for each failure.
    complaint: Mutex<Option<String>>,
    /// Keys of the agent's own that the server has refused since it took one.
    refused: Mutex<Vec<PublicKey>>,
}

/// The contents of the key's or token's file, of the CA's and of the proxy's.
pub(crate) struct Files {
    /// The agent's key.
    token: Zeroizing<String>,
    /// The one that follows it.
    next: Option<Zeroizing<String>>,
    ca: Option<String>,
    proxy_ca: Option<String>,
}

impl Files {
    pub(crate) fn read(cli: &Cli) -> Result<Self> {
        Ok(Self {
            token: cli.key.read()?,
            next: next_of(cli),
            ca: cli.ca_file.as_deref().map(read).transpose()?,
            proxy_ca: cli.proxy_ca_file.as_deref().map(read).transpose()?,
        })
    }

    pub(crate) fn key(&self, cli: &Cli) -> Result<AgentKey> {
        let key = self.token.parse();
        key.with_context(|| format!("no agent token in {}", cli.key.place()))
    }

    pub(crate) fn trust(&self, cli: &Cli) -> Result<Trust> {
        match (self.ca.clone().map(String::into_bytes), cli.ca_pin) {
            (Some(pem), Some(pin)) => Ok(Trust::PinnedCa(pem, pin)),
            (Some(pem), None) => Ok(pem.into()),
            (None, Some(pin)) => Ok(pin.into()),
            (None, None) => anyhow::bail!("neither --ca-file nor --ca-pin is given"),
        }
    }
}

impl Connection {
    pub(crate) fn read(cli: &Cli) -> Result<Self> {
        let files = Files::read(cli)?;
        Ok(Self {
            connector: connector(cli, &files)?,
            files: Mutex::new(files),
            complaint: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Whether it has another agent's key or trusts another server. A next key is the same agent's.
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        let (this, other) = (lock(&self.files), lock(&other.files));
        let same_agent = this.token == other.token || this.next.as_ref() == Some(&other.token);
        !same_agent || this.ca != other.ca || this.proxy_ca != other.proxy_ca
    }

    /// Proves this key from the next handshake on. It is the agent's own.
    pub(crate) fn use_key(&self, key: &OwnKey) -> Result<()> {
        self.connector.renew_key(key.key()?);
        lock(&self.files).token = key.text().clone();
        Ok(())
    }

    /// The key that the next handshake proves, where the agent has one of its own.
    pub(crate) fn own_key(&self) -> Option<OwnKey> {
        OwnKey::read(&lock(&self.files).token).ok()
    }

    /// Is the key that the next handshake proves one of these?
    pub(crate) fn uses_one_of(&self, record: &KeyRecord) -> bool {
        record.own(&self.connector.public_key()).is_some()
    }

    /// Goes on with the token and the CA as they are now, where the connection has failed: a handshake needs them, and nothing
    /// else does. A file that cannot be used changes nothing. Of two keys of the agent's own, another one is tried where the server
    /// refuses one, and once it has refused both they take turns: a server may know one of them later. Gives whether there is one that the
    /// server has not refused.
    pub(crate) fn look(&self, cli: &Cli, status: &Status<'_>) -> bool {
        match status {
            Status::Failed(error, _) if error.is_unknown_key() || error.is_replaced_key() => {
                let (mut refused, key) = (lock(&self.refused), self.connector.public_key());
                if !refused.contains(&key) {
                    refused.push(key);
                }
            }
            Status::Connected(_) | Status::Resumed(_) => lock(&self.refused).clear(),
            _ => {}
        }
        let failed = matches!(
            status,
            Status::Failed(..) | Status::Ended(..) | Status::Detached(..)
        );
        if !failed {
            return true;
        }
        let complaint = self.renew(cli).err().map(|error| format!("{error:#}"));
        let mut last = lock(&self.complaint);
        if let Some(error) = complaint.as_ref().filter(|_| *last != complaint) {
            tracing::warn!("keeping the last key and CA: {error}");
        }
        *last = complaint;
        !lock(&self.refused).contains(&self.connector.public_key())
    }

    fn renew(&self, cli: &Cli) -> Result<()> {
        let mut found = Files::read(cli)?;
        let mut files = lock(&self.files);
        if let Some(record) = cli.key.record() {
            found.token = self.untried(&record, &files.token).text().clone();
        }
        files.next.clone_from(&found.next);
        if found.token == files.token && found.ca == files.ca {
            return Ok(());
        }
        self.connector.renew(&found.trust(cli)?, found.key(cli)?)?;
        tracing::info!("the agent's key or the server's CA has changed: it counts now");
        (files.token, files.ca) = (found.token, found.ca);
        Ok(())
    }
}

impl Connection {
    /// The key in use, or else one that the server has not refused, or else the first: where the server refuses all, the agent joins with
    /// that one. The other one has its turn after that one's next refusal.
    fn untried<'a>(&self, record: &'a KeyRecord, in_use: &str) -> &'a OwnKey {
        let mut refused = lock(&self.refused);
        refused.retain(|key| record.own(key).is_some());
        let open = |key: &&OwnKey| !refused.contains(&key.public());
        let used = record.keys().filter(open);
        let used = used.into_iter().find(|key| key.text().as_str() == in_use);
        if let Some(key) = used.or_else(|| record.keys().find(open)) {
            return key;
        }
        // The first one counts as refused until it is tried again.
        refused.retain(|key| *key == record.key.public());
        &record.key
    }
}

fn next_of(cli: &Cli) -> Option<Zeroizing<String>> {
    let next = cli.key.record()?.next?;
    Some(next.text().clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connector(cli: &Cli, files: &Files) -> Result<Connector> {
    let (trust, key) = (files.trust(cli)?, files.key(cli)?);
    let first = cli.servers.first().context("no --server is named")?;
    let mut config = ConnectorConfig::new(first.host.clone(), first.port, trust, key);
    config.servers.clone_from(&cli.servers);
    config.transports = cli.transport.into();
    config.links = cli.links.into();
    config.quic = cli.quic.config()?;
    config.quic_probe = cli.quic_probe;
    config.websocket_max_age = cli.websocket_max_age;
    config.lanes = !cli.no_lanes;
    config.proxy = proxy(cli, files)?;
    config.software = concat!("underpass-agent/", env!("CARGO_PKG_VERSION")).to_owned();
    if let Some(proxy) = &config.proxy {
        tell_proxied(proxy, &config.servers, config.transports);
    }
    Ok(Connector::new(config)?)
}

fn read(path: &Path) -> Result<String> {
    Ok(std::mem::take(&mut *files::read(
        path,
        limits::CA_FILE_BYTES,
    )?))
}

/// The proxy, from the command line or else from the environment.
pub(crate) fn proxy(cli: &Cli, files: &Files) -> Result<Option<Proxy>> {
    let asked = cli.proxy.clone().transpose();
    let mut proxy = match asked.context("--proxy cannot be used")?.flatten() {
        Some(url) => {
            let mut proxy = Proxy::new(url);
            proxy.except = NoProxy::from_env()?;
            proxy
        }
        None => match Proxy::from_env() {
            Some(proxy) => proxy,
            None => return Ok(None),
        },
    };
    if let Some(list) = &cli.no_proxy {
        proxy.except = NoProxy::from(list.as_str());
    }
    proxy.ca_pem = files.proxy_ca.clone().map(String::into_bytes);
    Ok(Some(proxy))
}

/// A proxy may come from an environment that nobody thought of.
fn tell_proxied(proxy: &Proxy, servers: &[ServerAddress], transports: Transports) {
    if transports == Transports::Quic {
        return;
    }
    for server in servers.iter().filter(|server| proxy.applies_to(server)) {
        match proxy.url() {
            Ok(url) => tracing::info!(%server, proxy = %url, "WebSocket goes through a proxy"),
            // With QUIC the agent may need none.
            Err(error) => tracing::warn!(%server, "no WebSocket: {}", chain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use underpass_tunnel::transport::TransportError;
    use underpass_tunnel::{CloseCode, ConnectError};

    use super::*;

    fn cli(more: &[&str]) -> Cli {
        let usual = [
            "underpass-agent",
            "--server",
            "https://a",
            "--token-file",
            "t",
        ];
        let trust = [
            "--ca-pin",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ];
        Cli::try_parse_from(usual.iter().chain(&trust).chain(more)).unwrap()
    }

    fn no_files() -> Files {
        Files {
            token: Zeroizing::default(),
            next: None,
            ca: None,
            proxy_ca: None,
        }
    }

    #[test]
    fn a_connection_is_another_one_when_a_file_of_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let mut asked = cli(&[]);
        asked.key.token_file = Some(token.clone());
        let write = |seed| {
            let key = AgentKey::from_seed([seed; 32]).unwrap();
            std::fs::write(&token, key.to_secret_text().as_str()).unwrap();
        };
        write(1);
        let first = Connection::read(&asked).unwrap();
        let same = Connection::read(&asked).unwrap();
        assert!(!same.differs_from(&first));
        write(2);
        assert!(Connection::read(&asked).unwrap().differs_from(&first));
        std::fs::remove_file(&token).unwrap();
        assert!(Connection::read(&asked).is_err());
    }

    #[test]
    fn a_proxy_on_the_command_line_is_the_one() {
        let asked = cli(&[
            "--proxy",
            "http://u:p@proxy:3128",
            "--no-proxy",
            ".example.org",
        ]);
        let proxy = proxy(&asked, &no_files()).unwrap().unwrap();
        assert_eq!(proxy.url().unwrap().to_string(), "http://proxy:3128");
        for (host, applies) in [("u.example.org", false), ("u.example.com", true)] {
            let server = ServerAddress::new(host, 443);
            assert_eq!(proxy.applies_to(&server), applies, "{host}");
        }
    }

    #[test]
    fn a_token_that_was_replaced_counts_once_the_connection_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        let [first, second] = [1, 2].map(|byte| AgentKey::from_seed([byte; 32]).unwrap());
        write("token", &first.to_secret_text());
        let mut cli = cli(&[]);
        cli.key.token_file = Some(path("token").into());
        let connection = Connection::read(&cli).unwrap();
        let error = ConnectError::Timeout;
        let failed = Status::Failed(&error, std::time::Duration::ZERO);
        let key = || {
            connection.look(&cli, &failed);
            connection.connector.public_key()
        };
        assert_eq!(key(), first.public_key());
        write("token", "half of a");
        assert_eq!(key(), first.public_key(), "the last one is kept");
        write("token", &second.to_secret_text());
        assert_eq!(key(), second.public_key());
        // A signal that asks for the files to be read finds nothing new.
        assert!(!Connection::read(&cli).unwrap().differs_from(&connection));
    }

    fn replaced() -> ConnectError {
        ConnectError::Transport(TransportError::ClosedByPeer {
            code: CloseCode::KeyReplaced,
            reason: String::new(),
        })
    }

    #[test]
    fn two_keys_that_the_server_refuses_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        let [first, next] = [1, 2].map(|byte| AgentKey::from_seed([byte; 32]).unwrap());
        let text = format!(
            "{}\nnext {}\n",
            first.to_secret_text().as_str(),
            next.to_secret_text().as_str()
        );
        std::fs::write(&path, text).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).unwrap();
        let line = ["underpass-agent", "--server", "https://a", "--key-file"];
        let pin = format!("sha256:{}", "0".repeat(64));
        let rest = [path.to_str().unwrap(), "--ca-pin", &pin];
        let cli = Cli::try_parse_from(line.iter().chain(&rest)).unwrap();
        let connection = Connection::read(&cli).unwrap();
        let error = replaced();
        assert!(error.is_replaced_key());
        let failed = Status::Failed(&error, std::time::Duration::ZERO);
        let mut tried = Vec::new();
        for _ in 0..6 {
            let key = connection.connector.public_key();
            let has_other = connection.look(&cli, &failed);
            tried.push((key == first.public_key(), has_other));
            assert!(lock(&connection.refused).len() <= 2);
        }
        let turns = [(true, true), (false, false)].repeat(3);
        assert_eq!(tried, turns);
    }

    #[test]
    fn a_key_that_is_refused_for_long_is_remembered_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let key = AgentKey::from_seed([1; 32]).unwrap();
        std::fs::write(&path, key.to_secret_text().as_str()).unwrap();
        let mut cli = cli(&[]);
        cli.key.token_file = Some(path);
        let connection = Connection::read(&cli).unwrap();
        let error = replaced();
        let failed = Status::Failed(&error, std::time::Duration::ZERO);
        for _ in 0..100 {
            assert!(!connection.look(&cli, &failed));
        }
        assert_eq!(*lock(&connection.refused), [key.public_key()]);
    }

    #[test]
    fn an_empty_proxy_is_none_that_was_asked_for() {
        assert!(matches!(cli(&["--proxy", ""]).proxy, Some(Ok(None))));
    }

    #[test]
    fn rule_11_a_proxy_that_cannot_be_used_is_not_shown() {
        let error = proxy(&cli(&["--proxy", "ftp://u:secret@p:1"]), &no_files()).unwrap_err();
        let told = format!("{error:#} {error:?}");
        assert!(
            told.contains("--proxy") && told.contains("socks5://"),
            "{told}"
        );
        assert!(!told.contains("secret"), "{told}");
    }
}
