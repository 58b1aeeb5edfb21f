//! Recent answers of clusters, and the questions that are under way.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use lru::LruCache;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::question::Key;
use underpass_core::{ClusterName, Rejection, Revocation, limits, share};

/// A cluster's answer.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Yes(Arc<Decision>),
    No(Rejection),
    /// It has not said, and may be asked again at once.
    Unknown(Rejection),
}

/// An answer, before it is remembered.
#[derive(Debug)]
pub(super) enum Found {
    Yes,
    No(Rejection),
    Unknown(Rejection),
}

/// The end of a question that is under way.
pub(super) type Pending = watch::Receiver<Option<Answer>>;

/// The next step for a question.
pub(super) enum Asked {
    /// It was asked a short while ago.
    Known(Answer),
    /// Somebody is asking.
    Wait(Pending),
    /// Ask, and say how it ended.
    Ask(Flight, Pending),
    /// Too many others are being asked in that cluster.
    Full,
}

/// A yes, until it is taken back.
#[derive(Debug, Default)]
pub(super) struct Decision {
    taken_back: CancellationToken,
    rest: Mutex<Weak<DropGuard>>,
}

/// Whether somebody watches over a decision already.
pub(super) enum Watch {
    Watched(Revocation),
    /// Watch over it until the token is cancelled: then nothing rests on it any longer.
    New(Revocation, CancellationToken),
}

impl Decision {
    /// Something more rests on it.
    pub(super) fn rest(&self) -> Watch {
        let revocation = Revocation::when(self.taken_back.clone());
        let mut resting = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rest) = resting.upgrade() {
            return Watch::Watched(revocation.until_unused(rest));
        }
        let unused = CancellationToken::new();
        let rest = Arc::new(unused.clone().drop_guard());
        *resting = Arc::downgrade(&rest);
        Watch::New(revocation.until_unused(rest), unused)
    }

    pub(super) fn take_back(&self) {
        self.taken_back.cancel();
    }

    /// Waits until it is taken back.
    pub(super) async fn taken_back(&self) {
        self.taken_back.cancelled().await;
    }
}

/// Answers by question. Yes and no are kept apart, so that questions with the answer no evict none with the
/// answer yes.
pub(super) struct Answers(Mutex<State>);

struct State {
    yes: LruCache<Key, Yes>,
    no: LruCache<Key, (Rejection, Instant)>,
    flights: HashMap<ClusterName, HashMap<Key, UnderWay>>,
}

/// A question that is being asked.
struct UnderWay {
    caller: Arc<str>,
    pending: Pending,
}

/// It stays when its time is over: the next answer may be that it is to be taken back.
struct Yes {
    decision: Arc<Decision>,
    until: Instant,
}

impl Answers {
    pub(super) fn new() -> Self {
        let room = NonZeroUsize::new(limits::IMPERSONATION_ANSWERS).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(State {
            yes: LruCache::new(room),
            no: LruCache::new(room),
            flights: HashMap::new(),
        }))
    }

    /// Looks a question up, and makes the caller ask where nobody knows and nobody else is at it. The last of a cluster's
    /// places are kept for callers who have few (`share.rs`).
    pub(super) fn look_up(
        self: &Arc<Self>,
        cluster: &ClusterName,
        caller: &str,
        key: Key,
    ) -> Asked {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(yes) = state.yes.get(&key)
            && now < yes.until
        {
            return Asked::Known(Answer::Yes(Arc::clone(&yes.decision)));
        }
        if let Some((rejection, until)) = state.no.get(&key)
            && now < *until
        {
            return Asked::Known(Answer::No(rejection.clone()));
        }
        let flights = state.flights.entry(cluster.clone()).or_default();
        if let Some(flight) = flights.get(&key) {
            return Asked::Wait(flight.pending.clone());
        }
        let of_caller = flights.values().filter(|flight| *flight.caller == *caller);
        if !share::allows(
            of_caller.count(),
            flights.len(),
            limits::IMPERSONATION_WAITING,
        ) {
            return Asked::Full;
        }
        let (tell, pending) = watch::channel(None);
        let under_way = UnderWay {
            caller: caller.into(),
            pending: pending.clone(),
        };
        flights.insert(key, under_way);
        let flight = Flight {
            answers: Arc::clone(self),
            cluster: cluster.clone(),
            key,
            tell,
        };
        Asked::Ask(flight, pending)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A decision goes on as long as every answer is yes.
    fn remember(&self, key: Key, found: Found) -> Answer {
        let now = Instant::now();
        let mut state = self.state();
        match found {
            Found::Unknown(rejection) => Answer::Unknown(rejection),
            Found::No(rejection) => {
                if let Some(yes) = state.yes.pop(&key) {
                    yes.decision.take_back();
                }
                let until = now + limits::IMPERSONATION_REFUSED;
                state.no.put(key, (rejection.clone(), until));
                Answer::No(rejection)
            }
            Found::Yes => {
                state.no.pop(&key);
                let until = now + limits::IMPERSONATION_ALLOWED;
                if let Some(yes) = state.yes.get_mut(&key) {
                    yes.until = until;
                    return Answer::Yes(Arc::clone(&yes.decision));
                }
                let decision = Arc::<Decision>::default();
                let yes = Yes {
                    decision: Arc::clone(&decision),
                    until,
                };
                state.yes.put(key, yes);
                Answer::Yes(decision)
            }
        }
    }
}

