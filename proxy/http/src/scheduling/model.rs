//! The turn waker, with loom in the place of the processor: in each order of its steps that the memory model allows.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use loom::{
    model::Builder,
    sync::{Arc as Shared, Notify, atomic::AtomicUsize},
    thread,
};

use self::{sync::Ordering, turn_waker::TurnWaker};

/// The parts of the turn waker, as loom has them.
mod sync {
    use std::task::Waker;

    use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicU8, Ordering};

    #[derive(Default)]
    pub(super) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(super) fn register(&self, waker: &Waker) {
            *self.0.lock().unwrap() = Some(waker.clone());
        }

        pub(super) fn wake(&self) {
            let waker = self.0.lock().unwrap().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the same waker, of other parts; what is beside it is for others"
)]
#[path = "turn_waker.rs"]
mod turn_waker;

/// A task that sleeps until it is woken.
struct Task(Notify);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Threads that each have one piece of work for a task, and wake it. Nothing but the turn waker orders their work.
fn wakes(threads: usize) {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let turn = Arc::new(TurnWaker::default());
        let work: Vec<_> = (0..threads)
            .map(|_| Shared::new(AtomicUsize::new(0)))
            .collect();
        let waking: Vec<_> = work
            .iter()
            .map(|work| {
                let (turn, work) = (Arc::clone(&turn), Shared::clone(work));
                thread::spawn(move || {
                    work.store(1, Ordering::Relaxed);
                    turn.wake_task();
                })
            })
            .collect();

        let task = Arc::new(Task(Notify::new()));
        let waker = Waker::from(Arc::clone(&task));
        let done = || work.iter().all(|work| work.load(Ordering::Relaxed) == 1);
        // A lost wake-up leaves the task asleep, which loom reports.
        while !poll(&turn, &waker, done) {
            task.0.wait();
        }
        for thread in waking {
            thread.join().unwrap();
        }
    });
}

/// A poll of the task; says whether it is done.
fn poll(turn: &TurnWaker, waker: &Waker, done: impl Fn() -> bool) -> bool {
    turn.begin_turn(waker);
    loop {
        turn.clear();
        if done() {
            turn.end_turn();
            return true;
        }
        if turn.try_rest() {
            return false;
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    wakes(1);
}

#[test]
fn no_wake_up_of_several_is_lost() {
    wakes(2);
}
