// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that gain and lose addresses while the tables are in force.

use std::collections::BTreeMap;

use filter_common::{
    verdict::PassReason,
    wire::{NO_PORTS, Permit},
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    compile::{
        Edit, MATCHES, Match, MatchKey, NamesError, RuleSet, SlotTables, Step, apply, plan_names,
        plan_sweep, uses::Uses,
    },
    names::Changed,
};

/// What changes between two states of all names.
fn between(old: &Snapshot, new: &Snapshot) -> Changed {
    let pairs = |names: &Snapshot| -> BTreeSet<(Fqdn, IpAddr)> {
        let each = |(name, addresses): (&Fqdn, &BTreeSet<IpAddr>)| {
            addresses.iter().map(|address| (name.clone(), *address)).collect::<Vec<_>>()
        };
        names.addresses.iter().flat_map(each).collect()
    };
    let (old, new) = (pairs(old), pairs(new));
    Changed {
        added: new.difference(&old).cloned().collect(),
        removed: old.difference(&new).cloned().collect(),
        ..Changed::default()
    }
}

/// Puts an edit in force as the daemon does, and gives its steps.
fn follow(world: &mut World, compiled: &mut Compiled, names: Snapshot) -> Vec<Step> {
    let changed = between(&world.names, &names);
    world.names = names;
    let edit = plan_names(compiled, &changed, &world.ledger).unwrap();
    carry_out(&mut world.ledger, compiled, edit)
}

/// Records an edit; its steps, carried out on the old tables, give the new ones.
fn carry_out(ledger: &mut CounterLedger, compiled: &mut Compiled, edit: Edit) -> Vec<Step> {
    if let Some(counted) = edit.count(ledger) {
        *ledger = counted;
    }
    let steps = edit.steps().to_vec();
    let mut kernel = compiled.tables.clone();
    steps.iter().for_each(|step| apply(&mut kernel, step));
    edit.record(compiled);
    assert_eq!(kernel, compiled.tables);
    assert_eq!(Uses::of(&compiled.tables).prefix_counts(), compiled.meaning.uses.prefix_counts());
    steps
}

fn sweep(compiled: &mut Compiled) -> Vec<Step> {
    let edit = plan_sweep(compiled);
    edit.map_or_else(Vec::new, |edit| carry_out(&mut CounterLedger::default(), compiled, edit))
}

fn snapshot(names: &[(&str, &[&str])]) -> Snapshot {
    let each = |(name, addresses): &(&str, &[&str])| {
        (Fqdn::try_from(*name).unwrap(), addresses.iter().map(|address| ip(address)).collect())
    };
    Snapshot { addresses: names.iter().map(each).collect() }
}

#[test]
fn other_names_keep_all_numbers() {
    let mut world = World::new()
        .rule("wide", &[], &["203.0.113.0/27"], &["80"])
        .rule("name", &[], &["www.example.com"], &["443"])
        .name("www.example.com", &["198.51.100.1"]);
    let before = world.compile();
    let mut after = before.clone();
    let same = world.names.clone();
    assert_eq!(follow(&mut world, &mut after, same), []);
    assert_eq!(after, before);

    let steps = follow(
        &mut world,
        &mut after,
        snapshot(&[("www.example.com", &["203.0.113.5", "198.51.100.2"])]),
    );
    assert_eq!(look_up(&after, CLIENT, "203.0.113.5", 80), "wide");
    assert_eq!(look_up(&after, CLIENT, "203.0.113.5", 443), "name");
    assert_eq!(look_up(&after, CLIENT, "198.51.100.1", 443), "not listed");
    assert_eq!(grant(&after, "198.51.100.2"), grant(&before, "198.51.100.1"));
    assert_eq!(grant(&after, "203.0.113.5"), Grant::new(3));
    assert!(
        before.tables.cells.iter().all(|(cell, value)| after.tables.cells.get(cell) == Some(value))
    );
    let kinds: Vec<String> = steps
        .into_iter()
        .map(|step| match step {
            Step::PortCell { .. } => "port cell".into(),
            Step::Cell { .. } => "cell".into(),
            Step::InsertGrant(prefix, _) => format!("+{prefix}"),
            Step::RemoveGrant(prefix) => format!("-{prefix}"),
            other => panic!("{other:?}"),
        })
        .collect();
    // A row is written before the prefix that leads there.
    let expected = [
        "port cell",
        "port cell",
        "cell",
        "-198.51.100.1/32",
        "+198.51.100.2/32",
        "+203.0.113.5/32",
    ];
    assert_eq!(kinds, expected);

    // What the address falls back to when the name loses it.
    let cells = after.tables.cells.clone();
    let steps = follow(&mut world, &mut after, Snapshot::default());
    assert_eq!(look_up(&after, CLIENT, "203.0.113.5", 80), "wide");
    assert_eq!(look_up(&after, CLIENT, "203.0.113.5", 443), "port");
    assert_eq!(after.tables.cells, cells);
    assert_eq!(
        steps,
        [Step::RemoveGrant(net("198.51.100.2/32")), Step::RemoveGrant(net("203.0.113.5/32"))]
    );
}

