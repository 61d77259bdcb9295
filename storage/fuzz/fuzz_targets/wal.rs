//! The target `wal` of `keelson_storage::fuzzing`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| keelson_storage::fuzzing::run("wal", input));
