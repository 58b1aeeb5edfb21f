use super::*;

fn info(method: Method, uri: &str, upgrade: bool) -> RequestInfo {
    let (path, query) = uri
        .split_once('?')
        .map_or((uri, None), |(p, q)| (p, Some(q)));
    RequestInfo::parse(&method, path, query, upgrade)
}

#[test]
fn reads_verbs_and_resources() {
    let cases = [
        (Method::GET, "/api/v1/pods", "list", "pods", ""),
        (Method::GET, "/api/v1/pods?watch=true", "watch", "pods", ""),
        (Method::GET, "/api/v1/pods?watch=0", "list", "pods", ""),
        (Method::GET, "/api/v1/watch/pods", "watch", "pods", ""),
        (Method::GET, "/api/v1/namespaces/a", "get", "namespaces", ""),
        (
            Method::PUT,
            "/api/v1/namespaces/a/status",
            "update",
            "namespaces",
            "status",
        ),
        (
            Method::GET,
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "get",
            "deployments",
            "scale",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/a/pods",
            "deletecollection",
            "pods",
            "",
        ),
        (Method::PATCH, "/api/v1/nodes/n", "patch", "nodes", ""),
        (Method::GET, "/version", "get", "", ""),
        (Method::GET, "/api/v1/proxy/nodes/n", "proxy", "nodes", ""),
    ];
    for (method, uri, verb, resource, subresource) in cases {
        let info = info(method, uri, false);
        assert_eq!(
            (info.verb(), info.resource(), info.subresource()),
            (verb, resource, subresource),
            "{uri}"
        );
    }
}

#[test]
fn rule_8_streams_are_create_in_every_spelling() {
    for uri in [
        "/api/v1/namespaces/a/pods/p/exec?command=sh",
        "/api/v1/namespaces/a/pods/p/exec?watch=true",
        "/api/v1/watch/namespaces/a/pods/p/exec",
        "/api/v1/namespaces/a/pods/p/%65xec",
        "//api/v1/namespaces/a/pods/p/attach/",
        "/api/v1/namespaces/a/pods/p%2Fportforward",
    ] {
        assert_eq!(info(Method::GET, uri, false).verb(), "create", "{uri}");
        assert!(info(Method::GET, uri, true).is_long_running(), "{uri}");
    }
}

#[test]
fn rule_26_an_upgrade_is_create_whatever_else_it_is() {
    let vmi = "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/v/vnc";
    for uri in [
        vmi.to_owned(),
        format!("{vmi}?watch="),
        format!("{vmi}?watch=true&watch=false"),
        "/api/v1/pods?watch=1".to_owned(),
        "/api/v1/watch/pods".to_owned(),
        "/api/v1/proxy/nodes/n/x".to_owned(),
        "/api/v1/nodes/n/proxy/x".to_owned(),
        "/version".to_owned(),
    ] {
        for method in [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS] {
            let info = info(method, &uri, true);
            assert_eq!(info.verb(), "create", "{uri}");
            assert!(info.is_upgrade() && !info.changes_nothing(), "{uri}");
        }
    }
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert!(info(Method::POST, review, false).changes_nothing());
    assert!(!info(Method::POST, review, true).changes_nothing());
}

