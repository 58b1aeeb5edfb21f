//! Clusters whose API server this server reaches itself, and with what.
//!
//! What is secret of a credential is [`Sealed`] for the cluster, for the endpoint and for the credential's public part:
//! whoever can write the store but has no key cannot have it sent elsewhere, nor run a plugin otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use http::Uri;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::object::Kind;
use crate::{
    ClusterName, ImpersonationPolicy,
    authenticate::{Roots, RootsError},
    limits,
    seal::{Keyring, Place, SealError, Sealed, UnsealError},
};

/// An API server that the server reaches itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Direct {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What we prove to it who we are with.
    pub credential: SealedCredential,
    /// Whom nobody becomes there, which an agent's operator says of its cluster.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
}

/// Who is impersonated in a cluster beyond [`ImpersonationPolicy`]'s default, and who is not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Policy {
    /// Namespaces whose ServiceAccounts may be impersonated.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub allow_service_accounts: BTreeSet<String>,
    /// Users who may not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub deny_users: BTreeSet<String>,
    /// Groups that may not.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub deny_groups: BTreeSet<String>,
}

impl Policy {
    /// Does it say nothing?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What it comes to.
    pub fn impersonation(&self) -> ImpersonationPolicy {
        let policy = ImpersonationPolicy::default();
        let accounts = self.allow_service_accounts.iter();
        let policy = accounts.fold(policy, ImpersonationPolicy::allow_service_accounts);
        let users = self.deny_users.iter();
        let policy = users.fold(policy, ImpersonationPolicy::deny_user);
        let groups = self.deny_groups.iter();
        groups.fold(policy, ImpersonationPolicy::deny_group)
    }
}

/// Where an API server is, and whose certificate it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawEndpoint", into = "RawEndpoint")]
pub struct Endpoint(RawEndpoint);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEndpoint {
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_authority: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
}

/// Why an endpoint is none. The URL is not repeated: somebody may have written a password into it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Without TLS anybody on the way would have the credential.
    #[error("the API server's URL is http; it has to be https")]
    Plain,
    /// Not a URL of an API server.
    #[error("the API server's URL is not https://HOST[:PORT][/PATH]")]
    Url,
    /// The CA is unusable.
    #[error("the certificate authority cannot be used")]
    Authority(#[source] RootsError),
    /// The name that the certificate is to have is none.
    #[error("the TLS server name is neither a DNS name nor an IP address")]
    ServerName,
}

impl Endpoint {
    /// `https://HOST[:PORT][/PATH]`; the CA as PEM, what the system trusts without; the name that the certificate is to
    /// have, where it is not the URL's.
    ///
    /// # Errors
    /// What cannot be so.
    pub fn new(
        server: String,
        certificate_authority: Option<String>,
        tls_server_name: Option<String>,
    ) -> Result<Self, EndpointError> {
        let uri: Uri = server.parse().map_err(|_| EndpointError::Url)?;
        let authority = uri.authority().ok_or(EndpointError::Url)?;
        let odd = uri.query().is_some() || authority.as_str().contains('@');
        match uri.scheme_str() {
            Some("https") if !odd && !authority.host().is_empty() => {}
            Some("http") => return Err(EndpointError::Plain),
            _ => return Err(EndpointError::Url),
        }
        if let Some(pem) = &certificate_authority {
            Roots::from_pem(pem.as_bytes()).map_err(EndpointError::Authority)?;
        }
        if let Some(name) = &tls_server_name {
            ServerName::try_from(name.as_str()).map_err(|_| EndpointError::ServerName)?;
        }
        Ok(Self(RawEndpoint {
            server,
            certificate_authority,
            tls_server_name,
        }))
    }

    /// The URL.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// The CA, as PEM.
    pub fn certificate_authority(&self) -> Option<&str> {
        self.0.certificate_authority.as_deref()
    }

    /// The name in its certificate.
    pub fn tls_server_name(&self) -> Option<&str> {
        self.0.tls_server_name.as_deref()
    }

