use http::Method;
use http_body_util::Full;
use underpass_core::ClusterDomain;

use super::*;

const DNS: &str = "edge.k8s.example.org";
const TLS: &str = "edge.clusters.underpass.internal";
const OTHER: &str = "other.clusters.underpass.internal";
const SERVER: &str = "up.example.org";
const UNIX: &str = "unix.underpass.internal:80";

fn domains() -> ClusterDomains {
    ClusterDomains::new(&[ClusterDomain::new("k8s.example.org").unwrap()]).unwrap()
}

fn request(target: &str, lines: &[(&str, &str)]) -> Request<Full<&'static [u8]>> {
    let mut request = Request::builder().method(Method::CONNECT).uri(target);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// `CLUSTER TARGET`, or the status.
fn read(server_name: Option<&str>, target: &str, lines: &[(&str, &str)]) -> String {
    match Way::read(&request(target, lines), server_name, &domains()) {
        Ok(Way {
            cluster,
            node: Some(node),
            target,
        }) => format!("{cluster}/{node} {target}"),
        Ok(way) => format!("{} {}", way.cluster, way.target),
        Err(rejection) => rejection.code().as_str().to_owned(),
    }
}

/// Each pair of ways to name the cluster: the name in TLS, the target's name, and the header.
#[test]
fn rule_6_a_connection_is_to_one_cluster_or_to_none() {
    let plain = "web.shop:80";
    let (in_edge, in_dns) = (
        "web.shop.edge.clusters.underpass.internal:80",
        "web.shop.edge.k8s.example.org:80",
    );
    let in_other = "web.shop.other.k8s.example.org:80";
    let nobody = "web.EDGE!.k8s.example.org:80";
    let (edge, other) = ("edge tcp:web.shop:80", "other tcp:web.shop:80");
    let header = [("underpass-cluster", "edge")];
    for (sni, lines, expected) in [
        // Targets:               plain  edge  edge  other nobody
        (None, &[][..], ["400", edge, edge, other, "421"]),
        (Some(SERVER), &[], ["400", edge, edge, other, "421"]),
        (Some(DNS), &[], [edge, edge, edge, "421", "421"]),
        (Some(TLS), &[], [edge, edge, edge, "421", "421"]),
        (Some(OTHER), &[], [other, "421", "421", other, "421"]),
        (Some("x.y.k8s.example.org"), &[], ["421"; 5]),
        (None, &header, [edge, edge, edge, "421", "421"]),
        (Some(SERVER), &header, [edge, edge, edge, "421", "421"]),
        (Some(TLS), &header, [edge, edge, edge, "421", "421"]),
        (Some(OTHER), &header, ["421"; 5]),
    ] {
        let targets = [plain, in_edge, in_dns, in_other];
        for (target, expected) in targets.into_iter().zip(expected) {
            assert_eq!(
                read(sni, target, lines),
                expected,
                "{sni:?} {target} {lines:?}"
            );
        }
        // The http crate takes no `!` in an authority; another name that no cluster has.
        let nobody = nobody.replace("EDGE!", "-");
        assert_eq!(read(sni, &nobody, lines), "421", "{sni:?} {nobody}");
    }
}

