// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resolvers that fail, a daemon that dies, and addresses that grow old: what clients notice.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use sluice_lab::{
    first_packet::{FORWARDER_V4, FORWARDER_V6},
    gateway::Configuration,
    probe::{self, Outcome},
    process::wait_until,
    query::{self, Client, PATIENCE},
    topology::{Clients, Topology},
    upstream::{
        Mode, Upstream,
        answers::{v4, v6},
        wire::{Labels, code, kind},
    },
};

use crate::{
    names_support::{
        ONE_UPSTREAM, RULES, addresses, check_reachable, check_unlearned, configuration, counter,
        listeners, named, resolve, started, upstream, wait_for,
    },
    support::ask,
};

/// How long a resolver that answers again may be left alone.
const RECOVERY: Duration = Duration::from_secs(20);

/// Within this time after its start the daemon answers clients.
const RESTART: Duration = Duration::from_secs(1);

#[test]
fn a_resolver_that_fails_in_every_way() {
    let lab = Topology::new(Clients::One).unwrap();
    let upstream = upstream(&lab);
    let listeners = listeners(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let known = "n1000.w.lab.example";
    assert_eq!(resolve(&lab, known).addresses(), [IpAddr::from(v4(known, 0))]);
    for (number, mode, counted) in [
        (1, Mode::Silent, "upstream-timeout"),
        (2, Mode::FAILS, "upstream-servfail"),
        (3, Mode::REFUSES, "upstream-refused"),
        (4, Mode::Lame, "upstream-lame"),
    ] {
        upstream.set_mode(mode);
        let name = format!("n{number}.w.lab.example");
        let before = counter(&gateway, counted);
        let reply = resolve(&lab, &name);
        assert_eq!(reply.code(), Some(code::SERVER_FAILURE), "{mode:?}: {reply:?}");
        assert!(counter(&gateway, counted) > before, "{mode:?}: {counted}");
        check_unlearned(&lab, &gateway, &listeners, v4(&name, 0).into());
        // What was learned before is no worse for it.
        check_reachable(&lab, v4(known, 0).into());
        upstream.set_mode(Mode::Honest);
        wait_until("the resolver is asked again", RECOVERY, || {
            Ok(resolve(&lab, &name).addresses() == [IpAddr::from(v4(&name, 0))])
        })
        .unwrap();
    }
    upstream.set_mode(Mode::TcpOnly);
    let before = counter(&gateway, "truncated");
    let name = "n5.w.lab.example";
    assert_eq!(resolve(&lab, name).addresses(), [IpAddr::from(v4(name, 0))]);
    assert!(counter(&gateway, "truncated") > before);
    check_reachable(&lab, v4(name, 0).into());

    upstream.set_mode(Mode::Honest);
    upstream.set_delay(Duration::from_millis(400));
    let name = "n6.w.lab.example";
    assert_eq!(resolve(&lab, name).addresses(), [IpAddr::from(v4(name, 0))], "slow");
    check_reachable(&lab, v4(name, 0).into());

    drop(upstream);
    let before = counter(&gateway, "upstream-unreachable");
    let begin = Instant::now();
    let reply = resolve(&lab, "n7.w.lab.example");
    assert_eq!(reply.code(), Some(code::SERVER_FAILURE), "{reply:?}");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    assert!(counter(&gateway, "upstream-unreachable") > before);
    // Within its TTL an answer needs no resolver.
    assert_eq!(resolve(&lab, known).addresses(), [IpAddr::from(v4(known, 0))]);
}

#[test]
fn answers_without_addresses_are_passed_on() {
    let lab = Topology::new(Clients::One).unwrap();
    let upstream = upstream(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    for (name, expected) in [
        ("n1.nxdomain.w.lab.example", code::NO_SUCH_NAME),
        ("n2.nodata.w.lab.example", code::NO_ERROR),
        ("n3.chain2.nodata.w.lab.example", code::NO_ERROR),
    ] {
        let reply = resolve(&lab, name);
        assert_eq!((reply.code(), reply.addresses()), (Some(expected), vec![]), "{name}");
    }
    // A type without addresses is nothing to learn from, whatever becomes of it.
    let text = query::udp(&lab.client, FORWARDER_V4, "n4.w.lab.example", kind::TXT).unwrap();
    assert_eq!(text.addresses(), [] as [IpAddr; 0]);
    assert_eq!(addresses(&ask(&gateway, &["names"])), [] as [IpAddr; 0]);
    drop(upstream);
}

#[test]
fn long_answers_and_aliases_in_any_order() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let _listeners = listeners(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    for (name, count) in [
        ("n1.many25.w.lab.example", 25),
        ("n2.many60.w.lab.example", 60),
        ("n3.chain3.w.lab.example", 1),
        ("n4.chain5.many3.backward.w.lab.example", 3),
        ("n5.chain7.many2.mixed.w.lab.example", 2),
    ] {
        let expected: Vec<IpAddr> = (0..count).map(|place| v4(name, place).into()).collect();
        let expected_v6: Vec<IpAddr> = (0..count).map(|place| v6(name, place).into()).collect();
        for (kind, mut expected) in [(kind::A, expected), (kind::AAAA, expected_v6)] {
            // A client without TCP sees a cut answer; what is learned is all of it.
            let answers = query::tcp(&lab.client, FORWARDER_V6, &[(name, kind)]).unwrap();
            let mut found: Vec<_> =
                answers[0].addresses().into_iter().map(|(address, _)| address).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{name}");
            for address in [expected[0], expected[expected.len() - 1]] {
                check_reachable(&lab, address);
            }
        }
        let held = named(&gateway, name).unwrap();
        assert_eq!(held["addresses"].as_array().unwrap().len(), 2 * count as usize, "{held}");
    }
    // Over UDP an answer that is too long for the client says so.
    let reply = resolve(&lab, "n2.many60.w.lab.example");
    assert!(reply.said().unwrap().truncated() || reply.addresses().len() == 60, "{reply:?}");
}

#[test]
fn one_resolver_takes_over_from_another() {
    let lab = Topology::new(Clients::One).unwrap();
    let first = upstream(&lab);
    let second = Upstream::start(&lab.internet, ["9.9.9.11:53".parse().unwrap()]).unwrap();
    let gateway = started(&lab, &configuration("upstream = [\"9.9.9.10\", \"9.9.9.11\"]", RULES));
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        let name = format!("n{number}.w.lab.example");
        let begin = Instant::now();
        let reply = resolve(&lab, &name);
        assert_eq!(reply.addresses(), [IpAddr::from(v4(&name, 0))], "{name}: {reply:?}");
        begin.elapsed()
    };
    fresh();
    assert_eq!((first.count() > 0, second.count()), (true, 0), "in order of preference");
    for (ill, well, mode) in [
        (&first, &second, Mode::Silent),
        (&second, &first, Mode::FAILS),
        (&first, &second, Mode::REFUSES),
        (&second, &first, Mode::Lame),
    ] {
        ill.set_mode(mode);
        well.set_mode(Mode::Honest);
        // The first questions may wait for the one that fails; the others don't.
        for _ in 0..3 {
            fresh();
        }
        let slowest = (0..10).map(|_| fresh()).max().unwrap();
        assert!(slowest < Duration::from_millis(500), "{mode:?}: {slowest:?}");
    }
    // One that isn't there at all.
    first.set_mode(Mode::Honest);
    drop(second);
    let slowest = (0..10).map(|_| fresh()).max().unwrap();
    assert!(slowest < PATIENCE, "{slowest:?}");
    assert_eq!(counter(&gateway, "questions"), counter(&gateway, "answered"));
}

#[test]
fn a_daemon_that_is_killed_in_the_middle() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let _listeners = listeners(&lab);
    let mut gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let mut next = 0;
    let mut learned = Vec::new();
    for round in 0..3 {
        let mut client = Client::new(&lab.client, FORWARDER_V4, PATIENCE).unwrap();
        for _ in 0..40 {
            next += 1;
            let name = format!("n{next}.w.lab.example");
            let reply = client.ask(&Labels::of(&name), kind::A).unwrap();
            assert_eq!(reply.addresses(), [IpAddr::from(v4(&name, 0))]);
            learned.push(SocketAddr::new(v4(&name, 0).into(), 443));
        }
        // Right after an answer left, without a moment to write anything down.
        gateway.kill();
        for to in &learned {
            assert_eq!(probe::tcp(&lab.client, *to).unwrap(), Outcome::Answered, "dead, {to}");
        }
        let mut client = Client::new(&lab.client, FORWARDER_V4, Duration::from_millis(50)).unwrap();
        next += 1;
        let name = format!("n{next}.w.lab.example");
        assert_eq!(client.ask(&Labels::of(&name), kind::A).unwrap().code(), None);
        let begin = Instant::now();
        gateway.launch().unwrap();
        let (answered, slowest) = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                wait_until("a question is answered", Duration::from_secs(10), || {
                    Ok(client.ask(&Labels::of(&name), kind::A)?.code() == Some(code::NO_ERROR))
                })
                .map(|()| begin.elapsed())
            });
            let mut slowest = Duration::ZERO;
            for to in learned.iter().cycle() {
                if asking.is_finished() {
                    break;
                }
                let begin = Instant::now();
                assert_eq!(probe::tcp(&lab.client, *to).unwrap(), Outcome::Answered, "{to}");
                slowest = slowest.max(begin.elapsed());
            }
            (asking.join().unwrap().unwrap(), slowest)
        });
        println!("round {round}: answered {answered:?} after the start, slowest {slowest:?}");
        assert!(answered < RESTART, "round {round}: {answered:?}");
        gateway.wait_until_ready().unwrap();
        for to in &learned {
            assert_eq!(probe::tcp(&lab.client, *to).unwrap(), Outcome::Answered, "back, {to}");
        }
        let held = addresses(&ask(&gateway, &["names"]));
        for to in &learned {
            assert!(held.contains(&to.ip()), "{to} is forgotten");
        }
        learned.push(SocketAddr::new(v4(&name, 0).into(), 443));
    }
}

