// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows against a reference model: random sequences of what happens to a few exchanges, held
//! against a memory of facts, and some of them through the programs as well.

#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
};

use filter_common::{
    egress::{Ingress, Side},
    fast_path,
    flow::{FlowState, Origin, Way, carries_on, incoming, outgoing},
    parse::{Headers, parse},
    verdict::Verdict,
    wire::FlowKey,
};
use filter_user::{
    compile::{Compiled, CounterLedger, Memory, compile},
    kernel::Role,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sluice_lab::{
    cases::{Table, directory},
    frames::frame,
    ground::{Ground, TestNic, judge, judge_egress, timeless, view},
};

/// Sequences on the host.
const SEQUENCES: u32 = 10_000;
/// Sequences that the programs go through too; nothing waits in those.
const IN_THE_KERNEL: u32 = 150;
/// The outside NIC of the policy `edge` in `tests/cases/policies.toml`.
const WAN: TestNic = (2, Side::Outside);

/// Seconds around each of the times that flows live.
const WAITS: [u64; 13] = [1, 9, 11, 59, 61, 119, 121, 239, 241, 299, 301, 7439, 7441];

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Event {
    exchange: Exchange,
    what: What,
}

/// Who talks with whom. The first three are opened by the local end, the last two by the remote
/// one, to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Exchange {
    Tcp,
    OtherTcp,
    Udp,
    TcpService,
    UdpService,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// The local end sends; the letters are TCP's flags.
    Out(&'static str),
    /// The remote end sends.
    In(&'static str),
    /// So many seconds go by.
    Wait(u64),
    /// The flow is cut.
    Cut,
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out(flags) => write!(f, "> {flags}"),
            Self::In(flags) => write!(f, "< {flags}"),
            Self::Wait(seconds) => write!(f, "{seconds} s"),
            Self::Cut => f.write_str("cut"),
        }
    }
}

/// The combinations of flags that are worth telling apart.
const FLAGS: [&str; 9] = ["s", "sa", "a", "pa", "fa", "r", "ra", "sf", "none"];

// === impl Event ===

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.exchange, self.what)
    }
}

impl Exchange {
    const ALL: [Self; 5] =
        [Self::Tcp, Self::OtherTcp, Self::Udp, Self::TcpService, Self::UdpService];

    fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::OtherTcp | Self::TcpService)
    }

    fn is_service(self) -> bool {
        matches!(self, Self::TcpService | Self::UdpService)
    }

    /// The frame that the local end sends, or the remote one.
    fn frame(self, outgoing: bool, flags: &str) -> Vec<u8> {
        let (local, remote, local_port, remote_port) = match self {
            Self::Tcp => ("192.0.2.1", "203.0.113.9", 50_000, 443),
            Self::OtherTcp => ("192.0.2.1", "203.0.113.9", 50_001, 443),
            Self::Udp => ("192.0.2.1", "203.0.113.9", 50_000, 443),
            Self::TcpService => ("10.0.20.5", "198.51.100.7", 443, 40_000),
            Self::UdpService => ("10.0.20.5", "198.51.100.7", 443, 40_000),
        };
        let (from, to, sport, dport) = if outgoing {
            (local, remote, local_port, remote_port)
        } else {
            (remote, local, remote_port, local_port)
        };
        let transport = if self.is_tcp() {
            format!("tcp {sport} > {dport} flags={flags}")
        } else {
            format!("udp {sport} > {dport}")
        };
        frame(&format!("ip {from} > {to} | {transport}")).unwrap()
    }
}

/// What is remembered of an exchange: facts, where the filter has a state.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    opened: Option<Opener>,
    /// Both ends have spoken, or it was met in the middle.
    answered: bool,
    local_fin: bool,
    remote_fin: bool,
    reset: bool,
    cut: bool,
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    Local,
    Remote,
}

#[derive(Default)]
struct Model {
    facts: BTreeMap<Exchange, Facts>,
    now: u64,
}

// === impl Model ===

impl Model {
    /// The facts of an exchange, unless they are too old to count.
    fn fresh(&self, exchange: Exchange) -> Facts {
        let facts = self.facts.get(&exchange).copied().unwrap_or_default();
        let patience = match (exchange.is_tcp(), facts) {
            (true, Facts { cut: true, .. }) => 300,
            (true, Facts { reset: true, .. }) => 10,
            (true, Facts { local_fin: true, remote_fin: true, .. }) => 120,
            (true, Facts { local_fin, remote_fin, answered, .. }) => {
                if answered && !local_fin && !remote_fin { 7440 } else { 240 }
            }
            (false, Facts { cut: true, .. }) => 60,
            (false, Facts { answered: true, .. }) => 300,
            (false, _) => 120,
        };
        if self.now - facts.last <= patience { facts } else { Facts::default() }
    }

