// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases and properties of differences.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    ranges::Run,
    view::{Identity, SetView, View},
    *,
};
use crate::{
    document::Category,
    policy::{Destination, PortRange, PortRanges},
};

const OFF: &str = "off";

fn ports(text: &str) -> PortRanges {
    let ranges = text.split(' ').filter(|range| !range.is_empty());
    ranges.map(|range| PortRange::try_from(range).unwrap()).collect()
}

/// `name: destinations | tcp ports [off]`
fn rule(text: &str) -> SetView {
    let (name, rest) = text.split_once(": ").unwrap();
    let (to, tcp) = rest.split_once(" | ").unwrap();
    let to = to.split(' ').filter(|text| !text.is_empty()).map(|text| match text.parse() {
        Ok(prefix) => Destination::Prefix(prefix),
        Err(_) if text == "self" => Destination::SelfAddresses,
        Err(_) => Destination::Name(NamePattern::try_from(text).unwrap()),
    });
    let (tcp, state) = match tcp.strip_suffix(OFF) {
        Some(tcp) => (tcp, RuleState::Disabled),
        None => (tcp, RuleState::Enabled),
    };
    let ports = Ports { tcp: ports(tcp), ..Ports::default() };
    SetView::rule(name, name.to_owned(), BTreeSet::new(), to, ports, state)
}

/// A rule as a set of a page: `163 words: destinations | ports`.
fn page_set(text: &str) -> SetView {
    let mut set = rule(text);
    let (id, words) = match set.title.split_once(' ') {
        Some((id, words)) => (id.parse().ok(), words.to_owned()),
        None => (None, set.title.clone()),
    };
    set.identity = Identity::Page { id, section: String::new(), description: words, group: None };
    set.from = None;
    set
}

fn rules(texts: &[&str]) -> View {
    View { sets: texts.iter().map(|text| rule(text)).collect() }
}

fn page(texts: &[&str]) -> View {
    View { sets: texts.iter().map(|text| page_set(text)).collect() }
}

/// What differs, a line for each thing.
fn shown(difference: &Difference) -> Vec<String> {
    let mut lines = Vec::new();
    for set in &difference.sets {
        let mut parts = vec![format!("{}:", set.set)];
        match set.change {
            Change::Added => parts.push("new".to_owned()),
            Change::Removed => parts.push("gone".to_owned()),
            Change::Changed => {}
        }
        for (sign, lists, prefixes) in [
            ('-', [&set.names_removed, &set.tcp_removed], &set.prefixes_removed),
            ('+', [&set.names_added, &set.tcp_added], &set.prefixes_added),
        ] {
            parts.extend(lists.into_iter().flatten().map(|text| format!("{sign}{text}")));
            parts.extend(prefixes.iter().map(|prefix| format!("{sign}{prefix}")));
        }
        parts.extend(set.covered.iter().map(|covered| format!("{}<{}", covered.name, covered.by)));
        if let (Change::Changed, Some(enabled)) = (set.change, &set.enabled) {
            parts.push(format!("enabled={}", enabled.new.unwrap()));
        }
        for (sign, granted) in [('-', &set.parts_removed), ('+', &set.parts_added)] {
            parts.extend(granted.iter().map(|granted| format!("part{sign}{}", one(granted))));
        }
        lines.push(parts.join(" "));
    }
    for moved in &difference.moved {
        lines.push(format!("{}: {} -> {}", moved.endpoint, moved.from, moved.to));
    }
    lines.extend(
        difference.granted_only_by_old.iter().map(|granted| format!("old {}", one(granted))),
    );
    lines.extend(
        difference.granted_only_by_new.iter().map(|granted| format!("new {}", one(granted))),
    );
    assert_eq!(difference.equal, lines.is_empty());
    lines
}

fn one(granted: &Granted) -> String {
    let prefixes = granted.prefixes.iter().map(ToString::to_string);
    let endpoints: Vec<String> = granted.names.iter().cloned().chain(prefixes).collect();
    format!("{}@{}", granted.tcp.join(","), endpoints.join(","))
}

