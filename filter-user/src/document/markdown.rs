// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Markdown page as a flat run of blocks, each with where it stands.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::html;

/// The parts of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) blocks: Vec<Block>,
    /// Targets of links, wherever they stand.
    pub(super) links: Vec<Range<usize>>,
    /// What is struck out.
    pub(super) struck: Vec<Range<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Heading {
        start: usize,
        text: String,
    },
    /// `# [Europe](#tab/europe)`.
    Tab {
        text: String,
    },
    /// A thematic break; it ends a run of tabs.
    Rule,
    Paragraph(Range<usize>),
    /// The first text of a list item.
    Item(Range<usize>),
    Fence(Range<usize>),
    /// The cells of each row of a table in HTML.
    HtmlTable(Vec<Vec<Range<usize>>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Paragraph,
    Item,
}

/// The parts of a page that nobody is meant to read.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden {
    /// HTML comments.
    pub(super) comments: Vec<Range<usize>>,
    /// Comments that nothing closes.
    pub(super) open_comments: Vec<usize>,
    /// The front matter.
    pub(super) metadata: Option<Range<usize>>,
}

/// Reads the structure of a page whose hidden parts are blank.
///
/// Tables stay paragraphs, for `table` to cut.
pub(super) fn read(visible: &str) -> Page {
    let tables = html::tables(visible);
    let without: Vec<Range<usize>> = tables.iter().map(|table| table.range.clone()).collect();
    let text = blank_out(visible, &without);
    let parser = Parser::new_ext(&text, Options::ENABLE_STRIKETHROUGH);
    let mut page = Page::default();
    let definitions = parser.reference_definitions().iter();
    page.links.extend(definitions.map(|(_, definition)| definition.span.clone()));
    page.links.extend(link_tags(visible));
    let mut tables = tables.into_iter().peekable();
    let mut walk = Walk { page, ..Walk::default() };
    for (event, range) in parser.into_offset_iter() {
        while let Some(table) = tables.next_if(|table| table.range.start < range.start) {
            walk.close_run();
            walk.page.blocks.push(Block::HtmlTable(table.rows));
        }
        walk.event(event, range);
    }
    walk.close_run();
    walk.page.blocks.extend(tables.map(|table| Block::HtmlTable(table.rows)));
    walk.page
}

/// The tags of links and images in HTML; where they lead to is no part of the page.
fn link_tags(text: &str) -> Vec<Range<usize>> {
    let mut tags = Vec::new();
    let mut position = 0;
    while let Some(rest) = text.get(position..)
        && let Some(start) = rest.find('<')
    {
        let tag = rest.get(start..).unwrap_or_default();
        // A tag that nothing closes ends with its line, or where the next begins.
        let inside = tag.get(1..).unwrap_or_default();
        let end = match inside.find(['<', '>']) {
            Some(end) if inside.get(end..).is_some_and(|end| end.starts_with('>')) => end + 2,
            open => {
                let inside = inside.get(..open.unwrap_or(inside.len())).unwrap_or_default();
                inside.find('\n').unwrap_or(inside.len()) + 1
            }
        };
        let is_link = ["<a ", "<img ", "<a\n", "<img\n"].iter().any(|link| {
            tag.get(..link.len()).is_some_and(|start| start.eq_ignore_ascii_case(link))
        });
        if is_link {
            tags.push(position + start..position + start + end);
        }
        position += start + end;
    }
    tags
}

/// Finds the parts of a page that nobody is meant to read.
pub(super) fn hidden(text: &str) -> Hidden {
    let mut hidden = Hidden { metadata: front_matter(text), ..Hidden::default() };
    find_comments(text, &mut hidden);
    hidden
}

impl Hidden {
    /// The text with blanks instead of what is hidden; offsets and lines stay.
    pub(super) fn blank_out(&self, text: &str) -> String {
        let mut ranges = self.comments.clone();
        ranges.extend(self.metadata.clone());
        ranges.sort_unstable_by_key(|range| range.start);
        blank_out(text, &ranges)
    }
}

/// The front matter between two lines of dashes at the very start.
fn front_matter(text: &str) -> Option<Range<usize>> {
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let dashes = line.trim_end() == "---";
        if index == 0 && !dashes {
            return None;
        }
        offset += line.len();
        if index > 0 && dashes {
            return Some(0..offset);
        }
    }
    None
}

