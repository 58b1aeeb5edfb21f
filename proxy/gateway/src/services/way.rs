//! The meaning of `/v1/clusters/{cluster}/services/{scheme}:{namespace}:{name}:{port}/…`: one port of one service of one cluster,
//! and the path that is the service's own (security rules 6, 8 and 26).

use bytes::Bytes;
use http::uri::PathAndQuery;

use underpass_core::{ClusterName, Rejection, TcpTarget, request_info::check_workloads};

/// The path of the server's API for clusters, below which a cluster's services are.
const CLUSTERS: &str = "/v1/clusters/";
const SERVICES: &str = "services/";

const BAD_SERVICE: &str = "a service is /v1/clusters/CLUSTER/services/SCHEME:NAMESPACE:NAME:PORT/, with the scheme http, https or h2c, \
     names of a-z, 0-9 and '-', a port of 1 to 65535, and nothing escaped";

/// How a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// HTTP/1.1, upgrades among it.
    Http,
    /// TLS, and above it what the service prefers of HTTP/2 and HTTP/1.1; HTTP/1.1 for upgrades.
    Https,
    /// HTTP/2 without TLS, from the first byte on (RFC 9113, section 3.3): gRPC mostly.
    H2c,
}

impl Scheme {
    fn read(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "h2c" => Some(Self::H2c),
            _ => None,
        }
    }

    /// The port that a URL of this scheme leaves out, and the scheme of such a URL.
    fn of_url(self) -> (&'static str, u16) {
        match self {
            Self::Https => ("https", 443),
            Self::Http | Self::H2c => ("http", 80),
        }
    }
}

/// A request's way to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceWay {
    pub(crate) cluster: ClusterName,
    pub(crate) scheme: Scheme,
    /// `NAME.NAMESPACE.svc:PORT`, which is a service to an agent, and nothing else.
    pub(crate) service: TcpTarget,
    /// The service's root, as its client knows it, without a slash at its end.
    pub(crate) prefix: String,
    /// The request's target for the service: the client's bytes behind the prefix.
    pub(crate) path: PathAndQuery,
    /// The client has left out the slash behind the prefix: links of the answer would lead beside the service.
    pub(crate) lacks_slash: bool,
}

/// A path below a cluster's services that leads to none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoService {
    /// The cluster that the path names, where it can be one's name.
    pub(crate) cluster: Option<ClusterName>,
    /// The reason, for a caller who is known.
    pub(crate) rejection: Rejection,
}

impl From<NoService> for Rejection {
    fn from(no: NoService) -> Self {
        no.rejection
    }
}

impl ServiceWay {
    /// Reads a request's target; `None` where it is no service's.
    pub(crate) fn read(target: &PathAndQuery) -> Option<Result<Self, NoService>> {
        let (cluster, rest) = target.path().strip_prefix(CLUSTERS)?.split_once('/')?;
        let rest = rest.strip_prefix(SERVICES)?;
        let (service, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?;
        let Ok(cluster) = ClusterName::new(cluster) else {
            return Some(Err(NoService {
                cluster: None,
                rejection: Rejection::NotFound,
            }));
        };
        let way = Self::of(cluster.clone(), service, path, target.query());
        Some(way.map_err(|rejection| NoService {
            cluster: Some(cluster),
            rejection,
        }))
    }

    fn of(
        cluster: ClusterName,
        service: &str,
        path: &str,
        query: Option<&str>,
    ) -> Result<Self, Rejection> {
        let bad = Rejection::BadRequest(BAD_SERVICE);
        let prefix = format!("{CLUSTERS}{cluster}/{SERVICES}{service}");
        let (scheme, service) = read_service(service).ok_or(bad.clone())?;
        check_workloads(path).map_err(|error| Rejection::BadPath(error.to_string()))?;
        let lacks_slash = path.is_empty();
        let mut own = if lacks_slash { "/" } else { path }.to_owned();
        if let Some(query) = query {
            own.push('?');
            own.push_str(query);
        }
        let path = PathAndQuery::from_maybe_shared(Bytes::from(own)).map_err(|_| bad)?;
        Ok(Self {
            cluster,
            scheme,
            service,
            prefix,
            path,
            lacks_slash,
        })
    }

    /// The scheme of the URL by which the service is asked.
    pub(crate) fn url_scheme(&self) -> &'static str {
        self.scheme.of_url().0
    }

    /// The host, and the port where a URL has it.
    pub(crate) fn authority(&self) -> String {
        let name = self.service.name().unwrap_or_default();
        match self.service.port() {
            port if port == self.scheme.of_url().1 => name.to_owned(),
            port => format!("{name}:{port}"),
        }
    }

    /// The target with a slash behind the prefix.
    pub(crate) fn with_slash(&self) -> String {
        format!("{}{}", self.prefix, self.path)
    }
}