#[test]
fn rules_differ() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["a: x.com 10.0.0.0/24 | 443"], &["a: 10.0.0.0/24 x.com | 443"], &[]),
        (&["a: 10.0.0.0/25 10.0.0.128/25 | 443"], &["a: 10.0.0.0/24 10.0.0.7/32 | 443"], &[]),
        (&["a: x.com | 80 81-90"], &["a: x.com | 80-90"], &[]),
        (&["a: x.com | 443"], &["b: x.com | 443"], &[]),
        (
            &["a: 10.0.0.0/24 | 443"],
            &["a: 10.0.0.0/23 | 443"],
            &["a: +10.0.1.0/24", "new 443@10.0.1.0/24"],
        ),
        (
            &["a: 10.0.0.0/24 | 443"],
            &["a: 10.0.0.0/25 10.0.0.129/32 | 443"],
            &[
                "a: -10.0.0.128/32 -10.0.0.130/31 -10.0.0.132/30 -10.0.0.136/29 -10.0.0.144/28 \
                 -10.0.0.160/27 -10.0.0.192/26",
                "old 443@10.0.0.128/32,10.0.0.130/31,10.0.0.132/30,10.0.0.136/29,10.0.0.144/28,\
                 10.0.0.160/27,10.0.0.192/26",
            ],
        ),
        (
            &["a: x.com | 80-90"],
            &["a: x.com | 85 443"],
            &["a: -80-84 -86-90 +443", "old 80-84,86-90@x.com", "new 443@x.com"],
        ),
        // What a wildcard of the set still covers is listed, and still granted.
        (&["a: w.x.com *.x.com | 443"], &["a: *.x.com | 443"], &["a: -w.x.com w.x.com<*.x.com"]),
        (&["a: *.x.com | 443"], &["a: w.x.com *.x.com | 443"], &["a: +w.x.com w.x.com<*.x.com"]),
        (
            &["a: w.x.com | 80 443", "b: *.x.com | 443"],
            &["b: *.x.com | 443"],
            &["a: gone -w.x.com -80 -443", "old 80@w.x.com"],
        ),
        (
            &["a: x.com y.com 10.0.0.0/24 | 443", "b: z.com | 443"],
            &["a: x.com | 443", "b: z.com y.com 10.0.0.0/25 | 443"],
            &[
                "a: -y.com -10.0.0.0/24",
                "b: +y.com +10.0.0.0/25",
                "10.0.0.0/25: a -> b",
                "y.com: a -> b",
                "old 443@10.0.0.128/25",
            ],
        ),
        (&["a: x.com | 443"], &["a: x.com | 443off"], &["a: enabled=false", "old 443@x.com"]),
        (&["a: x.com | 443off"], &[], &["a: gone -x.com -443"]),
        (
            &["a: self | 22"],
            &["a: x.com | 22"],
            &["a: -self +x.com", "old 22@self", "new 22@x.com"],
        ),
        (&["a: ::/0 | 22"], &["a: 8000::/1 | 22"], &["a: -::/1", "old 22@::/1"]),
        // A rule that is cut in two grants what it did.
        (
            &["a: x.com y.com z.com | 443"],
            &["a: x.com y.com | 443", "b: z.com | 443"],
            &["a: -z.com", "b: new +z.com +443", "z.com: a -> b"],
        ),
    ];
    for (old, new, expected) in cases {
        assert_eq!(shown(&compare(&rules(old), &rules(new))), *expected, "{old:?} {new:?}");
    }
}