#[test]
fn rows_are_used_again_only_when_they_were_cleared() {
    let mut world = World::new()
        .rule("a", &[], &["a.example.com"], &["80"])
        .rule("b", &[], &["b.example.com"], &["443"])
        .name("a.example.com", &["198.51.100.1"]);
    let mut compiled = world.compile();
    assert_eq!(grant(&compiled, "198.51.100.1"), Grant::new(1));
    let only_b = snapshot(&[("b.example.com", &["198.51.100.2"])]);
    follow(&mut world, &mut compiled, only_b.clone());
    assert_eq!(grant(&compiled, "198.51.100.2"), Grant::new(2));

    // Not swept yet: the row keeps its meaning, and takes its set again.
    let both =
        snapshot(&[("b.example.com", &["198.51.100.2"]), ("a.example.com", &["198.51.100.1"])]);
    let steps = follow(&mut world, &mut compiled, both);
    assert_eq!(steps, [Step::InsertGrant(net("198.51.100.1/32"), Grant::new(1))]);
    assert!(plan_sweep(&compiled).is_none());

    follow(&mut world, &mut compiled, only_b);
    let mut steps = sweep(&mut compiled);
    assert_eq!(steps.pop(), Some(Step::PortCell { index: 3 + 1, value: Permit::DENIED }));
    assert_eq!(steps, [Step::Cell { index: 1, value: 0 }]);
    assert_eq!(compiled.tables.counters().len(), 1);
    assert!(compiled.meaning.grant(1).is_none() && compiled.meaning.port_set(1).is_none());

    let shared = &["198.51.100.2"][..];
    let shared = snapshot(&[("b.example.com", shared), ("a.example.com", shared)]);
    follow(&mut world, &mut compiled, shared);
    assert_eq!(grant(&compiled, "198.51.100.2"), Grant::new(1));
    assert_eq!(look_up(&compiled, CLIENT, "198.51.100.2", 80), "a");
    assert_eq!(look_up(&compiled, CLIENT, "198.51.100.2", 443), "b");
}

#[test]
fn rows_of_unknown_meaning_are_not_built_upon() {
    let mut world = World::new().rule("wide", &[], &["198.51.100.0/24"], &["80"]).rule(
        "a",
        &[],
        &["a.example.com"],
        &["80"],
    );
    let mut compiled = world.compile();
    compiled.tables.grants.insert(net("198.51.100.0/25"), Grant::new(7));
    let changed = |address| Changed {
        added: [(Fqdn::try_from("a.example.com").unwrap(), ip(address))].into(),
        ..Changed::default()
    };
    let plan = |address| plan_names(&compiled, &changed(address), &world.ledger);
    assert_eq!(plan("198.51.100.1"), Err(NamesError::Unexplained));
    assert!(plan("198.51.100.129").is_ok());
}

