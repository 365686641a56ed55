// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is valid and yet worth a second look.
//!
//! Lists can have 100,000 entries, so that nothing here compares each with each: prefixes are
//! sorted and gone over once, wildcards are found by the labels that they end in.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use ipnet::IpNet;

use super::{Kind, reader::Report};
use crate::policy::{
    Clients, Destination, Label, NamePattern, Origin, Policy, Ports, Rule, SpecialPurpose,
    name::Breadth,
    special::special_purpose_prefix,
    wildcards::{Alike, Wildcards},
};

/// Prefixes shorter than this are over-broad. IPv6 has /16 in the same place: what a vendor lists
/// is a /29 at the widest, and all that is assigned to a registry is a /12.
const WIDE_IPV4: u8 = 8;
const WIDE_IPV6: u8 = 16;

/// One destination in so many rules with other clients or ports is no mistake; as many of them
/// are compared.
const MOST_TERMS: usize = 32;

/// Who may use what: everything about a rule but its destinations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Terms<'a> {
    /// `None`: every client.
    from: Option<&'a BTreeSet<Label>>,
    ports: &'a Ports,
    private: bool,
}

/// A destination where it stands.
#[derive(Clone, Copy)]
struct Entry<'a> {
    rule: &'a Rule,
    /// The place of the rule, then the place in it.
    place: (u32, u32),
    terms: u32,
}

/// The terms of all rules, each once, and which are within which.
struct AllTerms<'a> {
    numbers: BTreeMap<Terms<'a>, u32>,
    known: BTreeMap<(u32, u32, Of), bool>,
    list: Vec<Terms<'a>>,
}

/// Whether the terms are compared for names or for prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Names,
    Prefixes,
}

