//! Where a request goes: to the server itself, or to one cluster, by `/k8s/clusters/{cluster}/…` or by a name of the cluster's own, or
//! to a service of one, by `/v1/clusters/{cluster}/services/…`, or to a shell at an agent (security rules 6 and 8). This is the one place where that is decided.

use bytes::Bytes;
use http::{
    HeaderValue, Request, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    services::{NoService, ServiceWay},
    shells::ShellWay,
};
use underpass_core::{ClusterDomains, ClusterName, HostName, Rejection};

/// The prefix of clusters' paths, at a name of the server's.
pub(crate) const PREFIX: &str = "/k8s/clusters/";

/// Why no cluster is found by names, for clients.
const OTHER_NAME: &str = "the TLS connection was made for the name of another host; ask again on a connection for the name in the request";
const NO_CLUSTER: &str =
    "no cluster can have the name that the connection or the request was made for";

/// Programs in Go, Prometheus among them, ask a proxy like this for `http` URLs, and by CONNECT for `https` ones alone.
const NO_FORWARD_PROXY: &str = "it is one to an HTTP proxy, for a URL of another server: this proxy takes CONNECT alone (curl: \
     --proxytunnel). For programs that cannot, run `underpass forward` beside them, or ask for \
     /v1/clusters/CLUSTER/services/http:NAMESPACE:NAME:PORT/";

/// The destination of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The server's own endpoints.
    Server,
    /// A cluster; `None` below the prefix where no cluster can have the name that is there.
    Cluster(Option<Route>),
    /// A service of a cluster; or the reason that there is none, for a caller who is known.
    Service(Result<ServiceWay, NoService>),
    /// A shell at an agent, for a viewer.
    Shell(ShellWay),
    /// Nothing: its names do not belong together. No credential changes that.
    Nowhere(Rejection),
}

/// A request's way into a cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) cluster: ClusterName,
    /// The API server's target: the client's bytes, behind the prefix where there is one, unchanged (`%2F`, `//`, trailing
    /// slashes and dots mean something to API servers, or nothing to us).
    pub(crate) path: PathAndQuery,
    style: Style,
}

/// How the client knows the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Path,
    Name,
}

impl Destination {
    /// Reads the request's names, `server_name` of its connection's TLS among them, and its path.
    ///
    /// A cluster's name leaves every path to that cluster's API server: below it there is neither this server nor another cluster.
    /// Names that tell of two clusters, or of a cluster and of the server, are refused, with one exception: a client that names
    /// a cluster by the domain that only TLS knows writes into `Host` the name or address by which it reaches this server.
    pub(crate) fn of<B>(
        request: &Request<B>,
        server_name: Option<&str>,
        domains: &ClusterDomains,
    ) -> Self {
        let Ok(asked) = host(request, domains) else {
            return Self::Nowhere(Rejection::BadRequest(
                "its host is not HOST[:PORT], or it has two hosts",
            ));
        };
        let connected = server_name.map_or(HostName::Server, |name| domains.read(name));
        let cluster = match (connected, asked) {
            (HostName::NoCluster, _) | (_, Some(HostName::NoCluster)) => {
                return Self::Nowhere(Rejection::Misdirected(NO_CLUSTER));
            }
            (HostName::Server, None | Some(HostName::Server)) => return Self::by_path(request),
            (HostName::Server, Some(HostName::Cluster(asked) | HostName::TlsCluster(asked))) => {
                asked
            }
            (HostName::Cluster(connected) | HostName::TlsCluster(connected), None) => connected,
            (HostName::TlsCluster(connected), Some(HostName::Server)) => connected,
            (
                HostName::Cluster(connected) | HostName::TlsCluster(connected),
                Some(HostName::Cluster(asked) | HostName::TlsCluster(asked)),
            ) if connected == asked => asked,
            // HTTP/2 lets clients send requests for every name of a certificate on one connection (RFC 9113, section 9.1.1).
            _ => return Self::Nowhere(Rejection::Misdirected(OTHER_NAME)),
        };
        let path = request.uri().path_and_query();
        let path = path.filter(|path| path.as_str().starts_with('/'));
        Self::Cluster(path.map(|path| Route {
            cluster,
            path: path.clone(),
            style: Style::Name,
        }))
    }