#[test]
fn what_is_in_use_outlives_its_time_and_what_is_idle_goes() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let _listeners = listeners(&lab);
    let settings = format!("{ONE_UPSTREAM}\nmin_ttl = \"1s\"\ngrace = \"2s\"");
    let gateway = started(&lab, &configuration(&settings, RULES));
    let [used, idle, asked] =
        ["n1.ttl1.w.lab.example", "n2.ttl1.w.lab.example", "n3.ttl1.w.lab.example"];
    for name in [used, idle, asked] {
        assert_eq!(resolve(&lab, name).addresses(), [IpAddr::from(v4(name, 0))]);
        check_reachable(&lab, v4(name, 0).into());
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        check_reachable(&lab, v4(used, 0).into());
        // An answer renews, whether it is used or not.
        assert_eq!(resolve(&lab, asked).addresses(), [IpAddr::from(v4(asked, 0))]);
        thread::sleep(Duration::from_millis(300));
    }
    let to = SocketAddr::new(v4(idle, 0).into(), 443);
    assert_eq!(probe::tcp(&lab.client, to).unwrap(), Outcome::Silence, "idle for ten seconds");
    assert_eq!(named(&gateway, idle), None);
    check_reachable(&lab, v4(asked, 0).into());
    // Each attempt to see whether it has gone would be a use.
    thread::sleep(Duration::from_secs(8));
    for name in [used, asked] {
        let to = SocketAddr::new(v4(name, 0).into(), 443);
        assert_eq!(probe::tcp(&lab.client, to).unwrap(), Outcome::Silence, "{name}");
    }
    // Once gone, it is learned anew like any other.
    assert_eq!(resolve(&lab, used).addresses(), [IpAddr::from(v4(used, 0))]);
    wait_for(&lab, v4(used, 0).into(), Outcome::Answered, Duration::from_millis(100));
}

