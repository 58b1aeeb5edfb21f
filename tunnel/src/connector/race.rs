//! Several attempts to the same end, the preferred ones with a head start.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use crate::limits;

/// Starts `first`; starts `second` beside it after `head_start`, or as soon as `first` failed.
/// Gives the first success, or both errors.
pub(super) async fn race<T, E>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, E>>,
    head_start: Duration,
) -> Result<T, (E, E)> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    let early = tokio::time::timeout(head_start, &mut first).await;
    match early {
        Ok(Ok(won)) => return Ok(won),
        Ok(Err(error)) => return second.await.map_err(|other| (error, other)),
        Err(_) => {}
    }
    tokio::select! {
        biased;
        result = &mut first => match result {
            Ok(won) => Ok(won),
            Err(error) => second.await.map_err(|other| (error, other)),
        },
        result = &mut second => match result {
            Ok(won) => Ok(won),
            Err(error) => first.await.map_err(|other| (other, error)),
        },
    }
}

/// Starts the `attempts` one after the other, each `delay` after the one before it or as soon as one has
/// failed, and lets them run beside each other (RFC 8305, section 5). Gives the first success, and drops
/// the rest; or every error, in the order in which they came.
pub(super) async fn staggered<T, E, F>(
    attempts: impl IntoIterator<Item = F>,
    delay: Duration,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut attempts = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        let started = attempts
            .next()
            .map(|attempt| running.push(attempt))
            .is_some();
        tokio::select! {
            biased;
            result = running.next() => match result {
                Some(Ok(won)) => return Ok(won),
                Some(Err(error)) => errors.push(error),
                None => return Err(errors),
            },
            () = sleep(delay), if started => {}
        }
    }
}

/// The order in which to try a name's addresses: the resolver's (RFC 6724), except that the families
/// take turns, so that one that leads nowhere delays the other by one attempt (RFC 8305, section 4).
/// [`limits::ADDRESSES`] at most.
pub(super) fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut preferred = Vec::new();
    let mut other = Vec::new();
    for address in addresses {
        let family = match preferred.first() {
            Some(first) if SocketAddr::is_ipv6(first) != address.is_ipv6() => &mut other,
            _ => &mut preferred,
        };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut order = Vec::with_capacity(preferred.len() + other.len());
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    while order.len() < limits::ADDRESSES {
        let before = order.len();
        order.extend(preferred.next());
        order.extend(other.next());
        if order.len() == before {
            break;
        }
    }
    order.truncate(limits::ADDRESSES);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const HEAD_START: Duration = Duration::from_millis(300);
    const DELAY: Duration = Duration::from_millis(250);

    async fn after(millis: u64, result: Result<&str, &str>) -> Result<String, String> {
        sleep(Duration::from_millis(millis)).await;
        result.map(str::to_owned).map_err(str::to_owned)
    }

    #[tokio::test(start_paused = true)]
    async fn the_preferred_way_wins_within_its_head_start() {
        let start = Instant::now();
        let won = race(after(200, Ok("first")), after(0, Ok("second")), HEAD_START).await;
        assert_eq!(won.as_deref(), Ok("first"));
        assert_eq!(start.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_way_starts_after_the_head_start() {
        let start = Instant::now();
        let won = race(
            after(60_000, Ok("first")),
            after(50, Ok("second")),
            HEAD_START,
        )
        .await;
        assert_eq!(won.as_deref(), Ok("second"));
        assert_eq!(start.elapsed(), Duration::from_millis(350));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_other_way_at_once() {
        let start = Instant::now();
        let won = race(after(10, Err("no")), after(50, Ok("second")), HEAD_START).await;
        assert_eq!(won.as_deref(), Ok("second"));
        assert_eq!(start.elapsed(), Duration::from_millis(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_first_way_still_counts() {
        let won = race(after(400, Ok("first")), after(20, Err("no")), HEAD_START).await;
        assert_eq!(won.as_deref(), Ok("first"));
    }

    #[tokio::test(start_paused = true)]
    async fn both_errors_are_told_apart() {
        for delay in [10, 400] {
            let lost = race(after(delay, Err("a")), after(50, Err("b")), HEAD_START).await;
            assert_eq!(lost, Err(("a".to_owned(), "b".to_owned())));
        }
    }

    /// When it ended after its start, and how.
    async fn run(attempts: &[(u64, Result<&str, &str>)]) -> (u128, Result<String, Vec<String>>) {
        let start = Instant::now();
        let attempts = attempts
            .iter()
            .map(|(millis, result)| after(*millis, *result));
        let result = staggered(attempts, DELAY).await;
        (start.elapsed().as_millis(), result)
    }

    #[tokio::test(start_paused = true)]
    async fn ways_start_one_after_the_other() {
        let black_hole = (60_000, Err("late"));
        for (attempts, ended, winner) in [
            (&[(40, Ok("a")), (0, Ok("b"))][..], 40, "a"),
            (&[black_hole, (40, Ok("b"))], 290, "b"),
            (
                &[black_hole, black_hole, black_hole, (40, Ok("d"))],
                790,
                "d",
            ),
            // Slow, and yet before the second.
            (&[(300, Ok("a")), (60, Ok("b"))], 300, "a"),
            // A failure starts the next one at once, the delay then counts from there.
            (&[(10, Err("no")), (40, Ok("b"))], 50, "b"),
            (&[(10, Err("no")), black_hole, (40, Ok("c"))], 300, "c"),
            (&[black_hole, (10, Err("no")), (40, Ok("c"))], 300, "c"),
        ] {
            assert_eq!(
                run(attempts).await,
                (ended, Ok(winner.to_owned())),
                "{attempts:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_error_is_told() {
        let (ended, lost) = run(&[(400, Err("a")), (20, Err("b")), (30, Err("c"))]).await;
        assert_eq!(ended, 400);
        assert_eq!(lost.unwrap_err(), ["b", "c", "a"]);
        assert_eq!(run(&[]).await, (0, Err(vec![])));
    }

    fn order(addresses: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        let order = interleaved(addresses).into_iter();
        order.map(|address| address.to_string()).collect()
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]
        );
        assert_eq!(
            order(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "1.1.1.1:1"]),
            ["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]
        );
        assert_eq!(order(&[]), [""; 0]);
    }

    #[test]
    fn a_name_with_very_many_addresses_costs_a_bounded_time() {
        let addresses = (0..100).map(|n| SocketAddr::from(([10, 0, 0, n], 1)));
        assert_eq!(interleaved(addresses).len(), limits::ADDRESSES);
    }
}
