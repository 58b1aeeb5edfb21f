//! Where an answer may point: below the `…/proxy/` of the pod, service or node that was asked, and nowhere else (security
//! rule 20, CVE-2022-3172). client-go sends its bearer token along on every hop, and repeats method and body after 307 and 308.

use underpass_core::request_info::{decode, is_dots};

/// A proxied request's place, at both ends of one half of the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mount<'a> {
    /// The prefix of paths at the answer's origin, before an API server's own path.
    pub(crate) upstream: &'a str,
    /// Hosts and ports that it has there; without any, no URL may name a host.
    pub(crate) authorities: [Option<&'a str>; 2],
    /// The prefix of paths at the answer's receiver.
    pub(crate) client: &'a str,
    /// The object's path up to and with `proxy`, as the request has it; empty for a service that is all that `client` leads to.
    pub(crate) below: &'a str,
    /// The request's path and query, as an API server or a service gets them.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl Mount<'_> {
    /// Resolves a URI reference (RFC 3986, section 5.2) against the request's URL. The result is a path of the client's, with
    /// neither scheme nor host; `None` where it would lead out of the object's `…/proxy/`, or where browsers and RFC 3986
    /// read it differently.
    pub(super) fn resolve(&self, reference: &str) -> Option<String> {
        // Browsers take a backslash for a slash, and leave out tabs and line feeds wherever they stand.
        let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
        if reference.is_empty() || !reference.bytes().all(plain) {
            return None;
        }
        let (reference, fragment) = cut(reference, '#');
        let (hierarchy, query) = cut(reference, '?');
        let path = self.without_origin(hierarchy)?;
        let query = match (path.is_empty(), query) {
            // The same document.
            (true, None) => self.query,
            (_, query) => query,
        };
        let path = without_dots(&self.merge(path))?;
        let own = path.strip_prefix(self.upstream);
        let own =
            own.filter(|own| own.starts_with('/') || (self.below.is_empty() && own.is_empty()));
        // An API server behind another proxy writes its own paths, which may or may not be put right on the way.
        let rest = own
            .and_then(|own| self.rest(own))
            .or_else(|| self.rest(&path))?;
        let mut target = format!("{}{}/{rest}", self.client, self.below);
        for (mark, part) in [('?', query), ('#', fragment)] {
            if let Some(part) = part {
                target.push(mark);
                target.push_str(part);
            }
        }
        Some(target)
    }

    /// Takes away scheme and authority where they are the request's own: kube-apiserver leaves them in URLs that a workload
    /// builds from the `Host` that it saw (`rewriteURL` in apimachinery/pkg/util/proxy/transport.go).
    fn without_origin<'r>(&self, hierarchy: &'r str) -> Option<&'r str> {
        let first = hierarchy.split('/').next().unwrap_or_default();
        let rest = match first.split_once(':') {
            None => hierarchy,
            Some((scheme, ""))
                if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") =>
            {
                // Without an authority behind it, browsers make the next segment one.
                let rest = hierarchy.get(first.len()..)?;
                rest.starts_with("//").then_some(rest)?
            }
            Some(_) => return None,
        };
        let Some(behind) = rest.strip_prefix("//") else {
            return Some(rest);
        };
        let (authority, path) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
        let mut ours = self.authorities.into_iter().flatten();
        if !ours.any(|ours| authority.eq_ignore_ascii_case(ours)) {
            return None;
        }
        Some(if path.is_empty() { "/" } else { path })
    }

    /// RFC 3986, section 5.2.3.
    fn merge(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        if path.is_empty() {
            return self.path.to_owned();
        }
        let (directory, _) = self.path.rsplit_once('/').unwrap_or_default();
        format!("{directory}/{path}")
    }

    /// A path's rest behind the object's `…/proxy/`. kube-apiserver writes its segments decoded where the client may have
    /// escaped them.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.below.is_empty() {
            return Some(path.strip_prefix('/').unwrap_or(path));
        }
        let mut rest = path.strip_prefix('/')?;
        for wanted in self.below.strip_prefix('/')?.split('/') {
            let (segment, behind) = rest.split_once('/')?;
            if decode(segment)? != decode(wanted)? {
                return None;
            }
            rest = behind;
        }
        Some(rest)
    }
}

fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark)
        .map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// RFC 3986, section 5.2.4, with `%2e` for a dot as browsers have it; `None` where a segment holds another path by an escaped
