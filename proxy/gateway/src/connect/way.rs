//! The meaning of a CONNECT request: a target, the one cluster that it is in, and the node where it is at one (security rules 6, 8 and
//! 26). This is the one place where that is decided.

use http::{HeaderName, HeaderValue, Request, Version, header, uri::Authority};

use underpass_core::{
    ClusterDomains, ClusterName, HostName, NodeName, Rejection, Target, TargetName,
    UNDERPASS_CLUSTER, UNDERPASS_NODE, UNDERPASS_TARGET, UNIX_AUTHORITY,
};

/// Why there is no cluster, for clients.
const OTHER_CLUSTER: &str =
    "its name in TLS, its target and its header Underpass-Cluster tell of two clusters";
const NO_CLUSTER: &str = "no cluster can have the name in TLS, or the one in the target";
const UNNAMED_CLUSTER: &str = "CONNECT needs a cluster: a proxy URL with the cluster's own name, a target as in \
     HOST.CLUSTER.clusters.underpass.internal:PORT, or the header Underpass-Cluster";
const BAD_CLUSTER: &str =
    "the header Underpass-Cluster is one cluster's name, once: 1 to 63 of a-z, 0-9 and '-'";
const BAD_NODE: &str =
    "the header Underpass-Node is the name of one node, once, as `underpass node list` shows it";
const CLUSTER_ITSELF: &str = "the target is a cluster itself: ask this server for its API without CONNECT, or name a host in it, as in \
     web.shop.CLUSTER.clusters.underpass.internal:80";
const BAD_TARGET: &str = "the target of CONNECT is not HOST:PORT, with an IPv6 address in brackets and a port of 1 to 65535";
const OTHER_HOST: &str = "the Host of a CONNECT request is its target";
const BAD_NAMED: &str = "the header Underpass-Target is unix:PATH, with an absolute path without . and .., or shell:ID or node-shell:ID, \
     once";
const TWO_TARGETS: &str =
    "beside the header Underpass-Target the target of CONNECT is unix.underpass.internal:80";
const NO_UNIX: &str = "the target unix.underpass.internal:80 needs the header Underpass-Target";
const BODY: &str = "a CONNECT request has no body, and no header of one";
const UPGRADE: &str = "a CONNECT request asks for no upgrade";
const VERSION: &str = "CONNECT needs HTTP/1.1 or HTTP/2";

/// A target of one cluster, or of one node of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) cluster: ClusterName,
    pub(super) node: Option<NodeName>,
    pub(super) target: Target,
}

impl Way {
    /// Reads a request on a connection whose TLS was made for `server_name`. Names that tell of two clusters are refused.
    pub(super) fn read<B: http_body::Body>(
        request: &Request<B>,
        server_name: Option<&str>,
        domains: &ClusterDomains,
    ) -> Result<Self, Rejection> {
        check_framing(request)?;
        let authority = target_of(request)?;
        let connected = match server_name.map(|name| domains.read(name)) {
            None | Some(HostName::Server) => None,
            Some(HostName::Cluster(cluster) | HostName::TlsCluster(cluster)) => Some(cluster),
            Some(HostName::NoCluster) => return Err(Rejection::Misdirected(NO_CLUSTER)),
        };
        let in_header = one(request, &UNDERPASS_CLUSTER, BAD_CLUSTER)?;
        let in_header = in_header.map(ClusterName::new);
        let in_header = in_header.transpose();
        let in_header = in_header.map_err(|_| Rejection::BadRequest(BAD_CLUSTER))?;
        let node = one(request, &UNDERPASS_NODE, BAD_NODE)?;
        let node = node.map(str::parse).transpose();
        let node = node.map_err(|_| Rejection::BadRequest(BAD_NODE))?;
        let (in_target, target) = match one(request, &UNDERPASS_TARGET, BAD_NAMED)? {
            Some(named) => (None, read_named(named, authority)?),
            None => read_tcp(authority, domains)?,
        };
        let mut named = [connected, in_header, in_target].into_iter().flatten();
        let cluster = named.next();
        let cluster = cluster.ok_or(Rejection::BadRequest(UNNAMED_CLUSTER))?;
        if named.any(|other| other != cluster) {
            return Err(Rejection::Misdirected(OTHER_CLUSTER));
        }
        Ok(Self {
            cluster,
            node,
            target,
        })
    }
}

