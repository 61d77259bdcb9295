//! Waiting for something to become true, with one generous deadline for the whole suite.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long any single thing may take before a test gives up. It says nothing about speed: it only
/// keeps a broken server from hanging the suite.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it answers `Some`, and panics with `what` at the deadline.
pub async fn eventually<T, F, Fut>(what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