#[test]
fn a_question_that_many_ask_is_asked_once() {
    let lab = Topology::new(Clients::One).unwrap();
    let upstream = upstream(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let name = "n1.delay300.w.lab.example";
    let expected = [IpAddr::from(v4(name, 0))];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..40).map(|_| scope.spawn(|| resolve(&lab, name))).collect();
        for client in clients {
            assert_eq!(client.join().unwrap().addresses(), expected);
        }
    });
    assert_eq!(upstream.asked_for(name).len(), 1);
    let [joined, hits] = ["joined", "cache-hits"].map(|name| counter(&gateway, name));
    assert_eq!(joined + hits, 39, "{joined} joined, {hits} hits");
    // From now on it comes from the cache, with what is left of its TTL.
    thread::sleep(Duration::from_millis(1100));
    let reply = resolve(&lab, name);
    let (_, ttl) = reply.said().unwrap().addresses()[0];
    assert!((290..300).contains(&ttl), "{ttl}");
    assert_eq!(upstream.asked_for(name).len(), 1);
    // Each question has its own port, number and case.
    for number in 10..40 {
        resolve(&lab, &format!("n{number}.abcdefghij.w.lab.example"));
    }
    let asked = upstream.asked();
    let distinct = |of: &dyn Fn(usize) -> String| {
        (0..asked.len()).map(of).collect::<std::collections::BTreeSet<_>>().len()
    };
    let ports = distinct(&|place| asked[place].from.port().to_string());
    let numbers = distinct(&|place| asked[place].question.id.to_string());
    let cases = distinct(&|place| {
        let labels = &asked[place].question.name.0;
        String::from_utf8_lossy(labels.get(1).unwrap()).into_owned()
    });
    assert!(ports > 25 && numbers > 25 && cases > 20, "{ports} {numbers} {cases}");
    assert!(asked.iter().all(|asked| asked.question.edns == Some(1232)), "EDNS with 1232 bytes");
}

