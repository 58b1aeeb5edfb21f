use std::{collections::VecDeque, pin::pin, task::Poll, time::Duration};

use futures_util::{FutureExt, poll};

use super::*;

fn config(per_user: usize, per_cluster: usize) -> BudgetConfig {
    BudgetConfig::default()
        .requests_per_user(per_user)
        .and_then(|config| config.requests_per_cluster(per_cluster))
        .unwrap()
        .queue_per_user(2000)
}

fn streams(per_user: usize, per_cluster: usize) -> BudgetConfig {
    BudgetConfig::default()
        .streams_per_user(per_user)
        .and_then(|config| config.streams_per_cluster(per_cluster))
        .unwrap()
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// Takes a seat that must be free.
fn take(budgets: &Budgets, user: &str, at: &str, kind: SeatKind) -> Seat {
    let seat = budgets.seat(user, &cluster(at), kind).now_or_never();
    seat.expect("a free seat").unwrap()
}

/// Is refused without waiting: the budget's owner, and the seconds to wait.
fn refused(budgets: &Budgets, user: &str, at: &str, kind: SeatKind) -> (String, u64) {
    let seat = budgets.seat(user, &cluster(at), kind).now_or_never();
    over(seat.expect("an answer at once"))
}

/// A request that has to wait.
struct Waiting(std::pin::Pin<Box<dyn Future<Output = Result<Seat, Rejection>>>>);

impl Waiting {
    async fn new(budgets: &Budgets, user: &'static str, at: &'static str) -> Self {
        let budgets = budgets.clone();
        let seat = async move { budgets.seat(user, &cluster(at), SeatKind::Request).await };
        let mut waiting = Self(Box::pin(seat));
        assert!(waiting.placed().await.is_none(), "it must wait");
        waiting
    }

    /// Its seat, if it has it by now.
    async fn placed(&mut self) -> Option<Seat> {
        match poll!(&mut self.0) {
            Poll::Ready(seat) => Some(seat.unwrap()),
            Poll::Pending => None,
        }
    }
}

fn over(rejection: Result<Seat, Rejection>) -> (String, u64) {
    match rejection.map(|_| "a seat").unwrap_err() {
        Rejection::OverBudget {
            whose, retry_after, ..
        } => (whose, retry_after.as_secs()),
        other => panic!("{other}"),
    }
}

fn assert_unused(budgets: &Budgets) {
    assert!(budgets.0.lock().is_empty(), "{:?}", budgets.0.lock());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_that_wait_delay_anothers_first_by_one_turn() {
    let budgets = Budgets::new(config(1, 1));
    let mut held = take(&budgets, "storm", "c", SeatKind::Request);
    let mut storm = VecDeque::new();
    for _ in 0..1000 {
        storm.push_back(Waiting::new(&budgets, "storm", "c").await);
    }
    let mut other = Waiting::new(&budgets, "calm", "c").await;
    drop(held);
    let mut turns = 1;
    let seat = loop {
        if let Some(seat) = other.placed().await {
            break seat;
        }
        held = storm.pop_front().unwrap().placed().await.unwrap();
        drop(held);
        turns += 1;
    };
    assert!(turns <= 2, "{turns}");
    drop((seat, storm));
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_has_all_of_theirs_holds_up_nobody() {
    let budgets = Budgets::new(config(2, 3));
    let _held = [(); 2].map(|()| take(&budgets, "storm", "c", SeatKind::Request));
    let _waiting = Waiting::new(&budgets, "storm", "c").await;
    // Room that the first in turn may not take is the next one's.
    for _ in 0..3 {
        drop(take(&budgets, "calm", "c", SeatKind::Request));
    }
}

/// Their clients may not read, or their cluster may hang.
#[tokio::test(start_paused = true)]
async fn rule_23_a_few_users_leave_requests_of_a_cluster_to_the_others() {
    let budgets = Budgets::new(config(512, 600));
    let mut held = Vec::new();
    for user in ["a", "b", "c", "d", "e", "f"] {
        let seats = (0..128).map_while(|_| {
            let at = cluster("c");
            let seat = budgets.seat(user, &at, SeatKind::Request).now_or_never();
            seat?.ok()
        });
        held.extend(seats);
    }
    assert!(held.len() < 600, "{}", held.len());
    for calm in 0..20 {
        held.push(take(
            &budgets,
            &format!("calm-{calm}"),
            "c",
            SeatKind::Request,
        ));
    }
    drop(held);
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn users_take_turns_and_each_ones_requests_keep_their_order() {
    let budgets = Budgets::new(config(9, 1));
    let mut held = take(&budgets, "x", "c", SeatKind::Request);
    let mut waiting = Vec::new();
    for (user, number) in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)] {
        waiting.push(((user, number), Waiting::new(&budgets, user, "c").await));
    }
    let mut order = Vec::new();
    while !waiting.is_empty() {
        drop(held);
        let mut next = None;
        for (at, (who, waiter)) in waiting.iter_mut().enumerate() {
            if let Some(seat) = waiter.placed().await {
                assert!(next.is_none(), "one seat for two");
                order.push(*who);
                next = Some((at, seat));
            }
        }
        let (at, seat) = next.expect("somebody is next");
        waiting.remove(at);
        held = seat;
    }
    let wanted = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)];
    assert_eq!(order, wanted);
}