#[test]
fn rule_26_a_target_has_one_meaning() {
    let edge = |target, lines: &[(&str, &str)]| {
        let cluster = [("underpass-cluster", "edge")];
        let lines: Vec<_> = cluster.iter().chain(lines).copied().collect();
        read(None, target, &lines)
    };
    for (target, expected) in [
        ("10.0.0.1:5432", "edge tcp:10.0.0.1:5432"),
        ("[2001:db8::1]:443", "edge tcp:[2001:db8::1]:443"),
        ("DB.Prod.:5432", "edge tcp:db.prod:5432"),
        ("10.0.0.1.edge.k8s.example.org:80", "edge tcp:10.0.0.1:80"),
        ("web.shop", "400"),
        ("web.shop:0", "400"),
        ("web.shop:", "400"),
        ("web.shop:65536", "400"),
        ("127.1:80", "400"),
        ("[::1%25eth0]:80", "400"),
        ("a@web.shop:80", "400"),
        ("-web:80", "400"),
        ("edge.k8s.example.org:443", "400"),
        (".edge.k8s.example.org:443", "400"),
        ("http://web.shop:80/", "400"),
        ("/k8s/clusters/edge", "400"),
        (UNIX, "400"),
    ] {
        if target.parse::<http::Uri>().is_err() {
            continue;
        }
        assert_eq!(edge(target, &[]), expected, "{target}");
    }
    let to = |host| edge("web.shop:80", &[("host", host)]);
    for host in ["web.shop:80", "WEB.shop", "web.shop", ""] {
        assert_eq!(to(host), "edge tcp:web.shop:80", "{host}");
    }
    for host in [
        "web.shop:81",
        "evil",
        "a@web.shop:80",
        "web.shop:80:80",
        "a b",
    ] {
        assert_eq!(to(host), "400", "{host}");
    }
    let hosts = [("host", "web.shop:80"), ("host", "evil:80")];
    assert_eq!(edge("web.shop:80", &hosts), "400");
    // `Underpass-Target` is the only target, and a socket.
    let unix = |target, path| edge(target, &[("underpass-target", path)]);
    assert_eq!(unix(UNIX, "unix:/run/x.sock"), "edge unix:/run/x.sock");
    for (target, path) in [
        ("web.shop:80", "unix:/run/x.sock"),
        ("unix.underpass.internal:81", "unix:/run/x.sock"),
        (UNIX, "unix:run/x.sock"),
        (UNIX, "unix:/run/../x.sock"),
        (UNIX, "tcp:10.0.0.1:80"),
        (UNIX, "kube-api"),
        (UNIX, "shell"),
        (UNIX, ""),
    ] {
        assert_eq!(unix(target, path), "400", "{target} {path}");
    }
    let twice = [
        ("underpass-target", "unix:/a"),
        ("underpass-target", "unix:/a"),
    ];
    assert_eq!(edge(UNIX, &twice), "400");
    for name in ["", "EDGE", "edge, other", "a.b", "../edge"] {
        let lines = [("underpass-cluster", name)];
        assert_eq!(read(None, "web.shop:80", &lines), "400", "{name}");
    }
    assert_eq!(edge("web.shop:80", &[("underpass-cluster", "edge")]), "400");
}

/// A node is named by its header alone: nothing else in a request can be taken for one, and the cluster is named as ever.
#[test]
fn rule_6_a_connection_is_to_one_node_or_to_the_cluster() {
    let node = ("underpass-node", "worker-1.example.org");
    let cluster = ("underpass-cluster", "edge");
    let to = |sni, target, lines: &[_]| read(sni, target, lines);
    let there = "edge/worker-1.example.org tcp:127.0.0.1:9000";
    assert_eq!(to(None, "127.0.0.1:9000", &[cluster, node]), there);
    assert_eq!(to(Some(TLS), "127.0.0.1:9000", &[node]), there);
    let named = "127.0.0.1.edge.k8s.example.org:9000";
    assert_eq!(to(None, named, &[node]), there);
    let unix = ("underpass-target", "unix:/run/x.sock");
    let there = "edge/worker-1.example.org unix:/run/x.sock";
    assert_eq!(to(None, UNIX, &[cluster, node, unix]), there);
    // A node is no cluster, and two clusters stay two.
    assert_eq!(to(None, "web.shop:80", &[node]), "400");
    assert_eq!(to(Some(OTHER), "web.shop:80", &[cluster, node]), "421");
    for bad in ["", "Worker-1", "a b", "a,b", "../a", "a/b", "*", "a."] {
        let lines = [cluster, ("underpass-node", bad)];
        assert_eq!(to(None, "web.shop:80", &lines), "400", "{bad}");
    }
    let twice = [cluster, node, node];
    assert_eq!(to(None, "web.shop:80", &twice), "400");
}

#[test]
fn rule_1_nothing_stands_between_a_connects_head_and_its_bytes() {
    let lines = |extra: (&'static str, &'static str)| {
        let lines = [("underpass-cluster", "edge"), extra];
        read(None, "web.shop:80", &lines)
    };
    for extra in [
        ("content-length", "0"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("expect", "100-continue"),
        ("upgrade", "websocket"),
    ] {
        assert_eq!(lines(extra), "400", "{extra:?}");
    }
    let mut old = request("web.shop:80", &[("underpass-cluster", "edge")]);
    *old.version_mut() = Version::HTTP_10;
    let refused = Way::read(&old, None, &domains()).unwrap_err();
    assert_eq!(refused.code(), 400);
    let body = request("web.shop:80", &[("underpass-cluster", "edge")]);
    let body = body.map(|_| Full::new(&b"hello"[..]));
    let refused = Way::read(&body, None, &domains()).unwrap_err();
    assert_eq!(refused.code(), 400);
}

#[test]
fn a_request_without_a_cluster_is_told_how_to_name_one() {
    let request = request("web.shop:80", &[]);
    let told = Way::read(&request, None, &domains()).unwrap_err();
    let told = told.to_string();
    for way in [
        "proxy URL",
        "HOST.CLUSTER.clusters.underpass.internal",
        "Underpass-Cluster",
    ] {
        assert!(told.contains(way), "{told}");
    }
}
