//! The open connections over TCP, and their end.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The open connections over TCP. Each ends by itself, or with the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections {
    open: TaskTracker,
    end: CancellationToken,
}

impl Connections {
    pub(crate) fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.open.spawn(async move {
            // The end first: a connection that is woken together with it must not begin another change.
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = serving => {}
            }
        });
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Waits until all have ended. There must not be another one from here on.
    pub(crate) async fn wait(&self) {
        self.open.close();
        self.open.wait().await;
    }

    /// Ends all of them, and with them their requests and upgraded streams.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }
}
