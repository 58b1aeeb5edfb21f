//! The files that a shell's home begins with.

use std::fs::File;
use std::io::Write as _;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, open, openat};

use super::guard::{Failure, Guard};
use crate::talk::Step;

/// Puts them into the home, before any process of the shell's user can be there.
pub(super) fn place(guard: &Guard) -> Result<(), Failure> {
    let home = guard.plan.home.as_ref();
    let Some(home) = home.filter(|home| !home.files.is_empty()) else {
        return Ok(());
    };
    let failed = Failure::at::<rustix::io::Errno>(Step::Files);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(&home.path, flags, Mode::empty()).map_err(&failed)?;
    for (name, content) in &home.files {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
        if let Some(uid) = guard.plan.uid {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            fchown(&file, Some(uid), Some(gid)).map_err(&failed)?;
        }
        let written = File::from(file).write_all(content);
        written.map_err(Failure::at(Step::Files))?;
    }
    Ok(())
}
