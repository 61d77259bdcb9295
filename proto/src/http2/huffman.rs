//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: within one length, codes count up in the order of their symbols, and the
//! shortest come first. So the lengths alone say everything.

/// The bits of each symbol's code; the last is the end of a string, which never appears in one.
#[rustfmt::skip]
const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28,
    28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13,
    6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6,
    6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23,
    23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23,
    22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21,
    22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOL_COUNT: usize = CODE_BITS.len();
const END_OF_STRING: u16 = 256;
const BITS_MIN: usize = 5;
const BITS_MAX: usize = 30;

/// The canonical code, by length.
struct Code {
    /// One past the last code of each length, moved to the top of 32 bits.
    end: [u64; BITS_MAX + 1],
    /// The first code of each length.
    first: [u32; BITS_MAX + 1],
    /// Where the symbols of each length begin in `symbols`.
    start: [u16; BITS_MAX + 1],
    /// The symbols, by length and then by value.
    symbols: [u16; SYMBOL_COUNT],
}

const CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        end: [0; BITS_MAX + 1],
        first: [0; BITS_MAX + 1],
        start: [0; BITS_MAX + 1],
        symbols: [0; SYMBOL_COUNT],
    };
    let mut next: u32 = 0;
    let mut placed: usize = 0;
    let mut bits = 1;
    while bits <= BITS_MAX {
        next <<= 1;
        code.first[bits] = next;
        code.start[bits] = placed as u16;
        let mut symbol = 0;
        while symbol < SYMBOL_COUNT {
            if CODE_BITS[symbol] as usize == bits {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.end[bits] = (next as u64) << (32 - bits);
        bits += 1;
    }
    assert!(placed == SYMBOL_COUNT, "every symbol has its place");
    assert!(next == 1 << BITS_MAX, "the code is complete");
    code
}

/// Appends the decoded string to `out`. `None` if it is not one: a code for the end of a string, or
/// padding that is longer than seven bits or not all ones.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut window: u64 = 0;
    let mut held_bits = 0;
    let mut input = input.iter();
    loop {
        while held_bits <= 32 {
            let Some(&byte) = input.next() else { break };
            window = window << 8 | u64::from(byte);
            held_bits += 8;
        }
        // The next 32 bits, filled up with ones as padding is.
        let top = if held_bits >= 32 {
            (window >> (held_bits - 32)) & 0xffff_ffff
        } else {
            (window << (32 - held_bits) | ((1 << (32 - held_bits)) - 1)) & 0xffff_ffff
        };
        let Some(bits) = (BITS_MIN..=BITS_MAX).find(|&bits| top < CODE.end[bits]) else {
            // Thirty-two ones: nothing but padding, if anything.
            return (held_bits < 8).then_some(());
        };
        if bits > held_bits {
            let is_padding =
                held_bits < 8 && window & ((1 << held_bits) - 1) == (1 << held_bits) - 1;
            return is_padding.then_some(());
        }
        let offset = (top >> (32 - bits)) as u32 - CODE.first[bits];
        let symbol = CODE.symbols[usize::from(CODE.start[bits]) + offset as usize];
        if symbol == END_OF_STRING {
            return None;
        }
        out.push(symbol as u8);
        held_bits -= bits;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out)?;
        Some(out)
    }

    /// The code of a symbol, from the same lengths by another way.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut order: Vec<usize> = (0..SYMBOL_COUNT).collect();
        order.sort_by_key(|&symbol| (CODE_BITS[symbol], symbol));
        let mut codes = vec![0_u32; SYMBOL_COUNT];
        let mut code = 0_u32;
        for pair in order.windows(2) {
            code = (code + 1) << (CODE_BITS[pair[1]] - CODE_BITS[pair[0]]);
            codes[pair[1]] = code;
        }
        let mut bits = String::new();
        for &byte in text {
            let length = usize::from(CODE_BITS[usize::from(byte)]);
            bits += &format!("{:0length$b}", codes[usize::from(byte)]);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let examples: [(&str, &[u8]); 4] = [
            (
                "www.example.com",
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("", &[]),
        ];
        for (text, bytes) in examples {
            assert_eq!(decoded(bytes).unwrap(), text.as_bytes(), "{text}");
            assert_eq!(encode(text.as_bytes()), bytes, "{text}");
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for byte in 0..=255 {
            assert_eq!(decoded(&encode(&[byte, byte])).unwrap(), [byte, byte]);
        }
    }

    #[test]
    fn bad_padding_is_refused() {
        assert_eq!(decoded(&[0xff]), None, "eight bits of padding");
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xff]),
            None,
            "the end of a string"
        );
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded(&[0b0000_0000]), None, "padding of zeros");
        assert_eq!(decoded(&[0b0000_0111]).unwrap(), b"0");
    }
}