/// Looks through the rules that take part.
pub(super) fn check(policy: &Policy, report: &mut Report) {
    guard(policy, report);
    let mut terms = AllTerms { numbers: BTreeMap::new(), known: BTreeMap::new(), list: Vec::new() };
    // Of a million, a list that grows takes twice as much.
    let most = policy.enabled_rules().map(|rule| rule.to.len()).sum();
    let mut prefixes: Vec<(IpNet, Entry<'_>)> = Vec::with_capacity(most);
    let mut names: Vec<(&NamePattern, Entry<'_>)> = Vec::new();
    let mut rules: BTreeMap<(u32, BTreeSet<&Destination>), &Rule> = BTreeMap::new();
    for (place, rule) in (0..).zip(policy.enabled_rules()) {
        single(rule, report);
        if policy.dns.upstream.is_empty() {
            unresolvable(rule, report);
        }
        let number = terms.number(rule);
        let to = rule.to.iter().map(|(destination, _)| destination).collect();
        match rules.entry((number, to)) {
            btree_map::Entry::Occupied(first) => {
                // Its destinations are all covered, which goes without saying.
                same_rule(rule, first.get(), report);
                continue;
            }
            btree_map::Entry::Vacant(free) => {
                free.insert(rule);
            }
        }
        for (at, (destination, _)) in (0..).zip(&rule.to) {
            let entry = Entry { rule, place: (place, at), terms: number };
            match destination {
                Destination::Prefix(prefix) => prefixes.push((*prefix, entry)),
                Destination::Name(name) => names.push((name, entry)),
                Destination::SelfAddresses => {}
            }
        }
    }
    covered_prefixes(prefixes, &mut terms, report);
    covered_names(names, &mut terms, report);
}

/// Whether the administrators can be shut out, and whether the guard lets in too many.
fn guard(policy: &Policy, report: &mut Report) {
    let management = &policy.management;
    let Some(origin) = &management.origin else {
        report.warning(
            Kind::Unguarded,
            &policy.gateway.origin,
            "nothing keeps the way to the gateway open for its administrators: there is no \
             [management]",
            "add it with from = [\"192.0.2.0/28\"] and tcp = [22], or a wrong rule can shut you \
             out",
        );
        return;
    };
    for prefix in &management.from {
        let least = widest_usual(prefix);
        if prefix.prefix_len() < least {
            report.warning(
                Kind::Wide,
                origin,
                format!("[management]: {prefix} is wider than a /{least}"),
                "whoever is in it gets to the guarded ports past all rules: name the prefixes of \
                 the administrators",
            );
        }
    }
}

/// What can be said of a destination by itself.
fn single(rule: &Rule, report: &mut Report) {
    for (destination, line) in &rule.to {
        match destination {
            Destination::Prefix(prefix) => {
                let least = widest_usual(prefix);
                if let Some(range) = special_purpose_prefix(prefix) {
                    report.warning(
                        Kind::SpecialPurpose,
                        &rule.at_line(*line),
                        format!("{}: {prefix} is a special-purpose range ({range})", title(rule)),
                        "it isn't reachable over the internet: keep it only if it is a network of \
                         your own",
                    );
                } else if prefix.prefix_len() < least {
                    report.warning(
                        Kind::Wide,
                        &rule.at_line(*line),
                        format!("{}: {prefix} is wider than a /{least}", title(rule)),
                        "write the prefixes that are meant",
                    );
                }
            }
            // Without broad = true this is an error, and what is only open in part was said when
            // it was read.
            Destination::Name(NamePattern::Wildcard(pattern))
                if pattern.breadth() == Breadth::CoversPublicSuffix =>
            {
                let suffix = pattern.covered_suffix().unwrap_or_default();
                report.warning(
                    Kind::Broad,
                    &rule.at_line(*line),
                    format!(
                        "{}: {pattern} covers the whole public suffix {suffix:?}, where anybody \
                         can get a name",
                        title(rule)
                    ),
                    "broad = true allows it: write the names that are meant if they are known",
                );
            }
            Destination::Name(_) | Destination::SelfAddresses => {}
        }
    }
}

/// The length below which a prefix of this family is over-broad.
fn widest_usual(prefix: &IpNet) -> u8 {
    match prefix {
        IpNet::V4(_) => WIDE_IPV4,
        IpNet::V6(_) => WIDE_IPV6,
    }
}

fn same_rule(rule: &Rule, first: &Rule, report: &mut Report) {
    report.warning(
        Kind::SameRule,
        &rule.origin,
        format!("{}: it allows just what {} does ({})", title(rule), title(first), first.origin),
        "remove one of the two",
    );
}

/// Prefixes that a wider one, or the same one in another rule, makes superfluous.
fn covered_prefixes<'a>(
    mut prefixes: Vec<(IpNet, Entry<'a>)>,
    terms: &mut AllTerms<'a>,
    report: &mut Report,
) {
    // A prefix sorts before those in it.
    prefixes.sort_by_key(|(prefix, entry)| (*prefix, entry.place));
    // The prefixes that hold the current one, widest first, each with one entry for each terms.
    let mut around: Vec<(IpNet, Vec<Entry<'a>>)> = Vec::new();
    for same in prefixes.chunk_by(|(left, _), (right, _)| left == right) {
        let Some((prefix, _)) = same.first() else { continue };
        while around.last().is_some_and(|(wider, _)| !wider.contains(prefix)) {
            around.pop();
        }
        let here = first_of_each(same.iter().map(|(_, entry)| *entry));
        for (_, entry) in same {
            let wider = around.iter().find_map(|(wider, entries)| {
                let fits = |other: &&Entry<'_>| terms.within(entry, other, Of::Prefixes);
                entries.iter().find(fits).map(|other| (*wider, *other))
            });
            if let Some((wider, other)) = wider {
                covered(entry, prefix, &wider, &other, "remove the narrower one", report);
            } else if let Some(other) = again(entry, &here, Of::Prefixes, terms) {
                listed_again(entry, prefix, &other, report);
            }
        }
        around.push((*prefix, here));
    }
}

/// Names that a wildcard, or the same name in another rule, makes superfluous.
fn covered_names<'a>(
    names: Vec<(&'a NamePattern, Entry<'a>)>,
    terms: &mut AllTerms<'a>,
    report: &mut Report,
) {
    let mut by_name: BTreeMap<&NamePattern, Vec<Entry<'a>>> = BTreeMap::new();
    for (name, entry) in &names {
        by_name.entry(*name).or_default().push(*entry);
    }
    for entries in by_name.values_mut() {
        *entries = first_of_each(entries.iter().copied());
    }
    let mut wildcards = Wildcards::new(Alike::FEW);
    for (name, entries) in &by_name {
        if let NamePattern::Wildcard(pattern) = name {
            wildcards.insert(pattern, entries);
        }
    }
    for (name, entry) in &names {
        let mut found: Option<(&str, Entry<'_>)> = None;
        for (pattern, entries) in wildcards.covering(name) {
            if pattern.as_str() == name.as_str() {
                continue;
            }
            for other in entries.iter() {
                // One of the same rule is named first: it stands closest.
                let key = |other: &Entry<'_>| (other.place.0 != entry.place.0, other.place);
                let closer = found.is_none_or(|(_, found)| key(other) < key(&found));
                if closer && terms.within(entry, other, Of::Names) {
                    found = Some((pattern.as_str(), *other));
                }
            }
        }
        let help = match name {
            // The exact name is looked up, which a wildcard can't be: it may well be wanted.
            NamePattern::Exact(_) => "remove it, unless it has to work before a client asks for it",
            NamePattern::Wildcard(_) => "remove the narrower one",
        };
        if let Some((pattern, other)) = found {
            covered(entry, name, &pattern, &other, help, report);
        } else if let Some(here) = by_name.get(name)
            && let Some(other) = again(entry, here, Of::Names, terms)
        {
            listed_again(entry, name, &other, report);
        }
    }
}

/// Another entry for the same destination that makes this one superfluous. Where each does, the
/// later one is.
fn again<'a>(
    entry: &Entry<'a>,
    here: &[Entry<'a>],
    of: Of,
    terms: &mut AllTerms<'a>,
) -> Option<Entry<'a>> {
    let found = here.iter().find(|other| {
        other.place.0 != entry.place.0
            && terms.within(entry, other, of)
            && (other.place < entry.place || !terms.within(other, entry, of))
    });
    found.copied()
}

fn covered(
    entry: &Entry<'_>,
    narrow: &dyn std::fmt::Display,
    wide: &dyn std::fmt::Display,
    by: &Entry<'_>,
    help: &str,
    report: &mut Report,
) {
    let of =
        if entry.place.0 == by.place.0 { String::new() } else { format!(" of {}", title(by.rule)) };
    report.warning(
        Kind::Covered,
        &entry.origin(),
        format!("{}: {narrow} is covered by {wide}{of} ({})", title(entry.rule), by.origin()),
        help,
    );
}

fn listed_again(
    entry: &Entry<'_>,
    destination: &dyn std::fmt::Display,
    other: &Entry<'_>,
    report: &mut Report,
) {
    report.warning(
        Kind::Duplicate,
        &entry.origin(),
        format!(
            "{}: {destination} is already allowed by {} ({}), for these clients and ports",
            title(entry.rule),
            title(other.rule),
            other.origin()
        ),
        "remove it here",
    );
}

/// The first entry with each terms.
fn first_of_each<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<Entry<'a>> {
    let mut seen = BTreeSet::new();
    entries.filter(|entry| seen.insert(entry.terms)).take(MOST_TERMS).collect()
}

fn unresolvable(rule: &Rule, report: &mut Report) {
    let mut exact = rule.to.iter().filter_map(|(destination, line)| match destination {
        Destination::Name(NamePattern::Exact(name)) => Some((name, *line)),
        _ => None,
    });
    let Some((first, line)) = exact.next() else { return };
    let what = match exact.count() {
        0 => format!("the name {first} can never be resolved"),
        others => format!("{} names, from {first} on, can never be resolved", others + 1),
    };
    report.warning(
        Kind::Unresolvable,
        &rule.at_line(line),
        format!("{}: {what}", title(rule)),
        "add [dns] upstream with the address of a resolver",
    );
}

fn title(rule: &Rule) -> String {
    format!("rule \"{}\"", rule.name)
}

// === impl Entry ===

impl Entry<'_> {
    /// Where it stands.
    fn origin(&self) -> Origin {
        let (_, at) = self.place;
        let at = usize::try_from(at).ok().and_then(|at| self.rule.to.get(at));
        self.rule.at_line(at.map_or(self.rule.origin.line, |(_, line)| *line))
    }
}

