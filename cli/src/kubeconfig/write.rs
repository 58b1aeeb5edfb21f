//! Writes kubeconfigs that lead through a server.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{Uri, uri::Authority};
use serde::Serialize;
use zeroize::Zeroizing;

use underpass_core::{ClusterDomain, ClusterName};
use underpass_terminal::printable;

/// The contents of a kubeconfig.
#[derive(Debug)]
pub(crate) struct Kubeconfig<'a> {
    /// The URL of the server: `https://host[:port]`, without a path.
    pub(crate) server: &'a str,
    /// The CA of the server's certificate, as PEM; `None` where the system trusts it.
    pub(crate) ca_pem: Option<&'a str>,
    /// The user: names the entry.
    pub(crate) user: &'a str,
    /// The credential.
    pub(crate) credential: Credential<'a>,
    /// How the server tells clusters apart.
    pub(crate) way: &'a Way,
    /// The clusters, each of which becomes a context; the first is the current one.
    pub(crate) clusters: &'a [ClusterName],
    /// Prefix of the names of entries, so that merging with other kubeconfigs does not hide anything:
    /// kubectl keeps the first of two entries with the same name. Usually `underpass-`.
    pub(crate) prefix: &'a str,
}

/// How a client says which cluster it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a path at the server: `https://SERVER/k8s/clusters/NAME`.
    Path,
    /// By a name in DNS: `https://NAME.DOMAIN`.
    Dns(ClusterDomain),
    /// By a name that only TLS knows: `https://SERVER`, and `tls-server-name: NAME.DOMAIN`.
    Tls(ClusterDomain),
}

/// The credential of a kubeconfig's user.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Credential<'a> {
    /// A token, which is then in the file.
    Token(&'a str),
    /// The output of a program that kubectl runs (`client.authentication.k8s.io/v1`): the file holds no secret.
    Exec {
        /// The program, found like any command.
        command: &'a str,
        /// Its arguments.
        arguments: &'a [String],
        /// kubectl's message where there is no such program.
        install_hint: &'a str,
    },
}

/// Why there is no kubeconfig.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeconfigError {
    /// The server is not `https://host[:port]`.
    #[error("{0:?} is not https://host[:port]")]
    Server(String),
    /// A context needs a cluster.
    #[error("a kubeconfig needs at least one cluster")]
    NoCluster,
    /// YAML could not be written.
    #[error("the kubeconfig cannot be written")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    current_context: &'a str,
    clusters: Vec<Named<'a, ClusterEntry>>,
    contexts: Vec<Named<'a, ContextEntry<'a>>>,
    users: Vec<Named<'a, UserEntry<'a>>>,
}

#[derive(Serialize)]
struct Named<'a, T> {
    name: &'a str,
    #[serde(flatten)]
    entry: T,
}

#[derive(Serialize)]
struct ClusterEntry {
    cluster: ClusterInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterInfo {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_authority_data: Option<String>,
}

#[derive(Serialize)]
struct ContextEntry<'a> {
    context: ContextInfo<'a>,
}

#[derive(Serialize)]
struct ContextInfo<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[derive(Serialize)]
struct UserEntry<'a> {
    user: UserInfo<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum UserInfo<'a> {
    Token(&'a str),
    Exec(ExecInfo<'a>),
}

/// `ExecConfig` of clientcmd's v1 API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecInfo<'a> {
    api_version: &'static str,
    command: &'a str,
    args: &'a [String],
    /// It asks nobody anything.
    interactive_mode: &'static str,
    provide_cluster_info: bool,
    install_hint: &'a str,
}

impl<'a> From<Credential<'a>> for UserInfo<'a> {
    fn from(credential: Credential<'a>) -> Self {
        match credential {
            Credential::Token(token) => Self::Token(token),
            Credential::Exec {
                command,
                arguments,
                install_hint,
            } => Self::Exec(ExecInfo {
                api_version: "client.authentication.k8s.io/v1",
                command,
                args: arguments,
                interactive_mode: "Never",
                provide_cluster_info: false,
                install_hint,
            }),
        }
    }
}

