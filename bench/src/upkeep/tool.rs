//! A command of the server's own program, timed from its start to its end.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Ends the command if nobody waits for it any longer.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It can only have ended meanwhile; killed processes end, and nobody is left to tell.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Runs a command to its good end. Seconds.
pub async fn timed(mut command: Command) -> Result<f64> {
    let mut told: File = tempfile::tempfile()?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(told.try_clone()?)
        .process_group(0);
    let begun = Instant::now();
    let child = command.spawn();
    let mut running =
        Running(child.with_context(|| format!("cannot start {:?}", command.get_program()))?);
    loop {
        if let Some(status) = running.0.try_wait()? {
            let seconds = begun.elapsed().as_secs_f64();
            if status.success() {
                return Ok(seconds);
            }
            let mut text = String::new();
            told.rewind()?;
            told.read_to_string(&mut text)?;
            bail!("{command:?} ended with {status}: {}", text.trim());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
