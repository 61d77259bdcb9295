//! Automatic compaction, in etcd's grammar.

use std::time::Duration;

use super::spelling::parse_duration;

/// When the member compacts its history by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    #[default]
    Off,
    /// Keep this much time. The revision is sampled every tenth of it; compaction follows once a
    /// sample is that old, and at most every hour when the retention is longer than an hour.
    Periodic {
        /// How much history to keep.
        retention: Duration,
    },
    /// Every five minutes, keep this many of the newest revisions.
    Revision {
        /// How many revisions to keep.
        retention: i64,
    },
}

impl AutoCompaction {
    /// Reads the mode and the retention. In periodic mode a bare number counts hours.
    ///
    /// # Errors
    /// A phrase about the retention; the mode is one of the two.
    pub(super) fn parse(mode: &str, retention: &str) -> Result<Self, String> {
        let number = retention.parse::<i64>().ok().filter(|number| *number >= 0);
        if mode == "revision" {
            return match number {
                Some(0) => Ok(Self::Off),
                Some(retention) => Ok(Self::Revision { retention }),
                None => Err("revision mode takes a number of revisions such as 1000".to_owned()),
            };
        }
        let retention = match number {
            Some(hours) => {
                let seconds = u64::try_from(hours)
                    .ok()
                    .and_then(|hours| hours.checked_mul(3600));
                let seconds = seconds.filter(|seconds| *seconds < 1 << 33);
                Duration::from_secs(seconds.ok_or("the retention is too long")?)
            }
            None => parse_duration(retention)
                .map_err(|why| format!("{why}; a bare number counts hours"))?,
        };
        if retention.is_zero() {
            return Ok(Self::Off);
        }
        Ok(Self::Periodic { retention })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_follows_the_mode() {
        let periodic = |seconds| AutoCompaction::Periodic {
            retention: Duration::from_secs(seconds),
        };
        for (mode, retention, expected) in [
            ("periodic", "0", AutoCompaction::Off),
            ("periodic", "0s", AutoCompaction::Off),
            ("periodic", "1", periodic(3600)),
            ("periodic", "72", periodic(72 * 3600)),
            ("periodic", "10m", periodic(600)),
            ("periodic", "1h", periodic(3600)),
            ("revision", "0", AutoCompaction::Off),
            (
                "revision",
                "1000",
                AutoCompaction::Revision { retention: 1000 },
            ),
        ] {
            assert_eq!(
                AutoCompaction::parse(mode, retention),
                Ok(expected),
                "{mode} {retention}"
            );
        }
        for (mode, retention) in [
            ("periodic", "-1"),
            ("periodic", "x"),
            ("revision", "10m"),
            ("revision", "-5"),
        ] {
            assert!(
                AutoCompaction::parse(mode, retention).is_err(),
                "{mode} {retention}"
            );
        }
    }
}
