// SPDX-License-Identifier: MIT OR Apache-2.0
//! From blocks and tokens to endpoint sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Range, RangeInclusive},
};

use ipnet::IpNet;

use super::{
    Category, Document, EndpointSet, Format, Imported, LeftOut, NO_PORTS, Note, Options, PortSet,
    PortsFrom, SetState, Source, Stated, Warning, Why, entities, flat, list,
    markdown::{self, Block},
    plain,
    ports::{self, Reading},
    prose::{self, Lead},
    table::{self, Found},
    template,
    token::{self, Host, HostBits, Kind, Token, Url},
    words,
};

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody has claimed it.
    Pending,
    /// It is in a draft.
    Member,
    LeftOut(Why),
    /// It is only a word with dots in it.
    Word,
}

/// Where a draft comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DraftKind {
    /// A row of a table.
    Row,
    /// Items of a list.
    List,
    /// A fenced list; where most of it stands elsewhere too, it sums the page up.
    Consolidated,
}

/// Endpoints that stand together; their ports may still differ or be unknown.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: DraftKind,
    pub(super) id: Option<u32>,
    /// The number of the heading that it stands under.
    pub(super) section: usize,
    pub(super) description: String,
    pub(super) category: Option<Category>,
    pub(super) required: Stated,
    pub(super) express_route: Stated,
    pub(super) group: Option<String>,
    /// Indices of tokens.
    pub(super) members: Vec<usize>,
    pub(super) ports: Option<(PortSet, PortsFrom)>,
    pub(super) lines: (u32, u32),
    pub(super) notes: Vec<Note>,
}

/// The page while it is read.
pub(super) struct Reader<'a> {
    text: &'a str,
    /// The offset of each line's start.
    line_starts: Vec<usize>,
    pub(super) tokens: Vec<Token>,
    fates: Vec<Fate>,
    drafts: Vec<Draft>,
    warnings: Vec<Warning>,
    /// The texts of the headings; the first is what stands before any.
    sections: Vec<String>,
    section_ports: Option<PortSet>,
    /// Remarks on a whole section, and on the sets that hold some names.
    section_notes: BTreeMap<usize, Vec<Note>>,
    name_notes: BTreeMap<String, Vec<Note>>,
    tab: Option<String>,
    pub(super) lead: Lead,
    pub(super) documentation_section: bool,
    /// The names that a token with a number to fill in stands for.
    pub(super) expansions: BTreeMap<usize, Vec<String>>,
}

/// What endpoints have in common to be in one set.
type PartKey = (PortSet, PortsFrom);

/// Members of a draft that have the same ports.
#[derive(Debug)]
struct Part {
    draft: Draft,
    key: PartKey,
}

/// What parts of one set have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Same {
    /// ID, ports and the facts of the row.
    Row(u32, PortSet, (Option<Category>, Stated, Stated, Option<String>)),
    /// Heading, tab and ports.
    List(usize, Option<String>, PartKey),
}

/// The members of a draft by their ports, with the lines that the ports were taken from.
type Parts = BTreeMap<PartKey, (Vec<usize>, BTreeSet<u32>)>;

/// For each endpoint, what rows, sections and schemes give it.
type Known = BTreeMap<String, Given>;

/// The ports that several places of a page give an endpoint.
struct Given {
    /// All of them together.
    ports: PortSet,
    /// The first places, by line.
    places: BTreeMap<u32, PortSet>,
    agreement: Agreement,
}

/// Whether all places give the same ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Same,
    Differs,
}

/// The most names that one warning lists.
const LISTED: usize = 8;

/// The longest remark that is kept, in characters, and the most names that it is kept for.
///
/// They bound what a page can make of its own length.
const LONGEST_NOTE: usize = 400;
const NAMES_OF_A_NOTE: usize = 32;

/// The most ports and ranges that a list takes from elsewhere on the page.
const MOST_SPANS: usize = 256;

