//! kubectl, a server, an agent and a real API server, as users meet them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests state expectations as tests do; the lints know only functions marked as tests"
)]

mod agent_kubeconfig;
mod agent_lost;
mod agent_rbac;
mod attacks;
mod audit;
mod authentication;
mod bad_agents;
mod bad_requests;
mod command_lines;
mod credentials;
mod cutter;
mod deployment;
mod direct;
mod directory;
mod early_answers;
mod etcd;
mod flight;
mod impersonation;
mod join;
mod join_pod;
mod load_balancer;
mod login;
mod metrics;
mod names;
mod operations;
mod raw;
mod rbac;
mod recordings;
mod registered;
mod revoked;
mod roaming;
mod role_table;
mod rotation;
mod server_restarted;
mod services;
mod shell_kubectl;
mod shells;
mod stand_in;
mod survive;
mod taken;
mod terminal;
mod tls;
mod tunnelled;
mod user_exec;
mod user_session;
mod verbs;

/// Makes tests of functions that take a transport: a module for each.
macro_rules! over_both_transports {
    ($($test:ident),* $(,)?) => {
        mod quic {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(underpass_testenv::Transport::Quic).await;
                }
            )*
        }
        mod websocket {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(underpass_testenv::Transport::WebSocket).await;
                }
            )*
        }
    };
}
use over_both_transports;