    /// What the local end sends passes; it only changes what is known.
    fn outgoing(&mut self, exchange: Exchange, flags: &str) {
        let mut facts = self.fresh(exchange);
        let (known, new) = (facts.opened.is_some(), Facts { last: self.now, ..Facts::default() });
        if !exchange.is_tcp() {
            match facts.opened {
                Some(_) if facts.cut => return,
                Some(Opener::Remote) => facts.answered = true,
                Some(Opener::Local) => {}
                None => facts = Facts { opened: Some(Opener::Local), ..new },
            }
        } else if flags == "s" {
            let again = facts.opened == Some(Opener::Local)
                && !(facts.answered || facts.local_fin || facts.remote_fin)
                && !(facts.reset || facts.cut);
            if !again {
                facts = Facts { opened: Some(Opener::Local), ..new };
            }
        } else if !known {
            if flags.contains(['s', 'r']) {
                return;
            }
            // It was met in the middle, even where that is its end.
            facts = Facts { opened: Some(Opener::Local), answered: true, ..new };
        } else if facts.cut {
            // It stays cut as long as it goes on.
        } else if flags.contains('r') {
            facts = Facts { opened: facts.opened, reset: true, ..new };
        } else if flags.contains('s') {
            let opening = !(facts.answered || facts.local_fin || facts.remote_fin || facts.reset);
            if facts.opened == Some(Opener::Remote) && opening {
                facts.answered = true;
            }
        } else if flags.contains('f') {
            if facts.reset {
                facts = Facts { opened: facts.opened, answered: true, ..new };
            }
            facts.local_fin = true;
        } else if facts.reset {
            facts = Facts { opened: facts.opened, answered: true, ..new };
        }
        facts.last = self.now;
        self.facts.insert(exchange, facts);
    }

    /// Whether what the remote end sends passes.
    fn incoming(&mut self, exchange: Exchange, flags: &str) -> bool {
        let facts = self.fresh(exchange);
        let new = Facts { last: self.now, ..Facts::default() };
        let begins = if exchange.is_tcp() { flags == "s" } else { true };
        let fits = facts.opened.is_some() && !facts.cut && {
            if exchange.is_tcp() { fits(facts, flags) } else { true }
        };
        if fits {
            let mut facts = Facts { last: self.now, ..facts };
            match flags {
                "r" | "ra" if exchange.is_tcp() => {
                    facts = Facts { opened: facts.opened, reset: true, ..new };
                }
                "fa" if exchange.is_tcp() => facts.remote_fin = true,
                "sa" if exchange.is_tcp() => facts.answered = true,
                _ if exchange.is_tcp() => {}
                _ => facts.answered |= facts.opened == Some(Opener::Local),
            }
            self.facts.insert(exchange, facts);
            return true;
        }
        // A service takes a new beginning, unless the local end's exchange is still going on; what was
        // cut begins anew only where a packet says so.
        let over = facts.reset || facts.cut || (facts.local_fin && facts.remote_fin);
        let free = match facts.opened {
            Some(Opener::Local) => over && exchange.is_tcp(),
            Some(Opener::Remote) => exchange.is_tcp() || !facts.cut,
            None => true,
        };
        if exchange.is_service() && begins && free {
            let facts = Facts { opened: Some(Opener::Remote), ..new };
            self.facts.insert(exchange, facts);
            return true;
        }
        false
    }
}

/// Whether a TCP segment of the remote end fits what is known.
fn fits(facts: Facts, flags: &str) -> bool {
    let closing = facts.local_fin || facts.remote_fin;
    let opening = !facts.answered && !closing && !facts.reset;
    match (flags, facts.opened) {
        ("r" | "ra", _) => true,
        (_, _) if facts.reset => false,
        ("sa", Some(Opener::Local)) | ("s", Some(Opener::Remote)) => !closing,
        ("a" | "pa", Some(Opener::Local)) => true,
        ("a" | "pa", Some(Opener::Remote)) => !opening,
        ("fa", _) => !opening,
        _ => false,
    }
}

fn events(waits: &[u64]) -> impl Strategy<Value = Vec<Event>> {
    let flags = || prop::sample::select(FLAGS.to_vec());
    // Handshakes are likelier than chance would have them.
    let ordered = || prop::sample::select(vec!["s", "sa", "a", "pa", "fa"]);
    let what = prop_oneof![
        6 => ordered().prop_map(What::Out),
        6 => ordered().prop_map(What::In),
        3 => flags().prop_map(What::Out),
        3 => flags().prop_map(What::In),
        1 => Just(What::Cut),
        3 => prop::sample::select(waits.to_vec()).prop_map(What::Wait),
    ];
    let exchange = prop::sample::select(Exchange::ALL.to_vec());
    vec((exchange, what).prop_map(|(exchange, what)| Event { exchange, what }), 1..24)
}

