//! Snapshot files whose bytes anybody chose, behind checksums that match.
//!
//! A checksum keeps a fuzzer out: nothing it makes up would get past the first one. So the targets here put the input
//! where a page or a superblock goes, make every checksum, length and total that leads there match, and load the file
//! as a start does. What loads is then asked everything that a snapshot can be asked.
//!
//! ```text
//!   input of `page`:        (kind u8 | length u16 | that many bytes) ...      missing kinds are those of a sound file
//!   input of `superblock`:  flags u8 | first block | what follows it
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use keelson_proto::etcdserverpb::RangeRequest;
use rkyv::api::low::from_bytes;
use rkyv::rancor::Failure;

use super::audit::Audit;
use super::borrowed::{BorrowedPage, Lender, RunPlaces};
use super::builder::{Builder, BuilderConfig};
use super::changes::{ArchivedChanges, Changes};
use super::encode::Encoder;
use super::error::SnapshotError;
use super::format::{
    COVERED_OFFSET, Counters, FORMAT_VERSION, LeafEntry, MAGIC, PageEntry, PageReference,
    SUPERBLOCK_BYTES, Superblock, Table,
};
use super::image::ImagePart;
use super::inner::{ArchivedInner, Inner, Level};
use super::leaf::ArchivedLeaf;
use super::meta::{AlarmMeta, LeaseMeta, Meta, MetaPage};
use super::page::{Content, Page};
use super::snapshot::Snapshot;
use super::startup::file_name;
use super::survey::Survey;
use super::version::{VersionIn, VersionRef};
use crate::ids::{ClusterId, LeaseId, LeaseTime, MemberId, Revision, SnapshotSeq};
use crate::io::{AlignedBuf, Disk, SimDisk};
use crate::limits::SNAPSHOT_BLOCK_BYTES;
use crate::state::{Cluster, Member, State};

const NAME: &str = "00000007.snap";
const SEQUENCE: SnapshotSeq = SnapshotSeq(7);
/// A file that may lend values.
const LENDER: SnapshotSeq = SnapshotSeq(3);
const LENDER_BLOCKS: u64 = 70;
/// The first bytes of an input of `superblock`: which parts of the block are made to match.
const FIX_MAGIC: u8 = 1;
const FIX_VERSION: u8 = 2;
const FIX_CHECKSUM: u8 = 4;
/// Blocks of values that a file is given; a leaf may ask for more than anybody has.
const RUN_BLOCKS_MAX: u64 = 64;
/// Rows that are looked at one by one.
const ROWS_MAX: usize = 1 << 14;

const LEAF: u8 = 0;
const INNER: u8 = 1;
const CHANGES: u8 = 2;
const META: u8 = 3;
const TABLE: u8 = 4;
const BORROWED: u8 = 5;
const KINDS: u8 = 6;

/// A first block of anybody's choice.
pub fn superblock(input: &[u8]) {
    let Some((flags, input)) = input.split_first() else {
        return;
    };
    let (head, behind) = input.split_at(input.len().min(SUPERBLOCK_BYTES));
    let mut block = vec![0; SUPERBLOCK_BYTES];
    block[..head.len()].copy_from_slice(head);
    if flags & FIX_MAGIC != 0 {
        block[..MAGIC.len()].copy_from_slice(&MAGIC);
    }
    if flags & FIX_VERSION != 0 {
        block[COVERED_OFFSET..COVERED_OFFSET + 4].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    }
    if flags & FIX_CHECKSUM != 0 {
        let checksum = crc32c::crc32c(&block[COVERED_OFFSET..]);
        block[8..COVERED_OFFSET].copy_from_slice(&checksum.to_le_bytes());
    }
    if let Ok(decoded) = Superblock::decode(&block) {
        let mut again = vec![0; SUPERBLOCK_BYTES];
        decoded.encode(&mut again);
        assert_eq!(Superblock::decode(&again), Ok(decoded));
    }
    block.extend_from_slice(behind);
    load(&block);
}

/// Pages of anybody's choice.
pub fn page(input: &[u8]) {
    load(&Draft::parse(input).file());
}

/// Superblocks of sound files.
#[must_use]
pub fn superblock_seeds() -> Vec<Vec<u8>> {
    let file = Draft::default().file();
    let whole = [&[0], &file[..]].concat();
    let head = [
        &[FIX_MAGIC | FIX_VERSION | FIX_CHECKSUM],
        &file[..SUPERBLOCK_BYTES],
    ];
    vec![whole, head.concat(), vec![0; 2 * SUPERBLOCK_BYTES]]
}