    /// A field of the credential for this endpoint.
    fn place(&self, cluster: &ClusterName, field: &str) -> Place {
        Place::new(Kind::Cluster.as_str(), cluster.as_str(), field)
            .and(self.server())
            .and(self.certificate_authority().unwrap_or_default())
            .and(self.tls_server_name().unwrap_or_default())
    }
}

impl TryFrom<RawEndpoint> for Endpoint {
    type Error = EndpointError;

    fn try_from(raw: RawEndpoint) -> Result<Self, EndpointError> {
        Self::new(raw.server, raw.certificate_authority, raw.tls_server_name)
    }
}

impl From<Endpoint> for RawEndpoint {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.0
    }
}

/// A credential as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum SealedCredential {
    /// A bearer token.
    Token {
        /// The token.
        token: Sealed,
    },
    /// A client certificate.
    ClientCertificate {
        /// The chain, as PEM.
        certificate: String,
        /// Its key.
        key: Sealed,
    },
    /// A program that prints one.
    Exec {
        /// Which.
        command: String,
        /// What it is called with: either may hold secrets.
        input: Sealed,
    },
}

impl SealedCredential {
    /// What kind of credential it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::ClientCertificate { .. } => "clientCertificate",
            Self::Exec { .. } => "exec",
        }
    }

    /// When a client certificate expires.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        match self {
            Self::ClientCertificate { certificate, .. } => expiry(certificate),
            Self::Token { .. } | Self::Exec { .. } => None,
        }
    }

    /// What is secret of it.
    pub fn sealed(&self) -> &Sealed {
        match self {
            Self::Token { token } => token,
            Self::ClientCertificate { key, .. } => key,
            Self::Exec { input, .. } => input,
        }
    }

    fn place(&self, cluster: &ClusterName, endpoint: &Endpoint) -> Place {
        match self {
            Self::Token { .. } => endpoint.place(cluster, "token"),
            Self::ClientCertificate { certificate, .. } => {
                endpoint.place(cluster, "key").and(certificate)
            }
            Self::Exec { command, .. } => endpoint.place(cluster, "exec").and(command),
        }
    }
}

/// A credential while it is used. It shows nothing of itself.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Credential {
    /// A bearer token.
    Token(Zeroizing<String>),
    /// A client certificate.
    ClientCertificate {
        /// The chain, as PEM.
        certificate: String,
        /// Its key, as PEM.
        key: Zeroizing<String>,
    },
    /// A program that prints one.
    Exec(Exec),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ClientCertificate { .. } => "ClientCertificate",
            Self::Exec(_) => "Exec",
        })
    }
}

/// A credential plugin, as `client.authentication.k8s.io` has them.
#[derive(Clone, PartialEq)]
pub struct Exec {
    /// The program's path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<Zeroizing<String>>,
    /// What it finds in its environment beside `PATH` and `HOME`.
    pub env: BTreeMap<String, Zeroizing<String>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// How the store has a plugin's input, before it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<A, E> {
    args: A,
    env: E,
}

/// Why a credential is none. Nothing of it is repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Empty, too long, or with what no header can hold.
    #[error("the token is empty, too long, or holds characters that no token has")]
    Token,
    /// No certificate.
    #[error("the client certificate is no certificate in PEM")]
    Certificate,
    /// No key.
    #[error("the client key is no private key in PEM")]
    Key,
    /// They do not belong together.
    #[error("the client key is not the certificate's")]
    Mismatch,
    /// Not the path of a program.
    #[error("the exec plugin's command is not an absolute path without \"..\"")]
    Command,
    /// A name that would change which code runs, or none.
    #[error("the exec plugin's environment may not have {0:?}")]
    Variable(String),
    /// A zero byte, or more than any plugin takes.
    #[error("the exec plugin's arguments and environment are too large, or hold a zero byte")]
    Input,
}

/// Why a credential cannot be used now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenCredentialError {
    /// It does not open.
    #[error("the cluster's credential cannot be decrypted")]
    Unseal(#[source] UnsealError),
    /// It cannot be encrypted again.
    #[error(transparent)]
    Seal(SealError),
    /// What was sealed is not what it should be.
    #[error("the cluster's credential cannot be read")]
    Malformed,
}

