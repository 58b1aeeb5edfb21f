//! The agent's own group.

use std::fs;
use std::path::{Path, PathBuf};

use super::AGENT;
use crate::mountinfo;

/// Its folder.
///
/// # Errors
/// There is none that could have groups below it, for this reason.
pub(super) fn own() -> Result<PathBuf, String> {
    let read = |file: &str| fs::read(file).map_err(|error| format!("{file}: {error}"));
    let groups = read("/proc/self/cgroup")?;
    find(
        &String::from_utf8_lossy(&groups),
        &read("/proc/self/mountinfo")?,
    )
}

/// The texts are those of cgroups(7) and proc_pid_mountinfo(5).
fn find(groups: &str, mounts: &[u8]) -> Result<PathBuf, String> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("the kernel has no cgroup v2 hierarchy")?;
    let mounts = mountinfo::parse(mounts).into_iter();
    // Also where cgroup v1 has the controllers, as in /sys/fs/cgroup/unified.
    let mut all = mounts.filter(|mount| mount.kind == "cgroup2").peekable();
    if all.peek().is_none() {
        return Err("no cgroup v2 hierarchy is mounted".to_owned());
    }
    let found: Vec<_> = all
        .filter_map(|mount| {
            let below = mountinfo::below(Path::new(own), &mount.root)?;
            Some((mount.point.join(below), mount.options))
        })
        .collect();
    let writable = |(_, options): &&(PathBuf, Vec<String>)| !options.iter().any(|own| own == "ro");
    let (path, _) = match (found.iter().find(writable), found.first()) {
        (Some(found), _) => found,
        (None, Some((path, _))) => {
            return Err(format!("{} is mounted read-only", path.display()));
        }
        (None, None) => return Err(format!("the agent's cgroup {own} is mounted nowhere")),
    };
    // The agent has stepped aside earlier.
    Ok(match path.parent() {
        Some(parent) if path.ends_with(AGENT) => parent.to_owned(),
        _ => path.components().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(root: &str, point: &str, options: &str) -> String {
        format!("41 31 0:38 {root} {point} {options} shared:4 - cgroup2 cgroup2 rw\n")
    }

    #[test]
    fn the_agents_group_is_found_in_each_kind_of_hierarchy() {
        let hybrid = "9:name=systemd:/x\n4:memory:/y\n0::/system.slice/underpass-agent.service\n";
        let nested = "0::/kubepods/pod1/agent\n";
        for (groups, mounts, expected) in [
            (
                hybrid,
                mounted("/", "/sys/fs/cgroup/unified", "rw,nosuid"),
                "/sys/fs/cgroup/unified/system.slice/underpass-agent.service",
            ),
            (
                "0::/\n",
                mounted("/", "/sys/fs/cgroup", "rw"),
                "/sys/fs/cgroup",
            ),
            // Without a cgroup namespace, a container's mount begins at its group.
            (
                nested,
                mounted("/kubepods/pod1", "/sys/fs/cgroup", "rw"),
                "/sys/fs/cgroup/agent",
            ),
            (
                "0::/a/underpass-agent\n",
                mounted("/", "/sys/fs/cgroup", "rw"),
                "/sys/fs/cgroup/a",
            ),
            (
                nested,
                mounted("/", "/ro", "ro") + &mounted("/", "/rw", "rw"),
                "/rw/kubepods/pod1/agent",
            ),
        ] {
            let found = find(groups, mounts.as_bytes());
            assert_eq!(found, Ok(expected.into()), "{groups}{mounts}");
        }
    }

    #[test]
    fn rule_17_a_hierarchy_that_gives_no_groups_is_named() {
        for (groups, mounts, says) in [
            ("4:memory:/y\n", mounted("/", "/c", "rw"), "no cgroup v2"),
            ("0::/\n", String::new(), "mounted"),
            (
                "0::/a\n",
                mounted("/", "/c", "ro,nosuid"),
                "/c/a is mounted read-only",
            ),
            (
                "0::/a\n",
                mounted("/b", "/c", "rw"),
                "/a is mounted nowhere",
            ),
            ("0::/../a\n", mounted("/", "/c", "rw"), "nowhere"),
        ] {
            let error = find(groups, mounts.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
