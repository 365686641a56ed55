// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of the wire and names of the policy.

use hickory_proto::rr::Name;

use crate::{names::LookupFailure, policy::Fqdn};

/// A name as it is asked for.
pub(super) fn to_name(name: &Fqdn) -> Result<Name, LookupFailure> {
    let labels = name.as_str().split('.').map(str::as_bytes);
    let mut name = Name::from_labels(labels)
        .map_err(|error| LookupFailure::Other(format!("the name can't be asked for: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

/// The name as rules know it: labels of ASCII letters, digits, '-' and '_'.
///
/// Whatever else stands in a label, a dot, a zero byte or a letter that only looks like an ASCII
/// one, makes it none: nothing is escaped, mapped or folded but the case of ASCII letters.
pub(super) fn fqdn(name: &Name) -> Option<Fqdn> {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
    let mut text = String::with_capacity(usize::from(u8::MAX));
    for label in name.iter() {
        if !label.iter().all(is_usual) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(*byte)));
    }
    Fqdn::try_from(text.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        let check = |labels: &[&[u8]], expected: Option<&str>| {
            let mut name = Name::from_labels(labels.iter().copied()).unwrap();
            name.set_fqdn(true);
            assert_eq!(fqdn(&name).as_ref().map(Fqdn::as_str), expected, "{labels:?}");
        };
        check(&[b"WWW", b"Example", b"com"], Some("www.example.com"));
        check(&[b"_sip", b"xn--bcher-kva", b"example"], Some("_sip.xn--bcher-kva.example"));
        // A dot, a zero byte, a star or an escape within a label.
        check(&[b"www.example", b"com"], None);
        check(&[b"www\0", b"example", b"com"], None);
        check(&[b"*", b"example", b"com"], None);
        check(&[b"a\\046b", b"example", b"com"], None);
        // Letters that become ASCII ones where case is folded or width is mapped.
        check(&["\u{212a}".as_bytes(), b"example", b"com"], None);
        check(&["\u{17f}".as_bytes(), b"example", b"com"], None);
        check(&["\u{ff57}".as_bytes(), b"example", b"com"], None);
        check(&[b"com"], None);
        check(&[], None);
    }

    #[test]
    fn names_go_to_the_wire_and_come_back() {
        for text in ["a.example.com", "xn--bcher-kva.example", "_a-b.c.example.com"] {
            let name = Fqdn::try_from(text).unwrap();
            assert_eq!(fqdn(&to_name(&name).unwrap()), Some(name));
        }
    }
}