/// Pages of a sound file: each kind alone, and all of them.
#[must_use]
pub fn page_seeds() -> Vec<Vec<u8>> {
    let sound = sound();
    let part = |kind: u8, pages: &[Vec<u8>]| {
        let mut input = Vec::new();
        for page in pages {
            let bytes = u16::try_from(page.len()).expect("the pages of this file are small");
            input.push(kind);
            input.extend_from_slice(&bytes.to_le_bytes());
            input.extend_from_slice(page);
        }
        input
    };
    let table = Draft::default().table_archive();
    let borrowed = archive(&borrowed_by(&Draft::default().complete().table()));
    let mut seeds = vec![
        part(BORROWED, &[borrowed]),
        part(LEAF, &sound.leaves),
        part(LEAF, &sound.leaves[..1]),
        part(INNER, &sound.inners),
        part(CHANGES, &sound.changes),
        part(META, std::slice::from_ref(&sound.meta)),
        part(TABLE, &[table]),
    ];
    seeds.push(seeds.concat());
    seeds
}

/// The pages of a file, as archives.
#[derive(Clone, Debug, Default)]
struct Draft {
    leaves: Vec<Vec<u8>>,
    inners: Vec<Vec<u8>>,
    changes: Vec<Vec<u8>>,
    meta: Vec<u8>,
    table: Option<Vec<u8>>,
    borrowed: Option<Vec<u8>>,
}

impl Draft {
    fn parse(mut input: &[u8]) -> Self {
        let mut draft = Self::default();
        while let [kind, low, high, rest @ ..] = input {
            let bytes = usize::from(u16::from_le_bytes([*low, *high]));
            let (archive, behind) = rest.split_at(bytes.min(rest.len()));
            input = behind;
            let archive = archive.to_vec();
            match kind % KINDS {
                LEAF => draft.leaves.push(archive),
                INNER => draft.inners.push(archive),
                CHANGES => draft.changes.push(archive),
                META => draft.meta = archive,
                BORROWED => draft.borrowed = Some(archive),
                _ => draft.table = Some(archive),
            }
        }
        draft
    }

    /// The same with every kind of page.
    fn complete(mut self) -> Self {
        let sound = sound();
        if self.meta.is_empty() {
            self.meta.clone_from(&sound.meta);
        }
        let are_own_leaves = !self.leaves.is_empty();
        if !are_own_leaves {
            self.leaves.clone_from(&sound.leaves);
        }
        let leaves: Vec<_> = self
            .leaves
            .iter()
            .filter_map(|leaf| sound_leaf(leaf))
            .collect();
        let may_have_root = leaves.len() == self.leaves.len() && are_ascending(&leaves);
        if self.inners.is_empty() && are_own_leaves && may_have_root {
            self.inners.push(root_of(&leaves));
        } else if self.inners.is_empty() {
            self.inners.clone_from(&sound.inners);
        }
        if self.changes.is_empty() && are_own_leaves {
            self.changes.extend(changes_of(&leaves));
        } else if self.changes.is_empty() {
            self.changes.clone_from(&sound.changes);
        }
        self
    }

    /// What the leaves and the pages of changes add up to.
    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for leaf in self.leaves.iter().filter_map(|leaf| sound_leaf(leaf)) {
            let counts = leaf.counts();
            counters.keys += counts.keys;
            counters.versions += counts.versions;
            counters.live += counts.live;
            counters.data_bytes += counts.data_bytes;
        }
        let pages = self.changes.iter();
        counters.changes = pages.filter_map(|page| change_count(page)).sum();
        counters
    }

    fn table(&self) -> Table {
        let entries = |pages: &[Vec<u8>]| pages.iter().map(|page| entry(page)).collect();
        let leaves = self.leaves.iter().map(|leaf| LeafEntry {
            page: entry(leaf),
            run_blocks: sound_leaf(leaf).map_or(0, |leaf| leaf.run_blocks()),
        });
        let first = self.changes.first().and_then(|page| change_count(page));
        Table {
            leaves: leaves.collect(),
            inners: entries(&self.inners),
            changes: entries(&self.changes),
            changes_per_page: first.map_or(1, |count| count.max(1) as u32),
        }
    }

    fn table_archive(self) -> Vec<u8> {
        archive(&self.complete().table())
    }

    fn file(self) -> Vec<u8> {
        let given = self.table.clone();
        let borrowed = self.borrowed.clone();
        let whole = self.complete();
        let table = whole.table();
        let runs = table.leaves.iter().map(|leaf| u64::from(leaf.run_blocks));
        let lent_blocks = borrowed
            .as_ref()
            .map_or(0, |page| lent_blocks(page, &table));
        let run_blocks = runs.sum::<u64>().saturating_sub(lent_blocks);
        let run_blocks = run_blocks.min(RUN_BLOCKS_MAX) as usize;
        let mut file = vec![0; SUPERBLOCK_BYTES + run_blocks * SNAPSHOT_BLOCK_BYTES];
        file[SUPERBLOCK_BYTES..].fill(0x5a);
        let pages = whole.leaves.iter().chain(&whole.inners);
        for page in pages.chain(&whole.changes) {
            append(page, &mut file);
        }
        let meta = reference(&whole.meta, &mut file);
        let borrowed = borrowed.map(|page| reference(&page, &mut file));
        let table = reference(&given.unwrap_or_else(|| archive(&table)), &mut file);
        let superblock = Superblock {
            format_version: borrowed.map_or(1, |_| FORMAT_VERSION),
            sequence: SEQUENCE,
            file_bytes: file.len() as u64,
            table,
            meta,
            borrowed,
            counters: whole.counters(),
        };
        superblock.encode(&mut file[..SUPERBLOCK_BYTES]);
        file
    }
}