fn compiled() -> Compiled {
    let table = Table::read(&directory()).unwrap();
    let edge = table.policies.get("edge").unwrap();
    compile(&edge.policy, &edge.names, &edge.host, &mut CounterLedger::default()).unwrap()
}

/// What the filter on the host says of a frame, in each direction.
fn decide(compiled: &Compiled, memory: &Memory, outgoing: bool, frame: &[u8]) -> Verdict {
    let view = view(&compiled.tables, memory, WAN.0);
    if outgoing {
        judge_egress(view, WAN.1, frame, Ingress::Inside, 1)
    } else {
        judge(view, WAN.1, frame).decision.verdict
    }
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Permit(_) | Verdict::Pass(_))
}

/// Cuts the flow of an exchange, as long as it is remembered.
fn cut(model: &mut Model, memory: &Memory, exchange: Exchange) {
    let facts = model.fresh(exchange);
    if facts.opened.is_none() {
        return;
    }
    model.facts.insert(exchange, Facts { cut: true, ..facts });
    cut_in(memory, exchange);
}

fn cut_in(memory: &Memory, exchange: Exchange) {
    let protocol = if exchange.is_tcp() { 6 } else { 17 };
    let ports = match exchange {
        Exchange::Tcp | Exchange::Udp => (50_000, 443),
        Exchange::OtherTcp => (50_001, 443),
        Exchange::TcpService | Exchange::UdpService => (443, 40_000),
    };
    for key in memory.flows().keys() {
        if (key.local_port, key.remote_port, key.protocol) == (ports.0, ports.1, protocol) {
            memory.cut(key);
        }
    }
}

#[test]
fn flows_follow_the_model() {
    let compiled = compiled();
    let mut runner = TestRunner::new(Config { cases: SEQUENCES, ..Config::default() });
    let (sequences, incoming, passed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let result = runner.run(&events(&WAITS), |events| {
        let (mut model, memory) = (Model::default(), Memory::default());
        sequences.set(sequences.get() + 1);
        for (number, event) in events.iter().enumerate() {
            let Event { exchange, what } = *event;
            match what {
                What::Wait(seconds) => {
                    model.now += seconds;
                    memory.set_now(model.now * u64::from(Memory::HERTZ));
                }
                What::Cut => cut(&mut model, &memory, exchange),
                What::Out(flags) => {
                    let verdict =
                        decide(&compiled, &memory, true, &exchange.frame(true, flags));
                    prop_assert!(passes(verdict), "event {number}: {verdict:?}");
                    model.outgoing(exchange, flags);
                }
                What::In(flags) => {
                    let expected = model.incoming(exchange, flags);
                    let verdict =
                        decide(&compiled, &memory, false, &exchange.frame(false, flags));
                    incoming.set(incoming.get() + 1);
                    passed.set(passed.get() + u32::from(expected));
                    if passes(verdict) != expected {
                        return Err(TestCaseError::fail(format!(
                            "event {number}, {event:?}: {verdict:?}, the model passes it: {expected}; \
                             {:?}",
                            model.facts
                        )));
                    }
                }
            }
        }
        Ok(())
    });
    println!(
        "flows: {} sequences, {} incoming packets, {} of them pass",
        sequences.get(),
        incoming.get(),
        passed.get()
    );
    if let Err(error) = result {
        panic!("{error}");
    }
    // It would hold for a filter that drops everything, if nothing passed.
    assert!(passed.get() * 10 > incoming.get(), "hardly anything passes");
    assert!(passed.get() * 10 < incoming.get() * 9, "hardly anything is dropped");
}

/// Answers belong to the flow that was opened: were they to open one the other way round, what is
/// asked would go on as their answers when no rule allows it any more.
#[test]
fn answers_open_no_flow() {
    let compiled = compiled();
    let memory = Memory::default();
    let lan = |nic| view(&compiled.tables, &memory, nic);
    let enters =
        |nic, text: &str| judge(lan(nic), Side::Inside, &frame(text).unwrap()).decision.verdict;
    let leaves = |nic, from, text: &str| {
        judge_egress(lan(nic), Side::Inside, &frame(text).unwrap(), from, 1)
    };
    for transport in ["tcp 50000 > 8080 flags=s", "tcp 50000 > 8080 flags=pa"] {
        let text = format!("ip 10.0.10.7 > 10.0.20.9 | {transport}");
        assert!(passes(enters(0, &text)));
        assert!(passes(leaves(1, Ingress::Inside, &text)));
    }
    for flags in ["sa", "a", "pa", "fa"] {
        let text = format!("ip 10.0.20.9 > 10.0.10.7 | tcp 8080 > 50000 flags={flags}");
        assert!(passes(enters(1, &text)), "{flags}");
        assert!(passes(leaves(0, Ingress::Inside, &text)));
    }
    let flows = memory.flows();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows.keys().next().unwrap().remote_port, 8080);

    // To the gateway itself, which answers by the same NIC.
    let memory = Memory::default();
    let wan = || view(&compiled.tables, &memory, WAN.0);
    for flags in ["pa", "a"] {
        let text = format!("ip 198.51.100.7 > 192.0.2.1 | tcp 40000 > 2222 flags={flags}");
        assert!(passes(judge(wan(), WAN.1, &frame(&text).unwrap()).decision.verdict));
        let text = format!("ip 192.0.2.1 > 198.51.100.7 | tcp 2222 > 40000 flags={flags}");
        assert!(passes(judge_egress(wan(), WAN.1, &frame(&text).unwrap(), Ingress::Own, 1)));
    }
    let flows = memory.flows();
    let origins: Vec<u32> = flows.values().map(|flow| flow.origin).collect();
    assert_eq!(origins, [Origin::Inbound.code()], "{flows:?}");
}

