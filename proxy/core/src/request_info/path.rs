//! A path as kube-apiserver splits it, and the checks for parts that two parsers could read differently.

use super::RequestInfo;

/// Why a path is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the target is not a path")]
    NoPath,
    /// A `%` without two hexadecimal digits behind it.
    #[error("the path has an invalid percent-escape")]
    Escape,
    /// Two slashes in a row.
    #[error("the path has an empty segment (\"//\"); write each slash once")]
    Empty,
    /// `.` or `..`, escaped or not.
    #[error("the path has a dot segment (\".\" or \"..\"); write the path that it stands for")]
    Dots,
    /// Some take it for a slash.
    #[error("the path has a backslash outside of an object's name")]
    Backslash,
    /// Escaped or not.
    #[error("the path has a control character")]
    Control,
    /// Below an object's `…/proxy`, and out of it.
    #[error("the path leaves the proxied pod, service or node by \"..\"")]
    Climbs,
}

/// Checks a path that is a workload's own, below the prefix by which this server or an API server proxies to it: empty and dot
/// segments are the workload's, unless they lead out of the prefix for a client or a proxy that cleans the whole path.
///
/// # Errors
/// [`PathError::Escape`] and [`PathError::Climbs`].
pub fn check_workloads(path: &str) -> Result<(), PathError> {
    if decode(path).is_none() {
        return Err(PathError::Escape);
    }
    if climbs(path) {
        return Err(PathError::Climbs);
    }
    Ok(())
}

/// Refuses a path that kube-apiserver, a proxy before it, or an aggregated API server behind it could take for another one than
/// was decided about (security rule 26).
///
/// Paths that kube-apiserver serves pass: one slash at the end; `%2F`, at which it splits like at any other slash; any other
/// escape; a backslash in a name (`clusterrolebindings/DOMAIN%5Cuser`). Below an object's `…/proxy` a path is the workload's,
/// empty and dot segments included, unless it leads out: a proxy that cleans it would reach another object.
pub(super) fn check(path: &str, info: &RequestInfo) -> Result<(), PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NoPath);
    }
    let (ours, workloads) = path
        .split_at_checked(info.below().map_or(path.len(), str::len))
        .unwrap_or((path, ""));
    check_workloads(workloads)?;
    let decoded = decode(ours).ok_or(PathError::Escape)?;
    if decoded.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    let inner = decoded.strip_prefix('/').unwrap_or(&decoded);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if decoded == "/" {
        return Ok(());
    }
    let mut backslashes = 0_usize;
    for segment in inner.split('/') {
        if segment.is_empty() {
            return Err(PathError::Empty);
        }
        if segment.split('\\').any(is_dots) {
            return Err(PathError::Dots);
        }
        backslashes = backslashes.saturating_add(usize::from(segment.contains('\\')));
    }
    if backslashes > usize::from(info.name().contains('\\')) {
        return Err(PathError::Backslash);
    }
    Ok(())
}

/// Does a path below an object's `…/proxy` lead out of it, for any of those who may clean it? Some of them merge empty
/// segments, take `%2e` for a dot, and `%2f`, `\` or `%5c` for a slash.
fn climbs(path: &str) -> bool {
    let mut depth = 0_usize;
    for segment in path.split('/') {
        let decoded = decode(segment).unwrap_or_default();
        let parts = decoded.split(['/', '\\']);
        let ups = parts.filter(|part| is_up(part)).count();
        if ups > 0 {
            let Some(left) = depth.checked_sub(ups) else {
                return true;
            };
            depth = left;
        } else if decoded
            .split(['/', '\\'])
            .any(|part| !part.is_empty() && !is_dots(part))
        {
            depth = depth.saturating_add(1);
        }
    }
    false
}

/// `.` or `..`, also with the path parameters (`..;x`) that some servers take away before they look.
pub fn is_dots(part: &str) -> bool {
    is_up(part) || part.split(';').next() == Some(".")
}

fn is_up(part: &str) -> bool {
    part.split(';').next() == Some("..")
}

