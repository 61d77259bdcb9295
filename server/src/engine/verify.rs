//! Verifying a snapshot file that arrived, and making a state of it: on a thread beside the cores, or at once.
//!
//! A file of any length is read twice, its index and then every byte, and the leases of its keys are put together. So a
//! core has it done elsewhere. A simulation does it at once, through its own disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use keelson_storage::io::Disk;
use keelson_storage::snapshot::{Snapshot, SnapshotError, SnapshotStore, Unverified};
use keelson_storage::state::State;

use crate::runtime::{self, Bell};

/// A file that is being verified.
#[derive(Debug)]
pub(super) struct Verify(Receiver<Result<Verified, SnapshotError>>);

/// A sound file, and the state in it.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) state: Box<State>,
}

impl Verify {
    /// Begins; on a thread that rings `bell` when it is done, if there is one.
    pub(super) fn begin<D: Disk>(
        file: Unverified,
        bell: Option<&Arc<Bell>>,
        snapshots: &mut SnapshotStore<D>,
    ) -> Self {
        let (out, verified) = sync_channel(1);
        if let Some(bell) = bell {
            let (out, bell, file) = (out.clone(), Arc::clone(bell), file.clone());
            let begun = runtime::spawn_helper(move || {
                // An engine that is gone does not want to know.
                let _ = out.send(file.verify().map(Verified::new));
                bell.ring();
            });
            match begun {
                Ok(_) => return Self(verified),
                Err(error) => {
                    tracing::warn!(%error, "no thread to verify a snapshot: its core does the work");
                }
            }
        }
        let result = snapshots.verify_incoming(&file).map(Verified::new);
        out.send(result).expect("the other end is here");
        Self(verified)
    }

    /// What came of it, once.
    pub(super) fn take(&mut self) -> Option<Result<Verified, SnapshotError>> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                unreachable!("the thread that verifies ends after it said what it found")
            }
        }
    }
}

impl Verified {
    fn new(snapshot: Snapshot) -> Self {
        let snapshot = Arc::new(snapshot);
        let state = Box::new(State::from_snapshot(Arc::clone(&snapshot)));
        Self { snapshot, state }
    }
}
