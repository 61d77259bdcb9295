//! Work that may take long or block, away from the cores.

use std::io;
use std::thread::{self, JoinHandle};

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::core::this_core;
use super::ring::ring;

/// How much less of a contested CPU a thread gets that steps back: a tenth.
const STEPPED_BACK_NICENESS: i32 = 10;

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
    let thread = spawn_helper(move || {
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

/// Starts a thread that is no core. It would have the CPU of the core that starts it to itself and that core, so it is
/// moved to those where no core runs, or, if there are none, lets the system choose.
///
/// # Errors
/// The system has no thread for it.
pub fn spawn_helper(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let cores: Vec<usize> = this_core()
        .links()
        .iter()
        .map(|link| usize::from(link.id().0))
        .collect();
    thread::Builder::new()
        .name("keelson-helper".into())
        .spawn(move || {
            leave(&cores);
            work();
        })
}

/// Lets cores and whoever serves clients go before the calling thread where there are fewer CPUs than threads. Not for work
/// that writes may have to wait for. Where it fails the thread works as well, and is in the way.
pub fn step_back() {
    let _ = rustix::process::setpriority_process(None, STEPPED_BACK_NICENESS);
}

/// Moves the calling thread away from these CPUs. Where that fails it works as well, and slows a core down.
fn leave(cores: &[usize]) {
    // The process's first thread runs no core, so it may still run wherever the process may.
    let Ok(all) = sched_getaffinity(Some(getpid())) else {
        return;
    };
    let mut free = all;
    for &core in cores {
        free.unset(core);
    }
    let wanted: CpuSet = if free.count() > 0 { free } else { all };
    let _ = sched_setaffinity(None, &wanted);
}