/// The longest heading, description or group that is kept, in characters.
const LONGEST_TEXT: usize = 300;

/// The least size of a list that can sum a page up.
const CONSOLIDATED: usize = 10;

/// Reads a page.
pub(super) fn document(text: &str, options: &Options) -> Document {
    let text = entities::decode(text);
    let hidden = markdown::hidden(&text);
    let visible = hidden.blank_out(&text);
    let copied = hidden.metadata.is_none() && hidden.comments.is_empty() && plain::is_plain(&text);
    let page = if copied { plain::read(&visible) } else { markdown::read(&visible) };
    let tokens = token::scan(&text, options.tenant.as_deref());
    let mut reader = Reader {
        text: &visible,
        line_starts: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(offset, _)| offset + 1))
            .collect(),
        fates: vec![Fate::Pending; tokens.len()],
        tokens,
        drafts: Vec::new(),
        warnings: Vec::new(),
        sections: vec![String::new()],
        section_ports: None,
        section_notes: BTreeMap::new(),
        name_notes: BTreeMap::new(),
        tab: None,
        lead: Lead::Endpoints,
        documentation_section: false,
        expansions: BTreeMap::new(),
    };
    for start in &hidden.open_comments {
        let line = reader.line(*start);
        reader.warn(line, "this comment is never closed; the rest is left out".to_owned());
    }
    for (ranges, why) in [
        (hidden.metadata.as_slice(), Why::Metadata),
        (&hidden.comments, Why::Comment),
        (&page.links, Why::Link),
        (&page.struck, Why::Mention),
    ] {
        for range in ranges {
            for index in reader.pending(range) {
                reader.settle(index, Fate::LeftOut(why));
            }
        }
    }
    for block in &page.blocks {
        reader.block(block);
    }
    for line in 0..reader.line_starts.len() {
        if let Some(range) = reader.line_range(line) {
            reader.prose(&range);
        }
    }
    let metadata = hidden.metadata.and_then(|range| text.get(range)).unwrap_or_default();
    let (title, date) = (front_matter(metadata, "title"), front_matter(metadata, "ms.date"));
    let title = title.or_else(|| {
        page.blocks.iter().find_map(|block| match block {
            Block::Heading { text, .. } => Some(text.clone()),
            _ => None,
        })
    });
    reader.finish(title, date)
}

fn front_matter(metadata: &str, key: &str) -> Option<String> {
    metadata.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.trim_start().strip_prefix(':')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    })
}

// === impl Reader: what the readers of blocks use ===

