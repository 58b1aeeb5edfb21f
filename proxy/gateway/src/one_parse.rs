//! The request decided about is the one forwarded (security rule 26): routes, decisions and both halves' parsers, together.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, uri::PathAndQuery};
use proptest::{collection::vec, prelude::*, sample::select};
use underpass_core::{ClusterDomains, RequestInfo, Scope};
use underpass_directory::{Permission, Role};
use underpass_http::{
    call::{Asked, Call, CallError},
    headers,
    upgrade::UpgradeRequestError,
};

use crate::route::{Destination, PREFIX};

/// Pieces of paths: those that Kubernetes knows, and those that parsers read differently.
const SEGMENTS: [&str; 48] = [
    "",
    "",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    ".%2e",
    "..;x",
    "a",
    "b",
    "p",
    "api",
    "apis",
    "v1",
    "x.io",
    "namespaces",
    "pods",
    "services",
    "nodes",
    "things",
    "watch",
    "proxy",
    "exec",
    "attach",
    "portforward",
    "log",
    "console",
    "vnc",
    "status",
    "finalize",
    "%65xec",
    "pro%78y",
    "p%2Fexec",
    "p%2fproxy%2fx",
    "a%5Cb",
    "a\\b",
    "..\\x",
    "..%5c..",
    "%00",
    "%zz",
    "%",
    "%25",
    "%252e",
    "k8s",
    "clusters",
    "c",
    "DOMAIN%5Cuser",
    "version",
];

const QUERIES: [&str; 14] = [
    "",
    "?",
    "?watch",
    "?watch=",
    "?watch=true",
    "?watch=true&watch=false",
    "?watch=0&watch=1",
    "?WATCH=1",
    "?w%61tch=1",
    "?watch=1;x",
    "?follow=true",
    "?command=sh&tty=1",
    "?fieldSelector=metadata.name%3Dx&watch=1",
    "?x=//&y=/../z",
];

const METHODS: [&str; 12] = [
    "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "LIST", "get",
    "WATCH",
];

