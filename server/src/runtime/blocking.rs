//! Work that may take long or block, away from the cores.

use std::io;
use std::thread;

use super::core::this_core;
use super::ring::ring;

/// Runs `work` on a thread of its own and waits for its result.
///
/// # Errors
/// The system has no thread for it.
///
/// # Panics
/// When `work` does.
pub async fn spawn_blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<R> {
    let core = this_core();
    let (mut sender, receiver) = ring(1, core.link(), core.link());
    let thread = thread::Builder::new()
        .name("keelson-helper".into())
        .spawn(move || {
            // The room is free, and a receiver that is gone wants no result.
            let _ = sender.push(work());
            sender.flush();
        })?;
    let mut inbox = receiver.attach();
    loop {
        inbox.ready().await;
        if let Some(result) = inbox.pop() {
            return Ok(result);
        }
        if inbox.is_finished() {
            let panicked = thread.join().expect_err("a thread that returns has sent");
            std::panic::resume_unwind(panicked);
        }
    }
}
