// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which endpoint sets of a document are wanted, and with which ports.

mod regions;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Category, Document, EndpointSet, Imported, LeftOut, NO_PORTS, Note, PortRange, PortSet,
    SetState, Stated, Warning, Why,
};

/// What is wanted; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only sets with these IDs.
    pub ids: Vec<u32>,
    /// Whether optional sets are wanted.
    pub optional: Optional,
    /// Only sets of these categories.
    pub categories: Vec<Category>,
    /// Only sets of these regions, tenant units or clouds, and those that are for all.
    pub groups: Vec<String>,
    /// The ports of sets that have none.
    pub default_ports: Option<PortSet>,
}

/// Whether sets are wanted that the vendor doesn't call required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optional {
    /// They are.
    #[default]
    Wanted,
    /// They are not.
    Unwanted,
}

/// What a selection asks for that isn't there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// No set has this ID.
    #[error("--ids {id}: no endpoint set has this ID; there are {}", listed(.there))]
    Id {
        /// The ID that was asked for.
        id: u32,
        /// All IDs.
        there: Vec<String>,
    },
    /// No set has this category.
    #[error("--category {}: no endpoint set has this category; there are {}", .category.as_str(), listed(.there))]
    Category {
        /// The category that was asked for.
        category: Category,
        /// All categories.
        there: Vec<String>,
    },
    /// No set is for this group.
    #[error("--group {group}: no endpoint set is for this group; there are {}", listed(.there))]
    Group {
        /// The group that was asked for.
        group: String,
        /// All groups.
        there: Vec<String>,
    },
    /// No set says that it is required.
    #[error("--required-only: no endpoint set is said to be required")]
    Required,
    /// Each option finds something, and no set is in all of it.
    #[error("no endpoint set is in all that was asked for; leave one of the options out")]
    Nothing,
}

/// Why a text gives no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    /// A number without a protocol in front of it.
    #[error("{0}: say the protocol first, as in \"tcp/443\" or \"tcp 80 443\"")]
    NoProtocol(String),
    /// Neither a protocol nor a port.
    #[error(
        "{0}: neither a protocol (tcp, udp) nor a port from 1 to 65535, nor a range such as 3478-3481"
    )]
    Unknown(String),
    /// A protocol with nothing behind it.
    #[error("{0}: no port stands behind this protocol; write one, as in \"{0}/443\"")]
    Empty(&'static str),
    /// Nothing at all.
    #[error("no ports are given; write them as in \"tcp/80,tcp/443,udp/3478-3481\"")]
    Nothing,
}

/// The most values that an error lists.
const LISTED: usize = 40;

/// Keeps what is wanted; the tokens of the other sets are left out as not selected.
///
/// # Errors
///
/// Where an option matches nothing, or nothing remains.
pub fn select(document: Document, selection: &Selection) -> Result<Document, NotThere> {
    check(&document, selection)?;
    let Document { sources, endpoint_sets, imported, mut left_out, mut warnings } = document;
    let mut kept = Vec::new();
    // For each set, its number among those that are kept.
    let mut numbers = Vec::with_capacity(endpoint_sets.len());
    let mut dropped = BTreeSet::new();
    // For each section, its first line, whether a set stays, and whether the group alone took one.
    let mut sections: BTreeMap<(usize, String), (u32, Section)> = BTreeMap::new();
    for mut set in endpoint_sets {
        let others = wanted_but_for_group(&set, selection);
        let group = in_groups(&set, &selection.groups);
        if others {
            let key = (set.source, set.section.clone());
            let entry = sections.entry(key).or_insert((set.lines.0, Section::Dropped));
            if group {
                entry.1 = Section::Kept;
            }
        }
        if !(others && group) {
            dropped.insert((set.source, set.lines.0));
            numbers.push(None);
            continue;
        }
        if let (SetState::WithoutPorts, Some(ports)) = (set.state, &selection.default_ports) {
            set.ports = ports.clone();
            set.state = SetState::Enabled;
            set.notes.push(Note::Finding(format!("no ports are given; --default-ports: {ports}")));
        }
        numbers.push(Some(kept.len()));
        kept.push(set);
    }
    if kept.is_empty() {
        return Err(NotThere::Nothing);
    }
    let mut still = Vec::with_capacity(imported.len());
    for token in imported {
        match numbers.get(token.set).copied().flatten() {
            Some(set) => still.push(Imported { set, ..token }),
            None => left_out.push(LeftOut {
                source: token.source,
                line: token.line,
                token: token.token,
                why: Why::NotSelected,
            }),
        }
    }
    left_out.sort_by_key(|token| (token.source, token.line));
    // What was said about sets that are gone, or that have ports now, is no longer true.
    warnings.retain(|warning| {
        let about_ports = warning.text.starts_with(NO_PORTS);
        let gone =
            selection.default_ports.is_some() || dropped.contains(&(warning.source, warning.line));
        !(about_ports && gone)
    });
    if !selection.groups.is_empty() {
        for ((source, section), (line, state)) in sections {
            if state == Section::Dropped && !section.is_empty() {
                let groups = selection.groups.join(", ");
                let text = format!("nothing of \"{section}\" is for the group {groups}");
                warnings.push(Warning { source, line, text });
            }
        }
        warnings.sort();
    }
    Ok(Document { sources, endpoint_sets: kept, imported: still, left_out, warnings })
}

