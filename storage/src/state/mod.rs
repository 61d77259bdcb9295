//! The replicated state machine: commands in, responses and changes out.
//!
//! ```text
//!   front      validate --> Request                                   (no state needed)
//!   engine     Request --> Command --> entry bytes --> log --> entry bytes --> Command --> Request
//!   State      on_entry(position)  apply(position, Request) --> Response | ApiError
//!                 alarms   may refuse
//!                 txn      decide -> check -> execute
//!                 kv       puts and deletes: store (crate::mvcc) and leases change together
//!                 leases   deadlines on the lease clock, which the entries carry
//!                 members  the cluster
//! ```
//!
//! Nothing here does IO or looks at a clock, at randomness or at configuration, and nothing iterates
//! in an order that differs between two processes: the same log gives the same state everywhere.

mod alarms;
mod command;
mod fill;
mod kv;
mod leases;
mod machine;
mod members;
mod txn;
mod validate;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod reuse_tests;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use command::encode_wide_entry;
pub use command::{
    Command, CommandError, CommandKind, ENTRY_HEADER_BYTES, Request, command_bytes, decode_entry,
    encode_entry, entry_bytes,
};
pub use leases::{Lease, LeaseRenewMany, Renewal};
pub use machine::{ChangeRef, Position, Response, State};
pub use members::{Cluster, ClusterInit, Member, MemberAdd, MemberChange, MemberPublish};
pub use txn::{is_read_only, is_serializable};
pub use validate::{
    RequestLimits, validate, validate_delete_range, validate_put, validate_range, validate_txn,
};
