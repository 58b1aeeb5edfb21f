//! The work of users with kubectl, on any way to a cluster: a scenario that passes directly must pass through a tunnel.
//!
//! Each scenario is a function of a [`Client`](crate::testing::Client) and panics where something is not as it has to
//! be. [`streaming_tests!`](crate::streaming_tests) and [`request_tests!`](crate::request_tests) make tests of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "code for tests; the lints know only functions that are marked as tests"
)]

pub mod api;
pub mod attach;
pub mod cp;
pub mod exec;
pub mod logs;
pub mod objects;
pub mod port_forward;

use tokio::sync::{Semaphore, SemaphorePermit};

/// One at a time: two of them at once would only make everything beside them slow.
static HEAVY: Semaphore = Semaphore::const_new(1);

/// Waits for the turn of something that moves a lot.
async fn turn() -> SemaphorePermit<'static> {
    HEAVY.acquire().await.unwrap()
}

/// Makes tests, in the module where it stands, of every scenario in which kubectl streams. The client's expression is
/// evaluated for each.
#[macro_export]
macro_rules! streaming_tests {
    ($client:expr) => {
        $crate::tests_of!($client,
            exec: [
                keeps_streams_and_exit_code_apart,
                carries_the_end_of_input,
                carries_8_mib_both_ways,
                carries_32_mib_out,
                runs_where_the_pod_does,
                reports_a_missing_command,
                on_a_terminal,
                ends_when_its_client_does,
                starts_as_the_protocol_that_is_meant,
            ],
            attach: [reaches_the_main_process, to_a_terminal, run_and_remove],
            port_forward: [to_a_pod, twenty_requests, to_a_service, to_a_closed_port],
            cp: [a_file_of_64_mib_both_ways, a_folder],
        );
    };
}

/// Makes tests, in the module where it stands, of every scenario that is plain requests and answers. The client's
/// expression is evaluated for each.
#[macro_export]
macro_rules! request_tests {
    ($client:expr) => {
        $crate::tests_of!($client,
            api: [
                discovery_is_complete,
                explain_reads_the_openapi,
                raw_paths_arrive_as_they_are,
                errors_are_the_api_servers,
                a_large_list_arrives_whole,
            ],
            objects: [
                created_read_and_deleted,
                a_watch_shows_events_as_they_happen,
                applied,
                applied_by_the_server_with_conflicts,
                patched,
            ],
            logs: [select_and_stamp, are_followed_line_by_line, of_the_previous_run_are_kept],
        );
    };
}

/// Makes a module of tests for each group of scenarios.
#[doc(hidden)]
#[macro_export]
macro_rules! tests_of {
    ($client:expr, $($group:ident: [$($scenario:ident),* $(,)?]),* $(,)?) => {
        $(
            mod $group {
                use super::*;
                $(
                    #[tokio::test]
                    async fn $scenario() {
                        $crate::scenarios::$group::$scenario(&$client).await;
                    }
                )*
            }
        )*
    };
}