/// Reads ports as in `tcp/80,tcp/443,udp/3478-3481` or `tcp 80 443, udp 3478`.
///
/// # Errors
///
/// Where the text is anything else.
pub fn ports(text: &str) -> Result<PortSet, InvalidPorts> {
    let mut ports = PortSet::default();
    let mut protocol: Option<&'static str> = None;
    let mut pending = false;
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '/' | ':'));
    for word in words.filter(|word| !word.is_empty()) {
        let named = ["tcp", "udp"].into_iter().find(|name| word.eq_ignore_ascii_case(name));
        if let Some(named) = named {
            if let (Some(before), true) = (protocol, pending) {
                return Err(InvalidPorts::Empty(before));
            }
            (protocol, pending) = (Some(named), true);
            continue;
        }
        let Some(span) = PortRange::parse(word) else {
            return Err(InvalidPorts::Unknown(word.to_owned()));
        };
        match protocol {
            Some("udp") => ports.udp.insert(span),
            Some(_) => ports.tcp.insert(span),
            None => return Err(InvalidPorts::NoProtocol(word.to_owned())),
        };
        pending = false;
    }
    match protocol {
        Some(protocol) if pending => Err(InvalidPorts::Empty(protocol)),
        None => Err(InvalidPorts::Nothing),
        Some(_) => Ok(ports),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Kept,
    Dropped,
}

/// Each value that is asked for has to be there: a slip of the pen would else take a set away.
fn check(document: &Document, selection: &Selection) -> Result<(), NotThere> {
    let sets = &document.endpoint_sets;
    if !selection.ids.is_empty() {
        let there: BTreeSet<u32> = sets.iter().filter_map(|set| set.id).collect();
        if let Some(id) = selection.ids.iter().find(|id| !there.contains(id)) {
            let there = there.iter().map(u32::to_string).collect();
            return Err(NotThere::Id { id: *id, there });
        }
    }
    if !selection.categories.is_empty() {
        let there: BTreeSet<Category> = sets.iter().filter_map(|set| set.category).collect();
        if let Some(category) = selection.categories.iter().find(|one| !there.contains(one)) {
            let there = there.iter().map(|category| category.as_str().to_owned()).collect();
            return Err(NotThere::Category { category: *category, there });
        }
    }
    if selection.optional == Optional::Unwanted
        && !sets.iter().any(|set| set.required == Stated::Yes)
    {
        return Err(NotThere::Required);
    }
    if !selection.groups.is_empty() {
        let there: BTreeSet<&str> = sets.iter().filter_map(|set| set.group.as_deref()).collect();
        for group in &selection.groups {
            if !there.iter().any(|one| regions::matches(one, group)) {
                let there = there.iter().map(|group| (*group).to_owned()).collect();
                return Err(NotThere::Group { group: group.clone(), there });
            }
        }
    }
    Ok(())
}

fn wanted_but_for_group(set: &EndpointSet, selection: &Selection) -> bool {
    let id = selection.ids.is_empty() || set.id.is_some_and(|id| selection.ids.contains(&id));
    let category = selection.categories.is_empty()
        || set.category.is_some_and(|category| selection.categories.contains(&category));
    let required = selection.optional == Optional::Wanted || set.required == Stated::Yes;
    id && category && required
}

/// Whether a set is for one of the groups; what is for no group is for all.
fn in_groups(set: &EndpointSet, groups: &[String]) -> bool {
    match &set.group {
        Some(group) if !groups.is_empty() => {
            groups.iter().any(|wanted| regions::matches(group, wanted))
        }
        _ => true,
    }
}

fn listed(values: &[String]) -> String {
    let shown = values.get(..LISTED.min(values.len())).unwrap_or_default().join(", ");
    match values.len() {
        0 => "none".to_owned(),
        count if count > LISTED => format!("{shown} and {} more", count - LISTED),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;