/// Finds HTML comments outside fenced code.
///
/// Where it is unclear whether something is a comment, it is one: what is left out is reported,
/// what is granted by mistake is not.
fn find_comments(text: &str, page: &mut Hidden) {
    let mut fence: Option<&str> = None;
    let mut open: Option<usize> = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let marker = line.trim_start_matches([' ', '>']);
        let mark = ["```", "~~~"].into_iter().find(|mark| marker.starts_with(mark));
        match (fence, mark) {
            _ if open.is_some() => {}
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, Some(mark)) if !marker.trim_start_matches(['`', '~']).contains(mark) => {
                fence = Some(mark);
            }
            _ => {}
        }
        let mut position = 0;
        while fence.is_none() || open.is_some() {
            let rest = line.get(position..).unwrap_or_default();
            match open {
                None => match rest.find("<!--") {
                    Some(start) => {
                        open = Some(offset + position + start);
                        position += start + 4;
                    }
                    None => break,
                },
                Some(start) => match rest.find("-->") {
                    Some(end) => {
                        position += end + 3;
                        page.comments.push(start..offset + position);
                        open = None;
                    }
                    None => break,
                },
            }
        }
        offset += line.len();
    }
    if let Some(start) = open {
        page.comments.push(start..text.len());
        page.open_comments.push(start);
    }
}

/// The text with blanks instead of some ranges, in order; offsets and lines stay.
fn blank_out(text: &str, ranges: &[Range<usize>]) -> String {
    let mut hidden = ranges.iter().peekable();
    let mut visible = String::with_capacity(text.len());
    for (offset, character) in text.char_indices() {
        while hidden.next_if(|range| range.end <= offset).is_some() {}
        let inside = hidden.peek().is_some_and(|range| range.contains(&offset));
        if character != '\n' && inside {
            visible.extend(std::iter::repeat_n(' ', character.len_utf8()));
        } else {
            visible.push(character);
        }
    }
    visible
}

#[derive(Default)]
struct Walk {
    page: Page,
    /// The text that is being collected.
    run: Option<(Run, Range<usize>)>,
    /// For each open list item, whether its first text has come.
    items: Vec<Run>,
    heading: Option<Heading>,
    fence: Option<Range<usize>>,
    /// Open links: the whole, and the text inside as far as it is known.
    links: Vec<(Range<usize>, Option<Range<usize>>)>,
}

#[derive(Default)]
struct Heading {
    start: usize,
    text: String,
    tab: bool,
}

impl Walk {
    fn event(&mut self, event: Event<'_>, range: Range<usize>) {
        match event {
            Event::Start(tag) => self.start(&tag, range),
            Event::End(tag) => self.end(tag),
            Event::Rule => {
                self.close_run();
                self.page.blocks.push(Block::Rule);
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut self.heading {
                    heading.text.push_str(&text);
                }
                self.inline(range);
            }
            Event::Html(_) => {}
            _ => self.inline(range),
        }
    }

    fn start(&mut self, tag: &Tag<'_>, range: Range<usize>) {
        match tag {
            Tag::Strikethrough => {
                self.page.struck.push(range.clone());
                self.inline(range);
            }
            Tag::Emphasis | Tag::Strong => self.inline(range),
            Tag::Link { dest_url, .. } => {
                if let Some(heading) = &mut self.heading {
                    heading.tab |= dest_url.starts_with("#tab/");
                }
                self.inline(range.clone());
                self.links.push((range, None));
            }
            Tag::Image { .. } => {
                self.inline(range.clone());
                self.links.push((range, None));
            }
            _ => {
                self.close_run();
                match tag {
                    Tag::Item => self.items.push(Run::Item),
                    Tag::Heading { .. } => {
                        self.heading = Some(Heading { start: range.start, ..Heading::default() });
                    }
                    Tag::CodeBlock(_) => self.fence = Some(range.start..range.start),
                    _ => {}
                }
            }
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => {}
            TagEnd::Link | TagEnd::Image => {
                if let Some((whole, inside)) = self.links.pop() {
                    let inside = inside.unwrap_or(whole.start..whole.start);
                    self.page.links.extend([whole.start..inside.start, inside.end..whole.end]);
                }
            }
            TagEnd::Heading(_) => {
                if let Some(Heading { start, text, tab }) = self.heading.take() {
                    let text = text.trim().to_owned();
                    let block =
                        if tab { Block::Tab { text } } else { Block::Heading { start, text } };
                    self.page.blocks.push(block);
                }
            }
            TagEnd::CodeBlock => {
                if let Some(range) = self.fence.take() {
                    self.page.blocks.push(Block::Fence(range));
                }
            }
            TagEnd::Item => {
                self.close_run();
                self.items.pop();
            }
            _ => self.close_run(),
        }
    }