#[tokio::test(start_paused = true)]
async fn what_a_user_asked_first_goes_first_in_whatever_cluster() {
    let budgets = Budgets::new(config(1, 5));
    let held = take(&budgets, "a", "busy", SeatKind::Request);
    let mut first = Waiting::new(&budgets, "a", "other").await;
    let mut second = Waiting::new(&budgets, "a", "busy").await;
    drop(held);
    let held = first.placed().await.expect("the older one");
    assert!(second.placed().await.is_none());
    drop(held);
    assert!(second.placed().await.is_some());
    drop((first, second));
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn a_full_cluster_holds_up_no_other() {
    let budgets = Budgets::new(config(5, 1));
    let held = take(&budgets, "b", "full", SeatKind::Request);
    let _waiting = Waiting::new(&budgets, "a", "full").await;
    drop(take(&budgets, "a", "free", SeatKind::Request));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_allowed() {
    let wait = Duration::from_millis(4500);
    let config = config(2, 3).queue_wait(wait).unwrap();
    let budgets = Budgets::new(config);
    let _of_a = [(); 2].map(|()| take(&budgets, "a", "c", SeatKind::Request));
    let began = Instant::now();
    let refused = budgets.seat("a", &cluster("c"), SeatKind::Request).await;
    assert_eq!(began.elapsed(), wait);
    assert_eq!(over(refused), ("user \"a\"".to_owned(), 5));
    let _of_b = take(&budgets, "b", "c", SeatKind::Request);
    let refused = budgets.seat("b", &cluster("c"), SeatKind::Request).await;
    assert_eq!(over(refused), ("cluster \"c\"".to_owned(), 5));
    budgets.0.lock().check();
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_at_the_last_moment_is_taken() {
    let wait = Duration::from_secs(5);
    let config = config(1, 1).queue_wait(wait).unwrap();
    let budgets = Budgets::new(config);
    let held = take(&budgets, "a", "c", SeatKind::Request);
    let mut waiting = Waiting::new(&budgets, "a", "c").await;
    tokio::time::advance(wait).await;
    drop(held);
    assert!(waiting.placed().await.is_some());
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_how_long_it_takes() {
    let budgets = Budgets::new(config(1, 5).queue_per_user(2));
    let _held = take(&budgets, "a", "c", SeatKind::Request);
    let _first = Waiting::new(&budgets, "a", "c").await;
    tokio::time::advance(Duration::from_millis(6100)).await;
    let _second = Waiting::new(&budgets, "a", "d").await;
    let of_user = refused(&budgets, "a", "c", SeatKind::Request);
    assert_eq!(of_user, ("user \"a\"".to_owned(), 7));
    drop(take(&budgets, "b", "c", SeatKind::Request));
    let none_waits = Budgets::new(config(1, 1).queue_per_user(0));
    let _held = take(&none_waits, "a", "c", SeatKind::Request);
    let of_cluster = refused(&none_waits, "b", "c", SeatKind::Request);
    assert_eq!(of_cluster, ("cluster \"c\"".to_owned(), 1));
}

#[tokio::test(start_paused = true)]
async fn rule_23_clusters_that_hang_leave_their_users_the_others() {
    let budgets = Budgets::default();
    let mut held = Vec::new();
    let mut waiting = Vec::new();
    // Each of them is asked until it takes no more. None of it is ever answered.
    for n in 0..20 {
        let hangs = cluster(&format!("hangs-{n}"));
        loop {
            let budgets = budgets.clone();
            let at = hangs.clone();
            let mut seat =
                Box::pin(async move { budgets.seat("alice", &at, SeatKind::Request).await });
            match poll!(&mut seat) {
                Poll::Ready(Ok(seat)) => held.push(seat),
                Poll::Ready(Err(rejection)) => {
                    let (whose, _) = over(Err(rejection));
                    assert_eq!(whose, format!("user \"alice\" in cluster \"{hangs}\""));
                    break;
                }
                Poll::Pending => waiting.push(seat),
            }
        }
        budgets.0.lock().check();
    }
    assert!(held.len() < limits::REQUESTS_PER_USER, "{}", held.len());
    assert!(waiting.len() < limits::QUEUE_PER_USER, "{}", waiting.len());
    drop(take(&budgets, "alice", "good", SeatKind::Request));
    drop((held, waiting));
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn rule_23_one_cluster_has_its_share_of_a_user_and_the_next_one_waits_for_nothing() {
    let config = BudgetConfig::default();
    let config = config.requests_per_user_and_cluster(3).unwrap();
    let budgets = Budgets::new(config.queue_per_user(9));
    let mut held = [(); 3].map(|()| Some(take(&budgets, "a", "hangs", SeatKind::Request)));
    let mut next = Waiting::new(&budgets, "a", "hangs").await;
    drop(take(&budgets, "a", "good", SeatKind::Request));
    assert!(next.placed().await.is_none(), "a seat of another cluster");
    held[0] = None;
    assert!(next.placed().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn rule_23_streams_of_one_cluster_leave_room_for_other_clusters_and_users() {
    let budgets = Budgets::new(streams(90, 100));
    let mut held = Vec::new();
    let all_of = |user: &str, at: &str| {
        let mut held = Vec::new();
        let refused = loop {
            let at = cluster(at);
            let seat = budgets.seat(user, &at, SeatKind::Stream);
            match seat.now_or_never().expect("an answer at once") {
                Ok(seat) => held.push(seat),
                Err(rejection) => break over(Err(rejection)),
            }
        };
        (held, refused.0)
    };
    let (of_a, whose) = all_of("a", "hangs");
    assert_eq!(of_a.len(), 68);
    assert_eq!(whose, "user \"a\" in cluster \"hangs\"");
    held.push(of_a);
    drop(take(&budgets, "a", "good", SeatKind::Stream));
    // And one user is not all of a cluster's.
    held.push(all_of("b", "hangs").0);
    drop(take(&budgets, "c", "hangs", SeatKind::Stream));
    budgets.0.lock().check();
    drop(held);
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn streams_have_bounds_of_their_own_and_do_not_wait() {
    let budgets = Budgets::new(streams(2, 3));
    let of_a = [(); 2].map(|()| take(&budgets, "a", "c", SeatKind::Stream));
    let of_user = |seconds| ("user \"a\"".to_owned(), seconds);
    let told = refused(&budgets, "a", "elsewhere", SeatKind::Stream);
    assert_eq!(told, of_user(1));
    let _of_b = take(&budgets, "b", "c", SeatKind::Stream);
    tokio::time::advance(Duration::from_secs(9)).await;
    // It has been full for so long.
    let told = refused(&budgets, "b", "c", SeatKind::Stream);
    assert_eq!(told, ("cluster \"c\"".to_owned(), 9));
    tokio::time::advance(Duration::from_secs(3600)).await;
    let told = refused(&budgets, "a", "c", SeatKind::Stream);
    assert_eq!(told, of_user(limits::RETRY_LATEST.as_secs()));
    // Requests do not care.
    drop(take(&budgets, "a", "c", SeatKind::Request));
    drop(of_a);
    drop(take(&budgets, "b", "c", SeatKind::Stream));
    budgets.0.lock().check();
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_somebody_who_just_went_is_the_next_ones() {
    let budgets = Budgets::new(config(1, 1));
    let held = take(&budgets, "a", "c", SeatKind::Request);
    let gone = Waiting::new(&budgets, "a", "c").await;
    let mut next = Waiting::new(&budgets, "b", "c").await;
    // It is given the seat, and never looks.
    drop(held);
    drop(gone);
    assert!(next.placed().await.is_some());
    assert_unused(&budgets);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_and_queued_is_known_by_cluster() {
    let budgets = Budgets::new(config(2, 2));
    let _held = [(); 2].map(|()| take(&budgets, "a", "c", SeatKind::Request));
    let _stream = take(&budgets, "a", "c", SeatKind::Stream);
    let waiting = Waiting::new(&budgets, "b", "c").await;
    let mut wanted = Occupancy {
        cluster: cluster("c"),
        requests: 2,
        streams: 1,
        waiting: 1,
    };
    assert_eq!(budgets.occupancy(), [wanted.clone()]);
    drop(waiting);
    wanted.waiting = 0;
    assert_eq!(budgets.occupancy(), [wanted]);
}

/// SplitMix64: seeds next to each other give unrelated runs.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Requests and streams come, are placed, time out and vanish in any order. The bounds always hold, nobody
/// waits beside a free seat, and in the end nothing is left.
#[tokio::test(start_paused = true)]
async fn nothing_leaks_whoever_goes_and_whenever() {
    for seed in 0..200 {
        let mut random = Seeded(seed);
        let config = config(1 + random.below(3), 1 + random.below(6))
            .queue_per_user(random.below(5))
            .streams_per_user(2)
            .and_then(|config| config.streams_per_cluster(3))
            .unwrap();
        let budgets = Budgets::new(config);
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut seats: Vec<Seat> = Vec::new();
        for _ in 0..300 {
            match random.below(9) {
                0..4 => {
                    let (user, at) = (random.of(&["a", "b", "c"]), random.of(&["x", "y"]));
                    let kind = random.of(&[SeatKind::Request, SeatKind::Request, SeatKind::Stream]);
                    let budgets = budgets.clone();
                    let mut seat = Waiting(Box::pin(async move {
                        budgets.seat(user, &cluster(at), kind).await
                    }));
                    match poll!(&mut seat.0) {
                        Poll::Ready(Ok(seat)) => seats.push(seat),
                        Poll::Ready(Err(_)) => {}
                        Poll::Pending => waiting.push(seat),
                    }
                }
                4..6 if !seats.is_empty() => {
                    seats.swap_remove(random.below(seats.len()));
                }
                6 if !waiting.is_empty() => {
                    waiting.swap_remove(random.below(waiting.len()));
                }
                7 if !waiting.is_empty() => {
                    let at = random.below(waiting.len());
                    match poll!(&mut waiting[at].0) {
                        Poll::Ready(done) => {
                            waiting.swap_remove(at);
                            seats.extend(done);
                        }
                        Poll::Pending => {}
                    }
                }
                _ => tokio::time::advance(Duration::from_secs(random.below(5) as u64)).await,
            }
            budgets.0.lock().check();
        }
        while seats.len() + waiting.len() > 0 {
            let going = random.below(seats.len() + waiting.len());
            if going < seats.len() {
                seats.swap_remove(going);
            } else {
                waiting.swap_remove(going - seats.len());
            }
            budgets.0.lock().check();
        }
        assert!(budgets.0.lock().is_empty(), "seed {seed}");
    }
}

/// Many threads at once: the bounds hold, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_gets_a_place_in_the_end() {
    let budgets = Budgets::new(config(3, 5));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400 {
        let budgets = budgets.clone();
        let user = ["a", "b", "c", "d"][number % 4];
        tasks.spawn(async move {
            let at = cluster("c");
            let seat = pin!(budgets.seat(user, &at, SeatKind::Request));
            if number % 5 == 0 {
                // It may be placed or not when it is dropped.
                let _ = seat.now_or_never();
                return;
            }
            let _place = seat.await.unwrap();
            tokio::task::yield_now().await;
            budgets.0.lock().check();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_unused(&budgets);
}