impl<'a> Reader<'a> {
    pub(super) fn slice(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> u32 {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// The lines that a range touches, cut to it, without their ends.
    pub(super) fn lines_of(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let mut start = range.start;
        self.slice(range)
            .split_inclusive('\n')
            .map(|line| {
                let this = start..start + line.trim_end().len();
                start += line.len();
                this
            })
            .collect()
    }

    fn line_range(&self, index: usize) -> Option<Range<usize>> {
        let start = *self.line_starts.get(index)?;
        Some(start..self.line_starts.get(index + 1).copied().unwrap_or(self.text.len()))
    }

    /// The tokens that begin in a range and that nobody has claimed.
    pub(super) fn pending(&self, range: &Range<usize>) -> Vec<usize> {
        let first = self.tokens.partition_point(|token| token.range.start < range.start);
        let last = self.tokens.partition_point(|token| token.range.start < range.end);
        (first..last).filter(|index| self.fates.get(*index) == Some(&Fate::Pending)).collect()
    }

    pub(super) fn settle(&mut self, index: usize, fate: Fate) {
        if let Some(slot) = self.fates.get_mut(index) {
            *slot = fate;
        }
    }

    pub(super) fn draft(&self, kind: DraftKind) -> Draft {
        Draft {
            kind,
            id: None,
            section: self.sections.len() - 1,
            description: String::new(),
            category: None,
            required: Stated::Unstated,
            express_route: Stated::Unstated,
            group: self.tab.clone(),
            members: Vec::new(),
            // A row has a cell for its ports; a sentence above the table is not about the rows.
            ports: match kind {
                DraftKind::Row => None,
                DraftKind::List | DraftKind::Consolidated => {
                    self.section_ports.clone().map(|ports| (ports, PortsFrom::Section))
                }
            },
            lines: (0, 0),
            notes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, mut draft: Draft) {
        let cut = |text: &mut String| {
            if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
                text.truncate(end);
            }
        };
        cut(&mut draft.description);
        draft.group.iter_mut().for_each(cut);
        if !draft.members.is_empty() {
            self.drafts.push(draft);
        }
    }

    /// What a piece of the page says about the numbers that a `#` in a name stands for.
    pub(super) fn numbers_in(&self, range: &Range<usize>) -> Option<RangeInclusive<u32>> {
        let text = self.slice(range);
        text.contains('#').then(|| template::numbers(&prose::plain(text))).flatten()
    }

    pub(super) fn warn(&mut self, line: u32, text: String) {
        self.warnings.push(Warning { source: 0, line, text });
    }

    /// Settles what is still unclaimed in a piece of prose.
    pub(super) fn prose(&mut self, range: &Range<usize>) {
        if self.pending(range).is_empty() {
            return;
        }
        let text = self.slice(range);
        for sentence in prose::sentences(text) {
            // Targets of links have words in them that nobody reads.
            let words = prose::plain(text.get(sentence.clone()).unwrap_or_default());
            let topic = prose::topic(&words);
            for index in self.pending(&(range.start + sentence.start..range.start + sentence.end)) {
                let Some(token) = self.tokens.get(index) else { continue };
                let linked = self.slice(&(0..token.range.start)).ends_with('<');
                let fate = match prose::why(token, topic) {
                    None => Fate::Word,
                    Some(_) if linked => Fate::LeftOut(Why::Link),
                    Some(Why::Mention) if self.documentation_section => {
                        Fate::LeftOut(Why::Documentation)
                    }
                    Some(why) => Fate::LeftOut(why),
                };
                self.settle(index, fate);
            }
        }
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::Heading { text, .. } => {
                self.sections.push(text.chars().take(LONGEST_TEXT).collect());
                self.section_ports = None;
                self.tab = None;
                self.lead = Lead::Endpoints;
                self.documentation_section = words::is_documentation_heading(text);
            }
            Block::Tab { text } => {
                self.tab = Some(text.chars().take(LONGEST_TEXT).collect());
                self.lead = Lead::Endpoints;
            }
            Block::Rule => {
                self.tab = None;
                self.lead = Lead::Endpoints;
            }
            Block::Paragraph(range) => self.paragraph(range),
            Block::Item(range) => {
                self.remember_inspection(range);
                list::item(self, range);
            }
            Block::Fence(range) => list::fence(self, range),
            Block::HtmlTable(rows) => {
                table::html(self, rows);
                self.lead = Lead::Endpoints;
            }
        }
    }

    fn paragraph(&mut self, range: &Range<usize>) {
        if list::paragraph(self, range) == list::Claimed::Yes {
            return;
        }
        if table::paragraph(self, range) == Found::Table
            || flat::paragraph(self, range) == Found::Table
        {
            self.lead = Lead::Endpoints;
            return;
        }
        self.remember_inspection(range);
        let text = self.slice(range);
        let mut ports = PortSet::default();
        for place in prose::sentences(text) {
            let sentence = text.get(place.clone()).unwrap_or_default();
            let phrase = ports::read(sentence, Reading::Sentence);
            if prose::gives_ports(sentence) {
                // A sentence that names endpoints gives its ports to those, not to a list below.
                if !self.names_endpoints(&(range.start + place.start..range.start + place.end)) {
                    ports.extend(&phrase.ports);
                }
            } else if words::is_peer_to_peer(sentence) && !phrase.ports.is_empty() {
                self.note_section(Note::Remark(prose::plain(sentence)));
            }
        }
        // The nearest sentence above a list is the one that is about it.
        if !ports.is_empty() {
            self.section_ports = Some(ports);
        }
        self.lead = prose::lead(text);
        self.prose(range);
    }

    /// Whether a sentence has endpoints in it, and not only products called after a name.
    fn names_endpoints(&self, sentence: &Range<usize>) -> bool {
        self.pending(sentence).into_iter().filter_map(|index| self.tokens.get(index)).any(|token| {
            matches!(token.kind, Kind::Name | Kind::Url(_) | Kind::Net(_))
                && prose::why(token, prose::Topic::Anything) != Some(Why::ProductName)
        })
    }

    /// Keeps what a text says about inspection and proxies, for the sets that it is about.
    fn remember_inspection(&mut self, range: &Range<usize>) {
        let text = self.slice(range);
        for sentence in prose::sentences(text) {
            let words = prose::plain(text.get(sentence.clone()).unwrap_or_default());
            if !words::is_inspection(&words) || words::is_reference(&words) {
                continue;
            }
            let words: String = prose::without_alert(&words).chars().take(LONGEST_NOTE).collect();
            let note = Note::Remark(words);
            let names: BTreeSet<String> = self
                .pending(&(range.start + sentence.start..range.start + sentence.end))
                .into_iter()
                .filter_map(|index| self.tokens.get(index).map(|token| token.text.clone()))
                .collect();
            if names.is_empty() {
                self.note_section(note);
            } else {
                for name in names.into_iter().take(NAMES_OF_A_NOTE) {
                    remember(self.name_notes.entry(name).or_default(), note.clone());
                }
            }
        }
    }

    fn note_section(&mut self, note: Note) {
        remember(self.section_notes.entry(self.sections.len() - 1).or_default(), note);
    }
}

// === impl Reader: the end ===

impl Reader<'_> {
    fn finish(mut self, title: Option<String>, date: Option<String>) -> Document {
        let known = self.known();
        let mut parts = Vec::new();
        for draft in std::mem::take(&mut self.drafts) {
            self.split(draft, &known, &mut parts);
        }
        let mut parts = self.merge(parts);
        parts.sort_by(|a, b| (a.draft.lines, &a.key).cmp(&(b.draft.lines, &b.key)));
        let mut sets = Vec::new();
        let mut imported = Vec::new();
        for part in &parts {
            let set = self.set(part, sets.len(), &mut imported);
            sets.push(set);
        }
        self.compare_consolidated(&parts, &sets, &imported);
        imported.sort_by_key(|(index, _)| *index);
        let left_out = self
            .tokens
            .iter()
            .zip(&self.fates)
            .filter_map(|(token, fate)| match fate {
                Fate::LeftOut(why) if token.kind != Kind::Dotted || *why == Why::Broken => {
                    Some(LeftOut {
                        source: 0,
                        line: token.line,
                        token: token.text.clone(),
                        why: *why,
                    })
                }
                _ => None,
            })
            .collect();
        self.warnings.sort();
        self.warnings.dedup();
        Document {
            sources: vec![Source {
                name: String::new(),
                format: Format::Page,
                title,
                date,
                head: Vec::new(),
            }],
            endpoint_sets: sets,
            imported: imported.into_iter().map(|(_, imported)| imported).collect(),
            left_out,
            warnings: self.warnings,
        }
    }

