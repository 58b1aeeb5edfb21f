use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Sleeper(Child);

impl Sleeper {
    fn with(name: &str, value: &str) -> Self {
        let mut command = Command::new("sleep");
        let command = command.arg("600").env(name, value).stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_process_is_found_by_the_value_of_its_variable() {
    let processes = Proc::default();
    let sleeper = Sleeper::with("UNDERPASS_TEST_MARK", "a=b");
    assert!(processes.others().unwrap().contains(&sleeper.pid()));
    let value = |name| processes.variable(sleeper.pid(), name);
    // The system shows a process that has just begun without its variables.
    let begun = Instant::now();
    while value("UNDERPASS_TEST_MARK").is_none() && begun.elapsed() < DEADLINE {
        std::thread::yield_now();
    }
    assert_eq!(value("UNDERPASS_TEST_MARK"), Some(b"a=b".to_vec()));
    assert_eq!(value("UNDERPASS_TEST"), None);
}

#[test]
fn this_process_is_not_among_the_others() {
    let others = Proc::default().others().unwrap();
    assert!(!others.contains(&rustix::process::getpid()));
    assert!(!others.is_empty());
}

#[test]
fn a_signal_reaches_the_process_that_was_found_or_none() {
    let processes = Proc::default();
    let mut sleeper = Sleeper::with("A", "b");
    let pid = sleeper.pid();
    let began = processes.stat(pid).unwrap().started;
    assert_eq!(send(pid, Signal::KILL, || false), Err(Errno::SRCH));
    assert!(sleeper.0.try_wait().unwrap().is_none());
    let is_same = || {
        let stat = processes.stat(pid);
        stat.is_some_and(|stat| stat.started == began)
    };
    assert_eq!(send(pid, Signal::KILL, is_same), Ok(()));
    assert!(!sleeper.0.wait().unwrap().success());
    assert_eq!(processes.stat(pid), None);
}

#[test]
fn a_place_without_processes_is_an_error() {
    Proc::at(Path::new("/proc/self/no-such"))
        .others()
        .unwrap_err();
}

#[test]
fn a_process_is_read_whatever_its_name() {
    let text = "42 (a) Z (b) S 7 42 41 34816 42 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
    let expected = Stat {
        is_dead: false,
        parent: 7,
        session: 41,
        started: 12345,
    };
    assert_eq!(Stat::read(text), Some(expected));
    assert!(Stat::read(&text.replace(" S 7", " Z 7")).unwrap().is_dead);
    assert_eq!(Stat::read("42 (a) S 7"), None);
    assert_eq!(Stat::read(""), None);
}

#[test]
fn a_capability_is_read() {
    assert!(has_ptrace("Name:\ta\nCapEff:\t0000000000080000\n"));
    assert!(has_ptrace("CapEff:\t000001ffffffffff"));
    assert!(!has_ptrace(
        "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffff7ffff\n"
    ));
    assert!(!has_ptrace(""));
}