impl Credential {
    /// Can it be one?
    ///
    /// # Errors
    /// What cannot be so.
    pub fn check(&self) -> Result<(), CredentialError> {
        match self {
            Self::Token(token) => {
                let legal = |byte: u8| byte.is_ascii_graphic();
                let sized = (1..=limits::BEARER_BYTES).contains(&token.len());
                if !sized || !token.bytes().all(legal) {
                    return Err(CredentialError::Token);
                }
                Ok(())
            }
            Self::ClientCertificate { certificate, key } => check_pair(certificate, key),
            Self::Exec(exec) => exec.check(),
        }
    }

    /// Encrypts it for a cluster and an endpoint.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn seal(
        &self,
        cluster: &ClusterName,
        endpoint: &Endpoint,
        keys: &Keyring,
    ) -> Result<SealedCredential, SealError> {
        match self {
            Self::Token(token) => {
                let place = endpoint.place(cluster, "token");
                let token = keys.seal(token.as_bytes(), &place)?;
                Ok(SealedCredential::Token { token })
            }
            Self::ClientCertificate { certificate, key } => {
                let place = endpoint.place(cluster, "key").and(certificate);
                Ok(SealedCredential::ClientCertificate {
                    key: keys.seal(key.as_bytes(), &place)?,
                    certificate: certificate.clone(),
                })
            }
            Self::Exec(exec) => {
                let place = endpoint.place(cluster, "exec").and(&exec.command);
                let (args, env) = (&exec.args, &exec.env);
                let input = serde_json::to_vec(&Input { args, env });
                let input = Zeroizing::new(input.map_err(|_| SealError)?);
                Ok(SealedCredential::Exec {
                    input: keys.seal(&input, &place)?,
                    command: exec.command.clone(),
                })
            }
        }
    }
}

impl Direct {
    /// The same, with the credential encrypted by the key that encrypts now; `None` where it is already.
    ///
    /// # Errors
    /// It does not open here.
    pub fn renewed(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Option<Self>, OpenCredentialError> {
        if keys.is_current(self.credential.sealed()) {
            return Ok(None);
        }
        let credential = self.open(cluster, keys)?;
        let credential = credential.seal(cluster, &self.endpoint, keys);
        Ok(Some(Self {
            credential: credential.map_err(OpenCredentialError::Seal)?,
            ..self.clone()
        }))
    }

    /// Decrypts the credential.
    ///
    /// # Errors
    /// It does not open here.
    pub fn open(
        &self,
        cluster: &ClusterName,
        keys: &Keyring,
    ) -> Result<Credential, OpenCredentialError> {
        let place = self.credential.place(cluster, &self.endpoint);
        let opened = keys.open(self.credential.sealed(), &place);
        let opened = opened.map_err(OpenCredentialError::Unseal)?;
        let text = || match std::str::from_utf8(&opened) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(OpenCredentialError::Malformed),
        };
        match &self.credential {
            SealedCredential::Token { .. } => Ok(Credential::Token(text()?)),
            SealedCredential::ClientCertificate { certificate, .. } => {
                Ok(Credential::ClientCertificate {
                    certificate: certificate.clone(),
                    key: text()?,
                })
            }
            SealedCredential::Exec { command, .. } => {
                // The error would quote what it could not read.
                let Input { args, env } =
                    serde_json::from_slice(&opened).map_err(|_| OpenCredentialError::Malformed)?;
                Ok(Credential::Exec(Exec {
                    command: command.clone(),
                    args,
                    env,
                }))
            }
        }
    }
}

