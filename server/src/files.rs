//! How many files the system gives this process, and so how many clients have room.

use rustix::process::{Resource, getrlimit};
use underpass_core::limits::CONNECTIONS;
use underpass_core::process::raise_open_files;

use crate::limits::OTHER_FILES;

/// Raises the limit of open files as far as it goes, and gives the number of connections that it leaves room for.
pub(crate) fn connections() -> usize {
    let files = raise_open_files().unwrap_or_else(|error| {
        tracing::warn!("the limit of open files stays as it is: {error}");
        getrlimit(Resource::Nofile).current
    });
    let connections = within(files);
    if connections < CONNECTIONS {
        tracing::warn!(
            files,
            connections,
            "the system gives the server few open files (RLIMIT_NOFILE): raise the hard limit, such as LimitNOFILE of \
             systemd, for more connections"
        );
    } else {
        tracing::info!(files, connections, "room for connections");
    }
    connections
}

/// How many connections there may be among so many files; `None` for files without end.
fn within(files: Option<u64>) -> usize {
    let Some(files) = files else {
        return CONNECTIONS;
    };
    let left = files.saturating_sub(OTHER_FILES.min(files / 2));
    usize::try_from(left)
        .unwrap_or(CONNECTIONS)
        .clamp(1, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Rlimit, setrlimit};

    use super::*;

    #[test]
    fn rule_23_connections_leave_the_server_files_of_its_own() {
        assert_eq!(within(None), CONNECTIONS);
        assert_eq!(within(Some(1 << 20)), CONNECTIONS);
        assert_eq!(within(Some(20_000)), 20_000 - 1024);
        assert_eq!(within(Some(1024)), 512);
        assert_eq!(within(Some(0)), 1);
    }

    #[test]
    fn rule_23_the_server_takes_all_the_files_that_the_system_gives() {
        let before = getrlimit(Resource::Nofile);
        let current = before.current.map(|files| files - 1);
        setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
        connections();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
