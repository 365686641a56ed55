// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes to messages, at a cost that is bounded by their number.

use hickory_proto::op::Message;

/// Pointers in a row, each at the next, before a label has to come. Compression as RFC 1035
/// (section 4.1.4) has it makes one; some servers make two.
const MAX_POINTERS: u8 = 4;
/// The first offset that no pointer reaches.
const POINTER_LIMIT: usize = 1 << 14;

/// Reads a message.
///
/// Names are followed by pointers that only go backwards, so that each ends. But a message of 64 KiB
/// can have a chain of thousands of pointers and thousands of records that begin at its end, and
/// take seconds to read; such chains are refused before.
///
/// # Errors
///
/// What is wrong with the message.
pub(super) fn parse(bytes: &[u8]) -> Result<Message, String> {
    if has_long_chain(bytes) {
        return Err("it has pointers to pointers to pointers".to_owned());
    }
    Message::from_vec(bytes).map_err(|error| error.to_string())
}

/// Whether pointers point at pointers more often than any server makes them. Whatever looks like
/// a pointer counts as one: where names begin is known only to those who read them.
fn has_long_chain(bytes: &[u8]) -> bool {
    let mut lengths: Vec<u8> = Vec::with_capacity(bytes.len().min(POINTER_LIMIT));
    for pair in bytes.windows(2).take(u16::MAX.into()) {
        let [high, low] = pair else { continue };
        let mut length = 0;
        if high & 0b1100_0000 == 0b1100_0000 {
            let target = usize::from(high & 0b0011_1111) << 8 | usize::from(*low);
            // One that points at itself or forward is an error, and ends the chain.
            length = lengths.get(target).copied().unwrap_or_default() + 1;
        }
        if length > MAX_POINTERS {
            return true;
        }
        if lengths.len() < POINTER_LIMIT {
            lengths.push(length);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message with a chain of so many pointers, and records whose owners are at its end.
    fn chained(pointers: u16, records: u16) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0x81, 0x80, 0, 0];
        bytes.extend((records + 1).to_be_bytes());
        bytes.extend([0; 4]);
        // A record of an unknown type, whose data are a root label and pointers.
        bytes.extend([0, 0xff, 0, 0, 1, 0, 0, 0, 0]);
        bytes.extend((1 + 2 * pointers).to_be_bytes());
        let mut last = u16::try_from(bytes.len()).unwrap();
        bytes.push(0);
        for _ in 0..pointers {
            let here = u16::try_from(bytes.len()).unwrap();
            bytes.extend((0xc000 | last).to_be_bytes());
            last = here;
        }
        for _ in 0..records {
            bytes.extend((0xc000 | last).to_be_bytes());
            bytes.extend([0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 1]);
        }
        bytes
    }

    #[test]
    fn chains_of_pointers_are_short() {
        // The record's own pointer is one more.
        let longest = u16::from(MAX_POINTERS) - 1;
        assert_eq!(parse(&chained(longest, 3)).unwrap().answers.len(), 4);
        for (pointers, records) in [(longest + 1, 1), (8000, 3000)] {
            let bytes = chained(pointers, records);
            assert!(bytes.len() < usize::from(u16::MAX));
            assert!(parse(&bytes).unwrap_err().starts_with("it has pointers"), "{pointers}");
        }
    }

    #[test]
    fn addresses_that_look_like_pointers_are_none() {
        // 192.12.192.12 and the like, in numbers.
        let mut bytes = chained(1, 0);
        let count = 300_u16;
        bytes[6..8].copy_from_slice(&(count + 1).to_be_bytes());
        for number in 0..count {
            bytes.extend([0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, number.to_be_bytes()[1], 192, 12]);
        }
        assert_eq!(parse(&bytes).unwrap().answers.len(), usize::from(count) + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A daemon that can be made to panic by an answer is no filter.
        #[test]
        fn whatever_comes_is_read_or_refused(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            kind in 0_u16..300,
        ) {
            let mut bytes = chained(2, 2);
            let end = bytes.len();
            bytes.extend((0xc000_u16 | 12).to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 1]);
            bytes.extend(u16::try_from(noise.len()).unwrap().to_be_bytes());
            bytes.extend(noise);
            bytes[7] += 1;
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            for bytes in [&bytes[..], &bytes[..end]] {
                // What is read can be written, and is then short enough for a stream.
                if let Ok(message) = parse(bytes) {
                    prop_assert!(message.to_vec().is_ok(), "{message:?}");
                }
            }
        }
    }
}
