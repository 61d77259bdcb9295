//! What a member's own work costs its clients: compaction, defragmentation, backups, little memory.
//!
//! ```text
//!   maintain   puts while a compaction and defrags run, on Keelson and etcd in turns
//!   backup     checkpoint, save and restore beside the disk's own rate, with puts and without
//!   memory     more data than the memory budget: reads, a list, a watch from the beginning
//!     |    \
//!   member  puts       one member and what it is asked; a stretch of time under puts
//!   filling            what is written before
//!   tool               a command of the server's program, timed
//! ```
//!
//! Each command fills a fresh member, waits until it has come to rest, and measures stretch by
//! stretch: first without the work, then beside it. Ctrl-C drops what runs and leaves what is
//! complete.

mod backup;
mod backup_text;
mod filling;
mod maintain;
mod maintain_text;
mod member;
mod memory;
mod puts;
mod tool;

pub use backup::{BackupResult, run as backup};
pub use filling::{PutsInTurn, put_in_turn};
pub use maintain::{MaintainResult, run as maintain};
pub use member::contents;
pub use memory::{MemoryResult, run as memory};
pub use puts::Stretch;