#[test]
fn sets_of_pages_are_found() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        // By number, whatever the words are.
        (
            &["163 Tjänst: x.com | 443"],
            &["163 Service: y.com | 443"],
            &["163 Service: -x.com +y.com", "old 443@x.com", "new 443@y.com"],
        ),
        // By words, where nothing else is left.
        (
            &["words: x.com | 443"],
            &["words: y.com | 443"],
            &["words: -x.com +y.com", "old 443@x.com", "new 443@y.com"],
        ),
        // By endpoints, where the words are another language's.
        (
            &["mots: x.com y.com | 443", "autres: z.com | 443"],
            &["others: z.com | 443", "words: x.com y.com | 80 443"],
            &["words: +80", "new 80@x.com,y.com"],
        ),
        // One endpoint out of many is chance.
        (
            &["mots: a.com b.com c.com | 443"],
            &["words: c.com d.com e.com | 443"],
            &[
                "mots: gone -a.com -b.com -c.com -443",
                "words: new +c.com +d.com +e.com +443",
                "c.com: mots -> words",
                "old 443@a.com,b.com",
                "new 443@d.com,e.com",
            ],
        ),
        // Another number is another set, whatever it lists.
        (
            &["128 a: x.com y.com | 443"],
            &["163 a: x.com y.com | 443"],
            &[
                "128 a: gone -x.com -y.com -443",
                "163 a: new +x.com +y.com +443",
                "x.com: 128 a -> 163 a",
                "y.com: 128 a -> 163 a",
            ],
        ),
        // One number, two parts.
        (
            &["163 a: x.com | 80", "163 b: y.com | 443"],
            &["163 a: y.com | 80", "163 b: x.com | 443"],
            &[
                "163 a: part-80@x.com part-443@y.com part+80@y.com part+443@x.com",
                "old 80@x.com",
                "old 443@y.com",
                "new 80@y.com",
                "new 443@x.com",
            ],
        ),
    ];
    for (old, new, expected) in cases {
        assert_eq!(shown(&compare(&page(old), &page(new))), *expected, "{old:?} {new:?}");
    }
}

#[test]
fn a_page_and_the_rules_made_of_it() {
    let old = page(&["163 Service: x.com *.y.com 10.0.0.0/24 | 80 443"]);
    let new =
        rules(&["intune-163: x.com 10.0.0.0/24 | 80 443", "intune-163-broad: *.y.com | 80 443off"]);
    let expected = ["intune-163: part-80,443@*.y.com", "old 80,443@*.y.com"];
    assert_eq!(shown(&compare(&old, &new)), expected);
    // The same for a set without a number.
    let old = page(&["words: x.com *.y.com | 443"]);
    let new = rules(&["words-7: x.com | 443", "words-7-broad: *.y.com | 443off"]);
    let expected = ["words-7: part-443@*.y.com", "old 443@*.y.com"];
    assert_eq!(shown(&compare(&old, &new)), expected);
    // Between rules a number in the name says little.
    let made = rules(&["intune-163: x.com | 443", "intune-163-broad: *.y.com | 443off"]);
    let other = rules(&["dns-163: z.com | 53"]);
    let difference = compare(&made, &other);
    assert_eq!((difference.counts.sets_added, difference.counts.sets_removed), (1, 2));
}

#[test]
fn what_vendors_say_of_a_set() {
    let mut old = page(&["1 a: x.com | 443"]);
    let mut new = old.clone();
    new.sets[0].required = Stated::Yes;
    assert!(compare(&old, &new).equal, "a page that doesn't say is no difference");
    old.sets[0].required = Stated::No;
    old.sets[0].category = Some(Category::Default);
    new.sets[0].category = Some(Category::Optimize);
    let difference = compare(&old, &new);
    let set = &difference.sets[0];
    assert_eq!(set.required, Some(Changed { old: Some(false), new: Some(true) }));
    let category = Changed { old: Some("default".to_owned()), new: Some("optimize".to_owned()) };
    assert_eq!(set.category, Some(category));
    assert!(!difference.equal);
}

#[test]
fn who_may_use_a_rule() {
    let old = rules(&["a: x.com | 443"]);
    let mut new = old.clone();
    new.sets[0].from = Some(BTreeSet::from(["managed".to_owned()]));
    let difference = compare(&old, &new);
    let from = Changed { old: Some(Vec::new()), new: Some(vec!["managed".to_owned()]) };
    assert_eq!(difference.sets[0].from, Some(from));
    assert!(!difference.equal && difference.granted_only_by_old.is_empty());
}

// === properties ===

const NAMES: [&str; 5] = ["a.x.com", "b.x.com", "*.x.com", "a.y.com", "*.y.com"];

/// What a set holds, thing by thing.
type Content = (BTreeSet<String>, BTreeSet<u32>, BTreeSet<String>, bool);

