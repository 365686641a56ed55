// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiled tables against the naive model, for random policies, packets and changes of names.

use std::net::IpAddr;

use filter_common::{
    decide::decide,
    flow::Workspace,
    parse::Address,
    tables::{Class, Tables as _},
    verdict::Verdict,
    wire::Grant,
};
use filter_user::{
    compile::{
        ClientGroup, Compiled, CounterLedger, Edit, Host, MatchKey, RuleSet, SlotTables, Step, Via,
        View, apply, compile, plan_names, plan_sweep, rebuild,
    },
    names::Snapshot,
    policy::Policy,
};
use ipnet::IpNet;
use sluice_lab::model::{
    Expected, Packet, Source, Target, changed, model, random_change, random_packet, random_policy,
};

/// What the tables say of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    class: Option<Class>,
    grant: Grant,
    allowed: bool,
}

#[test]
fn tables_equal_the_model() {
    let (mut passed, mut several, mut shielded, mut rerouted) = (0, 0, 0, 0);
    for seed in 0..1000 {
        let (policy, names, host) = random_policy(seed);
        let mut ledger = CounterLedger::default();
        let compiled = compile(&policy, &names, &host, &mut ledger).expect("it fits");
        for round in 0..20 {
            let packet = random_packet(seed << 16 | round, &policy, &names, &host);
            let expected = model(&policy, &names, &host, &packet);
            check(&compiled, &ledger, &host, &packet, &expected)
                .unwrap_or_else(|what| panic!("seed {seed}, round {round}: {what}\n{packet:#?}\n{expected:#?}\n{policy:#?}\n{names:#?}\n{host:#?}"));
            let view = View::new(&compiled.tables, packet.nic.into());
            let verdict =
                match decide(packet.frame().as_slice(), &view, &mut Workspace::default()).verdict {
                    Verdict::Permit(permit) => Ok(permit.reason().expect("a permit has a reason")),
                    Verdict::Pass(reason) => Ok(reason),
                    Verdict::Drop(reason) => Err(reason),
                };
            assert_eq!(
                verdict,
                expected.verdict(packet.service),
                "seed {seed}, round {round}: {packet:#?}\n{expected:#?}"
            );
            if expected.source.is_plausible() && !expected.allowing.is_empty() {
                passed += 1;
            }
            if expected.groups.len() > 1 {
                several += 1;
            }
            let open = model(&policy, &names, &without_itself(&host), &packet);
            if !open.covering.is_subset(&expected.covering) {
                shielded += 1;
            }
            if open.source.is_plausible() && !expected.source.is_plausible() {
                rerouted += 1;
            }
        }
    }
    // The property would hold for empty policies too: the generator must not drift there.
    assert!(passed > 2_000, "only {passed} packets pass");
    assert!(several > 2_000, "only {several} clients are in several groups");
    assert!(shielded > 1_000, "only {shielded} packets are kept from the gateway's addresses");
    println!("model: {passed} pass, {several} several, {shielded} shielded, {rerouted} rerouted");
    assert!(rerouted > 300, "only {rerouted} clients live elsewhere");
}

/// A host that takes in no packet and routes nothing elsewhere.
fn without_itself(host: &Host) -> Host {
    let mut nics = host.nics.clone();
    nics.iter_mut().for_each(|nic| nic.elsewhere.clear());
    Host { nics, ..Host::default() }
}

#[test]
fn a_difference_leads_to_the_new_tables() {
    let mut idle = SlotTables::default();
    for seed in 0..50 {
        let (policy, names, host) = random_policy(seed);
        let mut ledger = CounterLedger::default();
        let new = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
        let steps: Vec<Step> = rebuild(&idle, &new).collect();
        for step in steps {
            apply(&mut idle, &step);
        }
        assert_eq!(idle, new, "seed {seed}");
        assert_eq!(rebuild(&idle, &new).next(), None, "seed {seed}");
    }
}

#[test]
fn names_change_in_place_without_a_wrong_moment() {
    let mut steps = 0;
    for seed in 0..60 {
        let (policy, mut names, host) = random_policy(seed);
        let mut ledger = CounterLedger::default();
        let mut compiled = compile(&policy, &names, &host, &mut ledger).expect("it fits");
        for round in 0..3 {
            let new_names = random_change(seed << 8 | round, &names);
            let packets: Vec<Packet> = (0..24)
                .map(|number| {
                    let names = if number % 2 == 0 { &names } else { &new_names };
                    random_packet(seed << 24 | round << 16 | number, &policy, names, &host)
                })
                .collect();
            let changed = changed(&names, &new_names);
            let edit = plan_names(&compiled, &changed, &ledger).expect("it fits");
            ledger = edit.count(&ledger).unwrap_or(ledger);
            steps += carry_out(&mut compiled, edit, &packets);
            for packet in &packets {
                let expected = model(&policy, &new_names, &host, packet);
                check(&compiled, &ledger, &host, packet, &expected)
                    .unwrap_or_else(|what| panic!("seed {seed}, round {round}: {what}"));
            }
            if let Some(edit) = plan_sweep(&compiled) {
                steps += carry_out(&mut compiled, edit, &packets);
            }
            assert_eq!(plan_sweep(&compiled), None);
            names = new_names;
        }
    }
    assert!(steps > 2_000, "only {steps} steps");
}

