//! The recovery table of the write-ahead log: one action for every state of the place where the next
//! group should be.
//!
//! Two facts decide. First, what is there: the header's state and, when the header is sound, the body's.
//! Second, whether a later group *attests* this one: every group says in its header which groups were
//! durable when it was written, so a later header with a number at or above the missing group's proves
//! that the group had been durable, possibly acknowledged. Without that proof the group was still in
//! flight, or it is the very last; only for the latter does the state of the body matter.
//!
//! | header  | body     | attested | action |
//! |---------|----------|----------|--------|
//! | ours    | sound    | any      | accept |
//! | ours    | holes    | no       | cut    |
//! | ours    | unclear  | no       | cut    |
//! | ours    | complete | no       | damage: the write had finished, so it may have been acknowledged |
//! | ours    | any bad  | yes      | damage |
//! | blank   | -        | no       | end    |
//! | garbage | -        | no       | end in a recycled segment, cut in a fresh one |
//! | stale   | -        | no       | end in a recycled segment, damage in a fresh one |
//! | other   | -        | any      | damage |
//! | blank, garbage, stale | - | yes | damage |
//!
//! Invariants: (1) an attested group is never cut; (2) a group whose body is bad is never accepted;
//! (3) the table is total and depends on nothing else.

use crate::wal::DamageReason;

/// What stands where the next group's header should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// A sound header of exactly the expected group.
    Ours,
    /// A sound header of this use of this segment, but of another group.
    Other,
    /// Zeros.
    Blank,
    /// Neither zeros nor a header.
    Garbage,
    /// A sound header of another segment or of an earlier use of the file.
    Stale,
}

/// What follows a sound header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// Everything matches.
    Sound,
    /// Something does not match, and at least one sector still holds what was there before the write:
    /// the write did not finish, or a sector was zeroed later, which looks the same.
    Holes,
    /// Something does not match, and no sector holds what was there before: the write had finished.
    Complete,
    /// Something does not match, and what was there before is not known (a recycled file).
    Unclear,
    /// There was no sound header to tell where a body would be.
    Unread,
}

/// What the rest of the lane says about the expected group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestation {
    /// A later group was written when this one was known to be durable.
    Durable,
    /// Later groups exist, all written while this one was in flight.
    InFlight,
    /// There is no later group.
    Silent,
}

/// What the segment held before its present use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Zeros.
    Fresh,
    /// Groups of an earlier use.
    Recycled,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the group's records and go on behind it.
    Accept,
    /// The log ends here as it should.
    End,
    /// The log ends here; what a crash left from here on is wiped before anything is appended.
    Cut,
    /// Refuse to open.
    Damage(DamageReason),
}