    /// The ports of each endpoint whose own place on the page says them.
    fn known(&mut self) -> Known {
        let mut known = Known::new();
        for draft in &self.drafts {
            for token in draft.members.iter().filter_map(|index| self.tokens.get(*index)) {
                let Some((ports, _)) = own_ports(draft, token) else { continue };
                known
                    .entry(token.text.clone())
                    .and_modify(|given: &mut Given| given.add(&ports, token.line))
                    .or_insert_with(|| Given {
                        ports: ports.clone(),
                        places: BTreeMap::from([(token.line, ports)]),
                        agreement: Agreement::Same,
                    });
            }
        }
        for (name, given) in &known {
            if given.ports.tcp.len() + given.ports.udp.len() > MOST_SPANS {
                let line = given.places.keys().next().copied().unwrap_or(1);
                let text = format!(
                    "{name} has more than {MOST_SPANS} ports and ranges on this page; lists without ports don't take them"
                );
                self.warnings.push(Warning { source: 0, line, text });
            }
        }
        known.retain(|_, given| given.ports.tcp.len() + given.ports.udp.len() <= MOST_SPANS);
        known
    }

    /// Splits a draft by the ports of its members.
    fn split(&mut self, draft: Draft, known: &Known, parts: &mut Vec<Part>) {
        let mut split = Parts::new();
        let mut differing: BTreeMap<PartKey, Vec<Note>> = BTreeMap::new();
        for index in &draft.members {
            let Some(token) = self.tokens.get(*index) else { continue };
            let given = known.get(&token.text);
            let (key, given) = match (own_ports(&draft, token), given) {
                (Some(own), _) => (own, None),
                (None, Some(given)) => {
                    let key = (given.ports.clone(), PortsFrom::SameEndpoint);
                    if given.agreement == Agreement::Differs {
                        let text = format!("{}: all ports of {}", token.text, given.list());
                        differing.entry(key.clone()).or_default().push(Note::Finding(text));
                    }
                    (key, Some(given))
                }
                (None, None) => ((PortSet::default(), PortsFrom::Nowhere), None),
            };
            let (members, from) = split.entry(key).or_default();
            members.push(*index);
            from.extend(given.iter().flat_map(|given| given.places.keys()));
        }
        let mut draft = draft;
        if split.len() > 1 {
            // Each of the parts gets them all.
            draft.notes.truncate(LISTED);
        }
        for (key, (members, from)) in split {
            let mut part = Part { draft: Draft { members, ..draft.clone() }, key };
            if part.draft.kind != DraftKind::Row {
                let lines = part.draft.members.iter().filter_map(|index| self.tokens.get(*index));
                let (mut first, mut last) = (u32::MAX, 0);
                for line in lines.map(|token| token.line) {
                    first = first.min(line);
                    last = last.max(line);
                }
                part.draft.lines = (first, last);
            }
            if part.key.1 == PortsFrom::SameEndpoint {
                let from: Vec<String> = from.iter().map(u32::to_string).collect();
                let word = if from.len() == 1 { "line" } else { "lines" };
                let from = from.join(", ");
                let text = format!("ports from the same endpoints at {word} {from}");
                part.draft.notes.push(Note::Finding(text));
            }
            part.draft.notes.extend(differing.remove(&part.key).unwrap_or_default());
            parts.push(part);
        }
    }

