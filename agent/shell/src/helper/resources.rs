//! The resource limits of a shell's processes, each of which has them for itself. Its cgroup bounds all of them together.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::guard::Refused;
use crate::limits;
use crate::talk::Plan;

/// Sets them.
pub(super) fn limit(plan: &Plan) -> Result<(), Refused> {
    let (memory, processes) = (plan.memory, u64::from(plan.processes));
    for (name, resource, now, most) in [
        ("core", Resource::Core, 0, 0),
        // Writable memory of its own. A limit of all addresses would keep programs in Go and Java from starting, which reserve more
        // than they use.
        ("data", Resource::Data, memory, memory),
        ("fsize", Resource::Fsize, memory, memory),
        (
            "memlock",
            Resource::Memlock,
            limits::LOCKED_BYTES,
            limits::LOCKED_BYTES,
        ),
        (
            "msgqueue",
            Resource::Msgqueue,
            limits::QUEUE_BYTES,
            limits::QUEUE_BYTES,
        ),
        ("nice", Resource::Nice, 0, 0),
        (
            "nofile",
            Resource::Nofile,
            limits::FILES,
            limits::FILES_MOST,
        ),
        // Of its uid.
        ("nproc", Resource::Nproc, processes, processes),
        ("rtprio", Resource::Rtprio, 0, 0),
        (
            "sigpending",
            Resource::Sigpending,
            limits::SIGNALS,
            limits::SIGNALS,
        ),
        (
            "stack",
            Resource::Stack,
            limits::STACK_BYTES,
            limits::STACK_BYTES_MOST,
        ),
    ] {
        // An agent that may not raise a limit keeps the lower one that it has.
        let held = getrlimit(resource).maximum;
        let most = held.map_or(most, |held| held.min(most));
        let limit = Rlimit {
            current: Some(now.min(most)),
            maximum: Some(most),
        };
        setrlimit(resource, limit).map_err(Refused::to(format_args!("setrlimit of {name}")))?;
    }
    Ok(())
}

/// Where the node has no memory left, the kernel ends a shell before other programs.
pub(super) fn prefer_as_victim() -> Result<(), Refused> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let held = fs::read_to_string(FILE).ok();
    let held = held.and_then(|text| text.trim().parse::<i32>().ok());
    match held.is_some_and(|held| held >= limits::VICTIM) {
        true => Ok(()),
        false => fs::write(FILE, limits::VICTIM.to_string()).map_err(Refused::to(FILE)),
    }
}