const LINES: [(&str, &str); 18] = [
    ("connection", "Upgrade"),
    ("connection", "keep-alive, upgrade"),
    ("connection", "cookie, x-http-method-override"),
    ("upgrade", "websocket"),
    ("upgrade", "SPDY/3.1"),
    ("upgrade", "h2c"),
    ("upgrade", "websocket, h2c"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ("http2-settings", "AAMAAABk"),
    ("x-http-method-override", "DELETE"),
    ("x-http-method", "DELETE"),
    ("x-original-url", "/api/v1/secrets"),
    ("x-forwarded-prefix", "/x"),
    ("cookie", "sid=1; underpass=2"),
    ("impersonate-user", "root"),
    ("authorization", "Bearer x"),
    ("accept", "*/*"),
];

fn head() -> impl Strategy<Value = (Method, String, HeaderMap, Version)> {
    // Mostly what means something, so that not nearly everything is refused.
    let starts = select(
        &[
            "",
            "/api/v1",
            "/api/v1/namespaces/a/pods/p",
            "/api/v1/namespaces/a/services/s/proxy",
            "/api/v1/nodes/n",
            "/api/v1/watch",
            "/apis/x.io/v1/namespaces/a/things/t",
        ][..],
    );
    let path = (
        starts,
        vec(select(&SEGMENTS[..]), 0..6),
        select(&QUERIES[..]),
    );
    let path = path.prop_map(|(start, segments, query)| {
        let segments: Vec<String> = segments
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect();
        format!("{start}{}{query}", segments.concat())
    });
    let lines = vec(select(&LINES[..]), 0..7).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers
    });
    let versions = select(
        &[
            Version::HTTP_10,
            Version::HTTP_11,
            Version::HTTP_11,
            Version::HTTP_2,
        ][..],
    );
    let method = select(&METHODS[..]).prop_map(|name| Method::from_bytes(name.as_bytes()).unwrap());
    (method, path, lines, versions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// The agent's half and the API server parse what is written a second time.
    #[test]
    fn rule_26_what_was_decided_about_is_what_is_forwarded((method, path, lines, version) in head(), named: bool) {
        // At the cluster's own name, or below the prefix.
        let path = if named { path } else { format!("{PREFIX}c{path}") };
        let server_name = named.then_some("c.clusters.underpass.internal");
        let Ok(target) = path.parse::<PathAndQuery>() else {
            return Ok(());
        };
        let request = Request::get(target.clone()).body(()).unwrap();
        let destination = Destination::of(&request, server_name, &ClusterDomains::default());
        let route = match destination {
            Destination::Cluster(Some(route)) => route,
            // Nothing of a path, which the prefix would have made one of.
            Destination::Cluster(None) if named && !path.starts_with('/') => return Ok(()),
            other => panic!("{path} is in a cluster: {other:?}"),
        };
        if named {
            prop_assert_eq!(&route.path, &target);
        }
        prop_assert_eq!(route.cluster.as_str(), "c");
        let Ok(asked) = Asked::read(&method, version, &lines) else {
            return Ok(());
        };
        let Ok(call) = Call::read(&method, Some(&route.path), asked) else {
            return Ok(());
        };
        let mut kept = lines.clone();
        headers::clean_request(&mut kept, call.info());
        let (forwarded, ()) = call.request(kept, ()).into_parts();

        let asked = Asked::read(&forwarded.method, forwarded.version, &forwarded.headers);
        let again = Call::read(&forwarded.method, forwarded.uri.path_and_query(), asked.unwrap());
        let again = again.unwrap();
        prop_assert_eq!(again.info(), call.info());
        prop_assert_eq!((again.method(), again.target()), (&method, &route.path));
        prop_assert_eq!(again.upgrade().is_some(), call.upgrade().is_some());
        prop_assert_eq!(Permission::needed_for(again.info()), Permission::needed_for(call.info()));

        // A request with an upgrade was authorized as one.
        let upgrades = forwarded.headers.contains_key("upgrade");
        prop_assert_eq!(upgrades, call.info().is_upgrade());
        if upgrades {
            prop_assert_eq!(call.info().verb(), "create");
            for role in [Role::View, Role::Access] {
                prop_assert!(!role.allows(Permission::needed_for(call.info())));
            }
            let reading = Scope { read_only: true, ..Scope::default() };
            prop_assert!(reading.check(&route.cluster, call.info()).is_err());
        }
        for name in ["x-http-method-override", "x-http-method", "x-original-url", "impersonate-user", "http2-settings"] {
            prop_assert!(!forwarded.headers.contains_key(name), "{}", name);
        }
        let cookies = forwarded.headers.get("cookie").map(|line| line.to_str().unwrap());
        prop_assert!(cookies.is_none_or(|line| call.info().below().is_some() && !line.contains("underpass")));

        // A proxy that cleans the path first reads the same. (A name may have a backslash, which Kubernetes does not split at.)
        if !call.info().name().contains('\\') {
            let (path, query) = (cleaned(forwarded.uri.path()), forwarded.uri.query());
            let read = RequestInfo::parse(&method, &path, query, call.info().is_upgrade());
            let meaning = |info: &RequestInfo| {
                [info.verb(), info.api_group(), info.namespace(), info.resource(), info.name(), info.subresource()]
                    .map(str::to_owned)
            };
            prop_assert_eq!(meaning(&read), meaning(call.info()), "{}", path);
        }
    }
}

/// As the boldest of proxies would clean a path.
fn cleaned(path: &str) -> String {
    let decoded = underpass_core::request_info::decode(path).unwrap();
    let mut kept = Vec::new();
    for part in decoded.split(['/', '\\']) {
        match part.split(';').next() {
            Some(".") => {}
            Some("..") => drop(kept.pop()),
            _ if part.is_empty() => {}
            _ => kept.push(part),
        }
    }
    format!("/{}", kept.join("/")).replace('%', "%25")
}

#[test]
fn rule_26_only_what_is_forwarded_as_an_upgrade_is_one() {
    let read = |version, lines: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Asked::read(&Method::GET, version, &headers).map(|asked| asked.is_upgrade())
    };
    let (connection, spdy) = (("connection", "Upgrade"), ("upgrade", "SPDY/3.1"));
    assert_eq!(read(Version::HTTP_11, &[connection, spdy]), Ok(true));
    // Forwarded without, and authorized as what they are then.
    assert_eq!(read(Version::HTTP_11, &[spdy]), Ok(false));
    assert_eq!(
        read(Version::HTTP_11, &[connection, ("upgrade", "h2c")]),
        Ok(false)
    );
    assert_eq!(read(Version::HTTP_10, &[connection, spdy]), Ok(false));
    assert_eq!(read(Version::HTTP_2, &[connection, spdy]), Ok(false));
    let two = read(
        Version::HTTP_11,
        &[connection, spdy, ("upgrade", "websocket")],
    );
    assert_eq!(two, Err(CallError::Upgrade(UpgradeRequestError::Ambiguous)));
}
