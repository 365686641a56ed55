// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of an upstream's response a client may get.

use std::time::Duration;

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            SVCB,
            svcb::{Mandatory, SvcParamKey, SvcParamValue},
        },
    },
};

use super::super::{
    chain::{self, BrokenChain},
    count::{Count, Counters},
    upstream::Response,
};
use crate::names::Answer;

/// The longest time for which "there is none" is kept (RFC 2308, section 5, lets it be hours, which
/// is long for who has just added a name).
const LONGEST_DENIAL: u32 = 300;

/// A response in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// NOERROR or NXDOMAIN.
    pub(super) code: ResponseCode,
    /// The aliases in order, then the records that were asked for.
    pub(super) answers: Vec<Record>,
    /// The SOA record of a denial.
    pub(super) authorities: Vec<Record>,
    /// The addresses among the answers, which have to be learned first.
    pub(super) addresses: Answer,
    /// For how long it holds, in seconds.
    pub(super) ttl: u32,
}

// === impl Draft ===

impl Draft {
    /// Takes what the question leads to, and nothing else. What is left out is counted.
    pub(super) fn new(
        question: &Name,
        kind: RecordType,
        response: &Response,
        max_ttl: Duration,
        counters: &Counters,
    ) -> Result<Self, BrokenChain> {
        let Response { message, resolver } = response;
        let most = u32::try_from(max_ttl.as_secs()).unwrap_or(u32::MAX);
        let path = match kind {
            RecordType::CNAME => chain::Path::of(question),
            _ => chain::path(question, &message.answers)?,
        };
        let take = |record: &Record| {
            let mut record = record.clone();
            record.name = record.name.to_lowercase();
            record.ttl = chain::plain_ttl(record.ttl).min(most);
            withhold_hints(&mut record.data)?;
            Some(record)
        };
        let mut answers: Vec<Record> = Vec::new();
        for record in message.answers.iter().filter(|record| path.passes(record)) {
            // A server may say it twice.
            if answers.iter().all(|known| known.name != record.name) {
                answers.extend(take(record).map(|mut alias| {
                    // The client must not believe the way for longer than it is learned for.
                    alias.ttl = alias.ttl.min(path.ttl);
                    alias
                }));
            }
        }
        let place = |record: &Record| path.names.iter().position(|name| **name == record.name);
        answers.sort_by_key(place);
        let code = match message.metadata.response_code {
            ResponseCode::NXDomain => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        };
        // A name that doesn't exist has no records, whatever stands beside.
        let asked = |record: &&Record| {
            code == ResponseCode::NoError && path.ends_in(record) && record.record_type() == kind
        };
        answers.extend(message.answers.iter().filter(asked).filter_map(take));

        let is_off = |record: &&Record| {
            let record_kind = record.record_type();
            (is_address(record_kind) || record_kind == RecordType::CNAME)
                && !path.ends_in(record)
                && !path.passes(record)
        };
        let count = |what, times| (0..times).for_each(|_| counters.add(what));
        count(Count::OffChain, message.answers.iter().filter(is_off).count());
        let addresses = |records: &[Record]| {
            records.iter().filter(|record| is_address(record.record_type())).count()
        };
        count(Count::Authority, addresses(&message.authorities));
        count(Count::Additional, addresses(&message.additionals));

        let records = answers.iter().filter(|record| is_address(record.record_type()));
        let records = records
            .filter_map(|record| Some((chain::address(&record.data)?, path.ttl.min(record.ttl))));
        let addresses = Answer {
            records: records.collect(),
            chain: path.chain.clone(),
            resolver: *resolver,
            missing: None,
        };
        let is_denial =
            code == ResponseCode::NXDomain || answers.iter().all(|record| path.passes(record));
        let mut draft = Self { code, answers, authorities: Vec::new(), addresses, ttl: 0 };
        let aliases = draft.answers.iter().map(|record| record.ttl).min();
        draft.ttl = if is_denial {
            let end = path.names.last().copied().unwrap_or(question);
            let denial = message.authorities.iter().find_map(|record| denial(record, end));
            match denial {
                Some((soa, ttl)) => {
                    draft.authorities.push(soa);
                    aliases.unwrap_or(u32::MAX).min(ttl).min(most)
                }
                None => 0,
            }
        } else {
            aliases.unwrap_or(0)
        };
        Ok(draft)
    }
}

/// The SOA record that says for how long there is no such name or record, and that time
/// (RFC 2308, section 5).
fn denial(record: &Record, name: &Name) -> Option<(Record, u32)> {
    let RData::SOA(soa) = &record.data else { return None };
    if !record.name.zone_of(name) {
        return None;
    }
    let ttl = chain::plain_ttl(record.ttl).min(soa.minimum).min(LONGEST_DENIAL);
    let mut record = record.clone();
    record.name = record.name.to_lowercase();
    record.ttl = ttl;
    Some((record, ttl))
}

fn is_address(kind: RecordType) -> bool {
    matches!(kind, RecordType::A | RecordType::AAAA)
}

