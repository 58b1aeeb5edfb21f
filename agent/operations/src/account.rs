//! Users of the system, by `/etc/passwd` alone: a lookup through NSS would need a C library's, and its modules may hang.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use crate::limits;

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    /// Its primary group.
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
}

/// Blocks.
pub(crate) fn all() -> io::Result<String> {
    let mut text = String::new();
    let file = File::open("/etc/passwd")?;
    file.take(limits::PASSWD_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The user that `is_it`.
pub(crate) fn find(passwd: &str, is_it: impl Fn(&Account) -> bool) -> Option<Account> {
    passwd.lines().filter_map(account).find(is_it)
}

/// passwd(5).
fn account(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let mut next = || fields.next();
    let (name, _password, uid, gid, _gecos, home) =
        (next()?, next()?, next()?, next()?, next()?, next()?);
    Some(Account {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: home.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x:\n# no user\netcd:x:997:995::/var/lib/etcd:/sbin/nologin\n";
        let etcd = find(passwd, |account| account.name == "etcd").unwrap();
        assert_eq!((etcd.uid, etcd.gid), (997, 995));
        assert_eq!(find(passwd, |account| account.uid == 997), Some(etcd));
        assert_eq!(find(passwd, |account| account.name == "broken"), None);
    }
}
