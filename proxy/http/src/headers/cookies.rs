//! Cookies of proxied workloads: each is for the path below its own `…/proxy/`, and none is this origin's.

use http::{HeaderMap, HeaderValue, header};

use super::redirect::Mount;
use underpass_core::{
    limits,
    request_info::{decode, is_dots},
};

/// The prefix of the names of this server's own cookies, reserved for later use.
const OWN: &str = "underpass";

/// Prefixes of names that browsers give a meaning (RFC 6265bis, section 4.1.3). A `__Host-` cookie is one of the whole origin: no
/// workload has set it.
const HOST: [&str; 2] = ["__host-http-", "__host-"];
const SECURE: [&str; 2] = ["__secure-", "__http-"];

/// Cookies of load balancers and of proxies for single sign-on. They stand before this server and leave these in the requests.
const LOGINS_IN_FRONT: [&str; 12] = [
    "_oauth2_proxy",
    "_pomerium",
    "_forward_auth",
    "appserviceauthsession",
    "authelia_session",
    "authentik_",
    "awsalb",
    "awselb",
    "cf_app",
    "cf_authorization",
    "gcp_ia",
    "mod_auth_openidc_session",
];

/// The cookies of a request that may go on to a workload, in one line (RFC 9113, section 8.2.3, lets clients split it).
pub(super) fn inbound(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept = String::new();
    let mut count = 0_usize;
    let lines = headers.get_all(header::COOKIE).iter();
    for pair in lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
    {
        let Some((name, value)) = pair_of(pair) else {
            continue;
        };
        let longer = kept.len().saturating_add(pair.len()).saturating_add(2);
        if !is_workloads(name) || count == limits::COOKIES || longer > limits::COOKIE_LINE_BYTES {
            continue;
        }
        if count > 0 {
            kept.push_str("; ");
        }
        kept.push_str(name);
        kept.push('=');
        kept.push_str(value);
        count = count.saturating_add(1);
    }
    (count > 0).then(|| HeaderValue::from_str(&kept).ok())?
}

/// The `Set-Cookie` headers of a workload's answer as they are right for the client.
pub(super) fn outbound(headers: &HeaderMap, place: &Mount<'_>) -> Vec<HeaderValue> {
    let lines = headers.get_all(header::SET_COOKIE).iter();
    lines
        .filter(|line| line.len() <= limits::COOKIE_BYTES)
        .filter_map(|line| rewrite(line.to_str().ok()?, place))
        .filter_map(|line| HeaderValue::from_str(&line).ok())
        .take(limits::COOKIES)
        .collect()
}

/// `name=value`, both as RFC 6265 (section 4.1.1) has them; of the value more, since browsers take JSON and blanks.
fn pair_of(pair: &str) -> Option<(&str, &str)> {
    let (name, value) = pair.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let plain = |b: u8| b == b' ' || b.is_ascii_graphic();
    let valid = !name.is_empty() && name.bytes().all(token) && value.bytes().all(plain);
    valid.then_some((name, value))
}

/// A name that a workload can have set, and that belongs neither to this server nor to a login in front of it.
fn is_workloads(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if HOST.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    let bare = SECURE
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(&name);
    !bare.starts_with(OWN)
        && !LOGINS_IN_FRONT
            .iter()
            .any(|prefix| bare.starts_with(prefix))
}

/// Writes a cookie anew from the attributes that are known. `Domain` is none of them: without it, a cookie is for this host only.
fn rewrite(line: &str, place: &Mount<'_>) -> Option<String> {
    let mut parts = line.split(';');
    let (name, value) = pair_of(parts.next()?)?;
    if !is_workloads(name) {
        return None;
    }
    let (mut path, mut kept) = ("", String::new());
    for part in parts {
        let (attribute, given) = part.split_once('=').unwrap_or((part, ""));
        let (attribute, given) = (attribute.trim(), given.trim());
        match attribute.to_ascii_lowercase().as_str() {
            // The last one counts (RFC 6265, section 5.3).
            "path" => path = given,
            "expires" | "max-age" | "samesite" => {
                kept.push_str(&format!("; {attribute}={given}"));
            }
            "secure" | "httponly" | "partitioned" => kept.push_str(&format!("; {attribute}")),
            _ => {}
        }
    }
    let path = client_path(path, place)?;
    Some(format!("{name}={value}; Path={path}{kept}"))
}