/// A question under way. Dropping it without an end lets the next caller ask again.
pub(super) struct Flight {
    answers: Arc<Answers>,
    cluster: ClusterName,
    key: Key,
    tell: watch::Sender<Option<Answer>>,
}

impl Flight {
    pub(super) fn land(self, found: Found) {
        let answer = self.answers.remember(self.key, found);
        self.tell.send_replace(Some(answer));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.answers.state();
        if let Some(flights) = state.flights.get_mut(&self.cluster) {
            flights.remove(&self.key);
            if flights.is_empty() {
                state.flights.remove(&self.cluster);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Arc<Answers> {
        Arc::new(Answers::new())
    }

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn key(number: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn ask(answers: &Arc<Answers>, number: usize) -> Flight {
        ask_as(answers, "alice", number)
    }

    fn ask_as(answers: &Arc<Answers>, caller: &str, number: usize) -> Flight {
        match answers.look_up(&cluster("a"), caller, key(number)) {
            Asked::Ask(flight, _) => flight,
            _ => panic!("somebody knows it, or it is full"),
        }
    }

    #[tokio::test]
    async fn rule_23_one_caller_does_not_take_all_of_a_clusters_reviews() {
        let answers = answers();
        let mut flights = Vec::new();
        let full = loop {
            match answers.look_up(&cluster("a"), "mallory", key(flights.len())) {
                Asked::Ask(flight, _) => flights.push(flight),
                other => break matches!(other, Asked::Full),
            }
        };
        assert!(full && flights.len() < limits::IMPERSONATION_WAITING);
        flights.push(ask_as(&answers, "alice", flights.len()));
    }

    fn yes(answers: &Arc<Answers>, number: usize) -> Arc<Decision> {
        match answers.look_up(&cluster("a"), "alice", key(number)) {
            Asked::Known(Answer::Yes(decision)) => decision,
            _ => panic!("nobody knows it"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_known_for_their_time() {
        let answers = answers();
        ask(&answers, 1).land(Found::Yes);
        ask(&answers, 2).land(Found::No(Rejection::Unavailable));
        ask(&answers, 3).land(Found::Unknown(Rejection::Unavailable));
        let known = |number| {
            matches!(
                answers.look_up(&cluster("a"), "alice", key(number)),
                Asked::Known(_)
            )
        };
        assert!(known(1) && known(2) && !known(3));
        tokio::time::advance(limits::IMPERSONATION_REFUSED).await;
        assert!(known(1) && !known(2));
        tokio::time::advance(limits::IMPERSONATION_ALLOWED).await;
        assert!(!known(1));
    }

    #[tokio::test]
    async fn the_same_question_is_asked_once() {
        let answers = answers();
        let flight = ask(&answers, 1);
        let wait = || match answers.look_up(&cluster("a"), "alice", key(1)) {
            Asked::Wait(pending) => pending,
            _ => panic!("asked twice"),
        };
        let mut pending = wait();
        flight.land(Found::Yes);
        let landed = pending.wait_for(Option::is_some).await.unwrap().clone();
        assert!(matches!(landed, Some(Answer::Yes(_))));
        let given_up = ask(&answers, 2);
        drop(given_up);
        drop(ask(&answers, 2));
    }

    #[tokio::test]
    async fn rule_11_questions_and_answers_are_bounded() {
        let answers = answers();
        let flights: Vec<_> = (0..limits::IMPERSONATION_WAITING)
            .map(|number| ask_as(&answers, &format!("user-{number}"), number))
            .collect();
        let next = key(limits::IMPERSONATION_WAITING);
        let full = answers.look_up(&cluster("a"), "alice", next);
        assert!(matches!(full, Asked::Full));
        // A cluster that hangs takes nothing from the others.
        let other = answers.look_up(&cluster("b"), "alice", next);
        assert!(matches!(other, Asked::Ask(..)));
        drop(other);
        drop(flights);
        assert!(answers.state().flights.is_empty());
        for number in 0..=limits::IMPERSONATION_ANSWERS {
            ask(&answers, number).land(Found::No(Rejection::Unavailable));
        }
        assert_eq!(answers.state().no.len(), limits::IMPERSONATION_ANSWERS);
    }

    #[tokio::test(start_paused = true)]
    async fn rule_12_a_later_answer_takes_an_earlier_one_back() {
        for (second, taken_back) in [
            (Found::Yes, false),
            (Found::Unknown(Rejection::Unavailable), false),
            (Found::No(Rejection::Unavailable), true),
        ] {
            let answers = answers();
            ask(&answers, 1).land(Found::Yes);
            let (Watch::Watched(first) | Watch::New(first, _)) = yes(&answers, 1).rest();
            tokio::time::advance(limits::IMPERSONATION_ALLOWED).await;
            let said = format!("{second:?}");
            ask(&answers, 1).land(second);
            assert_eq!(first.is_revoked(), taken_back, "{said}");
        }
    }

    #[test]
    fn a_decision_is_watched_by_one_while_anything_rests_on_it() {
        let decision = Decision::default();
        let Watch::New(first, unused) = decision.rest() else {
            panic!("nobody watches yet");
        };
        let Watch::Watched(second) = decision.rest() else {
            panic!("watched twice");
        };
        drop(first);
        assert!(!unused.is_cancelled());
        drop(second);
        assert!(unused.is_cancelled());
        assert!(matches!(decision.rest(), Watch::New(..)));
    }
}
