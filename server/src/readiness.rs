//! Whether a load balancer shall send clients here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use underpass_audit::AuditLog;
use underpass_directory::Directory;

use crate::recordings::Recordings;

/// The server's readiness. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Readiness {
    serving: Arc<AtomicBool>,
    directory: Arc<Directory>,
    audit: AuditLog,
    recordings: Recordings,
}

/// Why a load balancer shall send nobody here. Anybody may read it: it names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Unready {
    #[error("shutting down")]
    Stopping,
    #[error(
        "the audit log cannot be written, and calls are refused or will be soon: see the server's log"
    )]
    AuditLog,
    #[error("the directory cannot be written, and changes are refused: see the server's log")]
    Directory,
    #[error("shells have to be recorded and cannot be, and are refused: see the server's log")]
    Recordings,
}

impl Readiness {
    /// Of a server that does not serve yet.
    pub(crate) fn new(directory: Arc<Directory>, audit: AuditLog, recordings: Recordings) -> Self {
        Self {
            serving: Arc::default(),
            directory,
            audit,
            recordings,
        }
    }

    pub(crate) fn serve(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// Whether it takes connections, even where it cannot write.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), Unready> {
        if !self.is_serving() {
            return Err(Unready::Stopping);
        }
        if !self.audit.is_writable() {
            return Err(Unready::AuditLog);
        }
        if !self.directory.is_writable() {
            return Err(Unready::Directory);
        }
        if !self.recordings.are_writable() {
            return Err(Unready::Recordings);
        }
        Ok(())
    }

    /// Sets the gauges.
    pub(crate) fn record(&self) {
        self.audit.record();
        self.recordings.record();
        let writable = if self.directory.is_writable() {
            1.0
        } else {
            0.0
        };
        metrics::gauge!("underpass_directory_writable").set(writable);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::Method;
    use time::OffsetDateTime;
    use tokio::time::Instant;
    use underpass_audit::{Backend, BackendConfig, Full, OwnCall, OwnCaller, Policy, Sink};
    use underpass_core::BoxError;
    use underpass_directory::{
        CommitError, Contents, MemoryStore, Revision, Store, StoreError, User, Write,
    };

    use super::*;

    /// A disk that is full or not.
    #[derive(Clone, Default)]
    struct Disk(Arc<AtomicBool>);

    impl Disk {
        fn fill(&self, full: bool) {
            self.0.store(full, Ordering::Release);
        }
    }

    #[async_trait]
    impl Sink for Disk {
        async fn write(&mut self, _: &[Bytes]) -> Result<(), BoxError> {
            match self.0.load(Ordering::Acquire) {
                true => Err("no space left".into()),
                false => Ok(()),
            }
        }
    }

    #[async_trait]
    impl Store for Disk {
        async fn load(&self) -> Result<Contents, StoreError> {
            Ok(Contents::default())
        }

        async fn commit(&self, at: Revision, _: Vec<Write>) -> Result<Revision, CommitError> {
            self.check().await?;
            Ok(at.next())
        }

        async fn check(&self) -> Result<(), StoreError> {
            match self.0.load(Ordering::Acquire) {
                true => Err(StoreError("no space left".into())),
                false => Ok(()),
            }
        }

        async fn changed(&self, _: Revision) -> Result<(), StoreError> {
            std::future::pending().await
        }
    }

    async fn readiness(disk: &Disk, full: Full) -> Readiness {
        let config = BackendConfig {
            full,
            ..BackendConfig::default()
        };
        let backend = Backend::start("file", Box::new(disk.clone()), config);
        let audit = AuditLog::new(Policy::everything(), vec![backend]);
        let store = Arc::new(MemoryStore::default());
        let readiness = Readiness::new(
            Directory::open(store).await.unwrap(),
            audit,
            Recordings::default(),
        );
        readiness.serve(true);
        readiness
    }

    fn call(readiness: &Readiness) {
        readiness.audit.own_call(&OwnCall {
            caller: OwnCaller::Known("underpass:operator"),
            client: None,
            method: &Method::POST,
            path: "/v1/users",
            user_agent: "",
            received: OffsetDateTime::now_utc(),
            code: 201,
            details: &[],
        });
    }

    async fn becomes(readiness: &Readiness, wanted: Result<(), Unready>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while readiness.check() != wanted {
            assert!(Instant::now() < deadline, "{:?}", readiness.check());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_log_that_cannot_be_written_is_told_until_it_can() {
        let disk = Disk::default();
        let readiness = readiness(&disk, Full::Block).await;
        assert_eq!(readiness.check(), Ok(()));
        disk.fill(true);
        call(&readiness);
        becomes(&readiness, Err(Unready::AuditLog)).await;
        disk.fill(false);
        // Nobody calls: the load balancer has sent everybody elsewhere.
        becomes(&readiness, Ok(())).await;
        readiness.serve(false);
        assert_eq!(readiness.check(), Err(Unready::Stopping));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_calls_do_not_wait_for_the_audit_log_is_ready_without_it() {
        let disk = Disk::default();
        let readiness = readiness(&disk, Full::Drop).await;
        disk.fill(true);
        call(&readiness);
        assert_eq!(readiness.audit.flush(Duration::from_secs(5)).await, 1);
        assert_eq!(readiness.check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_cannot_be_written_is_told_until_it_can() {
        let disk = Disk::default();
        let directory = Directory::open(Arc::new(disk.clone())).await.unwrap();
        let keeping = tokio::spawn(Arc::clone(&directory).keep_store());
        let readiness = Readiness::new(
            Arc::clone(&directory),
            AuditLog::default(),
            Recordings::default(),
        );
        readiness.serve(true);
        assert_eq!(readiness.check(), Ok(()));
        disk.fill(true);
        let add = directory.change(|draft| {
            let user = User::new(draft.now());
            draft.put("alice", user, underpass_directory::Expect::Absent)
        });
        add.await.unwrap_err();
        assert_eq!(readiness.check(), Err(Unready::Directory));
        disk.fill(false);
        becomes(&readiness, Ok(())).await;
        // Without a change, too.
        disk.fill(true);
        becomes(&readiness, Err(Unready::Directory)).await;
        keeping.abort();
    }
}
