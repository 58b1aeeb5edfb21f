//! Tasks that run for as long as the server does.
//!
//! A server without one of them would go on, and do less than it promises: without the one that enforces revocations it would
//! break security rule 12 in silence. So each has an owner, and the end of one ends the server.

use std::any::Any;

use tokio::task::{AbortHandle, JoinSet};

/// Owns the server's tasks. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    tasks: JoinSet<()>,
    names: Vec<(AbortHandle, &'static str)>,
}

/// Tasks that end by themselves, or with their owner: one for each connection of a listener.
#[derive(Debug, Default)]
pub(crate) struct Children(JoinSet<()>);

impl Children {
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        // Lets go of those that have ended.
        while self.0.try_join_next().is_some() {}
        self.0.spawn(work);
    }
}

/// A task ended that must not, with its reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server cannot go on: the task that {task} has ended{}", because(.panic.as_deref()))]
pub struct Ended {
    task: &'static str,
    /// The panic's message, where it panicked.
    panic: Option<String>,
}

impl Supervisor {
    /// Starts a task that runs for as long as the server does. `task` completes "the task that …".
    pub(crate) fn start(
        &mut self,
        task: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.names.push((self.tasks.spawn(work), task));
    }

    /// Ends all of them, and waits until they are gone.
    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Waits until one has ended. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Ended {
        let Some(result) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, panic) = match result {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), error.try_into_panic().ok()),
        };
        let named = self.names.iter().find(|(handle, _)| handle.id() == id);
        Ended {
            task: named.map_or("is not known", |(_, task)| task),
            panic: panic.map(|panic| said(&*panic)),
        }
    }
}

fn because(panic: Option<&str>) -> String {
    panic.map_or_else(String::new, |said| format!(" by a panic: {said}"))
}

/// The message of `panic!`.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn rule_12_the_end_of_a_task_is_the_servers_with_its_reason() {
        let mut supervisor = Supervisor::default();
        supervisor.start("goes on", pending());
        supervisor.start("enforces revocations", async { panic!("no {}", "luck") });
        let ended = supervisor.ended().await;
        assert_eq!(
            ended.to_string(),
            "the server cannot go on: the task that enforces revocations has ended by a panic: no luck"
        );
        supervisor.start("serves users", async {});
        let ended = supervisor.ended().await.to_string();
        assert_eq!(
            ended,
            "the server cannot go on: the task that serves users has ended"
        );
    }

    #[tokio::test]
    async fn tasks_end_with_their_owner() {
        let mut supervisor = Supervisor::default();
        let (held, dropped) = oneshot::channel::<()>();
        supervisor.start("holds", async move {
            let _held = held;
            pending().await
        });
        drop(supervisor);
        dropped.await.unwrap_err();
    }
}
