//! Where the audit log goes, by the command line.

mod file;
#[cfg(test)]
mod kept;
mod stdout;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use underpass_audit::{AuditLog, Backend, BackendConfig, Full, Policy, Sink, Webhook};
use underpass_core::files;
use underpass_core::limits::FILE_TIME;
use underpass_https::Proxy;

use self::file::{Keep, LogFile};
#[cfg(test)]
pub(crate) use self::kept::Kept;
use self::stdout::Stdout;
use crate::data_dir::DataDir;
use crate::limits;

/// The log's name in the data directory.
const NAME: &str = "audit.log";

/// That of events of callers without an identity.
const STRANGERS: &str = "audit-unauthenticated.log";

/// Flags about the audit log.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// File for the audit log: an audit.k8s.io/v1 event a line; `-` for stdout, `off` for none
    /// [default: audit.log in the data directory]
    #[arg(long, env = "UNDERPASS_AUDIT_LOG", value_name = "FILE")]
    audit_log: Option<Destination>,
    /// Size at which the audit log's file is rotated, in MiB
    #[arg(long, env = "UNDERPASS_AUDIT_LOG_SIZE", default_value = "100", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    audit_log_size: u64,
    /// Rotated files to keep
    #[arg(
        long,
        env = "UNDERPASS_AUDIT_LOG_FILES",
        default_value = "10",
        value_name = "NUMBER"
    )]
    audit_log_files: usize,
    /// Time to keep rotated files; 0s keeps them until there are too many
    #[arg(long, env = "UNDERPASS_AUDIT_LOG_AGE", default_value = "0s", value_name = "TIME", value_parser = humantime::parse_duration)]
    audit_log_age: Duration,
    /// Audit policy, as kube-apiserver's --audit-policy-file, with `clusters` in rules. Without it, all
    /// calls are written
    #[arg(long, env = "UNDERPASS_AUDIT_POLICY", value_name = "FILE")]
    audit_policy: Option<PathBuf>,
    /// Kubeconfig of a service that also gets the events, as kube-apiserver's --audit-webhook-config-file
    #[arg(long, env = "UNDERPASS_AUDIT_WEBHOOK", value_name = "FILE")]
    audit_webhook: Option<PathBuf>,
    /// If the file or stdout is too slow: `block` lets new calls wait, and refuses them after 10 s; `drop` drops events
    /// and counts them. Calls never wait for the webhook
    #[arg(
        long,
        env = "UNDERPASS_AUDIT_FULL",
        default_value = "block",
        value_name = "block|drop"
    )]
    audit_full: WhenFull,
    /// Events that may wait before that
    #[arg(long, env = "UNDERPASS_AUDIT_BUFFER", default_value = "10000", value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..))]
    audit_buffer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    Block,
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    Off,
    Stdout,
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// The audit log, whose tasks run from now on.
///
/// # Errors
/// Where it could not be written: nobody learns later that nothing was.
pub(crate) async fn open(
    options: &Options,
    data: &DataDir,
    proxy: Option<&Proxy>,
) -> Result<AuditLog> {
    let policy = policy(options)?;
    let config = BackendConfig {
        capacity: usize::try_from(options.audit_buffer).unwrap_or(usize::MAX),
        full: match options.audit_full {
            WhenFull::Block => Full::Block,
            WhenFull::Drop => Full::Drop,
        },
        ..BackendConfig::default()
    };
    let mut backends = Vec::new();
    let mut strangers: Option<(&str, Box<dyn Sink>)> = None;
    match &options.audit_log {
        Some(Destination::Off) => {}
        Some(Destination::Stdout) => {
            strangers = Some(("unauthenticated", Box::new(Stdout)));
            backends.push(Backend::start("stdout", Box::new(Stdout), config));
        }
        place => {
            let path = match place {
                Some(Destination::File(path)) => path.clone(),
                _ => data.path(NAME),
            };
            let keep = Keep {
                size: options.audit_log_size.saturating_mul(1024 * 1024),
                files: options.audit_log_files,
                age: (!options.audit_log_age.is_zero()).then_some(options.audit_log_age),
            };
            backends.push(Backend::start(
                "file",
                Box::new(log_file(path, keep)?),
                config,
            ));
            let keep = Keep {
                size: limits::STRANGERS_LOG_BYTES,
                files: limits::STRANGERS_LOG_FILES,
                ..keep
            };
            let path = data.path(STRANGERS);
            strangers = Some(("unauthenticated", Box::new(log_file(path, keep)?)));
        }
    }
    if let Some(path) = &options.audit_webhook {
        let webhook = Webhook::from_kubeconfig(path, proxy)
            .await
            .with_context(|| path.display().to_string())?;
        backends.push(webhook_outlet(Box::new(webhook), config));
    }
    let audit_log = AuditLog::new(policy, backends);
    Ok(match strangers {
        Some((name, sink)) => audit_log.strangers(name, sink),
        None => audit_log,
    })
}

/// Reads the policy again. The files of the log need no such thing: they are looked at with each write.
///
/// # Errors
/// It cannot be used; the one before stays.
pub(crate) async fn reload(options: &Options, audit_log: &AuditLog) -> Result<()> {
    let options = options.clone();
    let reading = tokio::task::spawn_blocking(move || policy(&options));
    let read = tokio::time::timeout(FILE_TIME, reading).await;
    let read = read.context("reading the audit policy takes too long: does a file system hang?")?;
    audit_log.select(read.context("reading the audit policy was given up")??);
    Ok(())
}

fn policy(options: &Options) -> Result<Policy> {
    match &options.audit_policy {
        Some(path) => read_policy(path),
        None => Ok(Policy::everything()),
    }
}

/// A service on the network is slow or away at times, and no call waits for it: events beyond its queue's room are
/// dropped and counted, as by kube-apiserver's webhook in its default mode, `batch`. The file is the one to rely on.
fn webhook_outlet(webhook: Box<dyn Sink>, config: BackendConfig) -> Backend {
    let full = Full::Drop;
    Backend::start("webhook", webhook, BackendConfig { full, ..config })
}

fn log_file(path: PathBuf, keep: Keep) -> Result<LogFile> {
    let shown = path.display().to_string();
    let file =
        LogFile::open(path, keep).with_context(|| format!("cannot write the audit log {shown}"))?;
    tracing::info!(file = shown, "audit log");
    Ok(file)
}

fn read_policy(path: &Path) -> Result<Policy> {
    let text = files::read_text(path, limits::AUDIT_POLICY_BYTES)
        .with_context(|| format!("cannot read the audit policy {}", path.display()))?;
    Policy::from_yaml(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use http::Method;
    use time::OffsetDateTime;
    use underpass_audit::{OwnCall, OwnCaller};
    use underpass_core::BoxError;

    use super::*;

    /// A service that never answers.
    struct Silent;

    #[async_trait]
    impl Sink for Silent {
        async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn rule_23_no_call_waits_for_a_webhook() {
        let config = BackendConfig {
            capacity: 2,
            full: Full::Block,
            ..BackendConfig::default()
        };
        let backend = webhook_outlet(Box::new(Silent), config);
        let audit_log = AuditLog::new(Policy::everything(), vec![backend.clone()]);
        let call = OwnCall {
            caller: OwnCaller::Known("underpass:operator"),
            client: None,
            method: &Method::GET,
            path: "/v1/users",
            user_agent: "",
            received: OffsetDateTime::now_utc(),
            code: 200,
            details: &[],
        };
        for _ in 0..10 {
            audit_log.own_call(&call);
        }
        assert_eq!(backend.waiting(), 2, "its queue is bounded");
    }
}
