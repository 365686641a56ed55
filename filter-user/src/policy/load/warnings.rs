// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is valid and yet worth a second look.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::reader::Report;
use crate::policy::{
    Destination, NamePattern, Origin, Policy, Rule, WildcardPattern,
    special::special_purpose_prefix,
};

/// Prefixes shorter than this are over-broad.
const WIDE_IPV4: u8 = 8;
const WIDE_IPV6: u8 = 16;

/// Looks through the rules that take part.
pub(super) fn check(policy: &Policy, report: &mut Report) {
    for rule in policy.enabled_rules() {
        prefixes(rule, report);
        names(rule, report);
        if policy.dns.upstream.is_empty() {
            unresolvable(rule, report);
        }
    }
}

fn prefixes(rule: &Rule, report: &mut Report) {
    let listed: BTreeMap<IpNet, &Origin> = rule
        .to
        .iter()
        .filter_map(|(destination, origin)| match destination {
            Destination::Prefix(prefix) => Some((*prefix, origin)),
            _ => None,
        })
        .collect();
    for (prefix, origin) in &listed {
        if let Some((wider, other)) = wider(*prefix, &listed) {
            report.warning(
                origin,
                format!("{}: {prefix} is covered by {wider} ({other})", title(rule)),
                "remove the narrower one",
            );
        }
        let least = match prefix {
            IpNet::V4(_) => WIDE_IPV4,
            IpNet::V6(_) => WIDE_IPV6,
        };
        if prefix.prefix_len() < least {
            report.warning(
                origin,
                format!("{}: {prefix} is wider than a /{least}", title(rule)),
                "write the prefixes that are meant",
            );
        }
        if let Some(range) = special_purpose_prefix(prefix) {
            report.warning(
                origin,
                format!("{}: {prefix} is a special-purpose range ({range})", title(rule)),
                "it isn't reachable over the internet: keep it only if it is a network of your own",
            );
        }
    }
}

/// The widest other prefix of the list that covers this one.
fn wider<'a>(prefix: IpNet, listed: &BTreeMap<IpNet, &'a Origin>) -> Option<(IpNet, &'a Origin)> {
    (0..prefix.prefix_len()).find_map(|length| {
        let wider = IpNet::new(prefix.network(), length).ok()?.trunc();
        listed.get(&wider).map(|origin| (wider, *origin))
    })
}

fn names(rule: &Rule, report: &mut Report) {
    let wildcards: Vec<(&WildcardPattern, &Origin)> = rule
        .to
        .iter()
        .filter_map(|(destination, origin)| match destination {
            Destination::Name(NamePattern::Wildcard(pattern)) => Some((pattern, origin)),
            _ => None,
        })
        .collect();
    for (destination, origin) in &rule.to {
        let Destination::Name(name) = destination else { continue };
        let covering = wildcards
            .iter()
            .find(|(pattern, _)| pattern.as_str() != name.as_str() && pattern.covers(name));
        let Some((pattern, other)) = covering else { continue };
        let help = match name {
            // The exact name is looked up, which a wildcard can't be: it may well be wanted.
            NamePattern::Exact(_) => "remove it, unless it has to work before a client asks for it",
            NamePattern::Wildcard(_) => "remove the narrower one",
        };
        report.warning(
            origin,
            format!("{}: {name} is covered by {pattern} ({other})", title(rule)),
            help,
        );
    }
}

fn unresolvable(rule: &Rule, report: &mut Report) {
    let mut exact = rule.to.iter().filter_map(|(destination, origin)| match destination {
        Destination::Name(NamePattern::Exact(name)) => Some((name, origin)),
        _ => None,
    });
    let Some((first, origin)) = exact.next() else { return };
    let what = match exact.count() {
        0 => format!("the name {first} can never be resolved"),
        others => format!("{} names, from {first} on, can never be resolved", others + 1),
    };
    report.warning(
        origin,
        format!("{}: {what}", title(rule)),
        "add [dns] upstream with the address of a resolver",
    );
}

fn title(rule: &Rule) -> String {
    format!("rule \"{}\"", rule.name)
}