/// Loads a file as a start does, and asks what was loaded everything.
fn load(file: &[u8]) {
    let mut disk = SimDisk::new(1);
    let lender = vec![0x5a; LENDER_BLOCKS as usize * SNAPSHOT_BLOCK_BYTES];
    disk.edit(&file_name(LENDER), 0, &lender);
    disk.edit(NAME, 0, file);
    let entry = disk.list().expect("it lists").pop().expect("two files");
    let id = disk.open(NAME).expect("the file is there");
    let survey = Survey::of(&mut disk, id, &entry, &mut |_, _| {});
    match Snapshot::load(&mut disk, id, &entry) {
        Ok(snapshot) => {
            assert!(survey.snapshot.is_some(), "a survey loads what loads");
            ask(&snapshot, file, &lender);
            ask_state(State::from_snapshot(Arc::new(snapshot)));
        }
        Err(error) => {
            assert!(survey.snapshot.is_none());
            assert!(!survey.damages.is_empty(), "a survey says why: {error}");
            assert!(!error.to_string().is_empty());
        }
    }
    for damage in survey.damages {
        assert!(!damage.to_string().is_empty());
    }
}

fn ask(snapshot: &Snapshot, file: &[u8], lender: &[u8]) {
    let (mut keys, mut live, mut rows) = (0, 0, 0);
    let mut before: Option<Vec<u8>> = None;
    let mut cursor = snapshot.cursor(b"");
    while let Some(at) = cursor.current() {
        let mut key = Vec::new();
        snapshot.append_key(at, &mut key);
        assert!(before.is_none_or(|before| before < key), "keys ascend");
        assert_eq!(snapshot.find(&key), Some(at));
        assert_eq!(snapshot.live_before(&key), live);
        assert_eq!(snapshot.key_bytes(at) as usize, key.len());
        for row in snapshot.rows(at).take(ROWS_MAX) {
            let version = VersionRef { leaf: at.leaf, row };
            assert_eq!(snapshot.key_of(version), at);
            ask_version(snapshot, version);
        }
        rows += snapshot.rows(at).len() as u64;
        keys += 1;
        live += u64::from(snapshot.is_live(at));
        before = Some(key);
        cursor.advance();
    }
    let counted = (keys, rows, live);
    let said = (
        snapshot.key_count(),
        snapshot.version_count(),
        snapshot.live_count(),
    );
    assert_eq!(counted, said);
    for index in (0..snapshot.change_count()).take(ROWS_MAX) {
        ask_version(snapshot, snapshot.change(index));
    }
    for revision in [i64::MIN, 0, 5, i64::MAX] {
        assert!(snapshot.change_index_of(Revision(revision)) <= snapshot.change_count());
    }
    for leaf in 0..snapshot.leaf_count() {
        let blocks: u64 = snapshot.leaf_blocks(leaf).map(|b| u64::from(b.bytes)).sum();
        let run = snapshot.leaf_run(leaf).iter();
        let run: u64 = run.map(|piece| piece.bytes).sum();
        assert_eq!(blocks, run, "blocks are the run");
    }
    let mut audit = Audit::new(snapshot);
    if let Err(flaw) = audit.take(&image_of(snapshot, file, lender)) {
        let error = snapshot.damaged_by(&flaw);
        assert!(matches!(error, SnapshotError::Damaged { .. }));
    }
}