/// Decides.
#[must_use]
pub fn decide(
    header: HeaderState,
    body: BodyState,
    attestation: Attestation,
    ground: Ground,
) -> Action {
    use Attestation::{Durable, InFlight, Silent};
    match (header, body, attestation) {
        (HeaderState::Ours, BodyState::Sound, _) => Action::Accept,
        (HeaderState::Other, _, _) => Action::Damage(DamageReason::Misplaced),
        (HeaderState::Ours, _, Durable) => Action::Damage(DamageReason::BodyLost),
        (HeaderState::Ours, BodyState::Complete, _) => Action::Damage(DamageReason::BodyComplete),
        (HeaderState::Ours, _, InFlight | Silent) => Action::Cut,
        (_, _, Durable) => Action::Damage(DamageReason::GroupLost),
        (HeaderState::Stale, _, _) if ground == Ground::Fresh => {
            Action::Damage(DamageReason::Misplaced)
        }
        (HeaderState::Garbage, _, _) if ground == Ground::Fresh => Action::Cut,
        (_, _, InFlight) => Action::Cut,
        (_, _, Silent) => Action::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: [HeaderState; 5] = [
        HeaderState::Ours,
        HeaderState::Other,
        HeaderState::Blank,
        HeaderState::Garbage,
        HeaderState::Stale,
    ];
    const BODIES: [BodyState; 5] = [
        BodyState::Sound,
        BodyState::Holes,
        BodyState::Complete,
        BodyState::Unclear,
        BodyState::Unread,
    ];
    const ATTESTATIONS: [Attestation; 3] = [
        Attestation::Durable,
        Attestation::InFlight,
        Attestation::Silent,
    ];
    const GROUNDS: [Ground; 2] = [Ground::Fresh, Ground::Recycled];

    /// The table again, written out for every pair: D damage, C cut, E end, A accept. Columns are fresh
    /// then recycled; in each: durable, in flight, silent.
    const TABLE: [(HeaderState, BodyState, &str); 25] = [
        (HeaderState::Ours, BodyState::Sound, "AAA AAA"),
        (HeaderState::Ours, BodyState::Holes, "DCC DCC"),
        (HeaderState::Ours, BodyState::Complete, "DDD DDD"),
        (HeaderState::Ours, BodyState::Unclear, "DCC DCC"),
        (HeaderState::Ours, BodyState::Unread, "DCC DCC"),
        (HeaderState::Other, BodyState::Sound, "DDD DDD"),
        (HeaderState::Other, BodyState::Holes, "DDD DDD"),
        (HeaderState::Other, BodyState::Complete, "DDD DDD"),
        (HeaderState::Other, BodyState::Unclear, "DDD DDD"),
        (HeaderState::Other, BodyState::Unread, "DDD DDD"),
        (HeaderState::Blank, BodyState::Sound, "DCE DCE"),
        (HeaderState::Blank, BodyState::Holes, "DCE DCE"),
        (HeaderState::Blank, BodyState::Complete, "DCE DCE"),
        (HeaderState::Blank, BodyState::Unclear, "DCE DCE"),
        (HeaderState::Blank, BodyState::Unread, "DCE DCE"),
        (HeaderState::Garbage, BodyState::Sound, "DCC DCE"),
        (HeaderState::Garbage, BodyState::Holes, "DCC DCE"),
        (HeaderState::Garbage, BodyState::Complete, "DCC DCE"),
        (HeaderState::Garbage, BodyState::Unclear, "DCC DCE"),
        (HeaderState::Garbage, BodyState::Unread, "DCC DCE"),
        (HeaderState::Stale, BodyState::Sound, "DDD DCE"),
        (HeaderState::Stale, BodyState::Holes, "DDD DCE"),
        (HeaderState::Stale, BodyState::Complete, "DDD DCE"),
        (HeaderState::Stale, BodyState::Unclear, "DDD DCE"),
        (HeaderState::Stale, BodyState::Unread, "DDD DCE"),
    ];

    fn letter(action: Action) -> char {
        match action {
            Action::Accept => 'A',
            Action::End => 'E',
            Action::Cut => 'C',
            Action::Damage(_) => 'D',
        }
    }

    #[test]
    fn g_d_2_every_pair_of_states_has_its_action() {
        let mut seen = 0;
        for header in HEADERS {
            for body in BODIES {
                let (_, _, row) = TABLE
                    .iter()
                    .find(|r| r.0 == header && r.1 == body)
                    .expect("a row for every pair");
                for (ground, expected) in GROUNDS.iter().zip(row.split(' ')) {
                    for (attestation, expected) in ATTESTATIONS.iter().zip(expected.chars()) {
                        let action = decide(header, body, *attestation, *ground);
                        assert_eq!(
                            letter(action),
                            expected,
                            "{header:?} {body:?} {attestation:?} {ground:?}"
                        );
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 150);
    }

    #[test]
    fn g_d_2_nothing_attested_is_cut_and_nothing_unsound_accepted() {
        for header in HEADERS {
            for body in BODIES {
                for ground in GROUNDS {
                    for attestation in ATTESTATIONS {
                        let action = decide(header, body, attestation, ground);
                        if attestation == Attestation::Durable {
                            assert!(matches!(action, Action::Accept | Action::Damage(_)));
                        }
                        let sound = header == HeaderState::Ours && body == BodyState::Sound;
                        assert_eq!(action == Action::Accept, sound);
                    }
                }
            }
        }
    }
}
