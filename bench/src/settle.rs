//! Waits until servers have written what they still owe to the disk.
//!
//! Checkpoints, and the batches of etcd's database, go on after the last answer. Servers are at rest
//! when the bytes that they are charged with have stood still for a while.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::procfs::Usage;

/// How long the bytes must stand still.
const REST: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A server that still writes then does so for another reason.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The usage at rest.
///
/// # Errors
/// A server is gone, or does not come to rest.
pub async fn settled(mut usage: impl FnMut() -> Result<Usage>) -> Result<Usage> {
    let begun = Instant::now();
    let (mut last, mut since) = (usage()?, begun);
    while since.elapsed() < REST {
        if begun.elapsed() > WAIT_MAX {
            let waited = WAIT_MAX.as_secs();
            bail!("the server still writes {waited} s after the last answer");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = usage()?;
        if now.written_bytes != last.written_bytes {
            since = Instant::now();
        }
        last = now;
    }
    Ok(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn rest_begins_after_the_last_byte() {
        let begun = Instant::now();
        let mut written_bytes = 0;
        let usage = settled(|| {
            written_bytes = u64::min(written_bytes + 4096, 5 * 4096);
            Ok(Usage {
                written_bytes,
                ..Usage::default()
            })
        });
        assert_eq!(usage.await.unwrap().written_bytes, 5 * 4096);
        assert!(begun.elapsed() >= REST + 3 * LOOK_INTERVAL);
    }
}