/// Bytes behind the head are the tunnel's, and of nothing else (RFC 9110, section 9.3.6).
fn check_framing<B: http_body::Body>(request: &Request<B>) -> Result<(), Rejection> {
    if !matches!(request.version(), Version::HTTP_11 | Version::HTTP_2) {
        return Err(Rejection::BadRequest(VERSION));
    }
    let headers = request.headers();
    let framed = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
    ];
    let framed = framed.iter().any(|name| headers.contains_key(name));
    if framed || !request.body().is_end_stream() {
        return Err(Rejection::BadRequest(BODY));
    }
    if headers.contains_key(header::UPGRADE) {
        return Err(Rejection::BadRequest(UPGRADE));
    }
    Ok(())
}

/// `HOST:PORT`, which stands in the request's target and, over HTTP/1.1, in `Host` as well (RFC 9112, section 3.2).
fn target_of<B>(request: &Request<B>) -> Result<&Authority, Rejection> {
    let uri = request.uri();
    let bad = Rejection::BadRequest(BAD_TARGET);
    let authority = uri.authority().ok_or_else(|| bad.clone())?;
    let only = uri.scheme().is_none() && uri.path_and_query().is_none();
    // RFC 9110, section 4.2.4: userinfo obscures the authority.
    if !only || authority.as_str().contains('@') {
        return Err(bad);
    }
    let hosts = request.headers().get_all(header::HOST).iter();
    for host in hosts.filter(|host| !host.is_empty()) {
        let host = Authority::try_from(host.as_bytes());
        let same = host.is_ok_and(|host| {
            let same_port = host.port().is_none() || host.port_u16() == authority.port_u16();
            same_port
                && !host.as_str().contains('@')
                && host.host().eq_ignore_ascii_case(authority.host())
        });
        if !same {
            return Err(Rejection::BadRequest(OTHER_HOST));
        }
    }
    Ok(authority)
}

/// The header's text, where there is one.
fn one<'r, B>(
    request: &'r Request<B>,
    name: &HeaderName,
    wrong: &'static str,
) -> Result<Option<&'r str>, Rejection> {
    let mut lines = request.headers().get_all(name).iter();
    let text = |line: &'r HeaderValue| str::from_utf8(line.as_bytes()).ok();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => text(line).map(Some).ok_or(Rejection::BadRequest(wrong)),
        (Some(_), Some(_)) => Err(Rejection::BadRequest(wrong)),
    }
}

fn read_named(text: &str, authority: &Authority) -> Result<Target, Rejection> {
    if authority.as_str() != UNIX_AUTHORITY {
        return Err(Rejection::BadRequest(TWO_TARGETS));
    }
    match text.parse() {
        Ok(target @ (Target::Unix(_) | Target::Shell(..))) => Ok(target),
        _ => Err(Rejection::BadRequest(BAD_NAMED)),
    }
}

/// The target, and the cluster where its name is below one's.
fn read_tcp(
    authority: &Authority,
    domains: &ClusterDomains,
) -> Result<(Option<ClusterName>, Target), Rejection> {
    if authority.as_str() == UNIX_AUTHORITY {
        return Err(Rejection::BadRequest(NO_UNIX));
    }
    let (cluster, host) = match domains.read_target(authority.host()) {
        TargetName::Plain => (None, authority.host().to_owned()),
        TargetName::Of(host, cluster) => (Some(cluster), host),
        TargetName::Cluster(_) => return Err(Rejection::BadRequest(CLUSTER_ITSELF)),
        TargetName::NoCluster => return Err(Rejection::Misdirected(NO_CLUSTER)),
    };
    let port = authority.port();
    let port = port.ok_or(Rejection::BadRequest(BAD_TARGET))?;
    let target = format!("{host}:{}", port.as_str()).parse();
    let target = target.map_err(|_| Rejection::BadRequest(BAD_TARGET))?;
    Ok((cluster, Target::Tcp(target)))
}

#[cfg(test)]
mod tests;
