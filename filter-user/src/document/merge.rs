// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several inputs as one document.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    Category, Document, EndpointSet, Format, Imported, LeftOut, Note, PolicyRule, PortSet, Source,
    Stated, Warning, Why,
};

/// What has to agree for two sets with one ID to be one set.
type Facts = (PortSet, Option<Category>, Stated, Stated, Option<String>, Option<Box<PolicyRule>>);

/// What has to agree for two sets without ID to be one set: everything but where they stand.
type Whole = (String, String, Facts, BTreeSet<String>, BTreeSet<IpNet>);

/// What sets have been seen, by what makes another one the same.
#[derive(Default)]
struct Seen {
    /// The first set with an ID.
    ids: BTreeMap<u32, usize>,
    rows: BTreeMap<(u32, Facts), usize>,
    wholes: BTreeMap<Whole, usize>,
}

/// Puts documents one behind the other, and joins sets that are one.
pub(super) fn merge(documents: Vec<Document>) -> Document {
    let mut merged = Document {
        sources: Vec::new(),
        endpoint_sets: Vec::new(),
        imported: Vec::new(),
        left_out: Vec::new(),
        warnings: Vec::new(),
    };
    let mut seen = Seen::default();
    // What each joined set holds, so that a token is known for one that it already has.
    let mut held: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for document in documents {
        let shift = merged.sources.len();
        merged.sources.extend(document.sources);
        let mut targets = Vec::with_capacity(document.endpoint_sets.len());
        for mut set in document.endpoint_sets {
            set.source += shift;
            let target = place(&mut merged, &mut seen, &mut held, set);
            targets.push(target);
        }
        for warning in document.warnings {
            merged.warnings.push(Warning { source: warning.source + shift, ..warning });
        }
        for token in document.left_out {
            merged.left_out.push(LeftOut { source: token.source + shift, ..token });
        }
        for token in document.imported {
            let token = Imported { source: token.source + shift, ..token };
            match targets.get(token.set) {
                Some(Target::Own(set)) => merged.imported.push(Imported { set: *set, ..token }),
                Some(Target::Joined { set, news }) if news.contains(&token.token) => {
                    merged.imported.push(Imported { set: *set, ..token });
                }
                _ => merged.left_out.push(LeftOut {
                    source: token.source,
                    line: token.line,
                    token: token.token,
                    why: Why::Duplicate,
                }),
            }
        }
    }
    merged.left_out.sort_by_key(|token| (token.source, token.line));
    merged.warnings.sort();
    merged.warnings.dedup();
    merged
}

/// Where the endpoints of a set went.
enum Target {
    /// It became a set of its own.
    Own(usize),
    /// It was joined to another one, which did not have these endpoints.
    Joined { set: usize, news: BTreeSet<String> },
}

fn place(
    merged: &mut Document,
    seen: &mut Seen,
    held: &mut BTreeMap<usize, BTreeSet<String>>,
    set: EndpointSet,
) -> Target {
    let number = merged.endpoint_sets.len();
    let same = match set.id {
        Some(id) => {
            let same = *seen.rows.entry((id, facts(&set))).or_insert(number);
            let first = *seen.ids.entry(id).or_insert(number);
            if same == number
                && let Some(other) = merged.endpoint_sets.get(first)
                && !own_business(merged, other, &set)
            {
                let what = if other.ports != set.ports {
                    "other ports"
                } else if other.rule != set.rule {
                    "a rule of its own"
                } else {
                    "another category, group or requirement"
                };
                let at = place_of(merged, other, &set);
                let text = format!("ID {id} stands at {at} too, with {what}; both are kept apart");
                let (source, line) = (set.source, set.lines.0);
                merged.warnings.push(Warning { source, line, text });
            }
            same
        }
        None => *seen.wholes.entry(whole(&set)).or_insert(number),
    };
    let joins =
        merged.endpoint_sets.get(same).is_some_and(|other| !own_business(merged, other, &set));
    if !joins {
        merged.endpoint_sets.push(set);
        return Target::Own(number);
    }
    let note = merged
        .endpoint_sets
        .get(same)
        .map(|other| format!("stands at {} too", place_of(merged, &set, other)));
    let Some(other) = merged.endpoint_sets.get_mut(same) else { return Target::Own(number) };
    let held = held.entry(same).or_insert_with(|| tokens(other).collect());
    let news: BTreeSet<String> = tokens(&set).filter(|token| held.insert(token.clone())).collect();
    other.names.extend(set.names.into_iter().filter(|name| news.contains(name)));
    other.prefixes.extend(set.prefixes.iter().filter(|net| news.contains(&net.to_string())));
    if other.source == set.source {
        other.lines = (other.lines.0.min(set.lines.0), other.lines.1.max(set.lines.1));
    }
    other.notes.extend(note.map(Note::Finding));
    // A remark of the vendor's is told once.
    for note in set.notes {
        if matches!(note, Note::Finding(_)) || other.notes.first() != Some(&note) {
            other.notes.push(note);
        }
    }
    Target::Joined { set: same, news }
}

/// Whether two sets are of one page, whose reader has already told apart what is not one.
fn own_business(merged: &Document, a: &EndpointSet, b: &EndpointSet) -> bool {
    a.source == b.source
        && merged
            .sources
            .get(a.source)
            .is_some_and(|source| matches!(source.format, Format::Page | Format::Policy))
}

fn facts(set: &EndpointSet) -> Facts {
    (
        set.ports.clone(),
        set.category,
        set.required,
        set.express_route,
        set.group.clone(),
        set.rule.clone(),
    )
}

fn whole(set: &EndpointSet) -> Whole {
    (
        set.section.clone(),
        set.description.clone(),
        facts(set),
        set.names.iter().cloned().collect(),
        set.prefixes.iter().copied().collect(),
    )
}

fn tokens(set: &EndpointSet) -> impl Iterator<Item = String> {
    set.names.iter().cloned().chain(set.prefixes.iter().map(IpNet::to_string))
}

/// Where a set stands, as seen from another one: `line 7`, or `other.json:7`.
fn place_of(merged: &Document, set: &EndpointSet, seen_from: &EndpointSet) -> String {
    match merged.sources.get(set.source) {
        Some(Source { name, .. }) if set.source != seen_from.source => {
            format!("{name}:{}", set.lines.0)
        }
        _ => format!("line {}", set.lines.0),
    }
}
