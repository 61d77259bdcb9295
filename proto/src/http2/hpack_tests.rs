//! The decoder against the RFC's examples, against our own encoder, and against bad blocks.

#![allow(clippy::unwrap_used)]

use super::*;

type Fields = Vec<(String, String)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, HpackError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    decoder.decode(block, |name, value| fields.push((text(name), text(value))))?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn expect(decoder: &mut Decoder, block: &str, fields: &[(&str, &str)], table_bytes: usize) {
    let found = decode(decoder, &hex(block)).unwrap();
    let fields: Fields = fields
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(found, fields);
    assert_eq!(decoder.table_bytes, table_bytes);
}

const FIRST: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
];

/// RFC 7541, C.3 and C.4: three requests on one connection, without and with Huffman code.
#[test]
fn the_requests_of_the_rfc() {
    let second = [&FIRST[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        expect(&mut decoder, blocks[0], &FIRST, 57);
        expect(&mut decoder, blocks[1], &second, 110);
        expect(&mut decoder, blocks[2], &third, 164);
    }
}

/// RFC 7541, C.6: responses with a table of 256 bytes, which evicts.
#[test]
fn the_responses_of_the_rfc() {
    let mut decoder = Decoder::new(256);
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let location = ("location", "https://www.example.com");
    let private = ("cache-control", "private");
    expect(
        &mut decoder,
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
         29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        &[(":status", "302"), private, date, location],
        222,
    );
    expect(
        &mut decoder,
        "4883 640e ffc1 c0bf",
        &[(":status", "307"), private, date, location],
        222,
    );
    assert_eq!(decoder.entries.len(), 4);
}

#[test]
fn what_is_put_is_decoded() {
    let long = vec![b'x'; 5_000];
    let mut block = Vec::new();
    put_indexed(&mut block, index::STATUS_200);
    put_inserted(&mut block, index::CONTENT_TYPE, b"application/grpc");
    put_new_inserted(&mut block, b"grpc-status", b"0");
    put_literal(&mut block, index::USER_AGENT, &long);
    put_new_literal(&mut block, b"grpc-message", b"");
    put_indexed(&mut block, index::DYNAMIC);
    put_indexed(&mut block, index::DYNAMIC + 1);
    let mut decoder = Decoder::default();
    let fields = decode(&mut decoder, &block).unwrap();
    let expected = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "0"),
        ("user-agent", std::str::from_utf8(&long).unwrap()),
        ("grpc-message", ""),
        ("grpc-status", "0"),
        ("content-type", "application/grpc"),
    ];
    let expected: Fields = expected
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(fields, expected);
    assert_eq!(decoder.changes(), 2);
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    let mut block = Vec::new();
    put_new_inserted(&mut block, b"a", b"b");
    put_new_inserted(&mut block, b"large", &[b'x'; TABLE_BYTES_DEFAULT]);
    decode(&mut decoder, &block).unwrap();
    assert_eq!((decoder.entries.len(), decoder.table_bytes), (0, 0));
    let before = decoder.changes();
    let mut block = Vec::new();
    put_indexed(&mut block, index::DYNAMIC);
    assert_eq!(decode(&mut decoder, &block), Err(HpackError::Index));
    assert_eq!(decoder.changes(), before);
}

#[test]
fn bad_blocks_are_refused() {
    let cases = [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("7f", HpackError::Truncated),
        ("40", HpackError::Truncated),
        ("40 05 6162", HpackError::Truncated),
        ("ff ff ff ff ff ff 01", HpackError::Integer),
        ("40 81 ff 00", HpackError::Huffman),
        ("82 20", HpackError::TableSize),
        ("3f e2 1f", HpackError::TableSize),
    ];
    for (block, error) in cases {
        assert_eq!(
            decode(&mut Decoder::default(), &hex(block)),
            Err(error),
            "{block}"
        );
    }
    // Within the grant, at the start of a block, it is fine: 4,096 and then 0.
    assert_eq!(
        decode(&mut Decoder::default(), &hex("3f e1 1f 20 82"))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn no_cut_block_panics() {
    let mut whole = Vec::new();
    put_new_inserted(&mut whole, b"grpc-status", b"0");
    put_literal(&mut whole, index::USER_AGENT, &[b'x'; 300]);
    whole.extend(hex("4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"));
    for cut in 0..whole.len() {
        for byte in 0..=255 {
            let mut block = whole[..cut].to_vec();
            block.push(byte);
            // The outcome does not matter here, only that there is one.
            let _ = Decoder::default().decode(&block, |_, _| {});
        }
    }
}
