//! What is run: a way of writing, a block size and a depth; and the list that makes up a probe.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use keelson_storage::limits::{
    SNAPSHOT_WRITE_BYTES_DEFAULT, WAL_GROUP_BYTES_DEFAULT, WAL_READ_BYTES,
};

/// How many operations are in flight while the sequential figure is taken.
const SEQUENTIAL_DEPTH: u32 = 4;

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The log's way: O_DIRECT writes with RWF_DSYNC, each durable by itself.
    Direct,
    /// As many O_DIRECT writes as the depth, then one fdatasync for all of them.
    Grouped,
    /// What a start does with the log: O_DIRECT reads of 4 MiB, one after the other.
    Read,
    /// What a backup, a restore and a checkpoint of unchanged values do: as many O_DIRECT copies of 1 MiB as the depth, each
    /// read in one half of the file and then written in the other.
    Copy,
    /// What etcd does: a write through the page cache, then fdatasync.
    Buffered,
}

impl Way {
    /// The name it has in options, tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Grouped => "grouped",
            Way::Read => "read",
            Way::Copy => "copy",
            Way::Buffered => "buffered",
        }
    }

    /// One line for the reader of a table.
    pub fn story(self) -> &'static str {
        match self {
            Way::Direct => {
                "O_DIRECT write with RWF_DSYNC, or an fdatasync after it, by io_uring, as Keelson's log writes"
            }
            Way::Grouped => "iodepth O_DIRECT writes by io_uring, then one fdatasync for all",
            Way::Read => "O_DIRECT read, as Keelson reads its log at a start",
            Way::Copy => {
                "O_DIRECT read in one half of the file, then write in the other, by io_uring; a MB is counted once"
            }
            Way::Buffered => "write through the page cache, then fdatasync, as etcd's log writes",
        }
    }

    /// Whether operations overlap.
    fn has_depth(self) -> bool {
        matches!(self, Way::Direct | Way::Grouped)
    }
}

/// One run of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// How bytes are moved.
    pub way: Way,
    /// Bytes of one operation.
    pub bs_bytes: u64,
    /// Operations in flight.
    pub iodepth: u32,
}

impl Cell {
    /// A write as small as the log makes them, alone in flight: what one lonely request waits for.
    pub const SMALLEST: Self = Self {
        way: Way::Direct,
        bs_bytes: 4 << 10,
        iodepth: 1,
    };
    /// Durable writes as large as the log makes them: how many bytes a second it can take.
    pub const SEQUENTIAL_WRITE: Self = Self {
        way: Way::Direct,
        bs_bytes: WAL_GROUP_BYTES_DEFAULT,
        iodepth: SEQUENTIAL_DEPTH,
    };
    /// Reads as large as a replay makes them.
    pub const SEQUENTIAL_READ: Self = Self {
        way: Way::Read,
        bs_bytes: WAL_READ_BYTES as u64,
        iodepth: 1,
    };
    /// Copies as large as a checkpoint's reads and writes: what the disk can take of whoever does both.
    pub const SEQUENTIAL_COPY: Self = Self {
        way: Way::Copy,
        bs_bytes: SNAPSHOT_WRITE_BYTES_DEFAULT as u64,
        iodepth: SEQUENTIAL_DEPTH,
    };

    /// The size of an operation, as `--bs` takes it.
    pub fn block(&self) -> String {
        match self.bs_bytes % 1024 {
            0 => format!("{}k", self.bs_bytes / 1024),
            _ => self.bs_bytes.to_string(),
        }
    }

    /// Every combination, by way, size and depth. A way that has no depth is run once a size, reads
    /// and copies once. What goes through the page cache comes last: the pages it leaves behind would cost every
    /// later O_DIRECT write.
    pub fn matrix(ways: &[Way], sizes_bytes: &[u64], depths: &[u32]) -> Vec<Self> {
        let mut ways = ways.to_vec();
        ways.sort_unstable();
        ways.dedup();
        let mut cells = Vec::new();
        for way in ways {
            match way {
                Way::Read => cells.push(Self::SEQUENTIAL_READ),
                Way::Copy => cells.push(Self::SEQUENTIAL_COPY),
                Way::Direct | Way::Grouped | Way::Buffered => {
                    for &bs_bytes in sizes_bytes {
                        for &iodepth in if way.has_depth() { depths } else { &[1] } {
                            cells.push(Self {
                                way,
                                bs_bytes,
                                iodepth,
                            });
                        }
                    }
                }
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_they_are_given() {
        let block = |bs_bytes| {
            let cell = Cell {
                bs_bytes,
                ..Cell::SMALLEST
            };
            cell.block()
        };
        assert_eq!(
            [block(512), block(4096), block(1536)],
            ["512", "4k", "1536"]
        );
    }

    #[test]
    fn a_matrix_has_every_combination_once_and_the_page_cache_last() {
        let ways = [
            Way::Buffered,
            Way::Copy,
            Way::Direct,
            Way::Direct,
            Way::Read,
        ];
        let cells = Cell::matrix(&ways, &[4096, 65_536], &[1, 4]);
        let short: Vec<_> = cells
            .iter()
            .map(|cell| (cell.way.name(), cell.bs_bytes, cell.iodepth))
            .collect();
        assert_eq!(
            short,
            [
                ("direct", 4096, 1),
                ("direct", 4096, 4),
                ("direct", 65_536, 1),
                ("direct", 65_536, 4),
                ("read", 4 << 20, 1),
                ("copy", 1 << 20, 4),
                ("buffered", 4096, 1),
                ("buffered", 65_536, 1),
            ]
        );
        assert_eq!(cells[0], Cell::SMALLEST);
    }
}