#[test]
fn the_programs_follow_flows_as_the_host_does() {
    let compiled = compiled();
    let mut ground = Ground::new([WAN], &[Role::Enforcing]).unwrap();
    ground.swap(&compiled.tables).unwrap();
    let ground = RefCell::new(ground);
    let packets = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: IN_THE_KERNEL, ..Config::default() });
    let result = runner.run(&events(&[0]), |events| {
        let memory = Memory::default();
        let mut ground = ground.borrow_mut();
        ground.forget_flows().unwrap();
        for (number, event) in events.iter().enumerate() {
            let (outgoing, flags) = match event.what {
                What::Out(flags) => (true, flags),
                What::In(flags) => (false, flags),
                What::Wait(_) => continue,
                What::Cut => {
                    cut_in(&memory, event.exchange);
                    for (key, record) in memory.flows() {
                        if record.state == FlowState::Cut.code() {
                            ground.maps.cut_flows([key].into_iter()).unwrap();
                        }
                    }
                    continue;
                }
            };
            let frame = event.exchange.frame(outgoing, flags);
            let verdict = decide(&compiled, &memory, outgoing, &frame);
            let passed = if outgoing {
                ground.run_egress(WAN, &frame, Ingress::Inside, 1).unwrap()
            } else {
                ground.run(WAN, &frame).unwrap()
            };
            packets.set(packets.get() + 1);
            prop_assert_eq!(passed, passes(verdict), "event {}, {:?}", number, event);
            let (flows, expected) = (ground.flows().unwrap(), timeless(memory.flows()));
            prop_assert_eq!(flows, expected, "event {}, {:?}", number, event);
        }
        Ok(())
    });
    println!("flows: {IN_THE_KERNEL} sequences through the programs, {} packets", packets.get());
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The fast path writes keys in its own way, and they have to be the same.
#[test]
fn both_paths_give_a_packet_the_same_key() {
    for text in [
        "ip 192.0.2.1 > 203.0.113.9 | udp 50000 > 443",
        "ip 192.0.2.1 > 203.0.113.9 | tcp 258 > 772 flags=pa",
        "ip 2001:db8:20::5 > 2001:db8:cafe:7::9 | udp 50000 > 443",
        "ip 2001:db8:20::5 > 2001:db8:cafe:7::9 | tcp 258 > 772 flags=s",
    ] {
        let frame = frame(text).unwrap();
        let mut headers = Headers::default();
        parse(frame.as_slice(), &mut headers).unwrap();
        let packet = fast_path::read(frame.as_slice()).unwrap();
        for way in [Way::Outgoing, Way::Incoming] {
            let (mut fast, mut slow) = (FlowKey::default(), FlowKey::default());
            packet.set_key(&mut fast, way);
            slow.set(&headers, way);
            assert_eq!(fast, slow, "{text}, {way:?}");
        }
    }
}

/// The fast path takes an established flow to stay so wherever nothing else can come of a packet.
#[test]
fn what_goes_on_stays_established() {
    let state = FlowState::Established;
    for origin in [Origin::Gateway, Origin::Inside, Origin::Inbound, Origin::InboundHost] {
        let tcp = (0..=u8::MAX).filter(|flags| carries_on(*flags)).map(|flags| (6, flags));
        for (protocol, flags) in tcp.chain([(17, 0)]) {
            let what = format!("{origin:?}, protocol {protocol}, flags {flags:#x}");
            assert_eq!(outgoing(state, origin, protocol, flags), Some(state), "{what}");
            assert_eq!(incoming(state, origin, protocol, flags), Ok(state), "{what}");
        }
    }
    assert!(carries_on(0x10) && carries_on(0x18));
    assert!([0x02, 0x12, 0x11, 0x14, 0x04, 0x00, 0x08].into_iter().all(|flags| !carries_on(flags)));
}
