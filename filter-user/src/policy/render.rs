// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing rules as TOML that people like to read, and that [`load`](super::load) reads back.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    Clients, Destination, Echo, IpProtocol, NamePattern, PortRange, PortRanges, Rule, RuleState,
    SpecialPurpose, name::Breadth,
};

/// A rule to be written. The fields are as in the file; what is empty or has its default is left
/// out there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Lines in front of the rule, without the `#`.
    pub comments: Vec<String>,
    /// `name`; a valid [`Label`](super::Label) if the text is to be read back.
    pub name: String,
    /// `from`: names of groups; empty for every client.
    pub from: Vec<String>,
    /// `to`.
    pub to: Vec<String>,
    /// `tcp`.
    pub tcp: PortRanges,
    /// `udp`.
    pub udp: PortRanges,
    /// `icmp`.
    pub echo: Echo,
    /// `proto`.
    pub protocols: BTreeSet<IpProtocol>,
    /// `note`.
    pub note: Option<String>,
    /// `enabled`.
    pub state: RuleState,
    /// `private`.
    pub private: SpecialPurpose,
    /// `broad`.
    pub broad: BroadNames,
}

/// Whether a rule may have patterns that cover a public suffix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BroadNames {
    /// Such a pattern is an error.
    #[default]
    Refused,
    /// They are meant.
    Allowed,
}

/// How wide a line may get before a list is broken up.
const WIDTH: usize = 100;

/// A `[[rule]]` with its comments; ends with a newline.
#[must_use]
pub fn render_rule(rule: &RuleText) -> String {
    let mut text = String::new();
    for line in rule.comments.iter().flat_map(|comment| comment.lines()) {
        // Control characters may not stand in a comment.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push_str(format!("# {line}").trim_end());
        text.push('\n');
    }
    text.push_str("[[rule]]\n");
    line(&mut text, "name", &quoted(&rule.name));
    if rule.state == RuleState::Disabled {
        line(&mut text, "enabled", "false");
    }
    if !rule.from.is_empty() {
        line(&mut text, "from", &list("from", rule.from.iter().map(|group| quoted(group))));
    }
    line(&mut text, "to", &list("to", rule.to.iter().map(|destination| quoted(destination))));
    for (key, ranges) in [("tcp", &rule.tcp), ("udp", &rule.udp)] {
        if !ranges.is_empty() {
            line(&mut text, key, &ports(key, ranges));
        }
    }
    if rule.echo == Echo::Allowed {
        line(&mut text, "icmp", "true");
    }
    if !rule.protocols.is_empty() {
        line(&mut text, "proto", &list("proto", rule.protocols.iter().map(protocol)));
    }
    if rule.private == SpecialPurpose::Allowed {
        line(&mut text, "private", "true");
    }
    if rule.broad == BroadNames::Allowed {
        line(&mut text, "broad", "true");
    }
    if let Some(note) = &rule.note {
        line(&mut text, "note", &quoted(note));
    }
    text
}

// === impl RuleText ===

impl From<&Rule> for RuleText {
    fn from(rule: &Rule) -> Self {
        let covers_suffix = |(destination, _): &(Destination, _)| match destination {
            Destination::Name(pattern) => pattern.breadth() == Breadth::CoversPublicSuffix,
            Destination::Prefix(_) | Destination::SelfAddresses => false,
        };
        Self {
            comments: Vec::new(),
            name: rule.name.to_string(),
            from: match &rule.from {
                Clients::Any => Vec::new(),
                Clients::Groups(groups) => groups.iter().map(ToString::to_string).collect(),
            },
            to: rule.to.iter().map(|(destination, _)| shown(destination)).collect(),
            tcp: rule.ports.tcp.clone(),
            udp: rule.ports.udp.clone(),
            echo: rule.ports.echo,
            protocols: rule.ports.protocols.clone(),
            note: rule.note.clone(),
            state: rule.state,
            private: rule.private,
            broad: if rule.to.iter().any(covers_suffix) {
                BroadNames::Allowed
            } else {
                BroadNames::Refused
            },
        }
    }
}

// === helpers ===

/// A destination as one writes it: a single address goes without its length.
fn shown(destination: &Destination) -> String {
    match destination {
        Destination::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
            prefix.addr().to_string()
        }
        Destination::Prefix(_)
        | Destination::SelfAddresses
        | Destination::Name(NamePattern::Exact(_) | NamePattern::Wildcard(_)) => {
            destination.to_string()
        }
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{key:<4} = {value}");
}