    /// Joins what is one set: rows with the same ID that agree, lists under one heading.
    fn merge(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let mut merged: Vec<Part> = Vec::new();
        let mut known: BTreeMap<Same, usize> = BTreeMap::new();
        // For each ID, the line, the ports and the number of its first part.
        let mut first: BTreeMap<u32, (u32, PortSet)> = BTreeMap::new();
        for part in parts {
            let draft = &part.draft;
            let same = match (draft.kind, draft.id) {
                (DraftKind::Row, None) => {
                    merged.push(part);
                    continue;
                }
                (DraftKind::Row, Some(id)) => Same::Row(
                    id,
                    part.key.0.clone(),
                    (draft.category, draft.required, draft.express_route, draft.group.clone()),
                ),
                (DraftKind::List | DraftKind::Consolidated, _) => {
                    Same::List(draft.section, draft.group.clone(), part.key.clone())
                }
            };
            if let Some(other) = known.get(&same).and_then(|index| merged.get_mut(*index)) {
                join(&mut other.draft, part.draft);
                continue;
            }
            if let Some(id) = draft.id {
                match first.get(&id) {
                    Some((line, ports)) if *line != draft.lines.0 => {
                        let what = if *ports == part.key.0 {
                            "another category, group or requirement"
                        } else {
                            "other ports"
                        };
                        let text = format!(
                            "ID {id} stands at line {line} too, with {what}; both are kept apart"
                        );
                        self.warn(draft.lines.0, text);
                    }
                    Some(_) => {}
                    None => {
                        first.insert(id, (draft.lines.0, part.key.0.clone()));
                    }
                }
            }
            known.insert(same, merged.len());
            merged.push(part);
        }
        merged
    }

