//! The configuration is read again when its files change, or when the API server refuses what was read.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ApiServer, ApiServerError, ApiServerOptions,
    clock::Moment,
    generation::{self, Generation},
};
use underpass_core::{BoxError, Exec, files::Stamps, limits};

/// Where the configuration of an API server comes from.
pub trait ConfigSource: std::fmt::Debug + Send + Sync + 'static {
    /// Reads it. May block, and is not called by a task of the runtime.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    fn load(&self) -> Result<kube::Config, BoxError>;

    /// The files that [`load`](Self::load) reads. Those that the configuration itself names (a client certificate and its key,
    /// the CA of a pod) need not be among them.
    fn files(&self) -> Vec<PathBuf>;
}

/// A configuration that stays as it is. The files that it names may change.
impl ConfigSource for kube::Config {
    fn load(&self) -> Result<kube::Config, BoxError> {
        Ok(self.clone())
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// The source of a configuration, and the settings beside it.
pub(super) struct Reader {
    pub(super) source: Arc<dyn ConfigSource>,
    pub(super) options: ApiServerOptions,
    pub(super) plugin: Option<Exec>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A configuration of kube's is a source, and shows the arguments and variables of its plugin.
        f.debug_struct("Reader")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A place among the looks that may hang. The thread of a look has it, since a look that is given up leaves its thread behind.
type Seat = Arc<OwnedSemaphorePermit>;

/// A reading, and the state of its files before it.
struct Read {
    generation: Generation,
    stamps: Stamps,
}

/// Readings in a row while files change under them. The last one is used, and the next look finds the change.
const READINGS: usize = 2;

impl Reader {
    async fn read(
        self: Arc<Self>,
        last: Option<Arc<Generation>>,
        seat: Option<Seat>,
    ) -> Result<Read, ApiServerError> {
        let reading = tokio::task::spawn_blocking(move || {
            let read = self.read_files(last.as_deref());
            drop(seat);
            read
        });
        reading.await.map_err(ApiServerError::Read)?
    }

    /// Reads where a file has changed, and has a plugin give a credential before the reading is used in the place of the last.
    async fn read_again(
        self: Arc<Self>,
        last: Arc<Generation>,
        stamps: Arc<Stamps>,
        seat: Seat,
    ) -> Result<Option<Read>, ApiServerError> {
        let held = Arc::clone(&seat);
        let looking = tokio::task::spawn_blocking(move || {
            let same = stamps.are_current();
            drop(held);
            same
        });
        if looking.await.map_err(ApiServerError::Read)? {
            return Ok(None);
        }
        let read = self.read(Some(last), Some(seat)).await?;
        read.generation.try_credential().await?;
        Ok(Some(read))
    }

    /// Blocks. Files that change while they are read are read once more.
    fn read_files(&self, last: Option<&Generation>) -> Result<Read, ApiServerError> {
        let mut readings = 0;
        loop {
            let (read, config) = self.read_once(last)?;
            readings += 1;
            if readings == READINGS || read.stamps == self.stamps(&config) {
                return Ok(read);
            }
        }
    }

    fn read_once(&self, last: Option<&Generation>) -> Result<(Read, kube::Config), ApiServerError> {
        let before = Stamps::of(self.source.files());
        let config = self.source.load().map_err(ApiServerError::Source)?;
        // Before they are read: one that is replaced in between is not taken for the one that was read.
        let stamps = before.and(&generation::files_of(&config));
        let plugin = self.plugin.as_ref();
        let generation = Generation::new(&config, &self.options, plugin, last)?;
        Ok((Read { generation, stamps }, config))
    }

    fn stamps(&self, config: &kube::Config) -> Stamps {
        Stamps::of(self.source.files()).and(&generation::files_of(config))
    }
}

/// The last reading, and the next.
#[derive(Debug)]
pub(super) struct Reload {
    reader: Arc<Reader>,
    current: Mutex<Arc<Generation>>,
    looking: tokio::sync::Mutex<Looking>,
}

#[derive(Debug)]
struct Looking {
    /// When the files were looked at, or waiting for a look ended.
    at: Moment,
    /// The last look ended with an error.
    failed: bool,
    stamps: Arc<Stamps>,
    /// It goes on where the request that waited for it has gone, so that a plugin runs once.
    look: Option<Look>,
    seats: Arc<Semaphore>,
}

#[derive(Debug)]
struct Look {
    began: Instant,
    task: AbortOnDropHandle<Result<Option<Read>, ApiServerError>>,
    /// A request has waited for it in vain.
    slow: bool,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").finish_non_exhaustive()
    }
}

impl Reload {
    pub(super) async fn start(reader: Reader) -> Result<Self, ApiServerError> {
        let reader = Arc::new(reader);
        let read = Arc::clone(&reader).read(None, None).await?;
        let looking = Looking {
            at: Moment::now(),
            failed: false,
            stamps: Arc::new(read.stamps),
            look: None,
            seats: Arc::new(Semaphore::new(limits::STUCK_READINGS)),
        };
        Ok(Self {
            reader,
            current: Mutex::new(Arc::new(read.generation)),
            looking: tokio::sync::Mutex::new(looking),
        })
    }

    pub(super) fn current(&self) -> Arc<Generation> {
        let current = self.current.lock();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// The way to the API server for a request that begins now. Waits for a look at the files for [`limits::FILE_TIME`] at the
    /// most.
    ///
    /// # Cancel safety
    /// May be dropped: another request goes on with what it waited for.
    async fn now(&self) -> Arc<Generation> {
        let mut looking = self.looking.lock().await;
        let current = self.current();
        let pause = match (current.is_suspect(), looking.failed) {
            (true, false) => limits::RELOAD_PAUSE,
            // A plugin may have failed.
            (true, true) => limits::EXEC_PAUSE,
            (false, _) => limits::TOKEN_FILE_AGE,
        };
        if looking.at.elapsed() < pause {
            return current;
        }
        looking.begin(&self.reader, &current);
        match looking.finish().await {
            Some(generation) => {
                tracing::info!("the configuration for the API server was read again");
                let generation = Arc::new(generation);
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::clone(&generation);
                generation
            }
            None => current,
        }
    }
}

impl Looking {
    /// Begins a look where there is none, or where it hangs: the path may lead to another file system by then.
    fn begin(&mut self, reader: &Arc<Reader>, current: &Arc<Generation>) {
        let hangs =
            |look: &Look| look.began.elapsed() >= limits::FILE_GIVEN_UP && !look.task.is_finished();
        let goes_on = self.look.as_ref().is_some_and(|look| !hangs(look));
        if goes_on {
            return;
        }
        // Where too many hang, the last look goes on.
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            return;
        };
        let stamps = Arc::clone(&self.stamps);
        let look = Arc::clone(reader).read_again(Arc::clone(current), stamps, Arc::new(seat));
        self.look = Some(Look {
            began: Instant::now(),
            task: AbortOnDropHandle::new(tokio::spawn(look)),
            slow: false,
        });
    }

    /// Waits for the look. The last reading is kept where it fails: files may be half written.
    async fn finish(&mut self) -> Option<Generation> {
        let look = self.look.as_mut()?;
        // One request waits for a look that hangs, and no other.
        let wait = match look.slow {
            true => Duration::ZERO,
            false => limits::FILE_TIME,
        };
        let looked = tokio::time::timeout(wait, &mut look.task).await;
        look.slow = looked.is_err();
        // Those who waited meanwhile do not wait as long again.
        self.at = Moment::now();
        let Ok(looked) = looked else {
            tracing::warn!(
                "reading the configuration for the API server takes long: keeping the last"
            );
            return None;
        };
        self.look = None;
        let looked = looked.map_err(ApiServerError::Read).and_then(|read| read);
        self.failed = looked.is_err();
        match looked {
            Ok(read) => {
                let read = read?;
                self.stamps = Arc::new(read.stamps);
                Some(read.generation)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the configuration for the API server cannot be read again: keeping the last"
                );
                None
            }
        }
    }
}

impl ApiServer {
    /// The way to the API server for a request that begins now.
    pub(super) async fn generation(&self) -> Arc<Generation> {
        self.reload.now().await
    }
}

#[cfg(test)]
mod tests;
