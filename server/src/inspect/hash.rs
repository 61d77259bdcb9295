//! `keelson inspect hash`: HashKV of the state that a start would find.

use std::process::ExitCode;

use anyhow::anyhow;
use keelson_storage::dir::{StoppedDir, StoppedShard};
use keelson_storage::mvcc::HashKvResult;
use keelson_storage::snapshot::ValueReader;
use serde_json::json;

use super::DumpOutput;
use crate::engine::offline;

/// Versions looked at in a step, of which one follows the other.
const STEP: usize = 1 << 16;

pub(super) fn hash(
    (dir, shard): (&StoppedDir, &StoppedShard),
    revision: i64,
    output: DumpOutput,
) -> anyhow::Result<ExitCode> {
    let mut state = offline::state_of(dir, shard)?;
    let mut scan = state
        .hash_begin(revision)
        .map_err(|error| anyhow!("{}", error.message()))?;
    while !state.hash_step(&mut scan, STEP) {}
    let mut values = ValueReader::default();
    let result = scan.finish(|snapshot, place| values.read(snapshot, place))?;
    println!("{}", text(&result, output));
    Ok(ExitCode::SUCCESS)
}

/// As `etcdutl hashkv` writes it, and the store's revision behind.
fn text(result: &HashKvResult, output: DumpOutput) -> String {
    let HashKvResult {
        hash,
        compact_revision,
        hash_revision,
        revision,
    } = result;
    match output {
        DumpOutput::Simple => format!("{hash}, {hash_revision}, {compact_revision}, {revision}"),
        DumpOutput::Json => json!({
            "hash": hash,
            "hashRevision": hash_revision.0,
            "compactRevision": compact_revision.0,
            "revision": revision.0,
        })
        .to_string(),
    }
}