    fn by_path<B>(request: &Request<B>) -> Self {
        match request.uri().path_and_query() {
            Some(target) if target.as_str().starts_with(PREFIX) => {
                Self::Cluster(Route::below_prefix(target))
            }
            // Not before: an absolute target that has a cluster's path means that.
            _ if asks_a_proxy(request) => Self::Nowhere(Rejection::BadRequest(NO_FORWARD_PROXY)),
            None => Self::Server,
            Some(target) => {
                // Only a WebSocket is the gateway's.
                let shell = request.headers().contains_key(header::UPGRADE);
                let shell = shell.then(|| ShellWay::read(target)).flatten();
                let service = || ServiceWay::read(target).map(Self::Service);
                let found = shell.map(Self::Shell).or_else(service);
                found.unwrap_or(Self::Server)
            }
        }
    }
}

impl Route {
    fn below_prefix(target: &PathAndQuery) -> Option<Self> {
        let rest = target.as_str().strip_prefix(PREFIX)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (cluster, rest) = rest.split_at_checked(end)?;
        let cluster = ClusterName::new(cluster).ok()?;
        let path = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        let path = PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()?;
        Some(Self {
            cluster,
            path,
            style: Style::Path,
        })
    }

    /// The client's path of the API server's root, without a slash at its end.
    pub(crate) fn base(&self) -> String {
        match self.style {
            Style::Path => format!("{PREFIX}{}", self.cluster),
            Style::Name => String::new(),
        }
    }

    /// The request's target with the prefix, however it came: for the log.
    pub(crate) fn with_prefix(&self) -> String {
        format!("{PREFIX}{}{}", self.cluster, self.path)
    }
}

/// Is it a request to a forward proxy? Its target is an `http` URL in absolute form (RFC 9112, section 3.2.2); this server's own URLs
/// are `https`. HTTP/2 has a scheme in each request.
fn asks_a_proxy<B>(request: &Request<B>) -> bool {
    request.version() <= Version::HTTP_11 && request.uri().scheme() == Some(&Scheme::HTTP)
}

/// A host that cannot be read, or that another parser may take for another one.
struct BadHost;

/// The meaning of the request's host; `None` where it names none. An absolute target, or HTTP/2's `:authority`, and the `Host`
/// header have to mean the same.
fn host<B>(request: &Request<B>, domains: &ClusterDomains) -> Result<Option<HostName>, BadHost> {
    let in_target = request.uri().authority().cloned().map(Ok);
    let lines = request.headers().get_all(header::HOST).iter();
    let lines = lines.filter(|line| !line.is_empty()).map(authority);
    let mut meaning = None;
    for authority in in_target.into_iter().chain(lines) {
        let authority = authority?;
        // RFC 9110, section 4.2.4: userinfo obscures the authority.
        if authority.as_str().contains('@') {
            return Err(BadHost);
        }
        let found = domains.read(authority.host());
        match &meaning {
            Some(known) if *known != found => return Err(BadHost),
            _ => meaning = Some(found),
        }
    }
    Ok(meaning)
}

fn authority(line: &HeaderValue) -> Result<Authority, BadHost> {
    Authority::try_from(line.as_bytes()).map_err(|_| BadHost)
}

#[cfg(test)]
mod tests {
    use underpass_core::ClusterDomain;

    use super::*;

    fn domains() -> ClusterDomains {
        ClusterDomains::new(&[ClusterDomain::new("k8s.example.org").unwrap()]).unwrap()
    }

    /// In a request's own words: `server`, `CLUSTER PATH`, `CLUSTER` where there is no path, or the status.
    fn words(destination: &Destination) -> String {
        match destination {
            Destination::Server => "server".to_owned(),
            Destination::Cluster(None) => "no cluster".to_owned(),
            Destination::Cluster(Some(route)) => format!("{} {}", route.cluster, route.path),
            Destination::Shell(way) => format!("{} {}", way.cluster, way.target),
            Destination::Service(Ok(way)) => format!("{} {}", way.cluster, way.service),
            Destination::Service(Err(NoService { rejection, .. }))
            | Destination::Nowhere(rejection) => rejection.code().as_str().to_owned(),
        }
    }