/// Decodes percent-escapes once; `None` where one is invalid, as Go refuses the whole URL then.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let (digits, after) = tail.split_at_checked(2)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn checked(path: &str) -> Result<(), PathError> {
        RequestInfo::parse(&Method::GET, path, None, false).check_path(path)
    }

    #[test]
    fn rule_26_a_path_with_two_meanings_is_refused() {
        for (path, error) in [
            ("*", PathError::NoPath),
            ("", PathError::NoPath),
            ("//", PathError::Empty),
            ("//api/v1/pods", PathError::Empty),
            ("/api//v1/namespaces/a/pods/p/exec", PathError::Empty),
            ("/api/v1/namespaces/a//pods/p/exec", PathError::Empty),
            ("/api/v1/namespaces/a/%2Fpods/p/exec", PathError::Empty),
            ("/api/v1/namespaces/a/pods/p/exec//", PathError::Empty),
            ("/api/v1/./namespaces/a/pods/p/exec", PathError::Dots),
            ("/api/v1/x/../namespaces/a/pods/p/exec", PathError::Dots),
            ("/api/v1/x/%2E%2e/namespaces/a/pods/p/exec", PathError::Dots),
            ("/api/v1/x/.%2e/pods", PathError::Dots),
            ("/api/v1/x%2f..%2fpods", PathError::Dots),
            ("/api/v1/x/..;a=b/pods", PathError::Dots),
            ("/api/v1/x\\..\\pods", PathError::Dots),
            ("/api/v1/x%5c..%5Cpods", PathError::Dots),
            ("/logs/../api", PathError::Dots),
            (
                "/api/v1/namespaces/a/services/s/../t/proxy/x",
                PathError::Dots,
            ),
            ("/api/v1/namespaces/a/pods\\p\\exec", PathError::Backslash),
            ("/api/v1/nodes/n%5Cproxy/run\\x", PathError::Backslash),
            ("/logs\\x", PathError::Backslash),
            ("/api/v1/pods/%00", PathError::Control),
            ("/api/v1/pods/a%0d%0ab", PathError::Control),
            ("/api/v1/pods/%zz", PathError::Escape),
            ("/api/v1/pods/%2", PathError::Escape),
            ("/api/v1/namespaces/a/services/s/proxy/%", PathError::Escape),
        ] {
            assert_eq!(checked(path), Err(error), "{path}");
        }
    }

    #[test]
    fn rule_26_what_kubernetes_serves_stays() {
        for path in [
            "/",
            "/api",
            "/api/",
            "/openapi/v3/apis/apps/v1/",
            "/api/v1/pods/",
            "/api/v1/namespaces/a/pods/p/%65xec",
            "/api/v1/namespaces/a/pods/p%2Fexec",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/DOMAIN%5Cuser",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a..b",
            "/api/v1/namespaces/a/services/https:s:443/proxy",
            "/api/v1/namespaces/a/services/s/proxy/",
        ] {
            assert_eq!(checked(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn rule_26_below_proxy_a_path_is_the_workloads_until_it_leads_out() {
        let proxy = "/api/v1/namespaces/a/services/s/proxy";
        for (rest, inside) in [
            ("//a///b//", true),
            ("/a/../b/./c", true),
            ("/a/b/../..", true),
            ("/a%2F..%5cb", false),
            ("/x/a%2F..%5cb", true),
            ("/a\\b%00", true),
            ("/..", false),
            ("/./..", false),
            ("//..", false),
            ("/%2e%2E/%2e%2e/pods/p/exec", false),
            ("/a/../..", false),
            ("/a//../..", false),
            ("/a%2fb/../..", false),
            ("/a/..%2f..", false),
            ("/..\\..", false),
            ("/..%5c", false),
            ("/..;x/", false),
        ] {
            let expected = if inside {
                Ok(())
            } else {
                Err(PathError::Climbs)
            };
            assert_eq!(checked(&format!("{proxy}{rest}")), expected, "{rest}");
        }
        // Only below a proxied object: elsewhere the path is an API server's.
        assert_eq!(
            checked("/apis/x.io/v1/things/t/proxy//a"),
            Err(PathError::Empty)
        );
    }

    #[test]
    fn an_invalid_escape_decodes_to_nothing() {
        assert_eq!(decode("a%2"), None);
        assert_eq!(decode("%+1"), None);
        assert_eq!(decode("%41%c3%a9").as_deref(), Some("Aé"));
    }
}