/// A value lies inside its block, and the block inside the file.
fn ask_version(snapshot: &Snapshot, at: VersionRef) {
    let version = snapshot.version(at);
    let Some(place) = version.place else {
        return;
    };
    assert!(!version.tombstone, "a tombstone has no value");
    assert!(u64::from(place.start) + u64::from(place.bytes) <= u64::from(place.block.bytes));
    let end = place.block.offset + u64::from(place.block.bytes);
    let mut files = snapshot.value_files();
    let known = files.find(|known| known.sequence == place.block.file);
    let known = known.expect("values are in a file that is known");
    assert!(end <= known.file_bytes, "and in it");
}

/// The image of a snapshot. What a lender does not have is missing.
fn image_of(snapshot: &Snapshot, file: &[u8], lender: &[u8]) -> Vec<u8> {
    let mut image = snapshot.image_head().as_slice().to_vec();
    for part in snapshot.image_parts(0, snapshot.image_bytes()) {
        let from = if part.file == SEQUENCE { file } else { lender };
        let bytes = usize::try_from(part.offset).ok().and_then(|start| {
            let end = start.checked_add(usize::try_from(part.bytes).ok()?)?;
            from.get(start..end)
        });
        match bytes {
            Some(bytes) => image.extend_from_slice(bytes),
            None => break,
        }
    }
    image
}

/// A page of borrowed values that makes the run of the first leaf that has one the lender's.
fn borrowed_by(table: &Table) -> BorrowedPage {
    let mut places = RunPlaces::default();
    let mut offset = SUPERBLOCK_BYTES as u64;
    let lender = Lender {
        sequence: LENDER,
        file_bytes: LENDER_BLOCKS * SNAPSHOT_BLOCK_BYTES as u64,
        lent_bytes: 0,
    };
    for leaf in &table.leaves {
        let bytes = leaf.run_bytes();
        let piece = |file, offset| ImagePart {
            file,
            offset,
            bytes,
        };
        if places.lenders().is_empty() && bytes > 0 {
            places.push_lent(lender, piece(LENDER, SUPERBLOCK_BYTES as u64));
        } else {
            places.push_piece(piece(SEQUENCE, offset));
            offset += bytes;
        }
        places.end_leaf();
    }
    BorrowedPage::new(&places)
}

/// How many blocks a page of borrowed values says are elsewhere.
fn lent_blocks(page: &[u8], table: &Table) -> u64 {
    let mut aligned = AlignedBuf::with_capacity(page.len());
    aligned.extend_from_slice(page);
    let read = from_bytes::<BorrowedPage, Failure>(aligned.as_slice()).ok();
    let places = read.and_then(|page| page.into_places(SEQUENCE, &table.leaves));
    places.map_or(0, |places| {
        places.borrowed_bytes() / SNAPSHOT_BLOCK_BYTES as u64
    })
}

/// What a start makes of it answers.
fn ask_state(state: State) {
    let everything = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        keys_only: true,
        ..RangeRequest::default()
    };
    let selection = state
        .select(&everything)
        .expect("the newest revision is there");
    let snapshot = state.snapshot().expect("the state stands on it");
    assert!(selection.records.len() as u64 <= snapshot.key_count());
}

fn sound_leaf(archive: &[u8]) -> Option<Page<ArchivedLeaf>> {
    view::<ArchivedLeaf>(archive).filter(|leaf| leaf.is_sound())
}

fn change_count(archive: &[u8]) -> Option<u64> {
    Some(view::<ArchivedChanges>(archive)?.len() as u64)
}

fn view<T: Content>(archive: &[u8]) -> Option<Page<T>> {
    let mut piece = AlignedBuf::with_capacity(archive.len());
    piece.extend_from_slice(archive);
    Page::new(&Arc::new(piece), 0, archive.len() as u32)
}

fn are_ascending(leaves: &[Page<ArchivedLeaf>]) -> bool {
    leaves.windows(2).all(|two| {
        let mut first = Vec::new();
        two[1].keys().append(0, &mut first);
        let last = two[0].keys().len() - 1;
        two[0].keys().compare(last, &first).is_lt()
    })
}

/// One inner page above all leaves.
fn root_of(leaves: &[Page<ArchivedLeaf>]) -> Vec<u8> {
    let mut level = Level::default();
    for leaf in leaves {
        let mut key = Vec::new();
        leaf.keys().append(0, &mut key);
        level.push(&key, leaf.counts().live);
    }
    let mut root = Inner::default();
    let end = level.parent(0, 1, usize::MAX, &mut root);
    assert_eq!(end, leaves.len(), "all of them fit");
    archive(&root)
}

/// One page of changes with every row.
fn changes_of(leaves: &[Page<ArchivedLeaf>]) -> Option<Vec<u8>> {
    let mut page = Changes::default();
    for (number, leaf) in (0..).zip(leaves) {
        for row in 0..leaf.row_count().min(ROWS_MAX) as u32 {
            page.push(VersionRef { leaf: number, row });
        }
    }
    (page.len() > 0).then(|| archive(&page))
}

