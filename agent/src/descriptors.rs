//! Descriptors that the agent's parent left open: programs that the agent runs must not have them.

use std::fs;

/// Closes every descriptor behind standard error. Call it before anything is opened.
pub(crate) fn close_inherited() {
    // Without /proc, as in some sandboxes, there is no list; the agent serves all the same.
    let Ok(folder) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // The folder's own is closed by then, which is no error that matters.
    let numbers: Vec<_> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        let _ = nix::unistd::close(number);
    }
}
