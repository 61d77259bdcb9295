//! The SHA-256 behind a snapshot.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::error::EtcdDbError;
use crate::bbolt::BoltError;
use crate::limits::BOLT_WRITE_BYTES;

/// Bytes of the hash.
pub(super) const HASH_BYTES: u64 = 32;
/// A database is a multiple of this, so what is left over is the hash. etcd tells it the same way.
const SECTOR_BYTES: u64 = 512;

/// How far the hashing of a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashProgress {
    /// Bytes hashed.
    pub done_bytes: u64,
    /// Bytes to be hashed in all.
    pub total_bytes: u64,
}

/// Whether a file of this length ends with a hash.
pub(super) fn has_hash(file_bytes: u64) -> bool {
    file_bytes % SECTOR_BYTES == HASH_BYTES
}

/// Hashes the first `total_bytes` of a file.
pub(super) fn hash_file(
    file: &File,
    name: &str,
    total_bytes: u64,
    progress: &mut dyn FnMut(HashProgress),
) -> Result<[u8; HASH_BYTES as usize], EtcdDbError> {
    let mut hasher = Sha256::new();
    let mut buf = vec![0; BOLT_WRITE_BYTES];
    let mut done_bytes = 0;
    while done_bytes < total_bytes {
        let left = total_bytes - done_bytes;
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        read_at(file, name, &mut buf[..piece], done_bytes)?;
        hasher.update(&buf[..piece]);
        done_bytes += piece as u64;
        progress(HashProgress {
            done_bytes,
            total_bytes,
        });
    }
    Ok(hasher.finalize().into())
}

/// Compares the hash that follows the first `total_bytes` of a file with them.
pub(super) fn verify_file(
    file: &File,
    name: &str,
    total_bytes: u64,
    progress: &mut dyn FnMut(HashProgress),
) -> Result<(), EtcdDbError> {
    let mut expected = [0; HASH_BYTES as usize];
    read_at(file, name, &mut expected, total_bytes)?;
    let found = hash_file(file, name, total_bytes, progress)?;
    if found == expected {
        return Ok(());
    }
    Err(EtcdDbError::WrongHash {
        file: name.to_owned(),
        expected: to_hex(&expected),
        found: to_hex(&found),
    })
}

fn read_at(file: &File, name: &str, buf: &mut [u8], offset: u64) -> Result<(), EtcdDbError> {
    file.read_exact_at(buf, offset).map_err(|source| {
        EtcdDbError::Bolt(BoltError::Io {
            file: name.to_owned(),
            action: "read",
            source,
        })
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
