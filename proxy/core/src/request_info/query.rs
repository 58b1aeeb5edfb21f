//! A query's parameters, as Go's `net/url` and apimachinery read them.

/// A boolean parameter (`Convert_Slice_string_To_bool`, apimachinery/pkg/runtime/conversion.go): its first value decides, and
/// anything but `false` and `0` is true.
pub(super) fn is_true(query: Option<&str>, name: &'static str) -> bool {
    let first = values(query, name).next();
    first.is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
}

/// The values of a parameter, in order. Go drops a pair with a semicolon or with an invalid escape, and keeps the others.
pub(super) fn values(query: Option<&str>, name: &'static str) -> impl Iterator<Item = String> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter_map(move |pair| {
        if pair.contains(';') {
            return None;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unescape(value)?;
        (unescape(key)? == name).then_some(value)
    })
}

fn unescape(text: &str) -> Option<String> {
    super::path::decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_26_a_boolean_is_read_as_kubernetes_reads_it() {
        for (query, watch) in [
            ("watch", true),
            ("watch=", true),
            ("watch=1", true),
            ("watch=true", true),
            ("watch=no", true),
            ("w%61tch=1", true),
            ("watch=0", false),
            ("watch=false", false),
            ("watch=FALSE", false),
            ("WATCH=1", false),
            ("follow=1", false),
            // The first one decides.
            ("watch=true&watch=false", true),
            ("watch=false&watch=true", false),
            ("watch=0&watch=1", false),
            // Pairs that Go drops.
            ("watch=1;x", false),
            ("watch=%zz", false),
            ("watch=%zz&watch=1", true),
            ("watch+=1", false),
        ] {
            assert_eq!(is_true(Some(query), "watch"), watch, "{query}");
        }
        assert!(!is_true(None, "watch"));
    }
}