fn list(key: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let width: usize = items.iter().map(|item| item.chars().count() + 2).sum();
    if width + key.len().max(4) + 3 <= WIDTH {
        return format!("[{}]", items.join(", "));
    }
    let mut text = "[\n".to_owned();
    for item in items {
        let _ = writeln!(text, "    {item},");
    }
    text.push(']');
    text
}

fn ports(key: &str, ranges: &PortRanges) -> String {
    if ranges.ranges() == [PortRange::ANY] {
        return "\"any\"".to_owned();
    }
    list(
        key,
        ranges.ranges().iter().map(|range| {
            if range.first() == range.last() { range.to_string() } else { format!("\"{range}\"") }
        }),
    )
}

fn protocol(protocol: &IpProtocol) -> String {
    let text = protocol.to_string();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text } else { quoted(&text) }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::load::parse;

    #[test]
    fn a_rule_reads_well() {
        let rule = RuleText {
            comments: vec!["Client and host service.\nLine 12 of the page.".to_owned()],
            name: "intune-163".to_owned(),
            from: vec!["managed".to_owned()],
            to: vec!["*.manage.microsoft.com".to_owned(), "104.46.162.96/27".to_owned()],
            tcp: ["80", "443"].map(|port| PortRange::try_from(port).unwrap()).into_iter().collect(),
            udp: std::iter::once(PortRange::try_from("3478-3481").unwrap()).collect(),
            note: Some("the \"client\"".to_owned()),
            state: RuleState::Disabled,
            ..RuleText::default()
        };
        assert_eq!(
            render_rule(&rule),
            r#"# Client and host service.
# Line 12 of the page.
[[rule]]
name = "intune-163"
enabled = false
from = ["managed"]
to   = ["*.manage.microsoft.com", "104.46.162.96/27"]
tcp  = [80, 443]
udp  = ["3478-3481"]
note = "the \"client\""
"#
        );
    }

    #[test]
    fn long_lists_stand_on_lines_of_their_own() {
        let rule = RuleText {
            name: "long".to_owned(),
            to: (0..6).map(|index| format!("host-{index}.long-domain.example.com")).collect(),
            tcp: std::iter::once(PortRange::ANY).collect(),
            ..RuleText::default()
        };
        let text = render_rule(&rule);
        assert!(text.contains("to   = [\n    \"host-0.long-domain.example.com\",\n"), "{text}");
        assert!(text.contains(",\n]\ntcp  = \"any\"\n"), "{text}");
    }

    fn destination() -> impl Strategy<Value = String> {
        // What begins like an A-label has to be one.
        let label = || {
            "[a-z0-9_]([a-z0-9-]{0,8}[a-z0-9])?"
                .prop_filter("no A-label", |label| !label.starts_with("xn--"))
        };
        prop_oneof![
            Just("self".to_owned()),
            (label(), label()).prop_map(|(host, domain)| format!("{host}.{domain}.com")),
            (label(), label()).prop_map(|(host, domain)| format!("*.{host}.{domain}.net")),
            label().prop_map(|label| format!("*.{label}*.example.com")),
            label().prop_map(|label| format!("{label}.*.*.example.com")),
            Just("*.azureedge.net".to_owned()),
            Just("bücher.example.com".to_owned()),
            (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| {
                format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits))
            }),
            // Outside of the IPv4-mapped space.
            (any::<u128>(), 0u8..=128).prop_map(|(bits, length)| {
                format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits | 1 << 127))
            }),
        ]
    }

    fn port_ranges() -> impl Strategy<Value = PortRanges> {
        let range = (1u16.., any::<u16>()).prop_map(|(first, length)| {
            PortRange::new(first, first.saturating_add(length % 100)).unwrap()
        });
        prop_oneof![
            proptest::collection::vec(range, 0..5).prop_map(|ranges| ranges.into_iter().collect()),
            Just(std::iter::once(PortRange::ANY).collect()),
        ]
    }

    fn protocols() -> impl Strategy<Value = BTreeSet<IpProtocol>> {
        proptest::collection::btree_set(
            any::<u8>().prop_filter_map("a protocol of its own", |number| {
                IpProtocol::try_from(number).ok()
            }),
            0..4,
        )
    }

    fn rule_text() -> impl Strategy<Value = RuleText> {
        let choices = (any::<[bool; 3]>(), proptest::option::of("[^\\p{C}]{0,20}[\n\t\"\\\\]?"));
        let groups = proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3);
        let to = proptest::collection::vec(destination(), 1..30);
        let comments = proptest::collection::vec(any::<String>(), 0..3);
        (comments, groups, to, port_ranges(), port_ranges(), protocols(), choices).prop_map(
            |(comments, from, to, tcp, udp, protocols, ([echo, disabled, private], note))| {
                let nothing = tcp.is_empty() && udp.is_empty() && protocols.is_empty();
                RuleText {
                    comments,
                    name: String::new(),
                    from: from.into_iter().map(str::to_owned).collect(),
                    to,
                    tcp,
                    udp,
                    // An enabled rule allows something.
                    echo: if echo || nothing { Echo::Allowed } else { Echo::Denied },
                    protocols,
                    note,
                    state: if disabled { RuleState::Disabled } else { RuleState::Enabled },
                    private: if private {
                        SpecialPurpose::Allowed
                    } else {
                        SpecialPurpose::Refused
                    },
                    broad: BroadNames::Allowed,
                }
            },
        )
    }

    const GATEWAY: &str = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
                           [[source]]\nname = \"a\"\nvlan = 1\n[[source]]\nname = \"b\"\nvlan = 2\n\
                           [[source]]\nname = \"c\"\ncidr = \"10.0.0.0/8\"\n";

    fn read_back(rules: &[RuleText]) -> Vec<Rule> {
        let text: String = rules.iter().map(render_rule).collect();
        let files = [
            ("gateway.toml".into(), GATEWAY.to_owned()),
            ("policy.d/rules.toml".into(), text.clone()),
        ];
        parse(&files).unwrap_or_else(|errors| panic!("{errors}\n{text}")).policy.rules
    }

    /// Origins aside, which change where a list is broken up.
    fn without_origins(rules: &[Rule]) -> Vec<RuleText> {
        rules.iter().map(RuleText::from).collect()
    }

    proptest! {
        /// What is rendered says what was meant, and what was read renders to the same policy.
        #[test]
        fn rendered_rules_read_back(mut rules in proptest::collection::vec(rule_text(), 1..6)) {
            for (index, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("rule-{index}");
            }
            let first = read_back(&rules);
            prop_assert_eq!(first.len(), rules.len());
            for (read, meant) in first.iter().zip(&rules) {
                prop_assert_eq!(read.name.as_str(), &meant.name);
                prop_assert_eq!(&read.ports.tcp, &meant.tcp);
                prop_assert_eq!(&read.ports.udp, &meant.udp);
                prop_assert_eq!(&read.ports.protocols, &meant.protocols);
                prop_assert_eq!(read.ports.echo, meant.echo);
                prop_assert_eq!(&read.note, &meant.note);
                prop_assert_eq!(read.state, meant.state);
                prop_assert_eq!(read.private, meant.private);
                prop_assert!(read.to.len() <= meant.to.len());
                let groups = RuleText::from(read).from;
                prop_assert_eq!(&groups, &meant.from);
            }
            let texts = without_origins(&first);
            let second = read_back(&texts);
            prop_assert_eq!(without_origins(&second), texts);
            for (read, again) in first.iter().zip(&second) {
                let plain = |rule: &Rule| -> Vec<Destination> {
                    rule.to.iter().map(|(destination, _)| destination.clone()).collect()
                };
                prop_assert_eq!(plain(read), plain(again));
            }
        }

        /// No text makes the loader panic, and every error has a line of the file.
        #[test]
        fn any_text_is_read_or_refused(
            rule in rule_text(),
            cut in any::<proptest::sample::Index>(),
            noise in ".{0,8}",
        ) {
            let rule = RuleText { name: "a".to_owned(), ..rule };
            let mut text = render_rule(&rule);
            let mut at = cut.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, &noise);
            let lines = text.matches('\n').count() + 1;
            let files = [
                ("gateway.toml".into(), GATEWAY.to_owned()),
                ("policy.d/rules.toml".into(), text),
            ];
            if let Err(errors) = parse(&files) {
                prop_assert!(!errors.diagnostics().is_empty());
                for error in errors.diagnostics() {
                    let line = error.origin.as_ref().map_or(0, |origin| origin.line);
                    prop_assert!(line >= 1 && line as usize <= lines, "{}", error);
                    prop_assert!(!error.to_string().contains('\n'), "{}", error);
                }
            }
        }
    }
}
