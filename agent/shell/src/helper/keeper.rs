//! The agent's own child: where there is a PID namespace it waits for its first process, and becomes the program otherwise.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitCode};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use underpass_agent_policy::Protection;

use super::guard::{Failure, Guard, Refused};
use super::{inside, privileges, program, resources};
use crate::limits;
use crate::talk::{Outcome, Stage, Step, Told};

pub(super) fn run(guard: &mut Guard) -> Result<ExitCode, Failure> {
    if guard.wants(Protection::ResourceLimits)
        && let Err(refused) = resources::prefer_as_victim()
    {
        guard.lacks(Protection::ResourceLimits, refused);
    }
    if guard.wants(Protection::PidNamespace) {
        match unshare(CloneFlags::CLONE_NEWPID).map_err(Refused::to("unshare")) {
            Ok(()) => return keep(guard),
            Err(refused) => guard.lacks(Protection::PidNamespace, refused),
        }
    }
    inside::enter(guard, false)?;
    program::run(guard)
}

/// Passes on all that the first process of the namespace tells. Both end with the agent.
fn keep(guard: &mut Guard) -> Result<ExitCode, Failure> {
    let (mut init, mut talk) = guard.next(Stage::Init)?;
    guard.let_go()?;
    privileges::drop_all_of_a_keeper();
    relay(guard, &mut talk, &mut init)?;
    let status = init.wait().map_err(Failure::at(Step::Init))?;
    if let Some(signal) = status.signal() {
        // The program's end with it. Where that came first, the agent has heard so.
        guard.tell(&Told::Ended {
            exit: Outcome::Signal(signal),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn relay(guard: &mut Guard, talk: &mut UnixStream, init: &mut Child) -> Result<(), Failure> {
    let mut buffer = [0; 4096];
    // Set once the agent is gone: the terminal's hangup has told the program.
    let mut deadline: Option<Instant> = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return init.kill().map_err(Failure::at(Step::Init));
        }
        let (tells, is_gone) = {
            let mut ready = [
                PollFd::new(&*talk, PollFlags::IN),
                PollFd::new(&guard.talk, PollFlags::IN),
            ];
            let watched = if deadline.is_none() { 2 } else { 1 };
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let ready = ready.get_mut(..watched).unwrap_or_default();
            match poll(ready, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::new(Step::Init, error)),
            }
            let is_ready = |at: usize| ready.get(at).is_some_and(|fd| !fd.revents().is_empty());
            (is_ready(0), is_ready(1))
        };
        if tells {
            let read = talk.read(&mut buffer);
            match read.map_err(Failure::at(Step::Init))? {
                0 => return Ok(()),
                read => {
                    let told = buffer.get(..read).unwrap_or_default();
                    // Without an agent nobody listens.
                    let _ = guard.talk.write_all(told);
                }
            }
        }
        // The agent says nothing behind the plan: this is its end.
        if is_gone {
            deadline = Some(Instant::now() + limits::HANGUP_GRACE);
        }
    }
}
