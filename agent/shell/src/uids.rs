//! The uids of shells: each belongs to one shell at a time, and to nothing else on the node.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use underpass_agent_policy::ShellUids;

use crate::base::Opened;

/// A uid, which is a gid too, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) uid: u32,
    _lock: OwnedFd,
}

/// Takes a uid that no shell has, no user, and no process. `None` where there is none. Blocks.
pub(crate) fn take(base: &Opened, uids: ShellUids) -> io::Result<Option<Lease>> {
    let mut taken = HashSet::new();
    for file in ["/etc/passwd", "/etc/group"] {
        match fs::read(file) {
            Ok(text) => taken.extend(listed(&String::from_utf8_lossy(&text))),
            // The image of a container may have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for uid in turned(uids, rand::random()) {
        if taken.contains(&uid) {
            continue;
        }
        let Some(lock) = base.lock(uid)? else {
            continue;
        };
        // Behind the lock: processes of the shell before may be dying still.
        if !has_processes(uid)? {
            return Ok(Some(Lease { uid, _lock: lock }));
        }
    }
    Ok(None)
}

/// All of them, from any of them on: a uid is given again as late as may be.
fn turned(uids: ShellUids, seed: u32) -> impl Iterator<Item = u32> {
    let number = u64::from(uids.last().saturating_sub(uids.first())) + 1;
    let start = u64::from(seed) % number;
    let all = (0..number).map(move |step| (start + step) % number);
    all.filter_map(move |step| uids.first().checked_add(u32::try_from(step).ok()?))
}

/// The third field of each line of passwd(5) and group(5).
fn listed(text: &str) -> impl Iterator<Item = u32> {
    text.lines()
        .filter_map(|line| line.split(':').nth(2)?.trim().parse().ok())
}

fn has_processes(uid: u32) -> io::Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.parse::<u32>().is_ok())
            // It may have ended meanwhile.
            && fs::read_to_string(entry.path().join("status")).is_ok_and(|status| has(&status, uid))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of a process's uids or gids is this one: proc_pid_status(5).
fn has(status: &str, uid: u32) -> bool {
    let ids = status.lines().filter_map(|line| {
        let ids = line.strip_prefix("Uid:");
        ids.or_else(|| line.strip_prefix("Gid:"))
    });
    ids.flat_map(str::split_whitespace)
        .any(|id| id.parse() == Ok(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uids_of_users_and_of_processes_are_read() {
        let users = "root:x:0:0::/root:/bin/sh\n+nis\nbroken:x:many:0\n\nlast:x:70001:5::/:/bin/sh";
        assert!(listed(users).eq([0, 70_001]));
        let status = "Name:\tUid: 7\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t6\nGroups:\t9 \n";
        for uid in 1..=6 {
            assert!(has(status, uid), "{uid}");
        }
        assert!(!has(status, 9) && !has(status, 7) && !has("", 0));
    }

    #[test]
    fn every_uid_of_a_range_comes_once_from_any_start() {
        let uids: ShellUids = "4294967292-4294967294".parse().unwrap();
        for seed in [0, 1, 2, 3, u32::MAX] {
            let mut all: Vec<_> = turned(uids, seed).collect();
            assert_eq!(all.len(), 3);
            all.sort_unstable();
            assert_eq!(all, [4_294_967_292, 4_294_967_293, 4_294_967_294]);
        }
    }

    #[test]
    fn rule_17_a_uid_that_has_a_process_or_a_user_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let base = crate::base::Base::new(folder.path().join("base"));
        let base = base.open().unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        // nobody has this one everywhere, and no other is below the range that a policy may name.
        let nobody = "65534-65534".parse().unwrap();
        assert!(listed(&passwd).any(|uid| uid == 65_534), "{passwd}");
        assert!(take(&base, nobody).unwrap().is_none());
        assert!(has_processes(rustix::process::getuid().as_raw()).unwrap());
        let own: ShellUids = "2000100000-2000100001".parse().unwrap();
        let [one, other] = [(); 2].map(|()| take(&base, own).unwrap().unwrap());
        assert_ne!(one.uid, other.uid);
        assert!(take(&base, own).unwrap().is_none());
        drop(one);
        take(&base, own).unwrap().unwrap();
    }
}
