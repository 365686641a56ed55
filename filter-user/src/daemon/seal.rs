// SPDX-License-Identifier: MIT OR Apache-2.0
//! State files that tell whether they are whole.
//!
//! What was cut short, or has a flipped bit, may still be JSON that says something else: an address
//! with another digit would be allowed. So each file begins with a line that names its kind, the
//! version of its layout and the SHA-256 of the rest, and each line of a log with a part of its own.

use ring::digest::{SHA256, digest};

/// What the first line begins with.
const MAGIC: &str = "sluice-state";

/// Digits of the digest before each line of a log.
const LINE_DIGITS: usize = 16;

/// Why a file can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// There is no first line, or it is not ours.
    #[error("it doesn't begin as a state file does")]
    NoSeal,
    /// It is another file.
    #[error("it is a file of another kind")]
    OtherKind,
    /// Another version of Sluice wrote it.
    #[error("it was written by another version of Sluice (layout {0})")]
    OtherVersion(u32),
    /// It isn't what was written.
    #[error("it was cut short or changed")]
    OtherContent,
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file with its first line.
pub(super) fn seal(kind: &str, version: u32, body: &[u8]) -> Vec<u8> {
    let mut sealed = format!("{MAGIC} {kind} {version} {}\n", sha256(body)).into_bytes();
    sealed.extend_from_slice(body);
    sealed
}

/// What stands behind the first line.
pub(super) fn unseal<'b>(kind: &str, version: u32, bytes: &'b [u8]) -> Result<&'b [u8], Broken> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Broken::NoSeal)?;
    let (line, rest) = bytes.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_not_text| Broken::NoSeal)?;
    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Broken::NoSeal);
    }
    if words.next() != Some(kind) {
        return Err(Broken::OtherKind);
    }
    let found: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(Broken::NoSeal)?;
    if found != version {
        return Err(Broken::OtherVersion(found));
    }
    if words.next() != Some(sha256(body).as_str()) || words.next().is_some() {
        return Err(Broken::OtherContent);
    }
    Ok(body)
}

/// A line of a log, ended.
pub(super) fn seal_line(line: &[u8]) -> Vec<u8> {
    let digits = sha256(line);
    let mut sealed = digits.get(..LINE_DIGITS).unwrap_or_default().as_bytes().to_vec();
    sealed.push(b' ');
    sealed.extend_from_slice(line);
    sealed.push(b'\n');
    sealed
}

/// What a line of a log says, without its end.
pub(super) fn unseal_line(line: &[u8]) -> Result<&[u8], Broken> {
    let (digits, rest) = line.split_at_checked(LINE_DIGITS).ok_or(Broken::OtherContent)?;
    let body = rest.strip_prefix(b" ").ok_or(Broken::OtherContent)?;
    if sha256(body).as_bytes().get(..LINE_DIGITS) != Some(digits) {
        return Err(Broken::OtherContent);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_sealed_is_found(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let sealed = seal("k", 3, &body);
            prop_assert_eq!(unseal("k", 3, &sealed).unwrap(), body.as_slice());
        }

        #[test]
        fn nothing_that_was_changed_is_believed(
            body in prop::collection::vec(any::<u8>(), 0..100),
            place in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let whole = seal("names", 1, &body);
            let mut changed = whole.clone();
            changed[place.index(whole.len())] ^= 1 << bit;
            prop_assert!(unseal("names", 1, &changed).is_err());
            prop_assert!(unseal("names", 1, &whole[..place.index(whole.len())]).is_err());
        }
    }

    #[test]
    fn lines_are_believed_only_as_they_were_written() {
        let line = seal_line(b"{\"a\":1}");
        let line = line.strip_suffix(b"\n").unwrap();
        assert_eq!(unseal_line(line).unwrap(), b"{\"a\":1}");
        for place in 0..line.len() {
            assert!(unseal_line(&line[..place]).is_err(), "cut at {place}");
            let mut changed = line.to_vec();
            changed[place] ^= 1;
            assert!(unseal_line(&changed).is_err(), "changed at {place}");
        }
    }

    #[test]
    fn kinds_and_versions_are_told_apart() {
        let sealed = seal("names", 2, b"x");
        assert_eq!(unseal("counters", 2, &sealed), Err(Broken::OtherKind));
        assert_eq!(unseal("names", 1, &sealed), Err(Broken::OtherVersion(2)));
        assert_eq!(unseal("names", 2, b"{}"), Err(Broken::NoSeal));
        assert_eq!(unseal("names", 2, b""), Err(Broken::NoSeal));
    }
}
