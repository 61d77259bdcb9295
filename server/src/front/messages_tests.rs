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

/// Feeds `bytes` cut at `cuts` and returns the messages and what ended them.
fn assemble(bytes: &Bytes, cuts: &[usize]) -> (Vec<Message>, Option<Refusal>, Assembler) {
    let mut assembler = Assembler::default();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let mut messages = Vec::new();
    for pair in cuts.windows(2) {
        let chunk = &bytes[pair[0]..pair[1]];
        let before = messages.len();
        let fed = assembler.feed(chunk, MAX, |message| messages.push(message));
        let held: usize = messages[before..]
            .iter()
            .map(|message| message.held_bytes)
            .sum();
        assert!(held <= chunk.len(), "{held} of {}", chunk.len());
        if let Err(refusal) = fed {
            return (messages, Some(refusal), assembler);
        }
    }
    (messages, None, assembler)
}

proptest! {
    #[test]
    fn messages_survive_any_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (found, refusal, assembler) = assemble(&framed(&messages), &cuts);
        prop_assert_eq!(refusal, None);
        let found: Vec<Bytes> = found.into_iter().map(|message| message.bytes).collect();
        prop_assert_eq!(found, messages);
        prop_assert!(assembler.is_empty());
        prop_assert_eq!(assembler.partial_bytes(), 0);
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (_, _, mut assembler) = assemble(&Bytes::from(bytes), &cuts);
        assembler.clear();
        prop_assert!(assembler.is_empty());
    }
}

#[test]
fn a_message_holds_back_what_completed_it() {
    let bytes = framed(&[vec![1; 100], vec![2; 100]]);
    let (found, _, _) = assemble(&bytes, &[]);
    assert_eq!([found[0].held_bytes, found[1].held_bytes], [105, 105]);
    let (found, _, _) = assemble(&bytes, &[90]);
    assert_eq!([found[0].held_bytes, found[1].held_bytes], [15, 105]);
}

#[test]
fn the_largest_message_passes_and_one_byte_more_does_not() {
    let (found, refusal, _) = assemble(&framed(&[vec![0; MAX]]), &[17]);
    assert_eq!((found.len(), refusal), (1, None));
    let (found, refusal, _) = assemble(&framed(&[vec![0; MAX + 1]]), &[3, 17]);
    let status = refusal.unwrap().status(None);
    assert_eq!((found.len(), status.code()), (0, Code::ResourceExhausted));
    assert_eq!(
        status.message(),
        "grpc: received message larger than max (4097 vs. 4096)"
    );
}

#[test]
fn compressed_messages_are_refused_in_grpc_gos_words() {
    let text = |encoding: Option<&[u8]>| Refusal::Flag(1).status(encoding).message().to_owned();
    assert_eq!(
        text(None),
        "grpc: compressed flag set with identity or empty encoding"
    );
    assert_eq!(text(Some(b"identity")), text(None));
    assert!(text(Some(b"gzip")).contains("Decompressor is not installed"));
    let odd = Refusal::Flag(9).status(None);
    assert_eq!(odd.message(), "grpc: received unexpected payload format 9");
}