/// One spelling for each: cookies and redirects compare prefixes byte by byte.
fn read_service(text: &str) -> Option<(Scheme, TcpTarget)> {
    let mut parts = text.split(':');
    let mut part = || parts.next();
    let (scheme, namespace, name, port) = (part()?, part()?, part()?, part()?);
    if part().is_some() || port.starts_with('0') {
        return None;
    }
    // Labels of DNS both, as clusters' names are.
    let (namespace, name) = (ClusterName::new(namespace), ClusterName::new(name));
    let (namespace, name) = (namespace.ok()?, name.ok()?);
    let service = format!("{name}.{namespace}.svc:{port}").parse().ok()?;
    Some((Scheme::read(scheme)?, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Option<Result<ServiceWay, Rejection>> {
        let read = ServiceWay::read(&target.parse().unwrap())?;
        Some(read.map_err(Rejection::from))
    }

    const ROOT: &str = "/v1/clusters/c/services/http:shop:web:80";

    #[test]
    fn the_rest_of_the_path_is_the_services() {
        for (rest, path) in [
            ("/", "/"),
            ("/a/b%2Fc//?q=%zz&x=/../y", "/a/b%2Fc//?q=%zz&x=/../y"),
            ("/a/../b", "/a/../b"),
            (
                "/grpc.health.v1.Health/Check",
                "/grpc.health.v1.Health/Check",
            ),
            ("", "/"),
            ("?a=b", "/?a=b"),
        ] {
            let way = read(&format!("{ROOT}{rest}")).unwrap().unwrap();
            assert_eq!(way.cluster.as_str(), "c");
            assert_eq!(way.scheme, Scheme::Http);
            assert_eq!(way.service.to_string(), "web.shop.svc:80");
            assert_eq!(way.prefix, ROOT);
            assert_eq!(way.path.as_str(), path, "{rest}");
            assert_eq!(way.lacks_slash, !rest.starts_with('/'), "{rest}");
            assert_eq!(way.with_slash(), format!("{ROOT}{path}"));
        }
    }

    #[test]
    fn a_host_has_the_port_that_a_url_has() {
        for (service, url) in [
            ("http:shop:web:80", "http://web.shop.svc"),
            ("http:shop:web:443", "http://web.shop.svc:443"),
            ("https:shop:web:443", "https://web.shop.svc"),
            ("https:shop:web:8443", "https://web.shop.svc:8443"),
            ("h2c:0:1:50051", "http://1.0.svc:50051"),
        ] {
            let way = read(&format!("/v1/clusters/c/services/{service}/"));
            let way = way.unwrap().unwrap();
            assert_eq!(format!("{}://{}", way.url_scheme(), way.authority()), url);
        }
    }

    #[test]
    fn other_paths_are_the_servers_own() {
        for target in [
            "/",
            "/v1/clusters",
            "/v1/clusters/c",
            "/v1/clusters/c/services",
            "/v1/clusters/c/agents/services/",
            "/v1/clusters?x=/c/services/http:a:b:1/",
            "/v1//clusters/c/services/http:shop:web:80/",
            "/v1/clusters//services",
            "/V1/clusters/c/services/http:shop:web:80/",
            "/v1/%63lusters/c/services/http:shop:web:80/",
            "/k8s/clusters/c/services/http:shop:web:80/",
        ] {
            assert!(read(target).is_none(), "{target}");
        }
    }

    #[test]
    fn rule_26_a_services_path_has_one_meaning() {
        for spec in [
            "",
            "http",
            "web",
            "http:shop:web",
            "http:shop:web:",
            ":shop:web:80",
            "http::web:80",
            "http:shop::80",
            "http:shop:web:80:",
            "http:shop:web:80:81",
            "HTTP:shop:web:80",
            "ftp:shop:web:80",
            "tcp:shop:web:80",
            "http:shop:web:0",
            "http:shop:web:65536",
            "http:shop:web:080",
            "http:shop:web:+80",
            "http:shop:web:http",
            "http:Shop:web:80",
            "http:shop:web.other:80",
            "http:shop.other:web:80",
            "http:shop:-web:80",
            "http:shop:we_b:80",
            "http:shop:web%2F..:80",
            "http%3Ashop%3Aweb%3A80",
            "http:shop:web:80%2f..%2f",
            "http:shop:web:80%00",
            "http:shop:web:80;x",
            "http:shop:web:80\\x",
            "..",
            "%2e%2e",
        ] {
            let answer = read(&format!("/v1/clusters/c/services/{spec}/x")).unwrap();
            assert_eq!(answer, Err(Rejection::BadRequest(BAD_SERVICE)), "{spec}");
        }
        for cluster in ["", "C", "a%2fb", "..", "%2e%2e", "a.b"] {
            let target = format!("/v1/clusters/{cluster}/services/http:shop:web:80/");
            assert_eq!(read(&target).unwrap(), Err(Rejection::NotFound), "{target}");
        }
    }

    #[test]
    fn rule_26_no_path_leads_out_of_a_service() {
        for rest in [
            "/..",
            "/../http:shop:other:80/",
            "/%2e%2E/x",
            "/a/../../x",
            "//../x",
            "/a/..%2f..%2fx",
            "/..%5c",
            "/..;x/",
            "/%zz",
            "/%",
        ] {
            let answer = read(&format!("{ROOT}{rest}")).unwrap();
            assert!(matches!(answer, Err(Rejection::BadPath(_))), "{rest}");
        }
    }
}
