//! The first process of a shell's PID namespace: it reaps all others, and the kernel ends them with it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, set_parent_process_death_signal, wait};
use rustix::time::Timespec;

use super::guard::{Failure, Guard};
use super::{inside, privileges};
use crate::talk::{Outcome, Stage, Step, Told};

pub(super) fn run(guard: &mut Guard) -> Result<ExitCode, Failure> {
    // Where the process before it is killed, the shell goes with it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::at(Step::Init))?;
    // It may have been killed before that. It says nothing behind the plan: this would be its end.
    let mut ready = [PollFd::new(&guard.talk, PollFlags::IN)];
    if poll(&mut ready, Some(&Timespec::default())).map_err(Failure::at(Step::Init))? > 0 {
        return Ok(ExitCode::FAILURE);
    }
    inside::enter(guard, true)?;
    let (child, talk) = guard.next(Stage::Program)?;
    guard.let_go()?;
    privileges::drop_all_of_a_keeper();
    if !starts(guard, talk)? {
        return Ok(ExitCode::FAILURE);
    }
    guard.tell(&Told::Started);
    reap(guard, &child)
}

/// Passes on all that the next stage tells, until the talk ends. Gives whether execve(2) ended it.
fn starts(guard: &mut Guard, talk: UnixStream) -> Result<bool, Failure> {
    let mut is_started = false;
    for line in BufReader::new(talk).lines() {
        let line = line.map_err(Failure::at(Step::Init))?;
        let told = serde_json::from_str(&line);
        let told: Told = told.map_err(|error| Failure::new(Step::Init, error))?;
        is_started = told == Told::Ready;
        guard.tell(&told);
    }
    Ok(is_started)
}

/// Waits until there is no other process in the namespace.
fn reap(guard: &mut Guard, program: &Child) -> Result<ExitCode, Failure> {
    let program = i32::try_from(program.id()).ok();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let is_program = Some(pid.as_raw_nonzero().get()) == program;
                if let Some(exit) = outcome(status).filter(|_| is_program) {
                    guard.tell(&Told::Ended { exit });
                }
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(Failure::new(Step::Init, error)),
        }
    }
}

fn outcome(status: WaitStatus) -> Option<Outcome> {
    let exited = status.exit_status().map(Outcome::Status);
    exited.or_else(|| status.terminating_signal().map(Outcome::Signal))
}
