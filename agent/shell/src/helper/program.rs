//! The process that becomes the program.

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::fs::Mode;
use rustix::process::{ioctl_tiocsctty, setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdout, stdin, stdout};
use underpass_agent_policy::Protection;

use super::guard::{Failure, Guard, Refused};
use super::{privileges, resources, signals};
use crate::talk::{Step, Told};

pub(super) fn run(guard: &mut Guard) -> Result<ExitCode, Failure> {
    setsid().map_err(Failure::at(Step::Session))?;
    ioctl_tiocsctty(stdin()).map_err(Failure::at(Step::Terminal))?;
    // A stage before this one may have passed on its own.
    dup2_stdout(stdin().as_fd()).map_err(Failure::at(Step::Terminal))?;
    dup2_stderr(stdout().as_fd()).map_err(Failure::at(Step::Terminal))?;
    confine(guard);
    let _runtime = signals::reset().map_err(Failure::at(Step::Signals))?;
    let program = guard.plan.program.take();
    if let Some(program) = &program {
        let entered = std::env::set_current_dir(&program.directory);
        entered.map_err(Failure::at(Step::Directory))?;
    }
    if guard.plan.is_refused {
        // The agent has heard why.
        return Ok(ExitCode::FAILURE);
    }
    guard.tell(&Told::Ready);
    let Some(program) = program else {
        return Ok(ExitCode::SUCCESS);
    };
    let error = Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment)
        .exec();
    Err(Failure::new(Step::Program, error))
}

/// Loses what the plan wants it to lose.
fn confine(guard: &mut Guard) {
    if guard.wants(Protection::ResourceLimits) {
        umask(Mode::RWXG | Mode::RWXO);
        let limited = resources::limit(&guard.plan);
        note(guard, Protection::ResourceLimits, limited);
    }
    let drops = guard.wants(Protection::Capabilities);
    if drops {
        privileges::drop_bounding_set();
    }
    if let Some(uid) = guard.plan.uid {
        let given = privileges::give_terminal(uid);
        let became = given.and_then(|()| privileges::become_user(uid));
        note(guard, Protection::Uid, became);
    }
    if guard.wants(Protection::NoNewPrivileges) {
        let forbidden = privileges::forbid_new_ones();
        note(guard, Protection::NoNewPrivileges, forbidden);
    }
    if drops {
        let dropped = privileges::drop_capabilities();
        note(guard, Protection::Capabilities, dropped);
    }
}

fn note(guard: &mut Guard, protection: Protection, outcome: Result<(), Refused>) {
    if let Err(refused) = outcome {
        guard.lacks(protection, refused);
    }
}
