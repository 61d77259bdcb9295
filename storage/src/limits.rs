//! Every number that bounds the data of one member. Relations between them are checked at compile time.

/// The unit of reads, of segment headers and of the lengths of segments: the largest block in common use.
pub const WAL_BLOCK_BYTES: u64 = 4096;
/// Smallest unit to which groups may be aligned: what a disk writes whole or not at all.
pub const WAL_UNIT_BYTES_MIN: u64 = 512;

/// Size of a new WAL segment file.
pub const WAL_SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Smallest segment the lane accepts: header, seal and a handful of groups. Tests use it.
pub const WAL_SEGMENT_BYTES_MIN: u64 = 8 * WAL_BLOCK_BYTES;
/// Largest segment the lane accepts; a group's length must fit 32 bits.
pub const WAL_SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Largest payload of one record. A request is 1.5 MiB by default and may be configured larger; the
/// engine splits batches so that no entry comes near this.
pub const WAL_RECORD_PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// A group is closed when it has gathered this much.
pub const WAL_GROUP_BYTES_DEFAULT: u64 = 1 << 20;
/// Largest value `wal.group_bytes_max` accepts.
pub const WAL_GROUP_BYTES_MAX: u64 = 16 << 20;

/// Groups in flight by default, and at most.
pub const WAL_DEPTH_DEFAULT: usize = 2;
/// Largest value `wal.depth` accepts. The ring is sized for it.
pub const WAL_DEPTH_MAX: usize = 16;

/// Longest `wal.group_delay_us`.
pub const WAL_GROUP_DELAY_US_MAX: u64 = 100_000;

/// Bytes appended but not yet durable beyond which `append` refuses: the engine's credits keep it far below.
pub const WAL_PENDING_BYTES_MAX: u64 = 256 << 20;

/// Entries of the lane's own ring. Groups, seals, one preparation and one removal fit with room to spare.
pub const WAL_RING_ENTRIES: u32 = 64;

/// Trimmed segments kept for recycling; more are removed.
pub const WAL_SPARE_SEGMENTS_DEFAULT: usize = 4;

/// Latency samples kept between two drains by the metrics.
pub const WAL_LATENCY_SAMPLES_MAX: usize = 4096;

/// Bytes of one sequential read during replay.
pub const WAL_READ_BYTES: usize = 4 << 20;
/// Bytes of one zero-filling write while a segment is prepared.
pub const WAL_ZERO_BYTES: usize = 256 << 10;

/// The unit of everything in a snapshot file: pages, value blocks, reads and writes.
pub const SNAPSHOT_BLOCK_BYTES: usize = 4096;
/// A page of the index is closed before it would exceed this; only a single key can make it larger.
pub const SNAPSHOT_PAGE_BYTES_DEFAULT: usize = 16 << 10;
/// Largest page: the relative pointers inside it have 32 bits and a sign.
pub const SNAPSHOT_PAGE_BYTES_MAX: usize = i32::MAX as usize;
/// Values up to this size share a block; a larger one has a block of its own.
pub const SNAPSHOT_VALUE_BLOCK_BYTES: usize = 16 << 10;
/// A leaf is closed before its values would exceed this; only a single key can make them more.
pub const SNAPSHOT_RUN_BYTES_DEFAULT: usize = 1 << 20;
/// One write of a file that is being built,
pub const SNAPSHOT_WRITE_BYTES_DEFAULT: usize = 1 << 20;
/// and one beside requests, where the log's flushes carry such writes along.
pub const SNAPSHOT_WRITE_BYTES_CONSIDERATE: usize = 256 << 10;
/// One read while a file is loaded, and one piece of a resident index: the buffers stay.
pub const SNAPSHOT_READ_BYTES: usize = 4 << 20;
/// The first piece of an index that is being built; each is twice the one before, up to the size of a read.
pub const SNAPSHOT_PIECE_BYTES_MIN: usize = 64 << 10;
/// Changes that are sorted at once; the sorted runs are merged in slices.
pub const SNAPSHOT_CHANGES_SORTED_AT_ONCE: usize = 8192;

