//! Ctrl-C: the first one ends a measurement early, the second ends the tool.
//!
//! A command that can show what it has so far looks at its [`Interrupt`]; it then stops its load,
//! its servers and its rounds in order. SIGTERM counts as Ctrl-C. Servers are in process groups of
//! their own, so a terminal's Ctrl-C reaches this process only.

use std::future::Future;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Hears of the signals; clones hear the same.
#[derive(Clone, Debug)]
pub struct Interrupt {
    count: watch::Receiver<u32>,
}

impl Interrupt {
    /// Begins to listen, on the current local set.
    pub fn install() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (told, count) = watch::channel(0);
        tokio::task::spawn_local(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                told.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { count })
    }

    /// One that no signal reaches, for tests; it lasts as long as the sender beside it.
    #[cfg(test)]
    pub fn never() -> (Self, watch::Sender<u32>) {
        let (told, count) = watch::channel(0);
        (Self { count }, told)
    }

    /// True once a signal came.
    pub fn is_set(&self) -> bool {
        *self.count.borrow() > 0
    }

    /// Waits for the first signal.
    pub async fn first(&self) {
        self.at_least(1).await;
    }

    /// Waits for the second.
    pub async fn second(&self) {
        self.at_least(2).await;
    }

    /// Runs some work until it ends; None if a signal comes first, which drops it.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = work => Some(outcome),
            () = self.first() => None,
        }
    }

    async fn at_least(&self, wanted: u32) {
        let mut count = self.count.clone();
        // The sender lives as long as the local set, and nobody waits longer.
        let _ = count.wait_for(|&count| count >= wanted).await;
    }
}
