// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTML entities in a page, as far as names, addresses and the words around them have them.

/// Named entities and what they stand for.
const NAMED: [(&str, &str); 22] = [
    ("nbsp", " "),
    ("ensp", " "),
    ("emsp", " "),
    ("thinsp", " "),
    ("amp", "&"),
    ("quot", "\""),
    ("apos", "'"),
    ("ast", "*"),
    ("midast", "*"),
    ("period", "."),
    ("comma", ","),
    ("colon", ":"),
    ("semi", ";"),
    ("sol", "/"),
    ("lowbar", "_"),
    ("hyphen", "-"),
    ("dash", "-"),
    ("num", "#"),
    ("lpar", "("),
    ("rpar", ")"),
    ("shy", ""),
    ("ZeroWidthSpace", ""),
];

/// The longest entity, without `&` and `;`.
const LONGEST: usize = 16;

/// The text with its entities resolved; what would become markup stays as it is.
///
/// `&lt;tenant&gt;` becomes `<tenant>`, but only where the words between are no tag.
pub(super) fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(mark) = rest.find('&') {
        decoded.push_str(rest.get(..mark).unwrap_or_default());
        rest = rest.get(mark..).unwrap_or_default();
        match entity(rest) {
            Some((plain, length)) => {
                decoded.push_str(&plain);
                rest = rest.get(length..).unwrap_or_default();
            }
            None => {
                decoded.push('&');
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The text that an entity at the start stands for, and its length.
fn entity(text: &str) -> Option<(String, usize)> {
    let near = text.as_bytes().get(1..text.len().min(LONGEST + 2))?;
    let end = near.iter().position(|byte| *byte == b';')? + 1;
    let name = text.get(1..end)?;
    let length = end + 1;
    if name == "lt" {
        return filler(text.get(length..)?)
            .map(|(word, behind)| (format!("<{word}>"), length + behind));
    }
    if let Some((_, plain)) = NAMED.iter().find(|(entity, _)| *entity == name) {
        return Some(((*plain).to_owned(), length));
    }
    let number = name.strip_prefix('#')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    let character = char::from_u32(code)?;
    let plain = match character {
        '\u{a0}' => " ".to_owned(),
        '\u{ad}' | '\u{200b}'..='\u{200f}' => String::new(),
        // A pipe, a bracket or a back-tick would change the structure of the page.
        c if c.is_alphanumeric() || " .*-_/:,;#'\"&()".contains(c) => c.to_string(),
        _ => return None,
    };
    Some((plain, length))
}

/// The word in front of `&gt;`, if it is something to fill in.
fn filler(text: &str) -> Option<(&str, usize)> {
    let word: usize = text
        .chars()
        .take(48)
        .take_while(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(char::len_utf8)
        .sum();
    let found = text.get(..word).filter(|word| !word.is_empty())?;
    text.get(word..)?.starts_with("&gt;").then_some((found, word + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_become_what_they_stand_for() {
        for (text, expected) in [
            ("&#42;.a.com&nbsp;b", "*.a.com b"),
            ("&#x2A;.a.com", "*.a.com"),
            ("R&amp;D & more; x", "R&D & more; x"),
            ("&lt;tenant&gt;.a.com", "<tenant>.a.com"),
            ("&lt;!-- a --&gt;", "&lt;!-- a --&gt;"),
            ("&#124; &#96;", "&#124; &#96;"),
            ("a&shy;b&", "ab&"),
        ] {
            assert_eq!(decode(text), expected);
        }
    }
}