    fn to(sni: Option<&str>, hosts: &[&str], target: &str) -> Destination {
        let mut request = Request::get(target).body(()).unwrap();
        for host in hosts {
            let host = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            request.headers_mut().append(header::HOST, host);
        }
        Destination::of(&request, sni, &domains())
    }

    fn find(target: &str) -> Option<(String, String)> {
        match to(None, &["front"], target) {
            Destination::Cluster(Some(route)) => {
                Some((route.cluster.to_string(), route.path.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn the_rest_is_opaque() {
        for rest in [
            "/",
            "//",
            "/api/v1/pods/",
            "/api//v1/%2F%2f/..;/x?watch=1&fieldSelector=a%3Db",
            "/?",
            "/a/../b",
            "/%25",
        ] {
            let found = find(&format!("/k8s/clusters/prod{rest}"));
            assert_eq!(found, Some(("prod".to_owned(), rest.to_owned())));
            let sni = Some("prod.clusters.underpass.internal");
            let Destination::Cluster(Some(route)) = to(sni, &["front"], rest) else {
                panic!("{rest} is no way");
            };
            assert_eq!(route.path.as_str(), rest);
            assert_eq!(route.with_prefix(), format!("/k8s/clusters/prod{rest}"));
        }
    }

    #[test]
    fn a_bare_cluster_is_its_root() {
        assert_eq!(find("/k8s/clusters/prod").unwrap().1, "/");
        assert_eq!(find("/k8s/clusters/prod?x=1").unwrap().1, "/?x=1");
    }

    #[test]
    fn a_request_to_a_forward_proxy_is_told_from_one_to_this_server() {
        for target in [
            "http://grafana.monitoring/",
            "http://grafana.monitoring:80/v1/clusters",
            "http://10.0.0.1/metrics?x=1",
            "http://x/v1/clusters/c/services/http:shop:web:80/",
        ] {
            let Destination::Nowhere(Rejection::BadRequest(words)) = to(None, &["x"], target)
            else {
                panic!("{target} is no request to a proxy");
            };
            assert!(words.contains("CONNECT"), "{words}");
        }
        for target in [
            "https://x/v1/clusters",
            "/v1/clusters",
            "/metrics?u=http://x/",
        ] {
            assert_eq!(to(None, &["x"], target), Destination::Server, "{target}");
        }
        // HTTP/2 has a scheme in each request.
        let mut request = Request::get("http://x/v1/clusters").body(()).unwrap();
        *request.version_mut() = Version::HTTP_2;
        let destination = Destination::of(&request, None, &domains());
        assert_eq!(destination, Destination::Server);
    }

    #[test]
    fn nothing_else_is_a_cluster() {
        for path in [
            "/",
            "/k8s/clusters",
            "/k8s/clusters/",
            "/k8s/clusters//x",
            "/k8s/clusters/A/x",
            "/k8s/clusters/a%2fb/x",
            "/k8s/clusters/../x",
            "/K8s/clusters/a/",
            "//k8s/clusters/a/",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }

    #[test]
    fn the_base_is_the_clients() {
        let by_path = to(None, &["front"], "/k8s/clusters/a/api");
        let by_name = to(None, &["a.k8s.example.org"], "/api");
        for (destination, base) in [(by_path, "/k8s/clusters/a"), (by_name, "")] {
            let Destination::Cluster(Some(route)) = destination else {
                panic!("{destination:?}");
            };
            assert_eq!(route.base(), base);
        }
    }

    const A: &str = "a.k8s.example.org";
    const B: &str = "b.k8s.example.org";
    const TLS_A: &str = "a.clusters.underpass.internal";
    const TLS_B: &str = "b.clusters.underpass.internal";
    const SERVER: &str = "up.example.org";

    /// Every pair of a connection's name and a request's host, with a path that means something everywhere.
    #[test]
    fn rule_6_a_request_has_one_cluster_by_its_names_or_none() {
        let path = "/k8s/clusters/c/api";
        let (in_a, in_b) = ("a /k8s/clusters/c/api", "b /k8s/clusters/c/api");
        let deep = "x.a.k8s.example.org";
        for (sni, expected) in [
            // Hosts:              SERVER    none      A      B      TLS_A  TLS_B  deep
            (None, ["c /api", "c /api", in_a, in_b, in_a, in_b, "421"]),
            (
                Some(SERVER),
                ["c /api", "c /api", in_a, in_b, in_a, in_b, "421"],
            ),
            (Some(A), ["421", in_a, in_a, "421", in_a, "421", "421"]),
            (Some(B), ["421", in_b, "421", in_b, "421", in_b, "421"]),
            (Some(TLS_A), [in_a, in_a, in_a, "421", in_a, "421", "421"]),
            (Some(TLS_B), [in_b, in_b, "421", in_b, "421", in_b, "421"]),
            (Some(deep), ["421"; 7]),
        ] {
            let hosts = [&[SERVER][..], &[], &[A], &[B], &[TLS_A], &[TLS_B], &[deep]];
            for (hosts, expected) in hosts.into_iter().zip(expected) {
                let found = to(sni, hosts, path);
                assert_eq!(words(&found), expected, "{sni:?} {hosts:?}");
            }
        }
    }

    #[test]
    fn rule_8_on_a_clusters_name_everything_is_the_clusters() {
        for path in [
            "/",
            "/v1/self",
            "/v1/login",
            "/healthz",
            "/readyz",
            "/metrics",
            "/k8s/clusters/b/api",
            "/k8s/clusters/",
            "/k8s/clusters/B/api",
            "/underpass/v1/agent?x=1",
        ] {
            for (sni, host) in [(None, A), (Some(A), A), (Some(TLS_A), SERVER)] {
                let found = to(sni, &[host], path);
                assert_eq!(words(&found), format!("a {path}"), "{sni:?} {host}");
            }
        }
        for path in ["/", "/v1/self", "/healthz", "/readyz", "/metrics"] {
            assert_eq!(to(None, &[SERVER], path), Destination::Server);
        }
        // Neither form has a path.
        for target in ["*", "10.0.0.1:443"] {
            assert_eq!(to(None, &[SERVER], target), Destination::Server);
        }
        assert_eq!(to(Some(TLS_A), &[SERVER], "*"), Destination::Cluster(None));
    }

    #[test]
    fn rule_6_a_host_has_one_meaning() {
        for (host, cluster) in [
            ("A.K8S.example.org", "a /"),
            ("a.k8s.example.org:8443", "a /"),
            ("a.k8s.example.org.", "a /"),
            ("a.k8s.example.org.:443", "a /"),
            ("[::1]:8443", "server"),
            ("127.0.0.1", "server"),
            ("", "server"),
            ("b@a.k8s.example.org", "400"),
            ("a.k8s.example.org@up.example.org", "400"),
            ("a.k8s.example.org/x", "400"),
            ("a b", "400"),
            ("a.k8s.example.org, up.example.org", "400"),
            ("b\u{fc}ro", "400"),
        ] {
            assert_eq!(words(&to(None, &[host], "/")), cluster, "{host:?}");
        }
        // An absolute target, or `:authority`, beside the header.
        for (host, target, expected) in [
            (SERVER, "https://a.k8s.example.org/api", "400"),
            (A, "https://up.example.org/api", "400"),
            (B, "https://a.k8s.example.org/api", "400"),
            (A, "https://A.k8s.example.org:8443/api", "a /api"),
            // Both are names of the server's, or of nobody's.
            (SERVER, "http://elsewhere/k8s/clusters/c/api", "c /api"),
        ] {
            assert_eq!(words(&to(None, &[host], target)), expected, "{target}");
        }
        assert_eq!(words(&to(None, &[A, SERVER], "/api")), "400");
        assert_eq!(words(&to(None, &[A, A], "/api")), "a /api");
    }
}
