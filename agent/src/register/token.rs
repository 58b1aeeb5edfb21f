//! The token, and the way to the API server that goes with it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use thiserror::Error;
use tokio::time::timeout;
use underpass_core::files;
use underpass_core::limits::PEM_FILE_BYTES;
use underpass_core::service_account::Account;
use url::Url;
use zeroize::Zeroizing;

use crate::cli::Cli;
use crate::{cluster, limits};

/// An API server's URL, as a server elsewhere reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiServerAddress(String);

/// Not the URL of an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the API server's address is https://HOST[:PORT]")]
pub(crate) struct NoAddress;

impl FromStr for ApiServerAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let url: Url = text.parse().map_err(|_| NoAddress)?;
        let is_plain = url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        match is_plain {
            true => Ok(Self(text.trim_end_matches('/').to_owned())),
            false => Err(NoAddress),
        }
    }
}

/// Asks the API server for tokens.
#[derive(Debug)]
pub(super) struct Issuer {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    address: Option<ApiServerAddress>,
    account: Option<Account>,
}

/// A token, and where it is of use.
pub(super) struct Issued {
    pub(super) server: String,
    pub(super) certificate_authority: String,
    pub(super) tls_server_name: Option<String>,
    pub(super) token: Zeroizing<String>,
}

/// Why there is none.
#[derive(Debug, Error)]
pub(super) enum IssueError {
    #[error("the way to the API server cannot be read: {0:#}")]
    Config(anyhow::Error),
    #[error(
        "the way to the API server names no CA, without which the server could not tell whom it reaches"
    )]
    NoCa,
    #[error(
        "the kubeconfig names a proxy (proxy-url), through which the agent requests no tokens: give it one that reaches the API server without"
    )]
    Proxy,
    #[error("the API server's CA cannot be read")]
    Ca(#[source] std::io::Error),
    #[error("the API server cannot be asked")]
    Client(#[source] Box<kube::Error>),
    #[error("the API server does not say who the agent is")]
    Review(#[source] Box<kube::Error>),
    #[error(
        "the agent is {0:?} there, which is no ServiceAccount: name one, of which it may request tokens, with --registered-account"
    )]
    NoAccount(String),
    #[error(
        "the agent may not request a token of the ServiceAccount {0}: apply what `underpass-agent rbac --register-credentials` prints"
    )]
    Forbidden(Account, #[source] Box<kube::Error>),
    #[error("the API server gives no token of the ServiceAccount {0}")]
    Api(Account, #[source] Box<kube::Error>),
    #[error("the API server did not answer in time")]
    Timeout,
    #[error("the API server gave no token")]
    Empty,
}

impl Issuer {
    pub(super) fn new(
        cli: &Cli,
        address: Option<ApiServerAddress>,
        account: Option<Account>,
    ) -> Self {
        Self {
            kubeconfig: cli.kubeconfig.clone(),
            context: cli.context.clone(),
            address,
            account,
        }
    }

    /// A new token for the API server, of a ServiceAccount.
    ///
    /// # Cancel safety
    /// A token may have been made that nobody has.
    pub(super) async fn issue(&self) -> Result<Issued, IssueError> {
        let issuing = timeout(limits::REGISTER_TOKEN_TIME, self.issue_now());
        issuing.await.map_err(|_| IssueError::Timeout)?
    }

    async fn issue_now(&self) -> Result<Issued, IssueError> {
        let loading = cluster::config_of(self.kubeconfig.clone(), self.context.clone());
        let config = loading.await.map_err(IssueError::Config)?;
        if config.proxy_url.is_some() {
            return Err(IssueError::Proxy);
        }
        let server = match &self.address {
            Some(address) => address.0.clone(),
            None => config
                .cluster_url
                .to_string()
                .trim_end_matches('/')
                .to_owned(),
        };
        let certificate_authority = authority(&config)?;
        let tls_server_name = config.tls_server_name.clone();
        let client = cluster::client(config).await;
        let client = client.map_err(|error| IssueError::Client(error.into()))?;
        let account = match &self.account {
            Some(account) => account.clone(),
            None => own_account(client.clone()).await?,
        };
        Ok(Issued {
            server,
            certificate_authority,
            tls_server_name,
            token: token_of(client, &account).await?,
        })
    }
}

/// As PEM.
fn authority(config: &Config) -> Result<String, IssueError> {
    if let Some(certificates) = &config.root_cert {
        return Ok(certificates.iter().map(|der| pem(der)).collect());
    }
    let file = config.root_cert_file.as_ref().ok_or(IssueError::NoCa)?;
    let read = files::read_text(Path::new(file), PEM_FILE_BYTES);
    let mut pem = read.map_err(IssueError::Ca)?;
    Ok(std::mem::take(&mut *pem))
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// The ServiceAccount that the agent is, by the word of the API server (KEP-3325).
async fn own_account(client: Client) -> Result<Account, IssueError> {
    let reviews = Api::<SelfSubjectReview>::all(client);
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let review = reviews
        .create(&params, &question)
        .await
        .map_err(|error| IssueError::Review(error.into()))?;
    let user = review.status.and_then(|status| status.user_info);
    let user = user.and_then(|user| user.username).unwrap_or_default();
    Account::of_user(&user).ok_or(IssueError::NoAccount(user))
}

/// For the API server itself, which it takes an empty list of audiences for.
async fn token_of(client: Client, account: &Account) -> Result<Zeroizing<String>, IssueError> {
    let accounts = Api::<ServiceAccount>::namespaced(client, account.namespace());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: i64::try_from(limits::REGISTERED_TOKEN.as_secs()).ok(),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let asked = accounts.create_token_request(account.name(), &params, &request);
    let made = asked.await.map_err(|error| match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            IssueError::Forbidden(account.clone(), error.into())
        }
        _ => IssueError::Api(account.clone(), error.into()),
    })?;
    let token = made.status.map(|status| Zeroizing::new(status.token));
    token
        .filter(|token| !token.is_empty())
        .ok_or(IssueError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_nothing_else() {
        for (good, expected) in [
            ("https://api.example:6443", "https://api.example:6443"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
            ("https://h/k8s/", "https://h/k8s"),
        ] {
            let address: ApiServerAddress = good.parse().unwrap();
            assert_eq!(address.0, expected);
        }
        for bad in [
            "",
            "api.example",
            "http://h",
            "https://",
            "https://u:p@h",
            "https://h/?a",
            "https://h/#a",
        ] {
            assert_eq!(bad.parse::<ApiServerAddress>(), Err(NoAddress), "{bad}");
        }
    }

    #[test]
    fn a_ca_is_written_as_pem() {
        let ca = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let same = |pem: &str| pem.split_whitespace().collect::<String>();
        assert_eq!(same(&pem(ca.cert.der())), same(&ca.cert.pem()));
    }
}
