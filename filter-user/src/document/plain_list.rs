// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain lists: one name, address, prefix or URL a line.

use super::{
    Document, EndpointSet, Format, Options, PortSet, PortsFrom, SetState, Stated, Why,
    feed::{Feed, Member, MissingPorts, Takes, printable},
    single,
    token::{self, Kind},
};

/// A line without its blanks.
struct Line<'a> {
    /// The endpoint; empty on a line that is only a comment.
    entry: &'a str,
    entry_offset: usize,
    /// The comment, with its sign.
    comment: &'a str,
    comment_offset: usize,
}

/// Whether a text is such a list: each filled line is a comment or one word, and most of the words
/// are endpoints. A line that holds anything else makes it a page.
pub(super) fn is_list(text: &str) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    for line in lines(text) {
        // A heading of a page, which says more than a comment.
        if line.comment_offset == line.entry_offset && line.comment.starts_with("##") {
            let hashes = line.comment.trim_start_matches('#');
            if hashes.starts_with(' ') && line.comment.len() - hashes.len() <= 6 {
                return false;
            }
        }
        if line.entry.is_empty() {
            continue;
        }
        let one_word =
            !line.entry.contains(char::is_whitespace) && !line.entry.contains(['|', '`']);
        match single::read(line.entry) {
            Ok(_) if one_word => good += 1,
            Err(error) if one_word && line.entry.contains('.') && error.why == Why::Placeholder => {
                good += 1;
            }
            Err(_) if one_word && line.entry.contains(['.', ':']) => bad += 1,
            _ => return false,
        }
    }
    good > bad
}

/// Reads a plain list.
pub(super) fn read(name: &str, text: &str, options: &Options) -> Document {
    let mut feed = Feed::new(text, Format::List, options.tenant.as_deref());
    let mut members = Vec::new();
    for line in lines(text) {
        if !line.entry.is_empty() {
            let (offset, text) = (line.entry_offset, line.entry);
            members.push(Member { offset, text, takes: Takes::Anything });
        }
        for token in token::scan(line.comment, None) {
            if token.kind != Kind::Dotted {
                let offset = line.comment_offset + token.range.start;
                feed.leave_out(offset, &token.text, Why::Comment);
            }
        }
    }
    let description = match name {
        "-" => "a plain list".to_owned(),
        name => format!("the list {}", printable(name)),
    };
    let template = EndpointSet {
        source: 0,
        id: None,
        section: String::new(),
        description,
        category: None,
        required: Stated::Unstated,
        express_route: Stated::Unstated,
        group: None,
        names: Vec::new(),
        prefixes: Vec::new(),
        ports: PortSet::default(),
        ports_from: PortsFrom::Nowhere,
        state: SetState::WithoutPorts,
        lines: (0, 0),
        notes: Vec::new(),
        rule: None,
    };
    feed.add(&template, &members, MissingPorts::Warn);
    feed.finish()
}

/// The lines that hold anything.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |whole| {
        let offset = start + (whole.len() - whole.trim_start().len());
        start += whole.len();
        let line = whole.trim();
        if line.is_empty() {
            return None;
        }
        // A comment begins the line, or stands behind a blank.
        let sign = if line.starts_with(['#', ';']) {
            0
        } else {
            line.find(" #").map_or(line.len(), |blank| blank + 1)
        };
        let (entry, comment) = line.split_at_checked(sign)?;
        Some(Line {
            entry: entry.trim_end(),
            entry_offset: offset,
            comment,
            comment_offset: offset + sign,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_list() {
        for text in [
            "a.example\n",
            "# names\na.example\n\n*.b.example # why\n192.0.2.0/24\nhttps://c.example/x\n",
            "; names\n2001:db8::/32\nd.example:8443",
            "a.example\nb.example\nc..example\n",
            "<tenant>.example.com\n",
        ] {
            assert!(is_list(text), "{text}");
        }
        for text in [
            "",
            "# only a comment\n",
            "One name per line, such as a.example.\n",
            "- a.example\n- b.example\n",
            "* a.example\n* b.example\n",
            "## TCP 443\na.example\n",
            "Hosts\na.example\nb.example\n",
            "a.example\nb.example b.example\n",
            "```\na.example\nb.example\n```\n",
            "---\ntitle: x\n---\na.example\n",
            "|a.example|\n",
            "a..example\n",
        ] {
            assert!(!is_list(text), "{text}");
        }
    }
}