    /// Makes the set of a part, and settles its tokens.
    fn set(
        &mut self,
        part: &Part,
        number: usize,
        imported: &mut Vec<(usize, Imported)>,
    ) -> EndpointSet {
        let Part { draft, key: (ports, from) } = part;
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        let mut prefixes: Vec<IpNet> = Vec::new();
        for index in &draft.members {
            let Some(token) = self.tokens.get(*index) else { continue };
            let line = token.line;
            let import = |token: String| (*index, Imported { source: 0, line, token, set: number });
            if let Some(expanded) = self.expansions.get(index) {
                let new = expanded.iter().filter(|name| seen.insert((*name).clone()));
                names.extend(new.cloned());
                imported.push(import(token.text.clone()));
                continue;
            }
            if !seen.insert(token.text.clone()) {
                self.settle(*index, Fate::LeftOut(Why::Duplicate));
                continue;
            }
            match &token.kind {
                Kind::Net(net) => {
                    prefixes.push(net.net);
                    if net.host_bits == HostBits::Dropped {
                        let written = self.slice(&token.range);
                        let text =
                            format!("{written} has host bits set; it is taken as {}", token.text);
                        self.warnings.push(Warning { source: 0, line, text });
                    }
                }
                Kind::Url(Url { host: Host::Net(net), .. }) => prefixes.push(net.net),
                _ => names.push(token.text.clone()),
            }
            imported.push(import(token.text.clone()));
        }
        let about_section = self.section_notes.get(&draft.section).into_iter().flatten();
        let about_names = seen.iter().filter_map(|name| self.name_notes.get(name)).flatten();
        let mut said = BTreeSet::new();
        let members = draft.members.iter().filter_map(|index| self.tokens.get(*index));
        let paths: Vec<Note> = members.filter_map(prose::path_note).collect();
        let notes: Vec<Note> = draft
            .notes
            .iter()
            .chain(&paths)
            .chain(about_section)
            .chain(about_names)
            .filter(|note| said.insert(*note))
            .cloned()
            .collect();
        let section = self.sections.get(draft.section).cloned().unwrap_or_default();
        let description = match draft.description.as_str() {
            "" => section.clone(),
            description => description.to_owned(),
        };
        let state = if ports.is_empty() {
            let names: Vec<&str> = seen.iter().map(String::as_str).collect();
            self.warnings.push(Warning {
                source: 0,
                line: draft.lines.0,
                text: format!("{NO_PORTS}{}; written disabled", some_of(&names)),
            });
            SetState::WithoutPorts
        } else {
            SetState::Enabled
        };
        EndpointSet {
            source: 0,
            id: draft.id,
            section,
            description,
            category: draft.category,
            required: draft.required,
            express_route: draft.express_route,
            group: draft.group.clone(),
            names,
            prefixes,
            ports: ports.clone(),
            ports_from: *from,
            state,
            lines: draft.lines,
            notes,
            rule: None,
        }
    }