impl Exec {
    /// Variables with which one program can be made to run another's code, which would make an allowed plugin any
    /// program. The list cannot be complete: who allows a plugin trusts administrators with its input.
    const STEERING: [&str; 22] = [
        "PATH",
        "HOME",
        "IFS",
        "ENV",
        "BASH_ENV",
        "SHELLOPTS",
        "BASHOPTS",
        "PS4",
        "GCONV_PATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "PYTHONINSPECT",
        "PERL5LIB",
        "PERL5OPT",
        "RUBYLIB",
        "RUBYOPT",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "OPENSSL_CONF",
        "KUBERNETES_EXEC_INFO",
    ];

    fn check(&self) -> Result<(), CredentialError> {
        let path = std::path::Path::new(&self.command);
        let up = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if !path.is_absolute() || up || self.command.contains('\0') {
            return Err(CredentialError::Command);
        }
        for name in self.env.keys() {
            let odd = name.is_empty() || name.contains(['=', '\0']);
            let steering = Self::STEERING.contains(&name.as_str());
            let loader = ["LD_", "DYLD_", "BASH_FUNC_", "UNDERPASS_"];
            if odd || steering || loader.iter().any(|prefix| name.starts_with(prefix)) {
                return Err(CredentialError::Variable(name.clone()));
            }
        }
        let values = self.args.iter().chain(self.env.values());
        let bytes: usize = values.clone().map(|value| value.len() + 1).sum();
        let names: usize = self.env.keys().map(|name| name.len() + 1).sum();
        let large = bytes.saturating_add(names) > limits::EXEC_INPUT_BYTES;
        if large || values.clone().any(|value| value.contains('\0')) {
            return Err(CredentialError::Input);
        }
        Ok(())
    }
}

fn check_pair(certificate: &str, key: &str) -> Result<(), CredentialError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| CredentialError::Certificate)?;
    if expiry(certificate).is_none() {
        return Err(CredentialError::Certificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CredentialError::Key)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CredentialError::Mismatch),
        Err(rustls::Error::InvalidCertificate(_)) => Err(CredentialError::Certificate),
        Err(_) => Err(CredentialError::Key),
    }
}

