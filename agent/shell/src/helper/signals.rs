//! Signals that the agent was told to ignore, as by nohup(1): a shell's program starts with the usual effect of each.

use std::fs;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// The Rust runtime ignores it, and puts it back before execve(2).
const SIGPIPE: u32 = 13;

/// Catches each that is ignored: execve(2) gives a signal that is caught its usual effect, and nothing else does without `unsafe`. The
/// runtime has to live until then.
pub(super) fn reset() -> io::Result<Option<Runtime>> {
    let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
    let mut ignored = ignored.filter(|number| *number != SIGPIPE).peekable();
    if ignored.peek().is_none() {
        return Ok(None);
    }
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    for number in ignored {
        let number = i32::try_from(number).unwrap_or_default();
        // Faults (SIGSEGV and its like) cannot be caught this way: one that happens ends the program all the same. Neither can the two
        // that are the C library's own.
        let _ = signal(SignalKind::from_raw(number));
    }
    drop(entered);
    Ok(Some(runtime))
}

/// proc_pid_status(5).
fn ignored(status: &str) -> impl Iterator<Item = u32> + use<> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or_default();
    (1..=u64::BITS).filter(move |number| mask & (1 << (number - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_that_are_ignored_are_read() {
        let read = |mask: &str| {
            let status = format!("SigBlk:\t00000000ffffffff\nSigIgn:\t{mask}\n");
            ignored(&status).collect::<Vec<_>>()
        };
        assert_eq!(read("0000000000001001"), [1, 13]);
        assert_eq!(read("8000000000000000"), [64]);
        assert_eq!(read("0000000000000000"), [0; 0]);
        assert_eq!(ignored("").next(), None);
    }
}
