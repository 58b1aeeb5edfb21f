//! The limit of open files.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit of open files (`RLIMIT_NOFILE`) to the hard one, and gives it; `None` is no limit. Systems give
/// services 1,024 files and fewer, for programs of old that cannot count further, and let those that can ask for more.
///
/// # Errors
/// The limit stays as it is.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let before = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, highest)?;
    Ok(getrlimit(Resource::Nofile).current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_hard_one_afterwards() {
        let before = getrlimit(Resource::Nofile);
        let current = before.current.map(|files| files - 1);
        setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
        assert_eq!(raise_open_files().unwrap(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