// === impl AllTerms ===

impl<'a> AllTerms<'a> {
    fn number(&mut self, rule: &'a Rule) -> u32 {
        let terms = Terms {
            from: match &rule.from {
                Clients::Any => None,
                Clients::Groups(groups) => Some(groups),
            },
            ports: &rule.ports,
            private: rule.private == SpecialPurpose::Allowed,
        };
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(terms).or_insert(next);
        if number == next {
            self.list.push(terms);
        }
        number
    }

    /// Whether whoever may use the one entry may use the other for as much.
    fn within(&mut self, narrow: &Entry<'_>, wide: &Entry<'_>, of: Of) -> bool {
        let (narrow, wide) = (narrow.terms, wide.terms);
        if narrow == wide {
            return true;
        }
        let terms = |number: u32| self.list.get(usize::try_from(number).ok()?);
        let (Some(less), Some(more)) = (terms(narrow), terms(wide)) else {
            return false;
        };
        *self.known.entry((narrow, wide, of)).or_insert_with(|| {
            let clients = match (less.from, more.from) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(less), Some(more)) => less.is_subset(more),
            };
            // Which addresses are learned is a matter of names only.
            let addresses = of == Of::Prefixes || more.private || !less.private;
            clients && addresses && more.ports.allow(less.ports)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::load::{GATEWAY_FILE, parse};

    const NAMES: [&str; 6] =
        ["a.x.com", "b.x.com", "*.x.com", "a*.x.com", "*.a.x.com", "c.a.x.com"];

    /// Rules with each destination on a line of its own.
    fn any_policy() -> impl Strategy<Value = Policy> {
        let name = (0..NAMES.len()).prop_map(|name| NAMES[name].to_owned());
        let prefix = (0_u8..16, 28_u8..=32).prop_map(|(host, length)| {
            let prefix: IpNet = format!("20.0.0.{host}/{length}").parse().unwrap();
            prefix.trunc().to_string()
        });
        let to = prop::collection::btree_set(prop_oneof![name, prefix], 1..5);
        let rule = (to, 1_u8..4, 0_u8..4, prop::bool::weighted(0.2));
        prop::collection::vec(rule, 1..6).prop_map(|rules| {
            let mut text = String::new();
            for (number, (to, tcp, from, private)) in rules.into_iter().enumerate() {
                let chosen = |bits: u8, words: [&str; 2]| -> String {
                    let of = (0..2).filter(|bit| bits & (1 << bit) != 0).map(|bit| words[bit]);
                    of.collect::<Vec<_>>().join(", ")
                };
                let tcp = chosen(tcp, ["80", "443"]);
                text.push_str(&format!("[[rule]]\nname = \"r{number}\"\ntcp = [{tcp}]\n"));
                if from != 0 {
                    let from = chosen(from, ["\"g\"", "\"h\""]);
                    text.push_str(&format!("from = [{from}]\n"));
                }
                text.push_str(&format!("private = {private}\nto = [\n"));
                to.iter().for_each(|to| text.push_str(&format!("  {to:?},\n")));
                text.push_str("]\n");
            }
            let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
                           [[source]]\nname = \"g\"\nvlan = 1\n\
                           [[source]]\nname = \"h\"\nvlan = 2\n";
            let files =
                [(Arc::from(GATEWAY_FILE), gateway.to_owned()), (Arc::from("a.toml"), text)];
            parse(&files).unwrap().policy
        })
    }

    /// The lines that another one makes superfluous, by comparing each with each.
    fn superfluous(policy: &Policy) -> BTreeSet<u32> {
        let same = |one: &Rule, other: &Rule| {
            let to = |rule: &Rule| -> BTreeSet<Destination> {
                rule.to.iter().map(|(to, _)| to.clone()).collect()
            };
            (to(one), &one.ports, &one.from, one.private)
                == (to(other), &other.ports, &other.from, other.private)
        };
        let rules = policy.rules.iter().enumerate();
        let rules: Vec<&Rule> = rules
            .filter(|(at, rule)| !policy.rules[..*at].iter().any(|first| same(first, rule)))
            .map(|(_, rule)| rule)
            .collect();
        let terms_within = |less: &Rule, more: &Rule, prefix: bool| {
            let clients = match (&less.from, &more.from) {
                (_, Clients::Any) => true,
                (Clients::Any, Clients::Groups(_)) => false,
                (Clients::Groups(less), Clients::Groups(more)) => less.is_subset(more),
            };
            let private = prefix
                || less.private == SpecialPurpose::Refused
                || more.private == SpecialPurpose::Allowed;
            let ports = (1..=65535)
                .all(|port| !less.ports.tcp.contains(port) || more.ports.tcp.contains(port));
            clients && private && ports
        };
        let mut lines = BTreeSet::new();
        for (i, less) in rules.iter().enumerate() {
            for (narrow, line) in &less.to {
                for (j, more) in rules.iter().enumerate() {
                    for (wide, _) in &more.to {
                        let prefix = matches!(narrow, Destination::Prefix(_));
                        let holds = match (narrow, wide) {
                            _ if narrow == wide => {
                                i != j && (j < i || !terms_within(more, less, prefix))
                            }
                            (Destination::Prefix(narrow), Destination::Prefix(wide)) => {
                                wide.contains(narrow)
                            }
                            (
                                Destination::Name(narrow),
                                Destination::Name(NamePattern::Wildcard(wide)),
                            ) => wide.covers(narrow),
                            _ => false,
                        };
                        if holds && terms_within(less, more, prefix) {
                            lines.insert(*line);
                        }
                    }
                }
            }
        }
        lines
    }

    proptest! {
        #[test]
        fn each_with_each(policy in any_policy()) {
            let mut report = Report::default();
            check(&policy, &mut report);
            let found: Vec<u32> = report
                .warnings
                .iter()
                .filter(|warning| matches!(warning.kind, Kind::Covered | Kind::Duplicate))
                .filter_map(|warning| warning.origin.as_ref().map(|origin| origin.line))
                .collect();
            let lines: BTreeSet<u32> = found.iter().copied().collect();
            prop_assert_eq!(found.len(), lines.len(), "one is enough for a line");
            prop_assert_eq!(lines, superfluous(&policy));
        }

        #[test]
        fn ports_that_hold_others(left: u16, right: u16) {
            let ranges = |bits: u16| -> crate::policy::PortRanges {
                (0..16)
                    .filter(|bit| bits & (1 << bit) != 0)
                    .filter_map(|bit| crate::policy::PortRange::new(bit + 1, bit + 1))
                    .collect()
            };
            prop_assert_eq!(ranges(left).contain(&ranges(right)), right & !left == 0);
        }
    }
}
