//! Waiting for a change by another writer.

use underpass_directory::Revision;

use crate::client::{Patience, Watch};
use crate::error::{CallError, EtcdError};
use crate::limits;
use crate::state::State;
use crate::store::EtcdStore;
use crate::wire::WatchResponse;

impl EtcdStore {
    /// Waits until the directory is beyond a revision. The revision is read first, and again where the watch has ended, was
    /// compacted away, or says nothing for a while: nothing is missed for longer than that.
    pub(crate) async fn wait_beyond(&self, after: Revision) -> Result<(), EtcdError> {
        loop {
            let head = self.head(Patience::for_call()).await?;
            if head.state.revision() > after {
                return Ok(());
            }
            let from = head.revision.saturating_add(1);
            match self.client.watch(&self.keys.state, from).await {
                Ok(watch) => {
                    if self.follow(watch, after).await? {
                        return Ok(());
                    }
                }
                Err(CallError::Refused(_, error)) => return Err(error),
                // The next reading tells whether etcd can be asked at all.
                Err(_) => tokio::time::sleep(limits::PAUSE).await,
            }
        }
    }

    /// Follows a watch to its end, or to a change: then it is true.
    async fn follow(&self, mut watch: Watch, after: Revision) -> Result<bool, EtcdError> {
        loop {
            let message = tokio::time::timeout(limits::LOOK, watch.messages.message());
            match message.await {
                Ok(Ok(Some(message))) => match self.heard(&message, after)? {
                    Heard::Nothing => {}
                    Heard::Change => return Ok(true),
                    Heard::End => return Ok(false),
                },
                // The member is gone, or has no leader: another one may have.
                Ok(Ok(None) | Err(_)) => {
                    self.client.leave(&watch).await;
                    tokio::time::sleep(limits::PAUSE).await;
                    return Ok(false);
                }
                Err(_) => {
                    let head = self.head(Patience::for_call()).await?;
                    if head.state.revision() > after {
                        return Ok(true);
                    }
                    if !self.client.is_current(&watch).await {
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn heard(&self, message: &WatchResponse, after: Revision) -> Result<Heard, EtcdError> {
        if message.canceled || message.compact_revision > 0 {
            return match message.compact_revision > 0 || message.cancel_reason.is_empty() {
                true => Ok(Heard::End),
                false => Err(EtcdError::NoWatch(message.cancel_reason.clone())),
            };
        }
        for event in &message.events {
            let Some(pair) = &event.kv else { continue };
            // A key that was removed has no value.
            if pair.value.is_empty() {
                return Err(self.gone());
            }
            if State::read(&self.keys.state, &pair.value)?.revision() > after {
                return Ok(Heard::Change);
            }
            // An older state has come in its place: reading says what that is.
            return Ok(Heard::End);
        }
        Ok(Heard::Nothing)
    }
}

/// The meaning of a message of the watch.
enum Heard {
    Nothing,
    Change,
    End,
}
