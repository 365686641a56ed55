// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes -> text.

/// Why an input is no page with endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// Control characters that no text has.
    #[error("this is binary data, not a page (byte {offset} is a control character)")]
    Binary {
        /// The offset of the first one, from 0.
        offset: usize,
    },
    /// Neither UTF-8 nor UTF-16.
    #[error("byte {offset} is not valid text; save the page as UTF-8")]
    Encoding {
        /// The offset of the first invalid byte, from 0.
        offset: usize,
    },
    /// Nothing on the page is an endpoint.
    #[error(
        "no endpoints found ({tokens} tokens look like a host or an address, none stands in a table or a list of endpoints)"
    )]
    NoEndpoints {
        /// The tokens that were seen and left out.
        tokens: usize,
    },
    /// A feed or a list without any endpoint.
    #[error("no endpoints found ({tokens} entries were left out)")]
    EmptyFeed {
        /// The entries that were left out.
        tokens: usize,
    },
    /// HTML where Markdown is expected.
    #[error(
        "line {line}: this is HTML, not a page's text; take the page's Markdown (on GitHub: \"Raw\"), or save its text"
    )]
    Html {
        /// The line where it begins.
        line: u32,
    },
    /// No JSON, or JSON of another kind.
    #[error("line {line}, column {column}: {problem}")]
    Json {
        /// The line, from 1.
        line: u32,
        /// The character in the line, from 1.
        column: u32,
        /// What is wrong.
        problem: String,
    },
    /// A policy file that can't be read, or with something in it that no set can stand for.
    #[error("line {line}: {problem}")]
    Policy {
        /// The line, from 1.
        line: u32,
        /// What is wrong.
        problem: String,
    },
    /// A file of service tags, and no word about which.
    #[error(
        "this file has {tags} service tags with {prefixes} prefixes; choose with --tags A,B, or take all with --tags '*'"
    )]
    TagsMissing {
        /// How many tags there are.
        tags: usize,
        /// How many prefixes they have.
        prefixes: usize,
    },
    /// A service tag that isn't in the file.
    #[error("--tags {tag}: no such service tag among the {tags} of this file{}", did_you_mean(.near))]
    UnknownTag {
        /// The tag that was asked for.
        tag: String,
        /// Tags that may be meant.
        near: Vec<String>,
        /// How many tags there are.
        tags: usize,
    },
    /// A tenant that can't be part of a name.
    #[error(
        "the tenant is no label of a name: write 1 to 63 letters, digits and dashes, as in \"contoso\""
    )]
    Tenant,
}

/// The text of a page: UTF-8, or UTF-16 with a byte order mark.
///
/// Blanks of all kinds become a plain one and characters without width vanish, so that no reader
/// behind this has to know them; lines stay what they were.
///
/// # Errors
///
/// Where the bytes are no text.
pub fn decode(bytes: &[u8]) -> Result<String, InvalidDocument> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => std::str::from_utf8(bytes)
            .map_err(|error| {
                let offset = error.valid_up_to();
                match first_control(bytes.get(..offset).unwrap_or_default()) {
                    Some(offset) => InvalidDocument::Binary { offset },
                    None => InvalidDocument::Encoding { offset },
                }
            })?
            .to_owned(),
    };
    if let Some(offset) = first_control(text.as_bytes()) {
        return Err(InvalidDocument::Binary { offset });
    }
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}' | '\r' => {}
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{3000}' | '\t' => clean.push(' '),
            other => clean.push(other),
        }
    }
    Ok(clean)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, InvalidDocument> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(InvalidDocument::Encoding { offset: bytes.len() + 1 });
    }
    let mut text = String::with_capacity(pairs.len());
    let mut offset = 2;
    for decoded in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        // The offset is all that the error could add.
        let character = decoded.map_err(|_surrogate| InvalidDocument::Encoding { offset })?;
        offset += character.len_utf16() * 2;
        text.push(character);
    }
    Ok(text)
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; near it: {}", near.join(", ")) }
}

fn first_control(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte < 0x20 && !b"\t\n\r\x0c".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_of_the_same_text_agree() {
        let text = "a\u{a0}b\nc";
        let le: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain(text.encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        let be: Vec<u8> = [0xfe, 0xff]
            .into_iter()
            .chain(text.encode_utf16().flat_map(u16::to_be_bytes))
            .collect();
        for bytes in [le, be, b"\xef\xbb\xbfa b\r\nc".to_vec()] {
            assert_eq!(decode(&bytes).unwrap(), "a b\nc");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_offset() {
        assert_eq!(decode(b"ab\0c"), Err(InvalidDocument::Binary { offset: 2 }));
        assert_eq!(decode(b"\x7fELF\x02\x01\xff"), Err(InvalidDocument::Binary { offset: 4 }));
        assert_eq!(decode(b"abc\xff"), Err(InvalidDocument::Encoding { offset: 3 }));
        assert_eq!(decode(b"\xff\xfea"), Err(InvalidDocument::Encoding { offset: 2 }));
    }
}
