// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that are added to a policy in force, by a command and for a time.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Clients, Destination, Echo, IpProtocol, Label, NamePattern, Origin, Policy, PortRange,
    PortRanges, Ports, Rule, RuleState, SpecialPurpose,
    special::{Share, special_purpose_prefix, unicast_shares},
};

/// What stands for the file in the origin of such a rule; its line is the number.
const FILE: &str = "allow";

/// A wish for such a rule, in words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The destination.
    pub to: &'a str,
    /// Groups of clients; none: every client.
    pub from: &'a [String],
    /// TCP ports.
    pub tcp: &'a [String],
    /// UDP ports.
    pub udp: &'a [String],
    /// Echo requests.
    pub icmp: Echo,
    /// Other protocols.
    pub proto: &'a [String],
    /// Why.
    pub note: Option<&'a str>,
    /// Special-purpose addresses.
    pub private: SpecialPurpose,
    /// Destinations that hold what nobody can oversee.
    pub breadth: Breadth,
}

/// Whether a destination may be as wide as a public suffix, or a quarter of all addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breadth {
    /// It is refused then.
    #[default]
    Narrow,
    /// It is wanted so.
    Any,
}

/// Makes a rule of a wish.
///
/// # Errors
///
/// What is wrong with it and how to mend it.
pub fn rule(id: u64, words: &Words<'_>, policy: &Policy) -> Result<Rule, String> {
    let to = destination(words)?;
    let from = clients(words.from, policy)?;
    let ports = Ports {
        tcp: ports("--tcp", words.tcp)?,
        udp: ports("--udp", words.udp)?,
        echo: words.icmp,
        protocols: protocols(words.proto)?,
    };
    if ports == Ports::default() {
        return Err(
            "no port and no protocol is named; add --tcp 443, --udp, --icmp or --proto".to_owned()
        );
    }
    if words.note.is_some_and(|note| note.chars().any(char::is_control)) {
        return Err("the note has control characters; remove them".to_owned());
    }
    let line = u32::try_from(id).map_err(|_too_many| "there were too many allows".to_owned())?;
    let name = format!("{FILE}-{id}");
    if policy.rules.iter().any(|rule| !is_live(rule) && rule.name.as_str() == name) {
        return Err(format!("the policy has a rule {name} of its own; give that another name"));
    }
    Ok(Rule {
        name: Label::try_from(name.as_str()).map_err(|invalid| invalid.to_string())?,
        from,
        to: vec![(to, line)],
        ports,
        state: RuleState::Enabled,
        note: words.note.map(str::to_owned),
        private: words.private,
        origin: Origin { file: Arc::from(FILE), line },
    })
}

/// Whether a rule was added by a command.
#[must_use]
pub fn is_live(rule: &Rule) -> bool {
    &*rule.origin.file == FILE
}

fn destination(words: &Words<'_>) -> Result<Destination, String> {
    let text = words.to;
    if text == "self" {
        return Ok(Destination::SelfAddresses);
    }
    let prefix = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
    if let Ok(prefix) = prefix {
        if prefix != prefix.trunc() {
            return Err(format!(
                "{prefix} has bits behind its length; write {}, or the address alone",
                prefix.trunc()
            ));
        }
        check_prefix(prefix, words)?;
        return Ok(Destination::Prefix(prefix));
    }
    if text.contains('/') {
        return Err(format!(
            "{text:?} is neither a prefix nor a name; write 192.0.2.0/24, or the host of a URL alone"
        ));
    }
    let pattern = NamePattern::try_from(text).map_err(|invalid| format!("{text:?}: {invalid}"))?;
    if let NamePattern::Wildcard(wildcard) = &pattern
        && let Some(suffix) = wildcard.covered_suffix()
        && words.breadth == Breadth::Narrow
    {
        return Err(format!(
            "{text} covers the whole public suffix {suffix:?}, where anybody can get a name; write \
             the names that are meant, or add --broad"
        ));
    }
    Ok(Destination::Name(pattern))
}

fn check_prefix(prefix: IpNet, words: &Words<'_>) -> Result<(), String> {
    if words.private == SpecialPurpose::Refused
        && let Some(what) = special_purpose_prefix(&prefix)
    {
        return Err(format!(
            "{prefix} is special-purpose ({what}), and nothing on the internet; add --private if it \
             is meant"
        ));
    }
    if words.breadth == Breadth::Narrow && unicast_shares(&[prefix]).greater() >= Share::Much {
        return Err(format!(
            "{prefix} holds a quarter of all addresses or more; add --broad if that is meant"
        ));
    }
    Ok(())
}

fn clients(from: &[String], policy: &Policy) -> Result<Clients, String> {
    let mut groups = BTreeSet::new();
    for name in from {
        let found = policy.sources.iter().find(|group| group.name.as_str() == name);
        let Some(group) = found else {
            let known: Vec<&str> =
                policy.sources.iter().map(|group| group.name.as_str()).take(10).collect();
            let known = if known.is_empty() {
                "the policy has none".to_owned()
            } else {
                format!("the policy has {}", known.join(", "))
            };
            return Err(format!("there is no group {name:?}; {known}"));
        };
        groups.insert(group.name.clone());
    }
    Ok(if groups.is_empty() { Clients::Any } else { Clients::Groups(groups) })
}