fn archive<T>(value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<super::encode::Sink<'a>>,
{
    let mut encoder = Encoder::new();
    let (blocks, entry) = encoder.encode(value);
    blocks[..entry.bytes as usize].to_vec()
}

/// A page as its parent would know it. An empty one has no place in a file.
fn entry(archive: &[u8]) -> PageEntry {
    PageEntry::new(&padded(archive), archive.len() as u32)
}

fn padded(archive: &[u8]) -> Vec<u8> {
    let mut blocks = archive.to_vec();
    blocks.resize(archive.len().next_multiple_of(SNAPSHOT_BLOCK_BYTES), 0);
    blocks
}

fn append(archive: &[u8], file: &mut Vec<u8>) {
    file.extend_from_slice(&padded(archive));
}

fn reference(archive: &[u8], file: &mut Vec<u8>) -> PageReference {
    let offset = file.len() as u64;
    append(archive, file);
    let entry = entry(archive);
    PageReference { offset, entry }
}

/// The pages of a small file with a few of everything.
fn sound() -> &'static Draft {
    static SOUND: OnceLock<Draft> = OnceLock::new();
    SOUND.get_or_init(build)
}

fn build() -> Draft {
    let config = BuilderConfig {
        page_bytes: SNAPSHOT_BLOCK_BYTES,
        values_run_bytes_max: SNAPSHOT_BLOCK_BYTES,
        write_bytes: SNAPSHOT_BLOCK_BYTES,
    };
    let mut builder = Builder::new(SEQUENCE, config, Revision(-1));
    for number in 0..150_i64 {
        let key = format!("/registry/leases/{number:03}");
        let value = vec![number as u8; (number % 60) as usize];
        let put = VersionIn {
            revision: Revision(2 + number),
            sub: 0,
            create_revision: Revision(2 + number),
            version: 1,
            lease: LeaseId(number % 3),
            tombstone: false,
            value: &value,
            stays: None,
            origin: None,
        };
        let later = VersionIn {
            revision: Revision(300 + number),
            version: 2,
            ..put
        };
        let tombstone = VersionIn {
            create_revision: Revision(0),
            version: 0,
            lease: LeaseId(0),
            tombstone: true,
            value: b"",
            stays: None,
            origin: None,
            ..later
        };
        let versions = match number % 5 {
            0 => vec![put, later],
            1 => vec![put, tombstone],
            _ => vec![put],
        };
        builder.push_key(key.as_bytes(), &versions);
        while builder.take_write().is_some() {}
    }
    let mut finish = builder.finish(meta());
    while !finish.step(usize::MAX).expect("nothing is built over") {}
    while finish.take_write().is_some() {}
    let (snapshot, _) = finish.into_snapshot(NAME);
    let archive = |blocks: &[u8], bytes: u32| blocks[..bytes as usize].to_vec();
    let leaves = (0..snapshot.leaf_count()).map(|leaf| {
        let bytes = snapshot.leaf_entry(leaf).page.bytes;
        archive(snapshot.leaf_page(leaf).blocks(), bytes)
    });
    let inners = snapshot.inners().iter();
    let changes = snapshot.changes().iter();
    Draft {
        leaves: leaves.collect(),
        inners: inners
            .map(|page: &Page<ArchivedInner>| archive(page.blocks(), page.bytes()))
            .collect(),
        changes: changes
            .map(|page| archive(page.blocks(), page.bytes()))
            .collect(),
        meta: self::archive(&MetaPage::new(&meta())),
        table: None,
        borrowed: None,
    }
}

fn meta() -> Meta {
    let member = Member {
        id: 2,
        name: "m2".to_owned(),
        peer_urls: vec!["http://10.0.0.2:2380".to_owned()],
        client_urls: vec!["http://10.0.0.2:2379".to_owned()],
        is_learner: false,
    };
    Meta {
        revision: Revision(500),
        compact_revision: Revision(-1),
        horizon: Revision(-1),
        leases: vec![LeaseMeta {
            id: LeaseId(1),
            granted_ttl_seconds: 60,
            deadline: LeaseTime(1_000),
        }],
        alarms: vec![AlarmMeta {
            alarm: 1,
            member: MemberId(2),
        }],
        cluster: Cluster {
            cluster_id: ClusterId(3),
            members: [(MemberId(2), member)].into(),
            removed: BTreeSet::new(),
        },
        auth: b"auth".to_vec(),
        ..Meta::default()
    }
}
