//! Leaves out what a later message to the same member says too.
//!
//! A turn of the engine ends with many messages to each member. A leader tells of a new commit index and then
//! sends entries, which tell it too; a follower whose disk was done with several rounds accepts each of them.
//! Raft takes any message as lost without harm, so only the last of such a run leaves.

use super::message::{Body, Message};
use crate::durable::Outgoing;

/// The messages that are worth sending, in their order.
pub(super) fn thin_out(messages: Vec<Outgoing>) -> Vec<Outgoing> {
    if messages.len() < 2 {
        return messages;
    }
    let mut kept: Vec<Outgoing> = Vec::with_capacity(messages.len());
    for (to, message) in messages.into_iter().rev() {
        // The next one to the same member.
        let later = kept.iter().rev().find(|(receiver, _)| *receiver == to);
        let is_said = later.is_some_and(|(_, later)| says_no_more(&message, later));
        if !is_said {
            kept.push((to, message));
        }
    }
    kept.reverse();
    kept
}

/// Whether `message` says nothing that `later` does not.
fn says_no_more(message: &Message, later: &Message) -> bool {
    if message.term != later.term {
        return false;
    }
    match (&message.body, &later.body) {
        (
            Body::AppendAccepted { index, .. },
            Body::AppendAccepted {
                index: later_index, ..
            },
        ) => index <= later_index,
        (
            Body::Append {
                previous,
                commit,
                entries,
            },
            Body::Append {
                previous: later_previous,
                commit: later_commit,
                ..
            },
        ) => entries.is_empty() && previous == later_previous && commit <= later_commit,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use keelson_storage::ids::{MemberId, RaftIndex, Term};

    use super::*;
    use crate::node::{Entry, EntryKind, Mark};

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);

    fn accepted(term: u64, index: u64) -> Message {
        Message {
            term: Term(term),
            body: Body::AppendAccepted {
                index: RaftIndex(index),
                commit: RaftIndex(0),
            },
        }
    }

    fn append(previous: u64, commit: u64, entries: u64) -> Message {
        let mark = |index| Mark {
            index: RaftIndex(index),
            term: Term(1),
        };
        let entries = (1..=entries).map(|offset| Entry {
            term: Term(1),
            index: RaftIndex(previous + offset),
            kind: EntryKind::Commands,
            payload: Default::default(),
        });
        Message {
            term: Term(1),
            body: Body::Append {
                previous: mark(previous),
                commit: RaftIndex(commit),
                entries: entries.collect(),
            },
        }
    }

    #[test]
    fn the_last_of_a_run_says_it_all() {
        let messages = vec![
            (A, accepted(1, 4)),
            (B, accepted(1, 4)),
            (A, accepted(1, 5)),
            (A, accepted(2, 5)),
            (B, append(9, 7, 0)),
            (A, append(9, 7, 0)),
            (A, append(9, 8, 2)),
            (A, append(11, 8, 0)),
            (B, append(9, 6, 0)),
        ];
        let expected = vec![
            (B, accepted(1, 4)),
            (A, accepted(1, 5)),
            (A, accepted(2, 5)),
            (B, append(9, 7, 0)),
            (A, append(9, 8, 2)),
            (A, append(11, 8, 0)),
            (B, append(9, 6, 0)),
        ];
        assert_eq!(thin_out(messages), expected);
    }
}
