//! The assembler against every way to cut a byte stream.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use tonic::Code;

use super::*;

const MAX: usize = 4096;

fn framed(messages: &[Vec<u8>]) -> Bytes {
    let mut bytes = BytesMut::new();
    for message in messages {
        bytes.put_u8(0);
        bytes.put_u32(message.len() as u32);
        bytes.put_slice(message);
    }
    bytes.freeze()
}

/// Feeds `bytes` cut at `cuts` and returns the messages and the status that ended it.
fn assemble(bytes: &Bytes, cuts: &[usize]) -> (Vec<Bytes>, Option<tonic::Status>, PartialBudget) {
    let budget = PartialBudget::default();
    let mut assembler = Assembler::new(MAX, None, budget.clone());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let mut messages = Vec::new();
    for pair in cuts.windows(2) {
        assembler.feed(bytes.slice(pair[0]..pair[1]));
        loop {
            match assembler.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(status) => return (messages, Some(status), budget),
            }
        }
    }
    assert!(assembler.is_empty() || !bytes.is_empty());
    (messages, None, budget)
}

proptest! {
    #[test]
    fn messages_survive_any_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (found, status, budget) = assemble(&framed(&messages), &cuts);
        prop_assert!(status.is_none());
        prop_assert_eq!(found, messages);
        prop_assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (_, _, budget) = assemble(&Bytes::from(bytes), &cuts);
        prop_assert_eq!(budget.0.get(), 0);
    }
}

#[test]
fn a_message_within_one_chunk_is_not_copied() {
    let bytes = framed(&[vec![1; 100], vec![2; 100]]);
    let (found, _, _) = assemble(&bytes, &[]);
    assert_eq!(found[0].as_ptr(), bytes[5..].as_ptr());
    assert_eq!(found[1].as_ptr(), bytes[110..].as_ptr());
}

#[test]
fn the_largest_message_passes_and_one_byte_more_does_not() {
    let (found, status, _) = assemble(&framed(&[vec![0; MAX]]), &[17]);
    assert_eq!((found.len(), status.is_none()), (1, true));
    let (found, status, _) = assemble(&framed(&[vec![0; MAX + 1]]), &[3, 17]);
    let status = status.unwrap();
    assert_eq!((found.len(), status.code()), (0, Code::ResourceExhausted));
    assert_eq!(
        status.message(),
        "grpc: received message larger than max (4097 vs. 4096)"
    );
}

#[test]
fn half_received_messages_are_bounded_per_connection() {
    let budget = PartialBudget::default();
    let part = Bytes::from(vec![0; 1 << 20]);
    let count = PARTIAL_BYTES_PER_CONNECTION_MAX / part.len();
    let start = |budget: &PartialBudget| {
        let mut assembler = Assembler::new(4 << 20, None, budget.clone());
        assembler.feed(Bytes::from_static(&[0, 0, 0x20, 0, 0]));
        assert_eq!(assembler.take().unwrap(), None);
        assembler.feed(part.clone());
        assembler.take().map(|_| assembler)
    };
    let mut held: Vec<Assembler> = (0..count).map(|_| start(&budget).ok().unwrap()).collect();
    assert_eq!(
        start(&budget).err().unwrap().code(),
        Code::ResourceExhausted
    );
    held.pop();
    assert!(start(&budget).is_ok());
}
