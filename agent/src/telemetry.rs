//! The agent's metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusBuilder;
use underpass_terminal::lost_log_lines;
use underpass_tunnel::{describe_metrics, record_sessions};

use crate::serve::Sessions;

/// How old the figures of sessions may be that somebody sees: Prometheus asks every 15 s and more.
const PERIOD: Duration = Duration::from_secs(5);

/// Serves them at `address` in the background.
pub(crate) fn serve(address: SocketAddr, sessions: Sessions) -> Result<()> {
    PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .with_context(|| format!("cannot serve metrics at {address}"))?;
    describe_metrics();
    tracing::info!(%address, "metrics");
    tokio::spawn(async move {
        loop {
            metrics::counter!("underpass_log_lines_lost_total").absolute(lost_log_lines());
            let live = sessions.live();
            // They are all of one agent.
            if let Some(session) = live.first() {
                record_sessions(&session.info().agent, &live);
            }
            tokio::time::sleep(PERIOD).await;
        }
    });
    Ok(())
}
