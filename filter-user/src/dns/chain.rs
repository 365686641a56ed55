// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which records of an answer belong to the question.
//!
//! An answer may hold anything. Only addresses that the question leads to through aliases count;
//! the aliases may come in any order.

use std::net::IpAddr;

use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::name::fqdn;
use crate::policy::Fqdn;

/// The longest chain of aliases. Real ones have up to 6 or so.
const MAX_CHAIN: usize = 16;

/// What the question leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// Addresses, each with the least TTL from the question to it. Empty: the name has none.
    pub(super) addresses: Vec<(IpAddr, u32)>,
    /// The aliases passed, in order, without the question.
    pub(super) chain: Vec<Fqdn>,
}

/// Why an answer leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BrokenChain {
    #[error("the answer's aliases (CNAME) run in a circle at {0}")]
    Loop(String),
    #[error("the answer has more than {MAX_CHAIN} aliases (CNAME) in a row")]
    TooLong,
    #[error("the answer has two different aliases (CNAME) for {0}")]
    Forked(String),
    #[error("the answer has an alias (CNAME) that is no host name: {0}")]
    NotAName(String),
}

/// The way from the question through its aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    /// The names that the question and its aliases have in turn, the question first.
    pub(super) names: Vec<&'a Name>,
    /// The aliases as the policy knows names, without the question.
    pub(super) chain: Vec<Fqdn>,
    /// The least TTL on the way, in seconds; `u32::MAX` without aliases.
    pub(super) ttl: u32,
}

/// Follows the aliases from the question to its addresses of one family.
pub(super) fn follow(
    question: &Name,
    family: RecordType,
    answers: &[Record],
) -> Result<Followed, BrokenChain> {
    let path = path(question, answers)?;
    let addresses = answers
        .iter()
        .filter(|record| path.ends_in(record) && record.record_type() == family)
        .filter_map(|record| Some((address(&record.data)?, path.ttl.min(plain_ttl(record.ttl)))))
        .collect();
    Ok(Followed { addresses, chain: path.chain })
}

/// Follows the aliases from the question to the name that has none.
pub(super) fn path<'a>(question: &'a Name, answers: &'a [Record]) -> Result<Path<'a>, BrokenChain> {
    let mut path = Path::of(question);
    let mut owner = question;
    while let Some((target, ttl)) = alias(owner, answers)? {
        if path.names.contains(&target) {
            return Err(BrokenChain::Loop(target.to_ascii()));
        }
        if path.chain.len() == MAX_CHAIN {
            return Err(BrokenChain::TooLong);
        }
        path.chain.push(fqdn(target).ok_or_else(|| BrokenChain::NotAName(target.to_ascii()))?);
        path.names.push(target);
        path.ttl = path.ttl.min(ttl);
        owner = target;
    }
    Ok(path)
}

// === impl Path ===

impl<'a> Path<'a> {
    /// The way of a question whose aliases are not followed.
    pub(super) fn of(question: &'a Name) -> Self {
        Self { names: vec![question], chain: Vec::new(), ttl: u32::MAX }
    }

    /// Whether a record is of the name at the end.
    pub(super) fn ends_in(&self, record: &Record) -> bool {
        self.names.last().is_some_and(|end| belongs(record, end))
    }

    /// Whether a record is an alias on the way.
    pub(super) fn passes(&self, record: &Record) -> bool {
        let RData::CNAME(target) = &record.data else { return false };
        self.names.array_windows().any(|[owner, next]| belongs(record, owner) && **next == target.0)
    }
}

/// What a name is an alias of, if it is one, and for how long.
fn alias<'a>(owner: &Name, answers: &'a [Record]) -> Result<Option<(&'a Name, u32)>, BrokenChain> {
    let mut found: Option<(&Name, u32)> = None;
    for record in answers.iter().filter(|record| belongs(record, owner)) {
        let RData::CNAME(target) = &record.data else { continue };
        let ttl = plain_ttl(record.ttl);
        found = match found {
            None => Some((&target.0, ttl)),
            Some((same, other)) if *same == target.0 => Some((same, other.min(ttl))),
            Some(_) => return Err(BrokenChain::Forked(owner.to_ascii())),
        };
    }
    Ok(found)
}

fn belongs(record: &Record, owner: &Name) -> bool {
    record.dns_class == DNSClass::IN && record.name == *owner
}