/// A cookie's path as the client knows it: the workload's own root is its `…/proxy/`. Browsers compare it byte by byte with what
/// they ask for, so that it begins as the request's path did.
fn client_path(path: &str, place: &Mount<'_>) -> Option<String> {
    let root = format!("{}{}", place.client, place.below);
    if !path.starts_with('/') {
        // Browsers would take the directory of the request.
        return Some(format!("{root}/"));
    }
    let segments = path.split('/');
    let odd = |segment: &str| {
        decode(segment).is_none_or(|decoded| decoded.split(['/', '\\']).any(is_dots))
    };
    if path.contains('\\') || !path.bytes().all(|b| b.is_ascii_graphic()) || { segments }.any(odd) {
        return None;
    }
    // Some workloads know the path that they are below.
    let rest = [&*root, place.below].iter().find_map(|beginning| {
        let rest = path.strip_prefix(*beginning)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    });
    let rest = rest.unwrap_or(path);
    Some(match rest {
        "" => format!("{root}/"),
        rest => format!("{root}{rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/k8s/clusters/c/api/v1/nodes/n/proxy";

    fn set(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                header::SET_COOKIE,
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        let place = Mount {
            upstream: "",
            authorities: [None, None],
            client: "/k8s/clusters/c",
            below: "/api/v1/nodes/n/proxy",
            path: "/api/v1/nodes/n/proxy/app/x",
            query: None,
        };
        let lines = outbound(&headers, &place);
        lines
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect()
    }

    fn sent(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                header::COOKIE,
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        inbound(&headers).map(|line| line.to_str().unwrap().to_owned())
    }

    #[test]
    fn rule_20_a_workloads_cookie_is_for_its_own_path() {
        for (path, expected) in [
            ("", "/"),
            ("; Path", "/"),
            ("; Path=", "/"),
            ("; Path=app", "/"),
            ("; Path=/", "/"),
            ("; path=/app", "/app"),
            ("; Path=/app; Path=/", "/"),
            ("; Path=/api/v1/nodes/n/proxy", "/"),
            ("; Path=/api/v1/nodes/n/proxy/app/", "/app/"),
            ("; Path=/api/v1/nodes/n/proxyx", "/api/v1/nodes/n/proxyx"),
            ("; Path=/k8s/clusters/c/api/v1/nodes/n/proxy/app", "/app"),
            ("; Path=/k8s/clusters/d/", "/k8s/clusters/d/"),
            ("; Path=/v1", "/v1"),
        ] {
            assert_eq!(
                set(&[&format!("a=b{path}")]),
                [format!("a=b; Path={ROOT}{expected}")]
            );
        }
        assert_eq!(
            set(&[
                "sid=\"x y\"; Domain=example.com; Secure; HttpOnly; SameSite=Lax; Max-Age=5; Priority=High"
            ]),
            [format!(
                "sid=\"x y\"; Path={ROOT}/; Secure; HttpOnly; SameSite=Lax; Max-Age=5"
            )]
        );
    }

    #[test]
    fn rule_20_what_is_no_cookie_of_a_workloads_is_dropped() {
        for line in [
            "",
            "a",
            "=b",
            "a b=c",
            "a\u{e9}=c",
            "a=\u{e9}",
            "__Host-a=b; Path=/; Secure",
            "__HOST-Http-a=b; Path=/; Secure",
            "underpass=b",
            "Underpass-Session=b",
            "__Secure-underpass_session=b; Secure",
            "_oauth2_proxy_1=b",
            "AWSELBAuthSessionCookie-0=b",
            "a=b; Path=/../",
            "a=b; Path=/%2e%2e/x",
            "a=b; Path=/x%2f..",
            "a=b; Path=/x\\..",
            "a=b; Path=/%zz",
            "a=b; Path=/x y",
        ] {
            assert_eq!(set(&[line]), [""; 0], "{line}");
        }
        let many = vec!["a=b"; limits::COOKIES + 1];
        assert_eq!(set(&many).len(), limits::COOKIES);
        let long = format!("a={}", "b".repeat(limits::COOKIE_BYTES));
        assert_eq!(set(&[&long, "c=d"]), [format!("c=d; Path={ROOT}/")]);
    }

    #[test]
    fn rule_4_no_cookie_but_a_workloads_goes_to_it() {
        let all = [
            "sid=1; underpass=2;__Host-x=3 ; xsrf=\"4\"",
            "UNDERPASS_session=5; __Secure-Underpass=6; __Secure-y=7; novalue; =8; CF_Authorization=9",
        ];
        assert_eq!(
            sent(&all).as_deref(),
            Some("sid=1; xsrf=\"4\"; __Secure-y=7")
        );
        assert_eq!(sent(&["underpass=1"]), None);
        let many = "a=b; ".repeat(limits::COOKIES + 5);
        assert_eq!(
            sent(&[&many]).unwrap().matches("a=b").count(),
            limits::COOKIES
        );
        let long = format!("a={}; c=d", "b".repeat(limits::COOKIE_LINE_BYTES));
        assert_eq!(sent(&[&long]).as_deref(), Some("c=d"));
    }
}