fn any_view() -> impl Strategy<Value = View> {
    let prefix = (0_u8..16, 28_u8..=32);
    let set = (
        prop::collection::btree_set(0..NAMES.len(), 0..4),
        prop::collection::vec(prefix, 0..5),
        1_u8..8,
        any::<bool>(),
    );
    let sets = prop::collection::btree_map("[a-d]", set, 0..4);
    sets.prop_map(|sets| View {
        sets: sets
            .into_iter()
            .map(|(name, (names, prefixes, tcp, enabled))| {
                let prefixes = prefixes.into_iter().map(|(host, length)| {
                    let prefix: IpNet = format!("10.0.0.{host}/{length}").parse().unwrap();
                    prefix.trunc().to_string()
                });
                let names = names.into_iter().map(|name| NAMES[name].to_owned());
                let to: Vec<String> = names.chain(prefixes).collect();
                let tcp: Vec<String> = (0..3)
                    .filter(|bit| tcp & (1 << bit) != 0)
                    .map(|bit| (bit + 1).to_string())
                    .collect();
                let off = if enabled { "" } else { OFF };
                rule(&format!("{name}: {} | {}{off}", to.join(" "), tcp.join(" ")))
            })
            .collect(),
    })
}

fn addresses<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<u32> {
    let prefixes: Vec<&IpNet> = prefixes.into_iter().collect();
    (0..16)
        .filter(|host| {
            let address = std::net::IpAddr::from([10, 0, 0, u8::try_from(*host).unwrap()]);
            prefixes.iter().any(|prefix| prefix.contains(&address))
        })
        .collect()
}

fn single_ports(texts: &[String]) -> BTreeSet<String> {
    let ranges = texts.iter().map(|text| PortRange::try_from(text.as_str()).unwrap());
    ranges.flat_map(|range| (range.first()..=range.last()).map(|port| port.to_string())).collect()
}

fn content(set: &SetView) -> Content {
    let tcp: Vec<String> = set.ports.tcp.ranges().iter().map(ToString::to_string).collect();
    let enabled = set.state == RuleState::Enabled;
    (set.names.clone(), addresses(&set.prefixes), single_ports(&tcp), enabled)
}

/// OLD with the differences.
fn apply(old: &View, difference: &Difference) -> Vec<Content> {
    let mut sets: BTreeMap<String, Content> =
        old.sets.iter().map(|set| (set.place.clone(), content(set))).collect();
    for set in &difference.sets {
        let (mut names, mut held, mut tcp, mut enabled) = match set.old.first() {
            Some(place) => sets.remove(place).unwrap(),
            None => (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), true),
        };
        for name in &set.names_removed {
            assert!(names.remove(name));
        }
        for name in &set.names_added {
            assert!(names.insert(name.clone()));
        }
        for address in addresses(&set.prefixes_removed) {
            assert!(held.remove(&address));
        }
        for address in addresses(&set.prefixes_added) {
            assert!(held.insert(address));
        }
        for port in single_ports(&set.tcp_removed) {
            assert!(tcp.remove(&port));
        }
        for port in single_ports(&set.tcp_added) {
            assert!(tcp.insert(port));
        }
        if let Some(change) = &set.enabled {
            assert_eq!(change.old, (set.change != Change::Added).then_some(enabled));
            enabled = change.new.unwrap_or_default();
        }
        if let Some(place) = set.new.first() {
            sets.insert(format!("new {place}"), (names, held, tcp, enabled));
        } else {
            assert!(names.is_empty() && held.is_empty() && tcp.is_empty());
        }
    }
    let mut contents: Vec<Content> = sets.into_values().collect();
    contents.sort();
    contents
}

/// Each (endpoint, port) that enabled sets grant, found one by one.
fn granted(view: &View) -> BTreeSet<(String, String)> {
    let mut tuples = BTreeSet::new();
    for set in &view.sets {
        let (names, held, tcp, enabled) = content(set);
        for port in tcp.iter().filter(|_| enabled) {
            let held = held.iter().map(ToString::to_string);
            tuples.extend(names.iter().cloned().chain(held).map(|at| (at, port.clone())));
        }
    }
    tuples
}

/// Adds what wildcards grant at the names of the pool.
fn with_wildcards(mut tuples: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    for (at, port) in tuples.clone() {
        if let Ok(pattern) = WildcardPattern::try_from(at.as_str()) {
            for name in NAMES {
                if pattern.covers(&NamePattern::try_from(name).unwrap()) {
                    tuples.insert((name.to_owned(), port.clone()));
                }
            }
        }
    }
    tuples
}