/// Bytes of blocks of values that stay in memory by default.
pub const SNAPSHOT_CACHE_BYTES_DEFAULT: u64 = 64 << 20;
/// Reads of blocks of values in flight by default.
pub const SNAPSHOT_READS_DEFAULT: usize = 32;
/// Blocks of values that wait to be read; whoever wants more comes again.
pub const SNAPSHOT_WANTED_MAX: usize = 64 << 10;
/// Writes of a file being built that are given and not completed, by default.
pub const SNAPSHOT_WRITES_DEFAULT: usize = 4;
/// The same beside requests.
pub const SNAPSHOT_WRITES_CONSIDERATE: usize = 1;
/// Runs of values that follow each other are read in pieces of this size,
pub const SNAPSHOT_RUN_READ_BYTES: u64 = 1 << 20;
/// so many at once.
pub const SNAPSHOT_RUN_READS_MAX: usize = 4;
/// The same beside requests: the log's writes wait behind such a read.
pub const SNAPSHOT_RUN_READ_BYTES_CONSIDERATE: u64 = 256 << 10;
/// so many at once.
pub const SNAPSHOT_RUN_READS_CONSIDERATE: usize = 1;
/// Between two parts of value runs so near to each other, what is between them is read, too.
pub const SNAPSHOT_RUN_GAP_BYTES: u64 = 64 << 10;
/// Bytes of value runs wanted for a checkpoint and not used up, beyond which no more are wanted.
pub const SNAPSHOT_RUNS_AHEAD_BYTES: u64 = 4 << 20;
/// Value runs that are wanted for a checkpoint and not used up.
pub const SNAPSHOT_RUNS_AHEAD_MAX: usize = 64;
/// Earlier files that may have values of a snapshot.
pub const SNAPSHOT_LENDERS_MAX: usize = 8;
/// Pages of a replaced index that are let go in one turn.
pub const SNAPSHOT_SHED_PER_TURN: usize = 256;

