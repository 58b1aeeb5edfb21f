//! The bell, with loom in the place of the processor: in each order of its steps that the memory model allows.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use loom::{
    model::Builder,
    sync::{Arc as Shared, Notify, atomic::AtomicUsize},
    thread,
};

use self::{bell::TurnWaker, sync::Ordering};

/// The parts of the bell, as loom has them.
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
    reason = "the same bell, of other parts; what is beside it is for others"
)]
#[path = "bell.rs"]
mod bell;

/// A task that sleeps until it is woken.
struct Task(Notify);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Threads that each have one piece of work for a task, and ring. Their work is not ordered by anything but the bell.
fn rings(threads: usize) {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let bell = Arc::new(TurnWaker::default());
        let work: Vec<_> = (0..threads)
            .map(|_| Shared::new(AtomicUsize::new(0)))
            .collect();
        let ringing: Vec<_> = work
            .iter()
            .map(|work| {
                let (bell, work) = (Arc::clone(&bell), Shared::clone(work));
                thread::spawn(move || {
                    work.store(1, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();

        let task = Arc::new(Task(Notify::new()));
        let waker = Waker::from(Arc::clone(&task));
        let done = || work.iter().all(|work| work.load(Ordering::Relaxed) == 1);
        // A lost ring leaves the task asleep, which loom reports.
        while !poll(&bell, &waker, done) {
            task.0.wait();
        }
        for thread in ringing {
            thread.join().unwrap();
        }
    });
}

/// A poll of the task; says whether it is done.
fn poll(bell: &TurnWaker, waker: &Waker, done: impl Fn() -> bool) -> bool {
    bell.begin(waker);
    loop {
        bell.listen();
        if done() {
            bell.end();
            return true;
        }
        if bell.rest() {
            return false;
        }
    }
}

#[test]
fn no_ring_is_lost() {
    rings(1);
}

#[test]
fn no_ring_of_several_is_lost() {
    rings(2);
}