#[test]
fn what_has_no_room_is_not_planned() {
    let mut world = World::new().rule("a", &[], &["a.example.com"], &["80"]);
    let most = u16::try_from(MATCHES).unwrap();
    for rule in 1..most {
        let to = format!("198.18.{}.{}/32", rule / 256, rule % 256);
        world = world.rule(&format!("r{rule}"), &[], &[&to], &["80"]);
    }
    let mut compiled = world.compile();
    assert_eq!(world.ledger.len(), usize::from(most) - 1);
    // Alone, the rule has the last counter; together with others it needs further ones.
    let before = (compiled.clone(), world.ledger.clone());
    let learned = |address| {
        between(&Snapshot::default(), &snapshot(&[("a.example.com", &["198.51.100.1", address])]))
    };
    let error = plan_names(&compiled, &learned("198.18.0.1"), &world.ledger).unwrap_err();
    let NamesError::Capacity(error) = error else { panic!("{error}") };
    assert_eq!(error.exceeded.len(), 1);
    assert_eq!((error.exceeded[0].needed, error.exceeded[0].capacity), (3841, 3840));
    assert_eq!((compiled.clone(), world.ledger.clone()), before);
    let edit = plan_names(&compiled, &learned("198.51.100.2"), &world.ledger).unwrap();
    carry_out(&mut world.ledger, &mut compiled, edit);
    assert_eq!(look_up(&compiled, CLIENT, "198.51.100.2", 80), "a");
    assert_eq!(world.ledger.len(), usize::from(most));
}

const NAMES: [&str; 7] = [
    "a.example.com",
    "ab.example.com",
    "b.example.com",
    "x.b.example.com",
    "y.x.b.example.com",
    "example.com",
    "www.example.net",
];

/// Inside and outside of static prefixes, equal to some, own and closed.
const ADDRESSES: [&str; 12] = [
    "198.51.100.0",
    "198.51.100.1",
    "198.51.100.3",
    "198.51.100.7",
    "198.51.100.9",
    "203.0.113.1",
    "203.0.113.2",
    "10.0.0.1",
    "10.0.255.255",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db9::1",
];

/// Static prefixes around and equal to addresses, and names under several patterns.
fn world() -> World {
    let mut world = World::new()
        .group("some", &["10.0.7.0/24"], &[], &[])
        .rule("wide", &[], &["198.51.100.0/28", "2001:db8::/32"], &["80"])
        .rule("narrow", &["some"], &["198.51.100.0/30"], &["22", "80"])
        .rule("host", &[], &["198.51.100.3/32", "2001:db8::2/128", "198.51.100.9/32"], &["25"])
        .rule("below", &[], &["*.example.com"], &["443", "8000-8999"])
        .rule("exact", &["some"], &["a.example.com", "www.example.net"], &["443", "22"])
        .rule("begins", &[], &["a*.example.com", "*b.example.com"], &["8443"])
        .rule("deeper", &["some"], &["*.b.example.com", "*.*.b.example.com"], &["25"])
        .rule("self", &[], &["self"], &["53"]);
    world.host.closed.insert(ip("10.0.255.255"));
    world
}

/// What a moment brings.
#[derive(Clone, Debug)]
enum Event {
    /// Each (name, address) that is not there comes, and each that is there goes.
    Changed(Vec<(usize, usize)>),
    /// Rows are cleared.
    Swept,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => vec((0..NAMES.len(), 0..ADDRESSES.len()), 1..5).prop_map(Event::Changed),
        1 => Just(Event::Swept),
    ]
}

/// Whether a prefix is own or closed, its rules, and for each class and port class what is counted.
type PrefixMeans<'a> = (Grant, Option<&'a RuleSet>, Vec<Option<(PassReason, &'a Match)>>);

/// What tables mean, whatever the numbers in them.
#[derive(Debug, PartialEq, Eq)]
struct Means<'a> {
    prefixes: BTreeMap<IpNet, PrefixMeans<'a>>,
}

impl<'a> Means<'a> {
    fn of(Compiled { tables, meaning, .. }: &'a Compiled) -> Self {
        let SlotSettings { classes, port_classes, .. } = tables.settings;
        let permit = |row: u32, class: u32, port_class: u32| {
            let cell = |class| tables.cells.get(row * classes + class);
            let port_set = cell(class).or_else(|| cell(0)).filter(|set| *set != NO_PORTS)?;
            let permit = tables.port_cells.get(&(port_set * port_classes + port_class))?;
            Some((permit.reason().unwrap(), meaning.counter(permit.counter()).unwrap()))
        };
        let means = |grant: Grant| {
            let row = grant.row();
            let cells =
                (0..classes).flat_map(|class| (0..port_classes).map(move |port| (class, port)));
            let permits = cells.map(|(class, port)| permit(row, class, port)).collect();
            let flags = if grant.is_own() { Grant::new(0).own() } else { Grant::new(0) };
            let flags = if grant == Grant::CLOSED_ADDRESS { grant } else { flags };
            (flags, meaning.grant(row), permits)
        };
        Self {
            prefixes: tables
                .grants
                .iter()
                .map(|(prefix, grant)| (*prefix, means(*grant)))
                .collect(),
        }
    }
}