const _: () = assert!(WAL_BLOCK_BYTES.is_multiple_of(WAL_UNIT_BYTES_MIN));
const _: () = assert!(WAL_SEGMENT_BYTES_DEFAULT.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(WAL_SEGMENT_BYTES_MIN.is_multiple_of(WAL_BLOCK_BYTES));
const _: () = assert!(WAL_SEGMENT_BYTES_MAX <= u32::MAX as u64);
/// The largest record fits a default segment beside its header block, group header and seal.
const _: () =
    assert!(WAL_RECORD_PAYLOAD_BYTES_MAX + 4 * WAL_BLOCK_BYTES <= WAL_SEGMENT_BYTES_DEFAULT);
const _: () = assert!(WAL_GROUP_BYTES_DEFAULT <= WAL_GROUP_BYTES_MAX);
const _: () = assert!(WAL_GROUP_BYTES_MAX + 4 * WAL_BLOCK_BYTES <= WAL_SEGMENT_BYTES_DEFAULT);
/// Back-pressure lets at least one largest group gather while one is in flight at every depth.
const _: () = assert!(WAL_PENDING_BYTES_MAX >= 2 * WAL_GROUP_BYTES_MAX);
const _: () = assert!(WAL_DEPTH_DEFAULT <= WAL_DEPTH_MAX);
/// Every group in flight, its seal, a zero chunk and a removal have a slot in the ring.
const _: () = assert!(2 * WAL_DEPTH_MAX + 8 <= WAL_RING_ENTRIES as usize);
const _: () = assert!(WAL_READ_BYTES.is_multiple_of(WAL_BLOCK_BYTES as usize));
const _: () = assert!(WAL_ZERO_BYTES.is_multiple_of(WAL_BLOCK_BYTES as usize));
const _: () = assert!(SNAPSHOT_BLOCK_BYTES.is_multiple_of(WAL_BLOCK_BYTES as usize));
const _: () = assert!(SNAPSHOT_PAGE_BYTES_DEFAULT.is_multiple_of(SNAPSHOT_BLOCK_BYTES));
const _: () = assert!(SNAPSHOT_VALUE_BLOCK_BYTES.is_multiple_of(SNAPSHOT_BLOCK_BYTES));
/// The start of a value in a shared block has 16 bits.
const _: () = assert!(SNAPSHOT_VALUE_BLOCK_BYTES <= u16::MAX as usize + 1);
const _: () = assert!(SNAPSHOT_RUN_BYTES_DEFAULT >= SNAPSHOT_VALUE_BLOCK_BYTES);
const _: () = assert!(SNAPSHOT_WRITE_BYTES_DEFAULT.is_multiple_of(SNAPSHOT_BLOCK_BYTES));
const _: () = assert!(SNAPSHOT_READ_BYTES.is_multiple_of(SNAPSHOT_BLOCK_BYTES));
const _: () = assert!(SNAPSHOT_PAGE_BYTES_DEFAULT <= SNAPSHOT_PIECE_BYTES_MIN);
const _: () = assert!(SNAPSHOT_PIECE_BYTES_MIN <= SNAPSHOT_READ_BYTES);
/// Reading ahead keeps every read in flight busy.
const _: () =
    assert!(SNAPSHOT_RUNS_AHEAD_BYTES >= SNAPSHOT_RUN_READS_MAX as u64 * SNAPSHOT_RUN_READ_BYTES);

/// Smallest and largest page of a bbolt file that is read. bbolt takes the memory page of the machine:
/// 4 KiB nearly everywhere, 64 KiB at most.
pub const BOLT_PAGE_BYTES_MIN: u32 = 1 << 10;
/// See [`BOLT_PAGE_BYTES_MIN`].
pub const BOLT_PAGE_BYTES_MAX: u32 = 1 << 20;
/// Page size of the bbolt files we write, etcd's own on x86-64.
pub const BOLT_PAGE_BYTES: u32 = 4096;
/// Largest leaf page with its overflow. A leaf is one page, or a few entries that do not fit one.
pub const BOLT_LEAF_BYTES_MAX: u64 = 1 << 30;
/// Largest branch page with its overflow. bbolt splits branches at the page size unless four keys, of at
/// most 32 KiB each, do not fit it.
pub const BOLT_BRANCH_BYTES_MAX: u64 = 4 << 20;
/// Deepest tree. A branch has two children at least, so 2^32 leaves fit even the worst shape.
pub const BOLT_DEPTH_MAX: usize = 32;
/// Longest key bbolt accepts.
pub const BOLT_KEY_BYTES_MAX: usize = 32 << 10;
/// Largest value we write into a bbolt file: key and value fit one leaf that we would read back.
pub const BOLT_VALUE_BYTES_MAX: usize = 512 << 20;
/// Bytes of one sequential write of a bbolt file, and of one read when it is hashed.
pub const BOLT_WRITE_BYTES: usize = 1 << 20;

/// Memory for sorting while data moves between etcd and here; beyond it a scratch file is used.
pub const MIGRATE_SORT_BYTES_DEFAULT: usize = 256 << 20;
/// Bytes of one sequential write of the scratch file.
pub const MIGRATE_WRITE_BYTES: usize = 1 << 20;
/// Bytes of one read of a sorted run. There may be some hundreds of runs.
pub const MIGRATE_READ_BYTES: usize = 256 << 10;
/// Versions and items between two reports of progress.
pub const MIGRATE_REPORT_EVERY: u64 = 4096;
/// Pages, changes and rows of one step of finishing a snapshot file.
pub const SNAPSHOT_FINISH_BUDGET: usize = 64 << 10;

const _: () = assert!(BOLT_PAGE_BYTES_MIN <= BOLT_PAGE_BYTES);
const _: () = assert!(BOLT_PAGE_BYTES <= BOLT_PAGE_BYTES_MAX);
const _: () = assert!(BOLT_PAGE_BYTES_MAX as u64 <= BOLT_BRANCH_BYTES_MAX);
const _: () = assert!(4 * BOLT_KEY_BYTES_MAX as u64 <= BOLT_BRANCH_BYTES_MAX);
const _: () =
    assert!((BOLT_VALUE_BYTES_MAX + BOLT_KEY_BYTES_MAX) as u64 + 4096 <= BOLT_LEAF_BYTES_MAX);
const _: () = assert!(BOLT_WRITE_BYTES.is_multiple_of(BOLT_PAGE_BYTES as usize));

/// Members of a cluster, learners included.
pub const CLUSTER_MEMBERS_MAX: usize = 16;
/// Members that a cluster may ever have had: the ids of those that left are remembered.
pub const CLUSTER_MEMBERS_EVER_MAX: usize = 1 << 16;

const _: () = assert!(CLUSTER_MEMBERS_MAX < CLUSTER_MEMBERS_EVER_MAX);