/// Carries out an edit and looks at each packet after each step.
fn carry_out(compiled: &mut Compiled, edit: Edit, packets: &[Packet]) -> usize {
    let mut kernel = compiled.tables.clone();
    let steps = edit.steps().to_vec();
    let before: Vec<Found> = packets.iter().map(|packet| find(&compiled.tables, packet)).collect();
    edit.record(compiled);
    let after: Vec<Found> = packets.iter().map(|packet| find(&compiled.tables, packet)).collect();
    for step in &steps {
        apply(&mut kernel, step);
        for (packet, (before, after)) in packets.iter().zip(before.iter().zip(&after)) {
            let now = find(&kernel, packet);
            assert!(now.grant == before.grant || now.grant == after.grant, "{step:?}: {packet:?}");
            assert!(
                now.allowed == before.allowed || now.allowed == after.allowed,
                "{step:?}: {packet:?}"
            );
            // A grant means the same at every moment.
            if now.grant == before.grant && before.grant != after.grant {
                assert_eq!(&now, before, "{step:?}: {packet:?}");
            }
        }
    }
    assert_eq!(kernel, compiled.tables);
    steps.len()
}

fn find(tables: &SlotTables, packet: &Packet) -> Found {
    let view = View::new(tables, packet.nic.into());
    let class = view.class(packet.vlan, &address(packet.source));
    let grant = view.grant(&address(packet.destination));
    let ports = class.and_then(|class| view.port_set(grant, class));
    let allowed =
        ports.is_some_and(|ports| view.permit(ports, packet.service.selector()).is_granted());
    Found { class, grant, allowed }
}

fn check(
    compiled: &Compiled,
    ledger: &CounterLedger,
    host: &Host,
    packet: &Packet,
    expected: &Expected,
) -> Result<(), String> {
    let Compiled { tables, meaning, .. } = compiled;
    let view = View::new(tables, packet.nic.into());
    let key = |rules: Option<&RuleSet>| -> MatchKey {
        let rules = rules.into_iter().flat_map(|rules| rules.iter());
        let references = rules.filter_map(|rule| meaning.rule(*rule));
        references.map(|rule| (rule.reason, rule.name.clone())).collect()
    };
    let same = |what: &str, same: bool| if same { Ok(()) } else { Err(what.to_owned()) };

    let class = view.class(packet.vlan, &address(packet.source));
    same("plausibility", class.is_some() == expected.source.is_plausible())?;
    let Some(class) = class else { return Ok(()) };
    let groups = meaning.class(class.0).ok_or("class without meaning")?;
    let named = groups.iter().filter_map(|group| match group {
        ClientGroup::Source(name) => Some(name),
        ClientGroup::Management | ClientGroup::Outside | ClientGroup::Inbound(_) => None,
    });
    same("groups", named.eq(&expected.groups))?;

    let grant = view.grant(&address(packet.destination));
    same("own", grant.is_own() == (expected.destination == Target::Own))?;
    same("covering rules", key(meaning.grant(grant.row())) == expected.covering)?;
    let ports = view.port_set(grant, class);
    let rules = ports.and_then(|ports| meaning.port_set(ports.0));
    same("rules that hold", key(rules) == expected.holding)?;
    let Some(ports) = ports else { return Ok(()) };

    let permit = view.permit(ports, packet.service.selector());
    same("allowed", permit.is_granted() != expected.allowing.is_empty())?;
    if !permit.is_granted() {
        return Ok(());
    }
    let matched = meaning.counter(permit.counter()).ok_or("counter without meaning")?;
    same("allowing rules", key(Some(&matched.rules)) == expected.allowing)?;
    same("reason of the match", permit.reason() == Some(matched.reason))?;
    if expected.source == Source::Plausible {
        same("reason", permit.reason() == expected.verdict(packet.service).ok())?;
    }
    same("ledger", ledger.counter(&expected.allowing) == Some(permit.counter()))?;
    for rule in matched.rules.iter() {
        match meaning.via(*rule, packet.destination).ok_or("rule without a way")? {
            Via::Prefix(prefix) if host.own.contains(&packet.destination) => {
                same("own prefix", prefix == IpNet::from(packet.destination))?;
            }
            Via::Prefix(prefix) => same("prefix", prefix.contains(&packet.destination))?,
            Via::Name { address, .. } => same("address", address == packet.destination)?,
            Via::SelfAddress => same("self", host.own.contains(&packet.destination))?,
        }
    }
    Ok(())
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::V4(address.octets()),
        IpAddr::V6(address) => Address::V6(address.octets()),
    }
}

#[test]
fn compiling_twice_gives_the_same() {
    for seed in 0..20 {
        let build = || -> (Compiled, CounterLedger) {
            let (policy, names, host): (Policy, Snapshot, Host) = random_policy(seed);
            let mut ledger = CounterLedger::default();
            (compile(&policy, &names, &host, &mut ledger).expect("it fits"), ledger)
        };
        assert_eq!(build(), build());
    }
}
