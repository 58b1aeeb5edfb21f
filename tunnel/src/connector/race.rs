//! Two ways to the same end, the preferred one with a head start.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const HEAD_START: Duration = Duration::from_millis(300);

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
}