    /// Something inside a line.
    fn inline(&mut self, range: Range<usize>) {
        for (whole, inside) in &mut self.links {
            if *whole != range {
                match inside {
                    Some(inside) => inside.end = inside.end.max(range.end),
                    None => *inside = Some(range.clone()),
                }
            }
        }
        if let Some(fence) = &mut self.fence {
            if fence.start == fence.end {
                *fence = range;
            } else {
                fence.end = fence.end.max(range.end);
            }
        } else if self.heading.is_none() {
            match &mut self.run {
                Some((_, run)) => run.end = run.end.max(range.end),
                None => {
                    let kind = self.items.last().copied().unwrap_or(Run::Paragraph);
                    self.run = Some((kind, range));
                }
            }
        }
    }

    fn close_run(&mut self) {
        if let Some((kind, range)) = self.run.take() {
            self.page.blocks.push(match kind {
                Run::Paragraph => Block::Paragraph(range),
                Run::Item => Block::Item(range),
            });
            if let Some(item) = self.items.last_mut() {
                *item = Run::Paragraph;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<String> {
        read(text)
            .blocks
            .into_iter()
            .map(|block| match block {
                Block::Heading { text, .. } => format!("heading {text}"),
                Block::Tab { text } => format!("tab {text}"),
                Block::Rule => "rule".to_owned(),
                Block::Paragraph(range) => format!("paragraph {}", &text[range]),
                Block::Item(range) => format!("item {}", &text[range]),
                Block::Fence(range) => format!("fence {}", text[range].trim_end()),
                Block::HtmlTable(rows) => {
                    let cells = |row: &Vec<Range<usize>>| {
                        row.iter().map(|cell| &text[cell.clone()]).collect::<Vec<_>>().join(" ¦ ")
                    };
                    format!("html {}", rows.iter().map(cells).collect::<Vec<_>>().join(" | "))
                }
            })
            .collect()
    }

    #[test]
    fn a_row_without_its_outer_pipes_is_a_row() {
        assert_eq!(
            blocks("| ID |Desc |P|\n|--|--|--|\n181 | x| `a.com`<BR>`b.com |\n"),
            ["paragraph | ID |Desc |P|\n|--|--|--|\n181 | x| `a.com`<BR>`b.com |"]
        );
    }

    #[test]
    fn tabs_items_and_fences() {
        assert_eq!(
            blocks(
                "## S\n# [Europe](#tab/europe)\n\n- 'https://a.net'\n\n- b.net - text\n  > [!NOTE]\n  > c\n\n---\nX\n```\na\nb\n```\n"
            ),
            [
                "heading S",
                "tab Europe",
                "item 'https://a.net'",
                "item b.net - text",
                "paragraph [!NOTE]\n  > c",
                "rule",
                "paragraph X",
                "fence a\nb",
            ]
        );
    }

    #[test]
    fn comments_hide_tables_and_fences_hide_comments() {
        let text = "<!-- x\n\n|A|\n|-|\n|b.com|\n-->\n```\n<!-- no\n```\nend <!-- open";
        let hidden = hidden(text);
        assert_eq!(hidden.comments.len(), 2);
        assert_eq!(hidden.open_comments.len(), 1);
        assert!(!blocks(&hidden.blank_out(text)).iter().any(|block| block.contains('|')));
    }

    #[test]
    fn links_are_told_from_their_texts() {
        let text = "[a.com](https://b.com) <https://c.com>\n\n[x]: https://d.com\n";
        let inside = |needle: &str| {
            let offset = text.find(needle).unwrap();
            read(text).links.iter().any(|link| link.contains(&offset))
        };
        assert!(!inside("a.com"));
        assert!(inside("b.com") && !inside("c.com"));
    }
}
