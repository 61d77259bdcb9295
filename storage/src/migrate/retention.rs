//! What etcd keeps of a key's history once the store was compacted.

use crate::ids::Revision;

/// The first of a key's versions, oldest first, that is kept: all changes above the compact revision, and
/// before them the newest at or below it unless that is a deletion. `None` if there was no compaction.
pub(super) fn first_kept<T>(
    versions: &[T],
    compact_revision: Option<Revision>,
    of: impl Fn(&T) -> (Revision, bool),
) -> usize {
    let Some(compact_revision) = compact_revision else {
        return 0;
    };
    let above = versions.partition_point(|version| of(version).0 <= compact_revision);
    match above.checked_sub(1) {
        Some(newest) if !of(&versions[newest]).1 => newest,
        _ => above,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_d_7_what_etcd_keeps_of_a_history() {
        // Put, put, delete, put, twice in one request.
        let history = [(2, false), (4, false), (6, true), (8, false), (8, false)];
        let kept = |compacted| {
            let compacted: Option<i64> = compacted;
            first_kept(&history, compacted.map(Revision), |&(revision, deleted)| {
                (Revision(revision), deleted)
            })
        };
        for (compacted, first) in [
            (None, 0),
            (Some(0), 0),
            (Some(1), 0),
            (Some(2), 0),
            (Some(3), 0),
            (Some(4), 1),
            (Some(5), 1),
            (Some(6), 3),
            (Some(7), 3),
            (Some(8), 4),
            (Some(9), 4),
        ] {
            assert_eq!(kept(compacted), first, "{compacted:?}");
        }
        let gone = [(2, false), (3, true)];
        let first = first_kept(&gone, Some(Revision(3)), |&(revision, deleted)| {
            (Revision(revision), deleted)
        });
        assert_eq!(first, 2);
    }
}