#[test]
fn questions_that_wait_for_a_silent_resolver_are_bounded() {
    let lab = Topology::new(Clients::One).unwrap();
    let upstream = upstream(&lab);
    let settings = format!("{ONE_UPSTREAM}\nmax_questions = 8");
    let configuration = configuration(&settings, RULES);
    let gateway = started(&lab, &configuration);
    upstream.set_mode(Mode::Silent);
    thread::scope(|scope| {
        for number in 0..24 {
            let lab = &lab;
            scope.spawn(move || resolve(lab, &format!("n{number}.w.lab.example")));
        }
    });
    assert!(counter(&gateway, "too-many-questions") >= 16);
    upstream.set_mode(Mode::Honest);
    wait_until("the resolver is asked again", RECOVERY, || {
        Ok(resolve(&lab, "n100.w.lab.example").code() == Some(code::NO_ERROR))
    })
    .unwrap();
}

#[test]
fn a_client_that_asks_too_much() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let plain = "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\ndeny    = \"drop\"\n\n[dns]\n\
                 upstream = [\"9.9.9.10\"]\nlisten = [\"10.20.0.1\"]\nclient_rate = 50\n";
    let gateway = started(&lab, &Configuration::new(plain).policy("names", RULES));
    let mut client = Client::new(&lab.client, FORWARDER_V4, Duration::from_millis(20)).unwrap();
    let name = Labels::of("n1.w.lab.example");
    let begin = Instant::now();
    let answered = (0..500)
        .filter(|_| client.ask(&name, kind::A).unwrap().code() == Some(code::NO_ERROR))
        .count();
    // What the bucket holds at first, and then so many a second.
    let most = 50.0 * (begin.elapsed().as_secs_f64() + 2.0);
    assert!((answered as f64) < most, "{answered} answers, at most {most}");
    assert!(counter(&gateway, "rate-limited") > 0);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(resolve(&lab, "n1.w.lab.example").code(), Some(code::NO_ERROR));
}
