//! The loss of privileges: uid, capabilities, `no_new_privs`.

use std::io;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use rustix::io::Errno;
use rustix::stdio::stdin;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::guard::Refused;

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// The terminal goes to a user, so that they can open it by its name.
pub(super) fn give_terminal(uid: u32) -> Result<(), Refused> {
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    let given = fchown(stdin(), Some(owner), Some(group));
    given
        .and_then(|()| fchmod(stdin(), Mode::RUSR | Mode::WUSR))
        .map_err(Refused::to("the terminal's owner"))
}

/// Becomes a user, without any other group, for good.
pub(super) fn become_user(uid: u32) -> Result<(), Refused> {
    let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[]).map_err(Refused::to("setgroups"))?;
    set_thread_res_gid(group, group, group).map_err(Refused::to("setresgid"))?;
    set_thread_res_uid(owner, owner, owner).map_err(Refused::to("setresuid"))
}

/// The bounding set, for which a capability is needed that a user does not have: before all else. [`drop_capabilities`] looks at the rest of it.
pub(super) fn drop_bounding_set() {
    for capability in all() {
        // The kernel knows no more from the first one on that it refuses for that reason.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// All the other sets, and a look at all of them.
pub(super) fn drop_capabilities() -> Result<(), Refused> {
    clear_ambient_capability_set().map_err(Refused::to("the ambient set"))?;
    set_capabilities(None, NONE).map_err(Refused::to("capset"))?;
    let held = capabilities(None).map_err(Refused::to("capget"))?;
    if held != NONE {
        return Err(Refused::to("capset")(io::Error::other("some are left")));
    }
    // An ordinary user may not take from the bounding set, which matters to programs that give capabilities alone.
    let bounded = all().any(|one| capability_is_in_bounding_set(one) == Ok(true));
    match bounded && no_new_privs() != Ok(true) {
        true => Err(Refused::to("the bounding set")(Errno::PERM)),
        false => Ok(()),
    }
}

pub(super) fn forbid_new_ones() -> Result<(), Refused> {
    set_no_new_privs(true).map_err(Refused::to("prctl"))
}

/// A process that waits for the shell's needs none. It stays one of root's, which no process of the shell's user can reach.
pub(super) fn drop_all_of_a_keeper() {
    drop_bounding_set();
    let _ = forbid_new_ones();
    let _ = drop_capabilities();
}

fn all() -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number))
}
