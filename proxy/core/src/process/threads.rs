//! A thread for blocking work that is always there.
//!
//! tokio makes threads for such work (files, names) when they are needed, and panics where the system gives it none and it has none:
//! within a pod's limit of processes, when its neighbours have taken the rest. With one that is there, the work waits.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

/// How long a thread for blocking work stays without any (`thread_keep_alive` of the runtime). Ten threads that are idle take some
/// hundred KiB.
pub const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(600);

/// How long the end of a process waits for tasks that are dropped, and for blocking work that was begun (`shutdown_timeout` of the
/// runtime). Reading a pipe, or a file of a file system that hangs, may take for ever.
pub const LAST_TASKS: Duration = Duration::from_millis(500);

/// Can the process have a thread now? Before a runtime is built, which would panic.
///
/// # Errors
/// The system's.
pub fn can_have_threads() -> io::Result<()> {
    let thread = std::thread::Builder::new().spawn(|| ())?;
    // It cannot panic.
    let _ = thread.join();
    Ok(())
}

/// Keeps one thread for blocking work, on a runtime whose threads stay for [`BLOCKING_THREAD_IDLE`]. Ends never.
///
/// # Cancel safety
/// Dropping the future lets the thread go some time later.
pub async fn keep_blocking_thread() -> Infallible {
    keep(BLOCKING_THREAD_IDLE).await
}

async fn keep(idle: Duration) -> Infallible {
    loop {
        let _ = tokio::task::spawn_blocking(|| ()).await;
        tokio::time::sleep(idle / 4).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const IDLE: Duration = Duration::from_secs(2);

    /// A runtime, and how many threads for blocking work it has let go.
    fn runtime() -> (Runtime, Arc<AtomicUsize>) {
        let gone = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&gone);
        let mut builder = Builder::new_current_thread();
        builder.enable_all().thread_keep_alive(IDLE);
        builder.on_thread_stop(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        (builder.build().unwrap(), gone)
    }

    #[test]
    fn one_thread_outlives_its_idle_time() {
        can_have_threads().unwrap();
        let ((kept, kept_gone), (left, left_gone)) = (runtime(), runtime());
        left.block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
        kept.block_on(async {
            let keeping = tokio::spawn(keep(IDLE));
            let other_is_gone = async {
                while left_gone.load(Ordering::Relaxed) == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let waited = tokio::time::timeout(10 * IDLE, other_is_gone).await;
            waited.expect("a thread that nobody keeps goes");
            keeping.abort();
        });
        assert_eq!(kept_gone.load(Ordering::Relaxed), 0);
    }
}
