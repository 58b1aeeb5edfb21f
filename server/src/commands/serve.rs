//! `underpass-server serve`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tokio_util::task::AbortOnDropHandle;
use underpass_core::process::{self, Asked, Signals};
use underpass_direct::Plugins;
use underpass_https::Proxy;
use underpass_terminal::start_log;
use underpass_tunnel::describe_metrics;

use crate::cli::Serve;
use crate::limits;
use crate::server::{Server, ServerConfig};
use crate::tls_files::TlsFiles;

pub(crate) fn run(data: &Path, options: Serve) -> Result<()> {
    let log = start_log(&options.log, options.log_format.into());
    let _log = log.context("cannot start threads")?;
    process::can_have_threads().context("cannot start threads")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(process::BLOCKING_THREAD_IDLE)
        .build()?;
    let data = data.to_owned();
    let ended = runtime.block_on(async {
        let _keeping = AbortOnDropHandle::new(tokio::spawn(process::keep_blocking_thread()));
        serve(data, options).await
    });
    // A file system that hangs, or a pipe in the place of a file, keeps no process.
    runtime.shutdown_timeout(process::LAST_TASKS);
    ended
}

fn config(data: &Path, options: Serve) -> Result<ServerConfig> {
    let plugins = &options.exec_plugins;
    if let Some(path) = plugins.iter().find(|path| !path.is_absolute()) {
        bail!(
            "--allow-exec-plugin {} is not an absolute path",
            path.display()
        );
    }
    let proxy = Proxy::from_env();
    // It may come from an environment that nobody thought of.
    match proxy.as_ref().map(Proxy::url) {
        Some(Ok(url)) => {
            tracing::info!(proxy = %url, "identity providers and webhooks are asked through a proxy");
        }
        // A server may ask none of them, or those that NO_PROXY excepts.
        Some(Err(error)) => {
            let error = underpass_tunnel::chain(error);
            tracing::warn!("no identity provider or webhook can be asked through a proxy: {error}");
        }
        None => {}
    }
    let (proxy_protocol_from, trusted_proxies) = options.proxies.networks();
    Ok(ServerConfig {
        listen: options.listen,
        names: options.names,
        cluster_domains: options.cluster_domains,
        tls_files: options
            .tls_certificate
            .zip(options.tls_key)
            .map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                ca: options.tls_ca,
            }),
        public_port: options.public_port,
        proxy_protocol_from,
        trusted_proxies,
        etcd: options.etcd.config()?,
        authentication: options.authentication,
        admin_token_file: options.admin_token_file,
        secrets_key_files: options.secrets_key_files,
        plugins: Plugins {
            programs: options.exec_plugins.into_iter().collect(),
            variables: options.exec_plugin_variables.into_iter().collect(),
        },
        service_ca_dir: options.service_ca_dir,
        idle_timeout: options.idle_timeout,
        proxy,
        resume_window: options.resume_window,
        user_resume_window: options.user_resume_window,
        budgets: options.budgets.config()?,
        recordings: options.recordings.config(),
        quic: options.quic.config()?,
        recorder: Some(record_metrics()?),
        metrics: options.metrics,
        ..ServerConfig::new(data)
    })
}

async fn serve(data: PathBuf, options: Serve) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (drain, audit) = (options.drain, options.audit.clone());
    let audited = audit.clone();
    // In a task, since it reads files, which may take long: a signal is heard meanwhile.
    let starting = tokio::spawn(async move {
        let config = config(&data, options)?;
        anyhow::Ok(Server::start_audited(config, &audited).await?)
    });
    let mut server = tokio::select! {
        started = starting => started.context("the start was given up")??,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
    };
    let signal = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(signal) => break signal,
                Asked::Reload(signal) => {
                    tracing::info!(signal, "reading the authentication file, the audit policy and the certificate again");
                    server.reload(&audit).await;
                }
            },
            // At once: to drain would be to serve without it.
            ended = server.ended() => {
                server.stop().await;
                return Err(ended.into());
            }
        }
    };
    tracing::info!(signal, deadline = ?drain, "stopping; the signal again stops at once");
    tokio::select! {
        () = server.drain(drain) => tracing::info!("stopped"),
        _ = signals.stop() => tracing::warn!("stopped at once"),
    }
    server.stop().await;
    Ok(())
}

/// Gauges of agents that are gone are forgotten: those of others are set whenever somebody looks.
fn record_metrics() -> Result<PrometheusHandle> {
    let metrics = PrometheusBuilder::new()
        .idle_timeout(MetricKindMask::GAUGE, Some(limits::METRICS_IDLE))
        .install_recorder()
        .context("cannot keep metrics")?;
    describe_metrics();
    Ok(metrics)
}