/// When the first certificate ends.
fn expiry(pem: &str) -> Option<OffsetDateTime> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::SealingKey;

    const URL: &str = "https://10.0.0.1:6443";

    fn ring() -> Keyring {
        let text = SealingKey::generate().unwrap();
        Keyring::new(SealingKey::from_text(&text).unwrap(), vec![])
    }

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn exec(command: &str, args: &[&str], env: &[(&str, &str)]) -> Credential {
        Credential::Exec(Exec {
            command: command.to_owned(),
            args: args.iter().map(|&arg| secret(arg)).collect(),
            env: env
                .iter()
                .map(|&(name, value)| (name.to_owned(), secret(value)))
                .collect(),
        })
    }

    fn every_kind() -> [Credential; 3] {
        let (certificate, key) = pair();
        [
            Credential::Token(secret("hunter2")),
            Credential::ClientCertificate {
                certificate,
                key: Zeroizing::new(key),
            },
            exec("/usr/bin/plugin", &["hunter2"], &[("SECRET", "hunter2")]),
        ]
    }

    #[test]
    fn endpoints_are_https_and_nothing_else() {
        for good in [
            URL,
            "https://h",
            "https://h/k8s/clusters/a",
            "https://[::1]:6443/",
        ] {
            Endpoint::new(good.to_owned(), None, None).unwrap();
        }
        for bad in [
            "",
            "h:6443",
            "/x",
            "http://h",
            "ftp://h",
            "https://u:hunter2@h",
            "https://h/?token=hunter2",
        ] {
            let error = Endpoint::new(bad.to_owned(), None, None).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let bad_ca = Endpoint::new(URL.to_owned(), Some("x".to_owned()), None);
        assert!(matches!(bad_ca, Err(EndpointError::Authority(_))));
        let bad_name = Endpoint::new(URL.to_owned(), None, Some("a b".to_owned()));
        assert!(matches!(bad_name, Err(EndpointError::ServerName)));
        let (ca, _) = pair();
        Endpoint::new(URL.to_owned(), Some(ca), Some("kubernetes".to_owned())).unwrap();
    }

    #[test]
    fn rule_9_a_credential_is_for_its_cluster_and_its_endpoint() {
        let ring = ring();
        let endpoint = |url: &str| Endpoint::new(url.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let sealed = credential
                .seal(&cluster("a"), &endpoint(URL), &ring)
                .unwrap();
            let direct = Direct {
                endpoint: endpoint(URL),
                credential: sealed.clone(),
                policy: Policy::default(),
            };
            assert_eq!(direct.open(&cluster("a"), &ring).unwrap(), credential);
            let elsewhere = Direct {
                endpoint: endpoint("https://attacker.example"),
                credential: sealed,
                policy: Policy::default(),
            };
            for (direct, name) in [(&elsewhere, "a"), (&direct, "b")] {
                let opened = direct.open(&cluster(name), &ring);
                let error = opened.unwrap_err();
                assert!(matches!(
                    error,
                    OpenCredentialError::Unseal(UnsealError::Misplaced)
                ));
            }
        }
    }

    #[test]
    fn rule_9_the_public_part_belongs_to_the_secret() {
        let ring = ring();
        let endpoint = Endpoint::new(URL.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let mut sealed = credential.seal(&cluster("a"), &endpoint, &ring).unwrap();
            match &mut sealed {
                SealedCredential::Token { .. } => continue,
                SealedCredential::ClientCertificate { certificate, .. } => *certificate = pair().0,
                SealedCredential::Exec { command, .. } => *command = "/bin/sh".to_owned(),
            }
            let direct = Direct {
                endpoint: endpoint.clone(),
                credential: sealed,
                policy: Policy::default(),
            };
            direct.open(&cluster("a"), &ring).unwrap_err();
        }
    }

    #[test]
    fn rule_9_nothing_shows_a_secret() {
        let ring = ring();
        let endpoint = Endpoint::new(URL.to_owned(), None, None).unwrap();
        for credential in every_kind() {
            let sealed = credential.seal(&cluster("a"), &endpoint, &ring).unwrap();
            let direct = Direct {
                endpoint: endpoint.clone(),
                credential: sealed,
                policy: Policy::default(),
            };
            let json = serde_json::to_string(&direct).unwrap();
            assert_eq!(serde_json::from_str::<Direct>(&json).unwrap(), direct);
            for shown in [json, format!("{direct:?}"), format!("{credential:?}")] {
                assert!(!shown.contains("hunter2"), "{shown}");
                assert!(!shown.contains("PRIVATE"), "{shown}");
            }
        }
    }

    #[test]
    fn credentials_are_checked() {
        for credential in every_kind() {
            credential.check().unwrap();
        }
        for token in ["", "a b", "a\nb", "ü"] {
            let bad = Credential::Token(secret(token));
            assert!(matches!(bad.check(), Err(CredentialError::Token)));
        }
        let ((certificate, key), (_, other)) = (pair(), pair());
        let check = |certificate: &str, key: &str| {
            let key = secret(key);
            let certificate = certificate.to_owned();
            Credential::ClientCertificate { certificate, key }.check()
        };
        assert!(matches!(check("", &key), Err(CredentialError::Certificate)));
        assert!(matches!(
            check(&certificate, "hunter2"),
            Err(CredentialError::Key)
        ));
        assert!(matches!(
            check(&certificate, &other),
            Err(CredentialError::Mismatch)
        ));
        for command in ["plugin", "./plugin", "/opt/../bin/sh", "/a\0b"] {
            let bad = exec(command, &[], &[]);
            assert!(matches!(bad.check(), Err(CredentialError::Command)));
        }
        for variable in ["LD_PRELOAD", "PATH", "BASH_ENV", "", "A=B", "UNDERPASS_LOG"] {
            let bad = exec("/p", &[], &[(variable, "x")]);
            assert!(matches!(bad.check(), Err(CredentialError::Variable(_))));
        }
        assert!(exec("/p", &["a\0"], &[]).check().is_err());
        let long = "x".repeat(limits::EXEC_INPUT_BYTES);
        assert!(exec("/p", &[&long], &[]).check().is_err());
    }
}
