// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `sluice names` and `sluice resolve` show of names that clients asked for, and what they do.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use sluice_lab::{
    gateway::Gateway,
    probe::{self, Outcome},
    topology::{Clients, Topology},
    upstream::answers::{v4, v6},
};

use crate::{
    names_support::{
        ONE_UPSTREAM, RULES, check_reachable, check_unknown, check_unlearned, configuration,
        listeners, named, resolve, started, upstream,
    },
    support::{ask, explain},
};

#[test]
fn names_are_listed_explained_and_forgotten() {
    let lab = Topology::new(Clients::One).unwrap();
    let upstream = upstream(&lab);
    let _listeners = listeners(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let [first, second] = ["n1.chain2.w.lab.example", "n5.w.lab.example"];
    let [first_at, second_at] = [first, second].map(|name| IpAddr::from(v4(name, 0)));
    for (name, address) in [(first, first_at), (second, second_at)] {
        assert_eq!(resolve(&lab, name).addresses(), [address]);
        check_reachable(&lab, address);
    }

    let held = named(&gateway, first).unwrap();
    assert_eq!((&held["kind"], &held["state"]), (&json!("learned"), &json!("resolved")), "{held}");
    assert_eq!(held["chain"], json!(["c1.n1.cdn.example", "c2.n1.cdn.example"]), "{held}");
    assert_eq!(held["resolver"], json!("9.9.9.10"), "{held}");
    assert!((290..=300).contains(&held["addresses"][0]["ttl_s"].as_u64().unwrap()), "{held}");
    let only = ask(&gateway, &["names", "n5."]);
    assert_eq!(names(&only), [second]);
    assert_eq!(names(&ask(&gateway, &["names", "*.chain2.w.lab.example"])), [first]);
    let text = gateway.text(&["names"]).unwrap();
    assert!(text.contains(first) && text.contains(&second_at.to_string()), "{text}");

    let (code, why) = explain(&gateway, &format!("--to {first_at} --tcp 443"));
    assert_eq!((code, &why["rule"]), (Some(0), &json!("names")), "{why}");
    assert_eq!(why["via"]["name"], json!(first), "{why}");

    let flushed = ask(&gateway, &["names", "flush", "n1."]);
    assert_eq!(flushed["addresses"], json!(1), "{flushed}");
    check_unlearned_but_reached(&lab, &gateway, first_at);
    check_reachable(&lab, second_at);
    // The next question learns it anew, also where the answer is still known.
    assert_eq!(resolve(&lab, first).addresses(), [first_at]);
    check_reachable(&lab, first_at);
    let flushed = ask(&gateway, &["names", "flush"]);
    assert_eq!(flushed["addresses"], json!(2), "{flushed}");
    check_unlearned_but_reached(&lab, &gateway, second_at);
    assert_eq!(names(&ask(&gateway, &["names"])), [""; 0]);
    assert!(upstream.asked_for(second).len() == 1, "nobody asked again");
}

/// Checks that an address that was reached before is out of reach now.
#[track_caller]
fn check_unlearned_but_reached(lab: &Topology, gateway: &Gateway<'_>, address: IpAddr) {
    check_unknown(gateway, address);
    let to = SocketAddr::new(address, 443);
    let outcome = probe::tcp(&lab.client, to).unwrap();
    assert_eq!(outcome, Outcome::Silence, "tcp {to}");
}

/// `sluice resolve` says what a client's question would bring, and opens nothing.
#[test]
fn a_look_up_by_hand_shows_what_would_be_learned_and_what_not() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let listeners = listeners(&lab);
    let gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let name = "n1.chain2.w.lab.example";
    let (code, told) = look_up(&gateway, name);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told["rules"][0]["rule"], json!("names"), "{told}");
    assert_eq!(told["chain"].as_array().unwrap().len(), 2, "{told}");
    let addresses = told["addresses"].as_array().unwrap();
    let expected = [json!(v4(name, 0).to_string()), json!(v6(name, 0).to_string())];
    for (address, expected) in addresses.iter().zip(&expected) {
        assert_eq!(address["address"], *expected, "{told}");
        assert!(address["allowed_s"].as_u64().unwrap() >= 300, "{told}");
    }
    assert_eq!(addresses.len(), 2, "{told}");
    check_unlearned(&lab, &gateway, &listeners, v4(name, 0).into());

    let (code, told) = look_up(&gateway, "n2.ip-10-0-0-1.ip-20-9-9-9.nothing.w.lab.example");
    assert_eq!(code, Some(0), "{told}");
    let of = |address: &str| {
        let all = told["addresses"].as_array().unwrap();
        all.iter().find(|found| found["address"] == address).unwrap().clone()
    };
    assert!(of("10.0.0.1")["refused"].as_str().unwrap().contains("special-purpose"), "{told}");
    assert!(of("10.0.0.1")["allowed_s"].is_null(), "{told}");
    assert!(of("20.9.9.9")["allowed_s"].is_u64(), "{told}");

    for (name, what) in [
        ("n3.nxdomain.w.lab.example", "failure"),
        ("n4.servfail.w.lab.example", "failure"),
        ("n5.loop.w.lab.example", "failure"),
    ] {
        let (code, told) = look_up(&gateway, name);
        assert_eq!(code, Some(1), "{told}");
        assert!(told[what].is_string(), "{told}");
    }
    let (code, told) = look_up(&gateway, "n6.elsewhere.lab.example");
    assert_eq!((code, &told["rules"]), (Some(1), &json!([])), "{told}");
}

fn look_up(gateway: &Gateway<'_>, name: &str) -> (Option<i32>, Value) {
    let answer = gateway.command(&["resolve", name]).unwrap();
    (answer.code, answer.json().unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["names"].as_array().unwrap().iter().map(|name| name["name"].as_str().unwrap()).collect()
}