fn see(tables: &SlotTables) -> Vec<Grant> {
    let view = View::new(tables, 0);
    ADDRESSES.iter().map(|to| view.grant(&address(to))).collect()
}

proptest! {
    // Each compiles the policy again after every event.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn edited_tables_mean_the_same_as_new_ones(events in vec(event(), 1..40)) {
        let mut world = world();
        let mut edited = world.compile();
        for event in events {
            match event {
                Event::Changed(pairs) => {
                    let mut names = world.names.clone();
                    for (name, address) in pairs {
                        let name = Fqdn::try_from(NAMES[name]).unwrap();
                        let addresses = names.addresses.entry(name).or_default();
                        let address = ip(ADDRESSES[address]);
                        if !addresses.remove(&address) {
                            addresses.insert(address);
                        }
                    }
                    let old = edited.clone();
                    let mut now = old.tables.clone();
                    for step in follow(&mut world, &mut edited, names) {
                        apply(&mut now, &step);
                        let seen = see(&now);
                        let ends = see(&old.tables).into_iter().zip(see(&edited.tables));
                        for (seen, (before, after)) in seen.into_iter().zip(ends) {
                            prop_assert!(seen == before || seen == after);
                            let rules = |compiled: &Compiled| {
                                compiled.meaning.grant(seen.row()).cloned()
                            };
                            // A row that is in sight means the same before and after.
                            if seen == before {
                                prop_assert_eq!(rules(&old), rules(&edited));
                                for class in 0..now.settings.classes {
                                    let cell = seen.row() * now.settings.classes + class;
                                    prop_assert_eq!(now.cells.get(cell), old.tables.cells.get(cell));
                                }
                            } else {
                                for class in 0..now.settings.classes {
                                    let cell = seen.row() * now.settings.classes + class;
                                    prop_assert_eq!(
                                        now.cells.get(cell),
                                        edited.tables.cells.get(cell)
                                    );
                                }
                            }
                        }
                    }
                    // What is so already changes nothing.
                    let again = between(&Snapshot::default(), &world.names);
                    let again = plan_names(&edited, &again, &world.ledger).unwrap();
                    prop_assert_eq!(again.steps(), &[]);
                }
                Event::Swept => {
                    let before = see(&edited.tables);
                    sweep(&mut edited);
                    prop_assert_eq!(see(&edited.tables), before);
                    prop_assert!(plan_sweep(&edited).is_none());
                    let rows = edited.tables.grant_rows();
                    prop_assert!(rows.iter().all(|row| edited.meaning.grant(*row).is_some()));
                    let of_rows = |(cell, _)| rows.contains(&(cell / edited.tables.settings.classes));
                    prop_assert!(edited.tables.cells.iter().all(of_rows));
                    let port_sets: BTreeSet<u32> = edited.tables.cells.iter().map(|(_, set)| set).filter(|set| *set != NO_PORTS).collect();
                    let port_classes = edited.tables.settings.port_classes;
                    let of_port_sets = |cell: &u32| port_sets.contains(&(cell / port_classes));
                    prop_assert!(edited.tables.port_cells.keys().all(of_port_sets));
                    let counters: BTreeSet<u32> = edited.meaning.matches().keys().copied().collect();
                    prop_assert_eq!(edited.tables.counters(), counters);
                }
            }
            let (policy, names, host) = (&world.policy, &world.names, &world.host);
            let whole = compile(policy, names, host, &mut world.ledger.clone()).unwrap();
            prop_assert_eq!(Means::of(&edited), Means::of(&whole));
            prop_assert_eq!(edited.meaning.destinations(), whole.meaning.destinations());
            for (counter, found) in edited.meaning.matches() {
                let rules = found.rules.iter().map(|rule| edited.meaning.rule(*rule).unwrap());
                let key: MatchKey = rules.map(|rule| (rule.reason, rule.name.clone())).collect();
                prop_assert_eq!(world.ledger.counter(&key), Some(*counter));
            }
        }
    }
}
