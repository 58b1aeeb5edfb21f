//! The mounts of a process: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The folder of its file system that it shows.
    pub(crate) root: PathBuf,
    /// The place of that.
    pub(crate) point: PathBuf,
    /// As in `rw` and `nosuid`.
    pub(crate) options: Vec<String>,
    /// The kind of its file system.
    pub(crate) kind: String,
}

/// All of them: one that covers another comes later.
pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    // A number of optional fields ends with a dash.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")?;
    Some(Mount {
        root: path(fields.get(3)?),
        point: path(fields.get(4)?),
        options: text(fields.get(5)?).split(',').map(str::to_owned).collect(),
        kind: text(fields.get(dash.checked_add(7)?)?),
    })
}

/// Blanks and backslashes are written as a backslash and three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => behind.get(3..).unwrap_or_default(),
            None => behind,
        };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether a path has this one as its beginning, and the rest.
pub(crate) fn below(path: &std::path::Path, root: &std::path::Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(root).ok()?;
    let climbs = rest.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let climbs = climbs.into_iter().any(|part| part == b"..");
    (!climbs).then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_whatever_their_names() {
        let text = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            41 31 0:38 /a\\040b /mnt/a\\134\\011c ro,nosuid shared:7 master:1 - cgroup2 none rw\n\
            broken\n\
            42 31 0:38 / /x rw no dash\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2, "{mounts:?}");
        assert_eq!(mounts[0].kind, "tmpfs");
        let expected = Mount {
            root: "/a b".into(),
            point: "/mnt/a\\\tc".into(),
            options: vec!["ro".to_owned(), "nosuid".to_owned()],
            kind: "cgroup2".to_owned(),
        };
        assert_eq!(mounts[1], expected);
        assert_eq!(parse(b""), []);
    }

    #[test]
    fn a_path_that_climbs_is_below_nothing() {
        let below = |path: &str, root: &str| below(path.as_ref(), root.as_ref());
        assert_eq!(below("/a/b", "/a"), Some("b".into()));
        assert_eq!(below("/a", "/a"), Some("".into()));
        assert_eq!(below("/ab", "/a"), None);
        assert_eq!(below("/../b", "/"), None);
    }
}
