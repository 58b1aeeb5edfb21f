//! The facts about a recording, in a file beside it: by them it goes on after a restart, and a file that was changed is found.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use underpass_api::{RecordingState, RecordingView, ShellEnd, ShellRecording, ShellView};
use underpass_core::{ClusterName, Identity, ShellId, ShellKind};

use super::origin::Origin;
use super::shares::Holder;

/// The name of a recording. Neither part can hold a `/` or be `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) cluster: ClusterName,
    pub(crate) id: ShellId,
}

/// The place of a recording in lists.
pub(crate) type ListPlace = (Reverse<i128>, ShellId);

/// A page of a list: so many recordings behind a place.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) behind: Option<ListPlace>,
    pub(crate) limit: usize,
}

/// The facts about a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    pub(crate) cluster: ClusterName,
    pub(crate) id: ShellId,
    pub(crate) kind: ShellKind,
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) uid: Option<String>,
    /// `None` where an earlier version has begun it.
    #[serde(default)]
    pub(crate) origin: Option<Origin>,
    /// `cluster:NAME`, or `node:CLUSTER/NAME`.
    pub(crate) place: String,
    /// The id of the shell's agent.
    pub(crate) agent: String,
    /// When the shell was opened, by its agent's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    /// When the recording began, by this server's clock; `None` where an earlier version has begun it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) begun: Option<OffsetDateTime>,
    pub(crate) recording: ShellRecording,
    /// The user's identity as the agent was told it, until the recording is finished.
    #[serde(default)]
    pub(crate) identity: String,
    #[serde(default)]
    pub(crate) finished: Option<Finished>,
}

/// The facts about a recording that is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finished {
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) at: OffsetDateTime,
    pub(crate) bytes: u64,
    pub(crate) milliseconds: u64,
    /// In hexadecimal.
    pub(crate) sha256: String,
    /// Bytes of output and of input that were not recorded.
    pub(crate) missing: u64,
    #[serde(default)]
    pub(crate) end: Option<ShellEnd>,
}

/// How far a recording is that is being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    pub(crate) milliseconds: u64,
    pub(crate) missing: u64,
}

impl Facts {
    /// Of a shell that was just opened, or `None` where its user's identity has no text.
    pub(crate) fn new(
        cluster: &ClusterName,
        (view, recording): (&ShellView, ShellRecording),
        (identity, origin): (&Identity, &Origin),
        place: &str,
        agent: &str,
    ) -> Option<Self> {
        let encoded = identity.encode().ok()?;
        Some(Self {
            cluster: cluster.clone(),
            id: view.id.clone(),
            kind: view.kind,
            user: identity.user().to_owned(),
            uid: identity.uid().map(str::to_owned),
            origin: Some(origin.clone()),
            place: place.to_owned(),
            agent: agent.to_owned(),
            created: view.created,
            begun: Some(OffsetDateTime::now_utc()),
            recording,
            identity: String::from_utf8(encoded.to_vec()).ok()?,
            finished: None,
        })
    }

    pub(crate) fn key(&self) -> Key {
        Key {
            cluster: self.cluster.clone(),
            id: self.id.clone(),
        }
    }

    /// When it began.
    pub(crate) fn begun(&self) -> OffsetDateTime {
        self.begun.unwrap_or(self.created)
    }

    /// Its place in lists: those that began last come first. An agent's clock has no say in it.
    pub(crate) fn place_in_lists(&self) -> ListPlace {
        (
            Reverse(self.begun().unix_timestamp_nanos()),
            self.id.clone(),
        )
    }

    /// Is it of this user's shell? A user of another uid, or of another origin, is another one.
    pub(crate) fn is_of(&self, identity: &Identity, origin: &Origin) -> bool {
        let is_named = self.user == identity.user() && self.uid.as_deref() == identity.uid();
        is_named && self.origin.as_ref() == Some(origin)
    }

    /// The user in whose share it counts.
    pub(super) fn holder(&self) -> Holder {
        let origin = self.origin.as_ref();
        Holder {
            user: self.user.clone(),
            origin: origin.map(|origin| origin.user.clone()),
        }
    }

    /// Is it of this cluster, and not of an earlier one of its name?
    pub(crate) fn is_in(&self, origin: &Origin) -> bool {
        let own = self.origin.as_ref();
        own.is_some_and(|own| own.cluster == origin.cluster)
    }

    /// As people see it.
    pub(crate) fn view(&self, progress: Progress, state: RecordingState) -> RecordingView {
        let finished = self.finished.as_ref();
        RecordingView {
            id: self.id.clone(),
            kind: self.kind,
            user: self.user.clone(),
            place: self.place.clone(),
            created: self.created,
            begun: self.begun(),
            milliseconds: finished.map_or(progress.milliseconds, |told| told.milliseconds),
            bytes: finished.map_or(progress.bytes, |told| told.bytes),
            input: self.recording.input,
            missing: finished.map_or(progress.missing, |told| told.missing),
            end: finished.and_then(|told| told.end.clone()),
            sha256: finished.map(|told| told.sha256.clone()),
            state,
        }
    }
}