/// slash or backslash.
fn without_dots(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let decoded = decode(segment)?;
        let last = segments.peek().is_none();
        match decoded.as_str() {
            "." | ".." => {
                if decoded == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other if other.split(['/', '\\']).any(is_dots) => return None,
            _ => kept.push(segment),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// A `Refresh` header's value (HTML, section 4.2.5.3), with its URL resolved.
pub(super) fn refresh(value: &str, place: &Mount<'_>) -> Option<String> {
    let (seconds, url) = match value.split_once([';', ',']) {
        Some((seconds, url)) => (seconds.trim(), url.trim()),
        None => (value.trim(), ""),
    };
    if seconds.is_empty() || !seconds.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if url.is_empty() {
        return Some(seconds.to_owned());
    }
    let (name, url) = url.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("url") {
        return None;
    }
    let url = url.trim();
    let quoted = ['"', '\''].iter().find_map(|&mark| {
        let inner = url.strip_prefix(mark)?;
        Some(inner.split(mark).next().unwrap_or_default())
    });
    let target = place.resolve(quoted.unwrap_or(url))?;
    Some(format!("{seconds}; url={target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELOW: &str = "/api/v1/namespaces/a/services/http%3As%3A80/proxy";

    fn place(upstream: &'static str, authority: Option<&'static str>) -> Mount<'static> {
        Mount {
            upstream,
            authorities: [authority, None],
            client: "/k8s/clusters/c",
            below: BELOW,
            path: "/api/v1/namespaces/a/services/http%3As%3A80/proxy/app/page",
            query: Some("q=1"),
        }
    }

    fn front(reference: &str) -> Option<String> {
        place("", None).resolve(reference)
    }

    #[test]
    fn rule_20_a_reference_below_the_same_proxy_is_rewritten() {
        for (reference, rest) in [
            ("next", "app/next"),
            ("./next", "app/next"),
            ("../x", "x"),
            ("..", ""),
            ("%2e%2E/x", "x"),
            ("a/..", "app/"),
            ("?q=2", "app/page?q=2"),
            ("#top", "app/page?q=1#top"),
            ("a%2Fb", "app/a%2Fb"),
            (
                "next?to=https://evil.example/",
                "app/next?to=https://evil.example/",
            ),
            ("x/a:b", "app/x/a:b"),
            // As kube-apiserver writes it, and as the client did.
            (
                "/api/v1/namespaces/a/services/http:s:80/proxy/login?x=1#y",
                "login?x=1#y",
            ),
            ("/api/v1/namespaces/a/services/http%3As%3A80/proxy/", ""),
            ("/api/v1/namespaces/a/services/http:s:80/proxy//x", "/x"),
            (
                "/./api/v1/namespaces/a/services/http:s:80/proxy/a/../b",
                "b",
            ),
        ] {
            let expected = format!("/k8s/clusters/c{BELOW}/{rest}");
            assert_eq!(front(reference), Some(expected), "{reference}");
        }
    }

    #[test]
    fn rule_20_a_reference_elsewhere_is_refused() {
        let inside = "/api/v1/namespaces/a/services/http:s:80/proxy/x";
        for reference in [
            "",
            "/",
            "/login",
            "/v1/clusters/victim",
            "/k8s/clusters/other/api/v1/namespaces/a/services/http:s:80/proxy/x",
            "/api/v1/namespaces/a/services/http:s:80/proxy",
            "/api/v1/namespaces/a/services/http:s:80/proxyx/",
            "/api/v1/namespaces/a/services/t/proxy/x",
            "/api/v1/namespaces/b/services/http:s:80/proxy/x",
            "/api/v1/namespaces/a/pods/http:s:80/proxy/x",
            "/api/v1/namespaces/a/services/http%253As%253A80/proxy/x",
            "../..",
            "../../../t/proxy/x",
            "%2e%2e/%2e%2e/%2E./x",
            "..%2f..%2f..%2fx",
            "..%5c..%5cx",
            "..\\..\\x",
            "a%2f..%2f..%2f..%2fx",
            "https://evil.example/",
            "https://evil.example/api/v1/namespaces/a/services/http:s:80/proxy/x",
            "HTTPS://evil.example",
            "//evil.example/x",
            "//evil.example\\@front/x",
            "/\\evil.example/x",
            "\\\\evil.example/x",
            "///evil.example/x",
            "https:evil.example",
            "https:/evil.example",
            "https:///evil.example",
            "http:",
            "javascript:alert(1)",
            "data:text/html,x",
            "a:b",
            "next page",
            "next\tpage",
            "/\t/evil.example",
            "caf\u{e9}",
            "%zz",
        ] {
            assert_eq!(front(reference), None, "{reference:?}");
        }
        for origin in [
            "https://front",
            "//front",
            "https://user@front",
            "https://front:443",
        ] {
            assert_eq!(front(&format!("{origin}{inside}")), None, "{origin}");
        }
    }

    #[test]
    fn rule_20_an_agent_takes_its_api_servers_own_origin_away() {
        let agent = place("/k8s/clusters/up", Some("10.0.0.1:6443"));
        let own = "/api/v1/namespaces/a/services/http:s:80/proxy/x";
        let expected = Some(format!("/k8s/clusters/c{BELOW}/x"));
        for origin in [
            "",
            "/k8s/clusters/up",
            "https://10.0.0.1:6443",
            "http://10.0.0.1:6443/k8s/clusters/up",
            "HTTPS://10.0.0.1:6443",
            "//10.0.0.1:6443",
        ] {
            assert_eq!(
                agent.resolve(&format!("{origin}{own}")),
                expected,
                "{origin}"
            );
        }
        for origin in [
            "https://10.0.0.1",
            "https://10.0.0.1:6444",
            "https://10.0.0.1:6443.evil.example",
            "https://10.0.0.1:6443@evil.example",
            "https://user@10.0.0.1:6443",
            "ftp://10.0.0.1:6443",
            "/k8s/clusters/other",
            "/k8s/clusters/up/..",
        ] {
            assert_eq!(agent.resolve(&format!("{origin}{own}")), None, "{origin}");
        }
    }

    #[test]
    fn rule_20_a_services_reference_stays_below_its_prefix() {
        let prefix = "/v1/clusters/c/services/http:shop:web:80";
        let service = Mount {
            upstream: prefix,
            authorities: [Some("web.shop.svc"), Some("up.example.org:8443")],
            client: prefix,
            below: "",
            path: "/app/page",
            query: Some("q=1"),
        };
        for (reference, rest) in [
            ("next", "/app/next"),
            ("/", "/"),
            ("/login?x=1#y", "/login?x=1#y"),
            ("?q=2", "/app/page?q=2"),
            ("..", "/"),
            ("../../../../etc", "/etc"),
            ("%2e%2e/%2e%2e/%2e%2e/x", "/x"),
            // A service that knows where it is, by X-Forwarded-Prefix.
            ("/v1/clusters/c/services/http:shop:web:80/login", "/login"),
            ("/v1/clusters/c/services/http:shop:web:80", "/"),
            ("http://web.shop.svc/login", "/login"),
            ("HTTP://WEB.shop.svc", "/"),
            (
                "https://up.example.org:8443/v1/clusters/c/services/http:shop:web:80/login",
                "/login",
            ),
            // And what is not below it becomes so.
            ("/v1/clusters/victim", "/v1/clusters/victim"),
            (
                "/v1/clusters/c/services/http:shop:web:8080/x",
                "/v1/clusters/c/services/http:shop:web:8080/x",
            ),
            ("https://up.example.org:8443/v1/users", "/v1/users"),
        ] {
            let expected = format!("{prefix}{rest}");
            assert_eq!(service.resolve(reference), Some(expected), "{reference}");
        }
        for reference in [
            "",
            "https://evil.example/",
            "//evil.example/x",
            "http://web.shop.svc:81/x",
            "http://web.shop.svc@evil.example/",
            "http:evil.example",
            "///evil.example/x",
            "/\\evil.example",
            "javascript:alert(1)",
            "a%2f..%2f..%2fx",
        ] {
            assert_eq!(service.resolve(reference), None, "{reference:?}");
        }
    }

    #[test]
    fn rule_20_a_refresh_is_resolved_like_a_redirect() {
        let place = place("", None);
        let next = format!("5; url=/k8s/clusters/c{BELOW}/app/next");
        for value in [
            "5; url=next",
            "5;URL=next",
            "5 , url = 'next' x",
            "5;url=\"next\"",
        ] {
            assert_eq!(refresh(value, &place).as_deref(), Some(&*next), "{value}");
        }
        assert_eq!(refresh("5", &place).as_deref(), Some("5"));
        for value in [
            "",
            "x",
            "5; https://evil.example/",
            "0;url=//evil.example",
            "0;url='/x'",
            "-1",
        ] {
            assert_eq!(refresh(value, &place), None, "{value}");
        }
    }
}
