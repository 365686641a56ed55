// SPDX-License-Identifier: MIT OR Apache-2.0
//! Policy files as documents.

use super::*;

const FILE: &str = "# A page, 2025-01-02\n# Made by `sluice import page`\n\n# line 7\n# second\n[[rule]]\n\
    name = \"intune-163\"\nto   = [\n    \"*.Example.com\",\n    \"192.0.2.7/24\",\n    \"self\",\n]\n\
    tcp  = [443, \"80-81\"]\nudp  = \"any\"\nproto = [\"esp\", 0x63]\nfrom = [\"b\", \"a\"]\n\n\
    # lost\n\n[[rule]]\nname = \"intune-163-broad\"\nenabled = false\nto = [\"*.a.com\"]\n\
    tcp = [1]\nnote = \"x; disabled: y\"\n";

fn document(text: &str) -> Document {
    read(text, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn rules_are_sets_that_keep_what_a_set_has_no_words_for() {
    let document = document(FILE);
    let [first, second] = document.endpoint_sets.as_slice() else { panic!("{document:?}") };
    assert_eq!(document.sources[0].head, ["A page, 2025-01-02", "Made by `sluice import page`"]);
    assert_eq!((first.id, first.lines, first.state), (Some(163), (6, 16), SetState::Enabled));
    assert_eq!(first.names, ["*.example.com"]);
    assert_eq!(first.prefixes, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(first.ports.to_string(), "tcp 80-81 443, udp 1-65535");
    let rule = first.rule.as_deref().unwrap();
    assert_eq!(rule.comments, ["line 7", "second"]);
    assert_eq!(rule.from, ["a", "b"]);
    assert_eq!(rule.protocols, ["esp", "99"]);
    assert_eq!((rule.gateway, rule.icmp), (Stated::Yes, Stated::Unstated));
    assert_eq!((second.id, second.state), (Some(163), SetState::Disabled));
    assert_eq!(second.description, "x");
    let warnings: Vec<String> = document
        .warnings
        .iter()
        .map(|warning| format!("{} {}", warning.line, warning.text))
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("10 192.0.2.7/24 has host bits set"), "{warnings:?}");
    assert!(warnings[1].starts_with("18 only comments"), "{warnings:?}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_line() {
    let rule = "[[rule]]\nname = \"a\"\nto = [\"a.example\"]\ntcp = [443]\n";
    for (text, line, part) in [
        ("[[rule]\n".to_owned(), 1, "TOML syntax"),
        (format!("{rule}[[source]]\nname = \"b\"\n"), 5, "only rules are imported"),
        ("[gateway]\n".to_owned(), 1, "only rules are imported"),
        (format!("{rule}[[rule]]\n"), 5, "`name` is missing"),
        (format!("{rule}{rule}"), 5, "line 1 has a rule of this name"),
        (format!("{rule}colour = 1\n"), 5, "unknown key"),
        (format!("{rule}icmp = 1\n"), 5, "neither true nor false"),
        (format!("{rule}from = []\n"), 1, "names no group"),
        (format!("{rule}proto = [6]\n"), 5, "no protocol"),
        (format!("{rule}udp = [0]\n"), 5, "no port"),
        (format!("{rule}note = \"a\\u0007\"\n"), 1, "control characters"),
        (rule.replace("443", ""), 1, "no port and no protocol"),
        (rule.replace("\"a.example\"", ""), 1, "`to` has no name"),
        (rule.replace("a.example", "a..example"), 3, "`to` has \"a..example\""),
        (rule.replace("a.example", "a.example:443"), 3, "write the host alone"),
        (rule.replace("a.example", "https://a.example/"), 3, "write the host alone"),
    ] {
        match read(&text, &Options::default()) {
            Err(InvalidDocument::Policy { line: found, problem }) => {
                assert_eq!(found, line, "{text}\n{problem}");
                assert!(problem.contains(part), "{text}\n{problem}");
            }
            other => panic!("{text}\n{other:?}"),
        }
    }
}

#[test]
fn numbers_of_sets_in_names_of_rules() {
    let names: BTreeMap<String, u32> =
        ["apps-office", "intune-7"].into_iter().map(|name| (name.to_owned(), 1)).collect();
    for (name, expected) in [
        ("intune-163", Some(163)),
        ("intune-163-broad", Some(163)),
        ("m365-12-tcp-80-tcp-443", Some(12)),
        ("m365-12-udp-3478-3481-2", Some(12)),
        ("m365-12-no-ports", Some(12)),
        ("intune-7-2", Some(7)),
        ("apps-office-2", None),
        ("apps-tcp-443", None),
        ("apps", None),
        ("163", None),
        ("a-99999999999", None),
        ("a-007", None),
    ] {
        assert_eq!(id(name, &names), expected, "{name}");
    }
}
