//! `underpass shell recordings`

use std::time::Duration;

use anyhow::Result;
use underpass_api::RecordingView;
use underpass_api::client::Match;
use underpass_core::{ClusterName, ShellId};
use underpass_terminal::say;

use super::super::{print_table, timestamp};
use crate::args::Which;

pub(super) fn path(cluster: &ClusterName) -> String {
    format!("/v1/clusters/{cluster}/recordings")
}

pub(super) async fn list(which: &Which, cluster: &ClusterName) -> Result<()> {
    let list: Vec<RecordingView> = which.client().await?.list(&path(cluster)).await?;
    let rows = list.iter().map(row);
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let header = [
        "ID", "USER", "AT", "KIND", "BEGAN", "DURATION", "BYTES", "MISSING", "END", "STATE",
    ];
    print_table(&header, &rows);
    Ok(())
}

pub(super) async fn remove(which: &Which, cluster: &ClusterName, id: &ShellId) -> Result<()> {
    let path = format!("{}/{id}", path(cluster));
    which.client().await?.delete(&path, Match::Anything).await?;
    say!("The recording {id} is removed.");
    Ok(())
}

fn row(view: &RecordingView) -> Result<Vec<String>> {
    let end = match &view.end {
        None => "-".to_owned(),
        Some(end) => match end.exit {
            Some(exit) => format!("{}, {exit}", end.cause),
            None => end.cause.clone(),
        },
    };
    let lasted = Duration::from_secs(view.milliseconds / 1000);
    Ok(vec![
        view.id.to_string(),
        view.user.clone(),
        view.place.clone(),
        view.kind.to_string(),
        timestamp(view.begun)?,
        humantime::format_duration(lasted).to_string(),
        view.bytes.to_string(),
        view.missing.to_string(),
        end,
        view.state.as_str().to_owned(),
    ])
}
