//! A connection of hyper's, and the tasks that hyper spawns for it, in one task of the runtime's.
//!
//! hyper gives each request of an HTTP/2 connection a task of its own. Each turn of those passes through the runtime's
//! scheduler, and on several threads wakes another one, only for the connection's own task to write their frames. Here they
//! take turns in that task: a thousand watches with an event on ten connections are ten tasks to wake.

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, AbortRegistration, Abortable, CatchUnwind},
    stream::FuturesUnordered,
};
use tokio::sync::oneshot;

use super::{on_wake::OnWake, turn_waker::TurnWaker};

/// How often each woken task has a turn before the runtime's other tasks have theirs. A request's task wakes the connection,
/// and its frames the next write: that takes two.
const ROUNDS: usize = 4;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor for hyper. Its tasks run while their [`InTask`] is polled.
#[derive(Clone, Default)]
pub struct Spawner(Arc<Spawned>);

#[derive(Default)]
struct Spawned {
    new: Mutex<Vec<Work>>,
    turn: Arc<TurnWaker>,
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.add(match awaited_child() {
            None => Box::pin(work),
            Some((registration, ended)) => Box::pin(async move {
                // Dropped however the work ends.
                let _ended = ended;
                // Its end by its handle is an end.
                let _ = Abortable::new(work, registration).await;
            }),
        });
    }
}

impl Spawner {
    /// The turns of this executor's tasks.
    pub fn turns(&self) -> Turns {
        Turns(Arc::downgrade(&self.0))
    }
}

/// The turns of a connection's tasks, seen from other tasks of the runtime's.
#[derive(Clone, Debug)]
pub struct Turns(Weak<Spawned>);

impl Turns {
    /// Adds a task to the connection's, unless the connection is gone. It is dropped with the connection.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(spawned) = self.0.upgrade() {
            spawned.add(Box::pin(work));
        }
    }

    /// Waits until each task of the connection that was woken before has had a turn. False: the connection is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn pass(&self) -> bool {
        let (last, passed) = oneshot::channel();
        {
            let Some(spawned) = self.0.upgrade() else {
                return false;
            };
            // Tasks have their turns in the order in which they are woken, and a new one after them.
            spawned.add(Box::pin(async move {
                // Its waiter may be gone.
                let _ = last.send(());
            }));
        }
        passed.await.is_ok()
    }
}

impl std::fmt::Debug for Spawned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").finish_non_exhaustive()
    }
}

impl Spawned {
    fn add(&self, work: Work) {
        lock(&self.new).push(work);
        self.turn.wake_task();
    }

    fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *lock(&self.new))
    }

    /// Takes turns until the last one woke no task, or others have waited for long enough.
    fn turns<T>(
        &self,
        cx: &mut Context<'_>,
        mut turn: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let waker = Waker::from(Arc::clone(&self.turn));
        let inner = &mut Context::from_waker(&waker);
        self.turn.begin_turn(cx.waker());
        for _ in 0..ROUNDS {
            self.turn.clear();
            let ended = turn(inner);
            if ended.is_ready() {
                self.turn.end_turn();
                return ended;
            }
            if self.turn.try_rest() {
                return Poll::Pending;
            }
        }
        self.turn.end_turn();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A connection and its tasks. It ends when the connection does; tasks that are left then have had one more turn, and are
/// dropped with it.
pub struct InTask<C> {
    connection: OnWake<C>,
    tasks: Tasks,
    spawner: Spawner,
}

impl<C> InTask<C> {
    /// `connection` was made with `spawner`.
    pub fn new(connection: C, spawner: Spawner) -> Self {
        Self {
            connection: OnWake::new(connection),
            tasks: Tasks::default(),
            spawner,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &C {
        self.connection.get()
    }

    /// The connection, to be changed: it is polled next time as if it had been woken.
    pub fn connection_mut(&mut self) -> &mut C {
        self.connection.get_mut()
    }

    /// Drops the connection, and moves its tasks until they are done.
    pub async fn finish_tasks(self) {
        let Self {
            connection,
            mut tasks,
            spawner,
        } = self;
        drop(connection);
        poll_fn(|cx| {
            spawner.0.turns(cx, |cx| {
                tasks.turn(spawner.0.take(), cx);
                if tasks.0.is_empty() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
        })
        .await;
    }
}

impl<C: Future + Unpin> Future for InTask<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let Self {
            connection,
            tasks,
            spawner,
        } = &mut *self;
        spawner.0.turns(cx, |cx| {
            let ended = connection.poll(cx);
            tasks.turn(spawner.0.take(), cx);
            ended
        })
    }
}

/// The task that runs now.
struct Current {
    handle: AbortHandle,
    /// Ends the next task that it spawns, and tells of its end.
    child: Cell<Option<Registration>>,
}

type Registration = (AbortRegistration, oneshot::Sender<Infallible>);

/// Another task of the connection's.
pub struct Child {
    /// Ends it.
    pub handle: AbortHandle,
    /// Ready, with an error, once it has ended or went away with the connection.
    pub ended: oneshot::Receiver<Infallible>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Ends the task of a connection that runs now, and with it its request, also where hyper waits for its client and polls nothing of
/// ours. `None` outside of such a task.
pub fn current() -> Option<AbortHandle> {
    CURRENT.try_with(|current| current.handle.clone()).ok()
}

/// The task that the one that runs now spawns next, before it next waits. hyper spawns one when CONNECT's answer is returned over
/// HTTP/2: it writes the stream, and takes a connection that was dropped for one that has come to its proper end. `None` outside
/// of such a task.
pub fn next_child() -> Option<Child> {
    let (handle, registration) = AbortHandle::new_pair();
    let (sender, ended) = oneshot::channel();
    let expect = |current: &Current| current.child.set(Some((registration, sender)));
    let expected = CURRENT.try_with(expect).ok();
    expected.map(|()| Child { handle, ended })
}

fn awaited_child() -> Option<Registration> {
    CURRENT.try_with(|current| current.child.take()).ok()?
}

/// A task. Its panic has been printed and ends its request, as it would in a task of the runtime's.
type Task = CatchUnwind<AssertUnwindSafe<Named>>;

/// Work that can find out which task it is in.
struct Named {
    work: Abortable<Work>,
    handle: AbortHandle,
}

impl Named {
    fn new(work: Work) -> Self {
        let (handle, registration) = AbortHandle::new_pair();
        let work = Abortable::new(work, registration);
        Self { work, handle }
    }
}

impl Future for Named {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let current = Current {
            handle: self.handle.clone(),
            child: Cell::new(None),
        };
        let polled = CURRENT.sync_scope(current, || self.work.poll_unpin(cx));
        polled.map(|_| ())
    }
}

/// The tasks, of which a turn polls those that are new or were woken.
#[derive(Default)]
struct Tasks(FuturesUnordered<Task>);

impl Tasks {
    /// Adds new tasks, and polls each that is new or was woken.
    fn turn(&mut self, new: Vec<Work>, cx: &mut Context<'_>) {
        let new = new
            .into_iter()
            .map(|work| AssertUnwindSafe(Named::new(work)).catch_unwind());
        self.0.extend(new);
        while let Poll::Ready(Some(_)) = self.0.poll_next_unpin(cx) {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use hyper::rt::Executor as _;
    use tokio::sync::{Notify, mpsc, oneshot};

    use super::*;
    use crate::scheduling::testing::{answering, counted};

    fn in_task<T>(
        spawner: &Spawner,
        connection: impl Future<Output = T> + Send + 'static,
    ) -> InTask<Pin<Box<dyn Future<Output = T> + Send>>> {
        InTask::new(Box::pin(connection), spawner.clone())
    }

    /// A connection that spawns a task for each number that it is sent, and ends with the tasks' answers.
    fn doubling(
        spawner: &Spawner,
        mut numbers: mpsc::Receiver<u32>,
    ) -> InTask<Pin<Box<dyn Future<Output = Vec<u32>> + Send>>> {
        let hand = spawner.clone();
        in_task(spawner, async move {
            let mut all = Vec::new();
            while let Some(number) = numbers.recv().await {
                let (answer, answered) = oneshot::channel();
                hand.execute(async move { answer.send(2 * number).unwrap() });
                all.push(answered.await.unwrap());
            }
            all
        })
    }

    #[tokio::test]
    async fn the_connection_and_its_tasks_wake_each_other_without_the_runtime() {
        let (numbers, receiver) = mpsc::channel(1);
        let (spawner, polls) = (Spawner::default(), AtomicUsize::new(0));
        let send = async {
            for number in 1..=3 {
                numbers.send(number).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(numbers);
        };
        let serving = counted(&polls, doubling(&spawner, receiver));
        let (answered, ()) = tokio::join!(serving, send);
        assert_eq!(answered, [2, 4, 6]);
        assert!(polls.load(Ordering::Relaxed) <= 8, "{polls:?}");
    }

    #[tokio::test]
    async fn only_woken_tasks_are_polled() {
        let spawner = Spawner::default();
        let events: Vec<_> = (0..10).map(|_| Arc::new(Notify::new())).collect();
        let polls: Vec<_> = (0..10).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let done = Arc::new(Notify::new());
        for (event, polls) in events.iter().zip(&polls) {
            let (event, polls, done) = (event.clone(), polls.clone(), done.clone());
            spawner.execute(async move {
                counted(&polls, event.notified()).await;
                done.notify_one();
            });
        }
        let connection = Arc::new(AtomicUsize::new(0));
        let count = connection.clone();
        let serving = in_task(&spawner, async move {
            counted(&count, std::future::pending::<()>()).await;
        });
        let serving = tokio::spawn(serving);
        tokio::task::yield_now().await;
        events[7].notify_one();
        done.notified().await;
        let polls: Vec<_> = polls
            .iter()
            .map(|polls| polls.load(Ordering::Relaxed))
            .collect();
        assert_eq!(polls, [1, 1, 1, 1, 1, 1, 1, 2, 1, 1]);
        assert_eq!(connection.load(Ordering::Relaxed), 1);
        serving.abort();
    }

    /// A task that never rests leaves turns to the connection's other tasks, and to the runtime's.
    #[tokio::test]
    async fn others_have_their_turn() {
        let spawner = Spawner::default();
        spawner.execute(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        spawner.execute(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        let (says, said) = oneshot::channel();
        let (hears, heard) = oneshot::channel();
        spawner.execute(async move { says.send(heard.await.unwrap()).unwrap() });
        let serving = tokio::spawn(in_task(&spawner, std::future::pending::<()>()));
        tokio::task::yield_now().await;
        hears.send(7).unwrap();
        assert_eq!(said.await, Ok(7));
        serving.abort();
    }

    /// As in the runtime: 128 steps in a turn. The other steps come in the next one.
    #[tokio::test]
    async fn no_step_is_lost_where_the_turn_is_over() {
        let (spawner, (done, mut ends)) = (Spawner::default(), mpsc::unbounded_channel());
        for number in 0..1000 {
            let done = done.clone();
            spawner.execute(async move {
                tokio::task::coop::consume_budget().await;
                done.send(number).unwrap();
            });
        }
        let serving = tokio::spawn(in_task(&spawner, std::future::pending::<()>()));
        let mut ended = Vec::new();
        while ended.len() < 1000 {
            ended.push(ends.recv().await.unwrap());
        }
        // Tasks that were polled without budget come after the others.
        ended.sort_unstable();
        assert_eq!(ended, Vec::from_iter(0..1000));
        serving.abort();
    }

    #[tokio::test]
    async fn a_panic_ends_one_task() {
        let spawner = Spawner::default();
        let (held, gone) = oneshot::channel::<()>();
        let (says, said) = oneshot::channel();
        spawner.execute(async move {
            let _held = held;
            panic!("as a test has it");
        });
        spawner.execute(async move { says.send(7).unwrap() });
        let serving = in_task(&spawner, async move {
            assert!(gone.await.is_err(), "what it had was dropped");
            said.await.unwrap()
        });
        assert_eq!(serving.await, 7);
    }

    #[tokio::test]
    async fn a_task_that_is_ended_is_dropped_and_the_others_go_on() {
        let spawner = Spawner::default();
        let (held, gone) = oneshot::channel::<()>();
        let (named, name) = oneshot::channel();
        let (says, said) = oneshot::channel();
        spawner.execute(async move {
            let _held = held;
            named.send(current().unwrap()).unwrap();
            std::future::pending().await
        });
        spawner.execute(async move {
            gone.await.unwrap_err();
            says.send(7).unwrap();
        });
        let serving = tokio::spawn(in_task(&spawner, async move { said.await.unwrap() }));
        name.await.unwrap().abort();
        assert_eq!(serving.await.unwrap(), 7);
        assert!(current().is_none());
    }

    #[tokio::test]
    async fn tasks_are_dropped_with_it_or_finish_without_it() {
        let spawner = Spawner::default();
        let (held, gone) = oneshot::channel::<()>();
        spawner.execute(async move {
            let _held = held;
            std::future::pending().await
        });
        let mut serving = in_task(&spawner, std::future::pending::<()>());
        assert!(futures_util::poll!(&mut serving).is_pending());
        drop(serving);
        assert!(gone.await.is_err());

        let (says, said) = oneshot::channel();
        let (hears, heard) = oneshot::channel::<u8>();
        let (held, gone) = oneshot::channel::<()>();
        let spawner = Spawner::default();
        spawner.execute(async move { says.send(heard.await).unwrap() });
        let serving = in_task(&spawner, async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let finishing = tokio::spawn(serving.finish_tasks());
        assert!(gone.await.is_err(), "the connection goes at once");
        hears.send(7).unwrap();
        assert_eq!(said.await.unwrap(), Ok(7));
        finishing.await.unwrap();
    }

    #[tokio::test]
    async fn the_next_task_that_a_task_spawns_can_be_ended() {
        assert!(next_child().is_none(), "outside of a task");
        let spawner = Spawner::default();
        let (ends, mut ended) = mpsc::channel(4);
        let hand = spawner.clone();
        spawner.execute(async move {
            let child = |name: &'static str| {
                let ends = ends.clone();
                async move {
                    let _ends = ends.clone();
                    tokio::task::yield_now().await;
                    ends.send(name).await.unwrap();
                }
            };
            let first = next_child().unwrap();
            hand.execute(child("first"));
            hand.execute(child("second"));
            first.handle.abort();
            assert!(first.ended.await.is_err(), "it has ended");
            // One that was expected and did not come is no later one.
            let none = next_child().unwrap();
            tokio::task::yield_now().await;
            hand.execute(child("third"));
            none.handle.abort();
        });
        let serving = in_task(&spawner, std::future::pending::<()>());
        let serving = tokio::spawn(serving);
        let mut names = Vec::new();
        while let Some(name) = ended.recv().await {
            names.push(name);
        }
        assert_eq!(names, ["second", "third"]);
        serving.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_woken_before_has_had_its_turn() {
        let spawner = Spawner::default();
        let turns = spawner.turns();
        let (wakes, mut woken) = mpsc::channel::<u32>(1);
        let seen = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&seen);
        spawner.execute(async move {
            while woken.recv().await.is_some() {
                counts.fetch_add(1, Ordering::SeqCst);
            }
        });
        let serving = tokio::spawn(in_task(&spawner, std::future::pending::<()>()));
        drop(spawner);
        for number in 1..1000 {
            wakes.send(0).await.unwrap();
            assert!(turns.pass().await);
            assert_eq!(seen.load(Ordering::SeqCst), number);
        }
        serving.abort();
        let _ = serving.await;
        assert!(!turns.pass().await, "the connection is gone");
    }

    #[test]
    fn no_wake_is_missed() {
        let (runtime, question) = answering();
        let (spawner, (done, mut ends)) = (Spawner::default(), mpsc::channel(1));
        for _ in 0..3 {
            let (question, done) = (question.clone(), done.clone());
            spawner.execute(async move {
                for _ in 0..10_000 {
                    let (answer, answered) = oneshot::channel();
                    question.send(answer).unwrap();
                    answered.await.unwrap();
                }
                done.send(()).await.unwrap();
            });
        }
        let serving = in_task(&spawner, async move {
            for _ in 0..3 {
                ends.recv().await.unwrap();
            }
        });
        let serving = runtime.spawn(serving);
        let limit = async { tokio::time::timeout(Duration::from_secs(60), serving).await };
        runtime.block_on(limit).unwrap().unwrap();
    }
}