pub(super) fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// A TTL with the top bit set counts as 0 (RFC 2181, section 8). It has to be so before the least
/// is taken.
pub(super) fn plain_ttl(ttl: u32) -> u32 {
    if ttl > u32::MAX >> 1 { 0 } else { ttl }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_proto::rr::rdata::CNAME;

    use super::*;

    /// `owner ttl type data`, one record per line.
    fn records(text: &str) -> Vec<Record> {
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let data = match fields[2] {
                "A" => RData::A(fields[3].parse::<Ipv4Addr>().unwrap().into()),
                "AAAA" => RData::AAAA(fields[3].parse::<Ipv6Addr>().unwrap().into()),
                "CNAME" => RData::CNAME(CNAME(Name::from_ascii(fields[3]).unwrap())),
                other => panic!("{other}"),
            };
            let name = Name::from_ascii(fields[0]).unwrap();
            Record::from_rdata(name, fields[1].parse().unwrap(), data)
        };
        text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }

    fn follow_v4(records: &[Record]) -> Result<Followed, BrokenChain> {
        follow(&Name::from_ascii("q.example.com.").unwrap(), RecordType::A, records)
    }

    /// `expected`: "address/ttl ... via alias ..."
    fn check(text: &str, expected: &str) {
        let found = follow_v4(&records(text)).unwrap();
        let mut words: Vec<String> =
            found.addresses.iter().map(|(address, ttl)| format!("{address}/{ttl}")).collect();
        words.push("via".to_owned());
        words.extend(found.chain.iter().map(ToString::to_string));
        assert_eq!(words.join(" "), expected, "{text}");
    }

    fn check_refused(text: &str, expected: BrokenChain) {
        assert_eq!(follow_v4(&records(text)), Err(expected), "{text}");
    }

    #[test]
    fn only_what_the_question_leads_to_counts() {
        check("", "via");
        check(
            "q.example.com. 60 A 8.8.8.8
             q.example.com. 50 A 8.8.4.4",
            "8.8.8.8/60 8.8.4.4/50 via",
        );
        check("Q.Example.COM. 60 A 8.8.8.8", "8.8.8.8/60 via");
        check("evil.example.net. 60 A 6.6.6.6", "via");
        check("x.q.example.com. 60 A 6.6.6.6", "via");
        check("q.example.com. 60 AAAA 2606:4700::1", "via");
        check(
            "q.example.com. 60 CNAME a.example.net.
             a.example.net. 60 A 8.8.8.8
             b.example.net. 60 A 6.6.6.6
             q.example.com. 60 A 6.6.6.6",
            "8.8.8.8/60 via a.example.net",
        );
        check("q.example.com. 60 CNAME a.example.net.", "via a.example.net");
    }

    #[test]
    fn aliases_come_in_any_order_and_the_least_ttl_counts() {
        check(
            "c.example.net. 300 A 8.8.8.8
             b.example.net. 20 CNAME c.example.net.
             q.example.com. 100 CNAME A.example.net.
             a.example.net. 200 CNAME b.EXAMPLE.net.
             c.example.net. 10 A 8.8.4.4",
            "8.8.8.8/20 8.8.4.4/10 via a.example.net b.example.net c.example.net",
        );
        check("q.example.com. 4294967295 A 8.8.8.8", "8.8.8.8/0 via");
        check(
            "q.example.com. 2147483648 CNAME a.example.net.
             a.example.net. 300 A 8.8.8.8",
            "8.8.8.8/0 via a.example.net",
        );
        check(
            "q.example.com. 60 CNAME a.example.net.
             q.example.com. 50 CNAME a.example.net.
             a.example.net. 300 A 8.8.8.8",
            "8.8.8.8/50 via a.example.net",
        );
    }

    #[test]
    fn circles_and_forks_are_refused() {
        check_refused(
            "q.example.com. 60 CNAME Q.example.com.",
            BrokenChain::Loop("Q.example.com.".to_owned()),
        );
        check_refused(
            "q.example.com. 60 CNAME a.example.net.
             a.example.net. 60 CNAME b.example.net.
             b.example.net. 60 CNAME a.example.net.",
            BrokenChain::Loop("a.example.net.".to_owned()),
        );
        check_refused(
            "q.example.com. 60 CNAME a.example.net.
             q.example.com. 60 CNAME b.example.net.",
            BrokenChain::Forked("q.example.com.".to_owned()),
        );
    }

    #[test]
    fn an_alias_that_is_no_host_name_is_refused() {
        let odd: [&[&[u8]]; 4] =
            [&[b"a.b", b"example", b"net"], &[b"a\0", b"net"], &[b"caf\xc3\xa9", b"net"], &[]];
        for labels in odd {
            let mut target = Name::from_labels(labels.iter().copied()).unwrap();
            target.set_fqdn(true);
            let owner = Name::from_ascii("q.example.com.").unwrap();
            let record = Record::from_rdata(owner, 60, RData::CNAME(CNAME(target)));
            let result = follow_v4(&[record]);
            assert!(matches!(result, Err(BrokenChain::NotAName(_))), "{labels:?}: {result:?}");
        }
    }

    #[test]
    fn sixteen_aliases_are_followed_and_no_more() {
        let chain = |length: usize| {
            let mut text = "q.example.com. 60 CNAME a1.example.net.\n".to_owned();
            for i in 1..length {
                text += &format!("a{i}.example.net. 60 CNAME a{}.example.net.\n", i + 1);
            }
            text + &format!("a{length}.example.net. 60 A 8.8.8.8")
        };
        assert_eq!(follow_v4(&records(&chain(16))).unwrap().addresses.len(), 1);
        check_refused(&chain(17), BrokenChain::TooLong);
    }

    #[test]
    fn other_classes_do_not_count() {
        let mut chaos = records("q.example.com. 60 A 8.8.8.8");
        chaos[0].dns_class = DNSClass::CH;
        assert_eq!(follow_v4(&chaos), Ok(Followed::default()));
    }
}