fn ports(option: &str, words: &[String]) -> Result<PortRanges, String> {
    words
        .iter()
        .flat_map(|word| word.split(','))
        .map(|word| {
            PortRange::try_from(word.trim())
                .map_err(|invalid| format!("{option} {word}: {invalid}"))
        })
        .collect()
}

fn protocols(words: &[String]) -> Result<BTreeSet<IpProtocol>, String> {
    words
        .iter()
        .flat_map(|word| word.split(','))
        .map(|word| {
            let word = word.trim();
            let parsed = match word.parse::<u8>() {
                Ok(number) => IpProtocol::try_from(number),
                Err(_) => IpProtocol::try_from(word),
            };
            parsed.map_err(|invalid| format!("--proto {word}: {invalid}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load::{GATEWAY_FILE, parse};

    fn policy() -> Policy {
        let text = "[gateway]\ninside = [\"eth1\"]\noutside = []\n[[source]]\nname = \"managed\"\n\
                    cidr = [\"10.0.10.0/24\"]\n[[rule]]\nname = \"allow-9\"\nto = [\"8.8.8.8\"]\n\
                    tcp = [443]\n";
        parse(&[(Arc::from(GATEWAY_FILE), text.to_owned())]).unwrap().policy
    }

    fn words(to: &str) -> Words<'_> {
        Words {
            to,
            from: &[],
            tcp: &[],
            udp: &[],
            icmp: Echo::Allowed,
            proto: &[],
            note: None,
            private: SpecialPurpose::Refused,
            breadth: Breadth::Narrow,
        }
    }

    #[test]
    fn destinations_are_names_wildcards_and_prefixes() {
        for (to, expected) in [
            ("8.8.8.8", "8.8.8.8/32"),
            ("13.107.0.0/16", "13.107.0.0/16"),
            ("2620:1ec:40::/48", "2620:1ec:40::/48"),
            ("www.example.com", "www.example.com"),
            ("*.example.com", "*.example.com"),
            ("self", "self"),
        ] {
            let rule = rule(3, &words(to), &policy()).unwrap();
            let shown = rule.to[0].0.to_string();
            assert!(shown == expected || format!("{shown}/32") == expected, "{to}: {shown}");
            assert_eq!(
                (rule.name.as_str(), rule.origin.to_string()),
                ("allow-3", "allow:3".into())
            );
            assert!(is_live(&rule));
        }
    }

    #[test]
    fn what_should_not_be_allowed_by_the_way_is_refused_with_what_to_do() {
        for (to, expected) in [
            ("127.0.0.1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("10.0.0.0/8", "--private"),
            ("224.0.0.0/4", "multicast"),
            ("0.0.0.0/0", "--broad"),
            ("::/0", "--broad"),
            ("8.8.8.8/24", "8.8.8.0/24"),
            ("*.com", "--broad"),
            ("*.azureedge.net", "--broad"),
            ("https://example.com/x", "host of a URL"),
            ("exa mple.com", "exa mple.com"),
            ("", ""),
        ] {
            let error = rule(1, &words(to), &policy()).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let private = Words { private: SpecialPurpose::Allowed, ..words("10.0.0.0/8") };
        assert!(rule(1, &private, &policy()).is_ok());
        let broad = Words { breadth: Breadth::Any, ..words("*.azureedge.net") };
        assert!(rule(1, &broad, &policy()).is_ok());
    }

    #[test]
    fn ports_groups_and_names_are_checked() {
        let to = words("8.8.8.8");
        let (tcp, bad) = (["443".to_owned(), "8000-8080,9000".to_owned()], ["0".to_owned()]);
        let known = ["managed".to_owned()];
        let unknown = ["manged".to_owned()];
        let made = rule(1, &Words { tcp: &tcp, from: &known, ..to }, &policy()).unwrap();
        assert_eq!(made.ports.tcp.to_string(), "443,8000-8080,9000");
        let cases = [
            (Words { udp: &bad, ..to }, "--udp 0"),
            (Words { proto: &bad, ..to }, "--proto 0"),
            (Words { from: &unknown, ..to }, "the policy has managed"),
            (Words { icmp: Echo::Denied, ..to }, "--tcp 443"),
            (Words { note: Some("a\u{1b}[2J"), ..to }, "control characters"),
        ];
        for (words, expected) in cases {
            match rule(1, &words, &policy()) {
                Err(error) => assert!(error.contains(expected), "{error}"),
                Ok(rule) => assert!(expected == "--proto 0", "{rule:?}"),
            }
        }
        assert!(rule(9, &to, &policy()).unwrap_err().contains("allow-9"));
    }
}
