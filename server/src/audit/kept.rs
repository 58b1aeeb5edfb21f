//! An audit log in memory, for tests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use underpass_audit::{AuditLog, Backend, BackendConfig, Policy, Sink};
use underpass_core::BoxError;

/// The events, as they are written.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<Value>>>);

#[async_trait]
impl Sink for Kept {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let events = events
            .iter()
            .map(|event| serde_json::from_slice(event).unwrap());
        self.0.lock().unwrap().extend(events);
        Ok(())
    }
}

impl Kept {
    /// A log that is written here.
    pub(crate) fn audit_log(&self) -> AuditLog {
        let backend = Backend::start("kept", Box::new(self.clone()), BackendConfig::default());
        AuditLog::new(Policy::everything(), vec![backend])
    }

    /// The events that were written until now.
    pub(crate) fn written(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for the event about this object.
    pub(crate) async fn about(&self, object: &str) -> Value {
        self.first(|told| told["underpass.dev/object"] == object)
            .await
    }

    /// Waits for an event that has this annotation.
    pub(crate) async fn with(&self, annotation: &str) -> Value {
        self.first(|told| !told[annotation].is_null()).await
    }

    /// Waits for the first event with annotations like these.
    async fn first(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let is_it = |event: &&Value| is_it(&event["annotations"]);
        let waiting = async {
            loop {
                let found = self.0.lock().unwrap().iter().find(is_it).cloned();
                match found {
                    Some(event) => return event,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("an event")
    }

    /// Waits for so many events, and gives the last.
    pub(crate) async fn nth(&self, count: usize) -> Value {
        self.all(count).await.pop().expect("one at the least")
    }

    /// Waits for so many events, and for no more.
    pub(crate) async fn all(&self, count: usize) -> Vec<Value> {
        let waiting = async {
            loop {
                let events = self.written();
                assert!(events.len() <= count, "{events:?}");
                if events.len() == count {
                    return events;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("events")
    }
}
