//! One member's data: the replicated state machine, which is pure, and the disk under it.
//!
//! ```text
//!   state    commands in, responses and changes out       (no IO, no clock, no rng)
//!   mvcc     the keys: histories, ordered index, change log
//!   wal      the lane: records -> groups -> durable writes -> contiguous durable prefix
//!   snapshot the state in one immutable file, its index searched where it was read
//!   io       the Disk seam: io_uring body, simulated body
//!   recovery what to do with what a crash left
//!   etcd     etcd's own databases and snapshots, read and written
//!   bbolt    the file format under them
//!   migrate  a whole keyspace from etcd's form into ours, and back
//!   bugs     deliberate ones, which only the simulator can have compiled in
//!   fuzzing  every decoder as a fuzzer calls it; in tests, and for `storage/fuzz`
//! ```

pub mod bbolt;
pub mod bugs;
pub mod dir;
pub mod etcd;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ids;
pub mod io;
pub mod limits;
pub mod migrate;
pub mod mvcc;
pub mod recovery;
pub mod snapshot;
pub mod state;
pub mod wal;