fn tuples(granted: &[Granted]) -> BTreeSet<(String, String)> {
    let mut tuples = BTreeSet::new();
    for granted in granted {
        for port in single_ports(&granted.tcp) {
            let held = addresses(&granted.prefixes).into_iter().map(|host| host.to_string());
            tuples.extend(granted.names.iter().cloned().chain(held).map(|at| (at, port.clone())));
        }
    }
    tuples
}

/// Without titles, which are NEW's where both sides have one, and in an order of their own.
fn untitled(mut difference: Difference) -> Difference {
    for set in &mut difference.sets {
        set.set.clear();
    }
    for moved in &mut difference.moved {
        (moved.from, moved.to) = (String::new(), String::new());
    }
    difference.sets.sort_by(|a, b| (&a.old, &a.new).cmp(&(&b.old, &b.new)));
    difference
}

fn mirrored(mut difference: Difference) -> Difference {
    use std::mem::swap;
    let counts = &mut difference.counts;
    swap(&mut counts.sets_old, &mut counts.sets_new);
    swap(&mut counts.sets_added, &mut counts.sets_removed);
    swap(&mut counts.names_added, &mut counts.names_removed);
    swap(&mut counts.prefixes_added, &mut counts.prefixes_removed);
    for set in &mut difference.sets {
        set.change = match set.change {
            Change::Added => Change::Removed,
            Change::Removed => Change::Added,
            Change::Changed => Change::Changed,
        };
        swap(&mut set.old, &mut set.new);
        swap(&mut set.names_added, &mut set.names_removed);
        swap(&mut set.prefixes_added, &mut set.prefixes_removed);
        swap(&mut set.tcp_added, &mut set.tcp_removed);
        swap(&mut set.udp_added, &mut set.udp_removed);
        swap(&mut set.protocols_added, &mut set.protocols_removed);
        swap(&mut set.parts_added, &mut set.parts_removed);
        if let Some(enabled) = &mut set.enabled {
            swap(&mut enabled.old, &mut enabled.new);
        }
        if let Some(from) = &mut set.from {
            swap(&mut from.old, &mut from.new);
        }
    }
    swap(&mut difference.granted_only_by_old, &mut difference.granted_only_by_new);
    difference
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(view in any_view()) {
        let difference = compare(&view, &view);
        prop_assert!(difference.equal, "{:?}", difference);
    }

    #[test]
    fn old_and_the_differences_are_new(old in any_view(), new in any_view()) {
        let mut contents: Vec<Content> = new.sets.iter().map(content).collect();
        contents.sort();
        prop_assert_eq!(apply(&old, &compare(&old, &new)), contents);
    }

    #[test]
    fn grants_one_by_one(old in any_view(), new in any_view()) {
        let difference = compare(&old, &new);
        let (old, new) = (granted(&old), granted(&new));
        let without = |ours: &BTreeSet<_>, theirs: &BTreeSet<_>| -> BTreeSet<_> {
            ours.difference(&with_wildcards(theirs.clone())).cloned().collect()
        };
        prop_assert_eq!(tuples(&difference.granted_only_by_old), without(&old, &new));
        prop_assert_eq!(tuples(&difference.granted_only_by_new), without(&new, &old));
    }

    #[test]
    fn the_other_way_round(old in any_view(), new in any_view()) {
        let there = untitled(mirrored(compare(&old, &new)));
        prop_assert_eq!(there, untitled(compare(&new, &old)));
    }

    /// The fewest prefixes hold exactly the addresses, and no two of them make up one.
    #[test]
    fn fewest_prefixes(prefixes in prop::collection::vec((0_u8..16, 28_u8..=32), 0..8)) {
        let prefixes: Vec<IpNet> = prefixes
            .into_iter()
            .map(|(host, length)| {
                format!("10.0.0.{host}/{length}").parse::<IpNet>().unwrap().trunc()
            })
            .collect();
        let mut runs = Runs::default();
        walk(prefixes.iter().map(|prefix| (prefix, 0)), |run: Run, _| runs.push(run));
        let fewest = runs.prefixes();
        prop_assert_eq!(addresses(&fewest), addresses(&prefixes));
        prop_assert_eq!(IpNet::aggregate(&fewest).len(), fewest.len());
    }
}
