//! Several attempts to the same end, each with a head start before the next.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

/// Starts the `attempts` one after the other, each `delay` after the one before it or as soon as one has
/// failed, and lets them run beside each other (RFC 8305, section 5). Gives the first success, and drops
/// the rest; or every error, in the order in which they came.
pub async fn staggered<T, E, F>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const DELAY: Duration = Duration::from_millis(250);

    async fn after(millis: u64, result: Result<&str, &str>) -> Result<String, String> {
        sleep(Duration::from_millis(millis)).await;
        result.map(str::to_owned).map_err(str::to_owned)
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
}
