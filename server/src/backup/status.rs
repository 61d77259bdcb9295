//! `keelson snapshot status`: what is in a backup, once all of it has been compared with its checksums.
//!
//! The columns are etcdutl's. The hash is a crc32c of the file without the SHA-256 at its end, so the same file has the
//! same hash anywhere, and files with the same keys need not. Total keys counts versions, as etcd does: every revision
//! of a key is one.

use serde_json::json;

use super::file::BackupFile;
use super::progress::bytes_bar;
use super::{Status, StatusOutput};
use crate::config::version;

const COLUMNS: [&str; 5] = ["hash", "revision", "total keys", "total size", "version"];

/// What there is to tell of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    hash: u32,
    revision: i64,
    total_keys: u64,
    total_bytes: u64,
}

/// The text to print.
pub(super) fn status(asked: &Status) -> anyhow::Result<String> {
    let backup = BackupFile::open(&asked.file)?;
    let bar = bytes_bar("verifying", backup.content_bytes());
    let mut checksum = 0;
    let content = backup.read(&bar, |piece| {
        checksum = crc32c::crc32c_append(checksum, piece.as_slice());
        Ok(())
    })?;
    bar.finish_and_clear();
    backup.check_hash(&content)?;
    let facts = Facts {
        hash: checksum,
        revision: backup.snapshot.meta().revision.0,
        total_keys: backup.snapshot.version_count(),
        total_bytes: backup.content_bytes(),
    };
    Ok(facts.text(asked.output))
}

impl Facts {
    fn text(&self, output: StatusOutput) -> String {
        match output {
            StatusOutput::Simple => format!("{}\n", self.row().join(", ")),
            StatusOutput::Json => {
                let object = json!({
                    "hash": self.hash,
                    "revision": self.revision,
                    "totalKey": self.total_keys,
                    "totalSize": self.total_bytes,
                    "version": version::STORAGE,
                });
                format!("{object}\n")
            }
            StatusOutput::Table => self.table(),
        }
    }

    fn row(&self) -> [String; 5] {
        [
            format!("{:x}", self.hash),
            self.revision.to_string(),
            self.total_keys.to_string(),
            human_bytes(self.total_bytes),
            version::STORAGE.to_owned(),
        ]
    }

    /// As etcdutl's table: titles centred, numbers to the right.
    fn table(&self) -> String {
        let row = self.row();
        let widths = COLUMNS
            .iter()
            .zip(&row)
            .map(|(title, cell)| title.len().max(cell.len()));
        let widths: Vec<usize> = widths.collect();
        let line = |cell: &dyn Fn(usize, usize) -> String| -> String {
            let cells = widths.iter().enumerate();
            let cells: Vec<String> = cells
                .map(|(column, &width)| format!(" {} ", cell(column, width)))
                .collect();
            format!("|{}|\n", cells.join("|"))
        };
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let rule = format!("+{}+\n", rule.join("+"));
        let titles = line(&|column, width| {
            let title = COLUMNS[column].to_uppercase();
            format!("{title:^width$}")
        });
        let cells = line(&|column, width| {
            let cell = &row[column];
            match cell.parse::<u64>() {
                Ok(_) => format!("{cell:>width$}"),
                Err(_) => format!("{cell:<width$}"),
            }
        });
        format!("{rule}{titles}{rule}{cells}{rule}")
    }
}

/// A size as etcd's tools write it: powers of a thousand, one digit behind the point below ten.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 {
        value /= 1000.0;
        unit += 1;
    }
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(rounded < 10.0);
    format!("{rounded:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        hash: 0xfe01_cf57,
        revision: 10,
        total_keys: 7,
        total_bytes: 2_121_728,
    };

    #[test]
    fn g_d_7_status_is_written_as_etcdutl_writes_it() {
        assert_eq!(
            FACTS.text(StatusOutput::Simple),
            "fe01cf57, 10, 7, 2.1 MB, 3.6.0\n"
        );
        assert_eq!(
            FACTS.text(StatusOutput::Json),
            "{\"hash\":4261531479,\"revision\":10,\"totalKey\":7,\"totalSize\":2121728,\"version\":\"3.6.0\"}\n"
        );
        let table = "\
+----------+----------+------------+------------+---------+
|   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |
+----------+----------+------------+------------+---------+
| fe01cf57 |       10 |          7 | 2.1 MB     | 3.6.0   |
+----------+----------+------------+------------+---------+
";
        assert_eq!(FACTS.text(StatusOutput::Table), table);
    }

    #[test]
    fn sizes_are_rounded_as_etcds_tools_round_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (16_384, "16 kB"),
            (82_854_982, "83 MB"),
            (5_368_709_120, "5.4 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