impl Kubeconfig<'_> {
    /// Writes it as YAML. The text holds the token: it is cleared from memory when dropped.
    ///
    /// # Errors
    /// The server's URL is not usable, or there is no cluster.
    pub(crate) fn to_yaml(&self) -> Result<Zeroizing<String>, KubeconfigError> {
        let base = Base::read(self.server)?;
        let names: Vec<String> = self
            .clusters
            .iter()
            .map(|cluster| format!("{}{cluster}", self.prefix))
            .collect();
        // A server's word, which YAML writes as it is: on a terminal it could change what stands there.
        let user = format!("{}{}", self.prefix, printable(self.user));
        let ca = self.ca_pem.map(|pem| BASE64.encode(pem));
        let file = File {
            api_version: "v1",
            kind: "Config",
            current_context: names.first().ok_or(KubeconfigError::NoCluster)?,
            clusters: { names.iter().zip(self.clusters) }
                .map(|(name, cluster)| Named {
                    name,
                    entry: ClusterEntry {
                        cluster: base.cluster(self.way, cluster, ca.clone()),
                    },
                })
                .collect(),
            contexts: names.iter().map(|name| context(name, &user)).collect(),
            users: vec![Named {
                name: &user,
                entry: UserEntry {
                    user: self.credential.into(),
                },
            }],
        };
        let yaml = serde_saphyr::to_string(&file);
        yaml.map(Zeroizing::new)
            .map_err(|error| KubeconfigError::Yaml(Box::new(error)))
    }
}

/// A server's `HOST[:PORT]`.
struct Base(Authority);

impl Base {
    fn read(server: &str) -> Result<Self, KubeconfigError> {
        let bad = || KubeconfigError::Server(server.to_owned());
        let uri: Uri = server.parse().map_err(|_| bad())?;
        let bare = uri.path() == "/" && uri.query().is_none();
        match uri.authority() {
            // Userinfo in an authority would be a credential in a URL.
            Some(authority)
                if bare
                    && uri.scheme_str() == Some("https")
                    && !authority.as_str().contains('@') =>
            {
                Ok(Self(authority.clone()))
            }
            _ => Err(bad()),
        }
    }

    /// The cluster's URL.
    fn url(&self, way: &Way, cluster: &ClusterName) -> String {
        let Self(authority) = self;
        match way {
            Way::Path => format!("https://{authority}/k8s/clusters/{cluster}"),
            Way::Tls(_) => format!("https://{authority}"),
            Way::Dns(domain) => {
                let name = domain.name_of(cluster);
                match authority.port() {
                    Some(port) => format!("https://{name}:{port}"),
                    None => format!("https://{name}"),
                }
            }
        }
    }

    fn cluster(&self, way: &Way, cluster: &ClusterName, ca: Option<String>) -> ClusterInfo {
        ClusterInfo {
            server: self.url(way, cluster),
            tls_server_name: match way {
                Way::Tls(domain) => Some(domain.name_of(cluster)),
                Way::Path | Way::Dns(_) => None,
            },
            certificate_authority_data: ca,
        }
    }
}

impl Way {
    /// The cluster's name, for users.
    pub(crate) fn shown(&self, cluster: &ClusterName) -> String {
        match self {
            Self::Path => format!("/k8s/clusters/{cluster}"),
            Self::Dns(domain) | Self::Tls(domain) => domain.name_of(cluster),
        }
    }

    /// The URL of a cluster at this server.
    ///
    /// # Errors
    /// The server's URL is not usable.
    pub(crate) fn url(
        &self,
        server: &str,
        cluster: &ClusterName,
    ) -> Result<String, KubeconfigError> {
        Ok(Base::read(server)?.url(self, cluster))
    }
}