    /// Warns where a list that sums the page up and the rest of the page disagree.
    fn compare_consolidated(
        &mut self,
        parts: &[Part],
        sets: &[EndpointSet],
        imported: &[(usize, Imported)],
    ) {
        let mut by_section: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        let mut elsewhere: BTreeSet<&str> = BTreeSet::new();
        for (_, token) in imported {
            let Some(part) = parts.get(token.set) else { continue };
            if part.draft.kind == DraftKind::Consolidated {
                by_section.entry(part.draft.section).or_default().insert(&token.token);
            } else {
                elsewhere.insert(&token.token);
            }
        }
        let is_net = |text: &str| text.parse::<IpNet>().is_ok();
        for (section, listed) in by_section {
            let common = listed.intersection(&elsewhere).count();
            if listed.len() < CONSOLIDATED || common * 2 < listed.len() {
                continue;
            }
            let line = parts
                .iter()
                .zip(sets)
                .filter(|(part, _)| part.draft.section == section)
                .map(|(_, set)| set.lines.0)
                .min()
                .unwrap_or(1);
            for (kind, test) in [("names", false), ("prefixes", true)] {
                let of_kind = |text: &&&str| is_net(text) == test;
                let only_here: Vec<&str> =
                    listed.difference(&elsewhere).filter(of_kind).copied().collect();
                let only_there: Vec<&str> = elsewhere
                    .difference(&listed)
                    .filter(of_kind)
                    .filter(|text| test || !below_a_wildcard(text, &listed))
                    .copied()
                    .collect();
                if !only_here.is_empty() {
                    self.warnings.push(Warning {
                        source: 0,
                        line,
                        text: format!(
                            "{kind} in the consolidated list only: {}",
                            some_of(&only_here)
                        ),
                    });
                }
                if !only_there.is_empty() && listed.iter().any(|text| is_net(text) == test) {
                    self.warnings.push(Warning {
                        source: 0,
                        line,
                        text: format!(
                            "{kind} missing from the consolidated list: {}",
                            some_of(&only_there)
                        ),
                    });
                }
            }
        }
    }
}

impl Given {
    fn add(&mut self, ports: &PortSet, line: u32) {
        if self.ports != *ports {
            self.agreement = Agreement::Differs;
            if self.ports.tcp.len() + self.ports.udp.len() <= MOST_SPANS {
                self.ports.extend(ports);
            }
        }
        if self.places.len() <= LISTED {
            self.places.entry(line).or_default().extend(ports);
        }
    }

    /// "tcp 80 at line 3, tcp 443 at line 5"
    fn list(&self) -> String {
        let places: Vec<String> =
            self.places.iter().map(|(line, ports)| format!("{ports} at line {line}")).collect();
        places.join(", ")
    }
}

/// The ports that an endpoint's own place on the page gives it.
fn own_ports(draft: &Draft, token: &Token) -> Option<PartKey> {
    let own = match &token.kind {
        Kind::Url(Url { ports, .. }) => ports.clone().map(|ports| (ports, PortsFrom::Scheme)),
        _ => None,
    };
    draft.ports.clone().or(own)
}

/// Keeps a remark; a page that has many of them on one thing has said enough.
fn remember(notes: &mut Vec<Note>, note: Note) {
    const ENOUGH: usize = 4;
    if notes.len() < ENOUGH {
        notes.push(note);
    }
}

fn join(draft: &mut Draft, other: Draft) {
    if draft.kind == DraftKind::Row {
        draft.notes.push(Note::Finding(format!("stands at line {} too", other.lines.0)));
    }
    draft.members.extend(other.members);
    draft.lines = (draft.lines.0.min(other.lines.0), draft.lines.1.max(other.lines.1));
    draft.notes.extend(other.notes);
}

fn below_a_wildcard(name: &str, listed: &BTreeSet<&str>) -> bool {
    let below = name.match_indices('.').filter_map(|(dot, _)| name.get(dot..));
    below.into_iter().any(|parent| listed.contains(format!("*{parent}").as_str()))
}

/// "3 endpoints: a, b, c", cut where it gets long.
fn some_of(names: &[&str]) -> String {
    let shown = names.get(..LISTED.min(names.len())).unwrap_or_default().join(", ");
    match names.len() {
        0..=LISTED => shown,
        all => format!("{shown} and {} more", all - LISTED),
    }
}