/// Takes the address hints out of a service binding (RFC 9460, section 7.3): they stand beside the
/// chain and for another name, so that they are not learned, and a client that used one would be
/// rejected. `None` where the record would mean nothing without them.
fn withhold_hints(data: &mut RData) -> Option<()> {
    let (RData::SVCB(binding) | RData::HTTPS(hickory_proto::rr::rdata::HTTPS(binding))) = data
    else {
        return Some(());
    };
    let is_hint = |key: &SvcParamKey| matches!(key, SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint);
    let SVCB { svc_params, .. } = binding;
    let needs_hints = svc_params.iter().any(|(_, value)| match value {
        SvcParamValue::Mandatory(Mandatory(keys)) => keys.iter().any(is_hint),
        _ => false,
    });
    if needs_hints {
        return None;
    }
    svc_params.retain(|(key, _)| !is_hint(key));
    Some(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_proto::{
        op::{Message, OpCode},
        rr::rdata::{A, CNAME, HTTPS, SOA, svcb::IpHint},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        let address = Ipv4Addr::new(20, 0, 0, last);
        Record::from_rdata(name(owner), ttl, RData::A(A(address)))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn soa(owner: &str, ttl: u32, minimum: u32) -> Record {
        let data = SOA::new(name("ns.example."), name("root.example."), 1, 1, 1, 1, minimum);
        Record::from_rdata(name(owner), ttl, RData::SOA(data))
    }

    /// What becomes of a response to a question for `q.w.example.`.
    fn draft(kind: RecordType, change: impl FnOnce(&mut Message)) -> (Draft, Counters) {
        let mut message = Message::response(1, OpCode::Query);
        change(&mut message);
        let resolver: IpAddr = "192.0.2.53".parse().unwrap();
        let response = Response { message, resolver };
        let counters = Counters::default();
        let day = Duration::from_secs(24 * 3600);
        let draft = Draft::new(&name("q.w.example."), kind, &response, day, &counters);
        (draft.unwrap(), counters)
    }

    fn lines(records: &[Record]) -> Vec<String> {
        let line =
            |record: &Record| format!("{} {} {}", record.name, record.ttl, record.record_type());
        records.iter().map(line).collect()
    }

    #[test]
    fn aliases_come_first_and_in_order_and_strays_are_counted() {
        let (draft, counters) = draft(RecordType::A, |message| {
            message.answers = vec![
                a("C.example.", 300, 1),
                cname("b.example.", 200, "c.example."),
                a("elsewhere.example.", 300, 66),
                cname("q.W.example.", 100, "B.example."),
                cname("q.w.example.", 50, "b.example."),
            ];
            message.authorities = vec![a("q.w.example.", 300, 67)];
            message.additionals = vec![a("q.w.example.", 300, 68), a("x.example.", 1, 69)];
        });
        let expected = ["q.w.example. 50 CNAME", "b.example. 50 CNAME", "c.example. 300 A"];
        assert_eq!(lines(&draft.answers), expected);
        assert_eq!(draft.addresses.records, [(Ipv4Addr::new(20, 0, 0, 1).into(), 50)]);
        assert_eq!(draft.ttl, 50);
        let counted = counters.all();
        let count = |what| counted.get(what).copied();
        assert_eq!(
            (count("off-chain"), count("authority"), count("additional")),
            (Some(1), Some(1), Some(2))
        );
    }

    #[test]
    fn ttls_have_a_ceiling_and_no_sign() {
        let (draft, _) = draft(RecordType::A, |message| {
            message.answers = vec![a("q.w.example.", 1 << 31, 1), a("q.w.example.", 1 << 30, 2)];
        });
        assert_eq!(lines(&draft.answers), ["q.w.example. 0 A", "q.w.example. 86400 A"]);
        assert_eq!(draft.ttl, 0);
    }

    #[test]
    fn a_denial_holds_as_long_as_its_zone_says_and_not_for_long() {
        for (owner, ttl, minimum, expected) in [
            ("w.example.", 60, 900, 60),
            ("example.", 9000, 30, 30),
            ("example.", 9000, 9000, 300),
            // A zone that the name is not in says nothing about it.
            ("evil.net.", 9000, 9000, 0),
        ] {
            for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
                let (draft, _) = draft(RecordType::A, |message| {
                    message.metadata.response_code = code;
                    message.authorities = vec![soa(owner, ttl, minimum)];
                });
                assert_eq!((draft.code, draft.ttl), (code, expected), "{owner} {ttl} {minimum}");
                assert_eq!(draft.authorities.len(), usize::from(expected > 0));
                assert!(draft.addresses.records.is_empty());
            }
        }
    }

    #[test]
    fn what_does_not_exist_has_no_address() {
        let (draft, _) = draft(RecordType::A, |message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.answers = vec![a("q.w.example.", 60, 1)];
        });
        assert!(draft.answers.is_empty() && draft.addresses.records.is_empty());
    }

    #[test]
    fn hints_are_withheld() {
        let hint = || {
            let hint = IpHint(vec![A(Ipv4Addr::new(20, 0, 0, 1))]);
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint))
        };
        let record = |parameters| {
            let binding = SVCB::new(1, name("."), parameters);
            Record::from_rdata(name("q.w.example."), 60, RData::HTTPS(HTTPS(binding)))
        };
        let mandatory = Mandatory(vec![SvcParamKey::Ipv4Hint]);
        let mandatory = (SvcParamKey::Mandatory, SvcParamValue::Mandatory(mandatory));
        let port = (SvcParamKey::Port, SvcParamValue::Port(443));
        let (draft, _) = draft(RecordType::HTTPS, |message| {
            message.answers =
                vec![record(vec![port.clone(), hint()]), record(vec![mandatory, hint()])];
        });
        assert_eq!(draft.answers, [record(vec![port])]);
        assert!(draft.addresses.records.is_empty());
    }
}