fn context<'a>(name: &'a str, user: &'a str) -> Named<'a, ContextEntry<'a>> {
    Named {
        name,
        entry: ContextEntry {
            context: ContextInfo {
                cluster: name,
                user,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(names: &[&str]) -> Vec<ClusterName> {
        names
            .iter()
            .map(|name| ClusterName::new(name).unwrap())
            .collect()
    }

    #[test]
    fn kube_reads_what_we_write() {
        let token = "upt_x";
        let clusters = clusters(&["prod", "0", "null"]);
        let config = Kubeconfig {
            server: "https://underpass.example:8443/",
            ca_pem: Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
            user: "o'brien: \"x\"@example.org",
            credential: Credential::Token(token),
            way: &Way::Path,
            clusters: &clusters,
            prefix: "underpass-",
        };
        let yaml = config.to_yaml().unwrap();
        let read = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("underpass-prod"));
        assert_eq!(read.contexts.len(), 3);
        let prod = read.clusters[0].cluster.as_ref().unwrap();
        let server = "https://underpass.example:8443/k8s/clusters/prod";
        assert_eq!(prod.server.as_deref(), Some(server));
        let ca = BASE64
            .decode(prod.certificate_authority_data.as_ref().unwrap())
            .unwrap();
        assert_eq!(ca, config.ca_pem.unwrap().as_bytes());
        assert_eq!(
            read.auth_infos[0].name,
            "underpass-o'brien: \"x\"@example.org"
        );
        assert_eq!(
            read.contexts[2].context.as_ref().unwrap().cluster,
            "underpass-null"
        );
        assert!(
            yaml.starts_with("apiVersion: v1\nkind: Config\n"),
            "for people: {}",
            &**yaml
        );
    }

    #[test]
    fn a_cluster_has_a_path_or_a_name() {
        let clusters = clusters(&["prod"]);
        let domain = |name: &str| ClusterDomain::new(name).unwrap();
        let tls = || Way::Tls(domain("clusters.underpass.internal"));
        let dns = || Way::Dns(domain("k8s.example.org"));
        let named = Some("prod.clusters.underpass.internal");
        for (server, way, url, tls_name) in [
            (
                "https://u:1",
                Way::Path,
                "https://u:1/k8s/clusters/prod",
                None,
            ),
            ("https://u:1/", tls(), "https://u:1", named),
            ("https://[::1]:1", tls(), "https://[::1]:1", named),
            ("https://u:1", dns(), "https://prod.k8s.example.org:1", None),
            ("https://[::1]", dns(), "https://prod.k8s.example.org", None),
        ] {
            let config = Kubeconfig {
                server,
                ca_pem: None,
                user: "u",
                credential: Credential::Token("token"),
                way: &way,
                clusters: &clusters,
                prefix: "",
            };
            let read = kube::config::Kubeconfig::from_yaml(&config.to_yaml().unwrap()).unwrap();
            let cluster = read.clusters[0].cluster.as_ref().unwrap();
            assert_eq!(cluster.server.as_deref(), Some(url));
            assert_eq!(cluster.tls_server_name.as_deref(), tls_name);
        }
    }

    #[test]
    fn kube_reads_a_program_that_gives_credentials() {
        let clusters = clusters(&["prod", "dev"]);
        let arguments = ["credential".to_owned(), "--api=https://u:1".to_owned()];
        let config = Kubeconfig {
            server: "https://u:1",
            ca_pem: None,
            user: "u:1",
            credential: Credential::Exec {
                command: "underpass",
                arguments: &arguments,
                install_hint: "get it",
            },
            way: &Way::Path,
            clusters: &clusters,
            prefix: "underpass-",
        };
        let yaml = config.to_yaml().unwrap();
        let read = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        let exec = user.exec.as_ref().unwrap();
        assert_eq!(exec.command.as_deref(), Some("underpass"));
        assert_eq!(exec.args.as_deref(), Some(&arguments[..]));
        assert_eq!(
            exec.api_version.as_deref(),
            Some("client.authentication.k8s.io/v1")
        );
        assert!(user.token.is_none());
    }

    #[test]
    fn rule_23_a_servers_text_is_visible_in_a_kubeconfig() {
        let clusters = clusters(&["prod"]);
        let config = Kubeconfig {
            server: "https://u:1",
            ca_pem: None,
            user: "alice\u{202e}nimda\u{200b}\u{2066}@u",
            credential: Credential::Token("token"),
            way: &Way::Path,
            clusters: &clusters,
            prefix: "underpass-",
        };
        let yaml = config.to_yaml().unwrap();
        assert!(yaml.is_ascii(), "{}", &**yaml);
        assert!(
            yaml.contains("alice") && yaml.contains("202e"),
            "{}",
            &**yaml
        );
    }

    #[test]
    fn refuses_unusable_servers() {
        let token = "upt_x";
        let clusters = clusters(&["a"]);
        for server in [
            "http://x",
            "https://x/y",
            "x",
            "https://u:p@x",
            "https://x/?q",
        ] {
            let config = Kubeconfig {
                server,
                ca_pem: None,
                user: "u",
                credential: Credential::Token(token),
                way: &Way::Path,
                clusters: &clusters,
                prefix: "",
            };
            assert!(
                matches!(config.to_yaml(), Err(KubeconfigError::Server(_))),
                "{server}"
            );
        }
    }
}
