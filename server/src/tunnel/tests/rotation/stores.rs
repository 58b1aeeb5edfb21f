//! Stores that take their time, fail, or do not say what they have done, and the events of what they did.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use underpass_audit::{Backend, BackendConfig, Policy, Sink};
use underpass_core::BoxError;
use underpass_directory::{CommitError, Contents, Revision, StoreError, Write};

use super::*;

/// A store that takes its time, or fails, or does not say what it has done.
#[derive(Default)]
struct Disk {
    store: MemoryStore,
    fault: Mutex<Fault>,
}

#[derive(Clone, Copy, Default)]
enum Fault {
    #[default]
    None,
    Slow,
    Full,
    Unsure,
    /// As unsure, and nothing is written.
    Lost,
}

#[async_trait]
impl Store for Disk {
    async fn load(&self) -> Result<Contents, StoreError> {
        self.store.load().await
    }

    async fn commit(&self, at: Revision, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let fault = *self.fault.lock().unwrap();
        let unknown = || CommitError::Unknown("the disk says nothing".into());
        match fault {
            Fault::None => {}
            Fault::Slow => tokio::time::sleep(Duration::from_secs(2)).await,
            Fault::Full => return Err(CommitError::Store(StoreError("the disk is full".into()))),
            Fault::Unsure => {
                self.fails(Fault::None);
                self.store.commit(at, writes).await?;
                return Err(unknown());
            }
            Fault::Lost => return Err(unknown()),
        }
        self.store.commit(at, writes).await
    }

    async fn changed(&self, after: Revision) -> Result<(), StoreError> {
        self.store.changed(after).await
    }
}

impl Disk {
    fn fails(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// Events, as they are written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Sink for Kept {
    async fn write(&mut self, events: &[Bytes]) -> Result<(), BoxError> {
        let events = events
            .iter()
            .map(|event| String::from_utf8_lossy(event).into_owned());
        self.0.lock().unwrap().extend(events);
        Ok(())
    }
}

impl Kept {
    fn log(&self) -> AuditLog {
        let backend = Backend::start("kept", Box::new(self.clone()), BackendConfig::default());
        AuditLog::new(Policy::everything(), vec![backend])
    }

    /// Waits for an event with this text.
    async fn says(&self, text: &str) -> String {
        let find = || {
            let events = self.0.lock().unwrap();
            events.iter().find(|event| event.contains(text)).cloned()
        };
        let said = async {
            loop {
                match find() {
                    Some(event) => break event,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(60), said).await;
        said.unwrap_or_else(|_| panic!("no {text:?}: {:?}", self.0.lock().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn rule_15_no_next_key_is_registered_without_its_event() {
    let (disk, kept) = (Arc::<Disk>::default(), Kept::default());
    let world = World::over(Arc::clone(&disk) as _, kept.log()).await;
    let connector = world.connector(key(1));
    let session = world.connect(&connector).await.unwrap();
    let next_key = |seed| format!("next key {}", key(seed).public_key());
    // In time, and written after that.
    disk.fails(Fault::Slow);
    let late = Duration::from_secs(9);
    let answer = register_after(&session, &key(1), &key(2), late).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { is_new: true }));
    kept.says(&next_key(2)).await;
    // Written, and the disk does not say so.
    disk.fails(Fault::Unsure);
    let answer = register(&session, &key(1), &key(3)).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { is_new: true }));
    kept.says(&format!("instead of the {}", next_key(2))).await;
    // Nor when the next key takes the place of the other one.
    disk.fails(Fault::Unsure);
    connector.renew_key(key(3));
    world.resume(&connector, &session).await;
    world.until_key(&key(3)).await;
    kept.says(&format!("replaced: key {}", key(1).public_key()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn rule_15_a_next_key_of_which_the_store_says_nothing_is_written_down_as_unsure() {
    let (disk, kept) = (Arc::<Disk>::default(), Kept::default());
    let world = World::over(Arc::clone(&disk) as _, kept.log()).await;
    let session = world.connect(&world.connector(key(1))).await.unwrap();
    disk.fails(Fault::Lost);
    let answer = register(&session, &key(1), &key(2)).await;
    assert_refused(answer, NextKeyRefusal::Unavailable);
    let unsure = "the store does not say whether it is written";
    let event = kept.says(unsure).await;
    let next = format!("next key {}", key(2).public_key());
    assert!(event.contains(&next), "{event}");
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["responseStatus"]["code"], 500);
    // A store that speaks again registers it.
    disk.fails(Fault::None);
    let answer = register(&session, &key(1), &key(2)).await;
    assert!(matches!(answer, NextKeyAnswer::Registered { .. }));
}

#[tokio::test(start_paused = true)]
async fn rule_14_a_next_key_that_was_proved_is_displaced_by_no_other_one() {
    let disk = Arc::<Disk>::default();
    let world = World::over(Arc::clone(&disk) as _, AuditLog::default()).await;
    let connector = world.connector(key(1));
    let session = world.connect(&connector).await.unwrap();
    register(&session, &key(1), &key(2)).await;
    // It is proved, and cannot be written down.
    disk.fails(Fault::Full);
    connector.renew_key(key(2));
    world.resume(&connector, &session).await;
    let other = register(&session, &key(1), &key(3)).await;
    assert_refused(other, NextKeyRefusal::Unavailable);
    let same = register(&session, &key(1), &key(2)).await;
    assert!(
        matches!(same, NextKeyAnswer::Registered { is_new: false }),
        "{same:?}"
    );
    disk.fails(Fault::None);
    world.until_key(&key(2)).await;
}