#[test]
fn rule_26_a_method_that_writes_is_no_read_by_its_path() {
    for (method, uri, verb) in [
        ("DELETE", "/api/v1/watch/namespaces/a/pods/p", "watch"),
        ("POST", "/api/v1/watch/pods", "watch"),
        ("LIST", "/api/v1/namespaces/a/pods/p", "list"),
        ("get", "/api/v1/namespaces/a/pods/p", "get"),
        ("Watch", "/version", "watch"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let info = info(method, uri, false);
        assert_eq!(
            (info.verb(), info.changes_nothing()),
            (verb, false),
            "{uri}"
        );
    }
}

/// Of `TestGetAPIRequestInfo` and `TestGetNonAPIRequestInfo` (requestinfo_test.go).
#[test]
fn rule_26_kubernetes_own_cases() {
    for (method, uri, verb, group, version, namespace, resource, subresource, name) in [
        (
            "GET",
            "/api/v1/namespaces",
            "list",
            "",
            "v1",
            "",
            "namespaces",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/namespaces/other",
            "get",
            "",
            "v1",
            "other",
            "namespaces",
            "",
            "other",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods",
            "list",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        (
            "HEAD",
            "/api/v1/namespaces/other/pods",
            "list",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo",
            "get",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        (
            "HEAD",
            "/api/v1/namespaces/other/pods/foo",
            "get",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        ("GET", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
        (
            "POST",
            "/api/v1/pods",
            "create",
            "",
            "v1",
            "",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo",
            "proxy",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        (
            "GET",
            "/api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource",
            "proxy",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        (
            "GET",
            "/api/v1/watch/pods",
            "watch",
            "",
            "v1",
            "",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/pods?watch=true",
            "watch",
            "",
            "v1",
            "",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/pods?watch=false",
            "list",
            "",
            "v1",
            "",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/watch/namespaces/other/pods",
            "watch",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods?watch=1",
            "watch",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods?watch=0",
            "list",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        // A name makes it a get, also with `watch`.
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo?watch=1",
            "get",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo/status",
            "get",
            "",
            "v1",
            "other",
            "pods",
            "status",
            "foo",
        ),
        (
            "GET",
            "/api/v1/namespaces/other/pods/foo/proxy/subpath",
            "get",
            "",
            "v1",
            "other",
            "pods",
            "proxy",
            "foo",
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/finalize",
            "update",
            "",
            "v1",
            "other",
            "namespaces",
            "finalize",
            "other",
        ),
        (
            "PUT",
            "/api/v1/namespaces/other/status",
            "update",
            "",
            "v1",
            "other",
            "namespaces",
            "status",
            "other",
        ),
        (
            "PATCH",
            "/api/v1/namespaces/other/pods/foo",
            "patch",
            "",
            "v1",
            "other",
            "pods",
            "",
            "foo",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/other/pods",
            "deletecollection",
            "",
            "v1",
            "other",
            "pods",
            "",
            "",
        ),
        (
            "POST",
            "/apis/extensions/v1beta3/namespaces/other/pods",
            "create",
            "extensions",
            "v1beta3",
            "other",
            "pods",
            "",
            "",
        ),
        // No resource.
        ("GET", "/", "get", "", "", "", "", "", ""),
        ("GET", "/api", "get", "", "", "", "", "", ""),
        ("GET", "/api/v1", "get", "", "", "", "", "", ""),
        ("GET", "/apis/extensions/v1", "get", "", "", "", "", "", ""),
        ("POST", "/healthz/ping", "post", "", "", "", "", "", ""),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let read = info(method, uri, false);
        assert_eq!(
            (
                read.audit_verb(),
                read.api_group(),
                read.api_version(),
                read.namespace()
            ),
            (verb, group, version, namespace),
            "{uri}"
        );
        assert_eq!(
            (read.resource(), read.subresource(), read.name()),
            (resource, subresource, name),
            "{uri}"
        );
    }
}

#[test]
fn what_is_proxied_has_a_beginning_of_its_own() {
    for (uri, below) in [
        (
            "/api/v1/namespaces/a/services/http%3As%3A80/proxy/x/proxy/y",
            Some("/api/v1/namespaces/a/services/http%3As%3A80/proxy"),
        ),
        ("/api/v1/nodes/n/proxy", Some("/api/v1/nodes/n/proxy")),
        (
            "/api/v1/namespaces/a/pods/p/pro%78y/",
            Some("/api/v1/namespaces/a/pods/p/pro%78y"),
        ),
        ("/api/v1/namespaces/a/services/s%2Fproxy/x", None),
        ("/api/v1/namespaces/a/configmaps/c/proxy/x", None),
        ("/apis/x.io/v1/namespaces/a/services/s/proxy/x", None),
        ("/api/v1/proxy/namespaces/a/services/s/x", None),
        ("/api/v1/namespaces/a/services/s/proxyx", None),
    ] {
        assert_eq!(info(Method::GET, uri, false).below(), below, "{uri}");
    }
}

#[test]
fn terminals_are_urgent_and_copies_are_not() {
    let pod = "/api/v1/namespaces/a/pods/p";
    for (what, class) in [
        (
            "exec?command=sh&tty=true&stdin=true",
            StreamClass::Interactive,
        ),
        ("attach?container=c&tty=1", StreamClass::Interactive),
        ("exec?command=sh&tty=false", StreamClass::Default),
        ("exec?command=sh&command=tar", StreamClass::Default),
        ("exec?container=c&command=tar&command=cf", StreamClass::Bulk),
        ("exec?command=%2Fbin%2Ftar", StreamClass::Bulk),
        ("log?follow=true&tty=true", StreamClass::Default),
        ("portforward", StreamClass::Default),
    ] {
        let info = info(Method::GET, &format!("{pod}/{what}"), true);
        assert_eq!(info.class(), class, "{what}");
    }
}

/// `go tool pprof …/debug/pprof/profile?seconds=300` is longer than any request's time.
#[test]
fn profiles_run_for_as_long_as_they_are_asked_to() {
    for (path, long) in [
        ("/debug/pprof/profile?seconds=300", true),
        ("/debug/pprof/trace", true),
        ("/debug/pprof/", true),
        ("/debug/pprof", false),
        ("/debug/pprofile", false),
        ("/debug/flags/v", false),
        ("/version", false),
        ("/api/v1/pods/debug/pprof/", false),
    ] {
        let info = info(Method::GET, path, false);
        assert_eq!(info.is_long_running(), long, "{path}");
        assert!(info.resource().is_empty() || path.starts_with("/api"));
    }
}
