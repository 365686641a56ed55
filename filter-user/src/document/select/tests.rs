// SPDX-License-Identifier: MIT OR Apache-2.0
//! Selections of a small feed.

use super::*;
use crate::document::{Options, parse};

const FEED: &str = r#"[
{"id": 1, "serviceArea": "A", "urls": ["a.example.com"], "tcpPorts": "443", "category": "Allow", "required": true},
{"id": 2, "serviceArea": "B", "urls": ["b.example.com"], "tcpPorts": "443", "category": "Default", "required": false},
{"id": 3, "serviceArea": "B", "urls": ["c.example.com"]}
]"#;

fn document() -> Document {
    let mut document = parse("feed", FEED, &Options::default()).unwrap();
    for (set, group) in
        document.endpoint_sets.iter_mut().zip([Some("Europe"), Some("AMSUA01"), None])
    {
        set.group = group.map(str::to_owned);
    }
    document
}

/// The first names of the sets that stay.
fn kept(selection: &Selection) -> Result<String, String> {
    let all = document();
    let document = select(all.clone(), selection).map_err(|error| error.to_string())?;
    let accounted = document.imported.len() + document.left_out.len();
    assert_eq!(accounted, all.imported.len() + all.left_out.len());
    for token in &document.imported {
        assert!(document.endpoint_sets[token.set].names.contains(&token.token));
    }
    let names: Vec<&str> = document
        .endpoint_sets
        .iter()
        .flat_map(|set| set.names.first())
        .map(String::as_str)
        .collect();
    Ok(names.iter().map(|name| name.get(..1).unwrap_or_default()).collect())
}

#[test]
fn selections() {
    let all = Selection::default();
    let groups = |groups: &[&str]| Selection {
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..Selection::default()
    };
    for (selection, expected) in [
        (all.clone(), Ok("abc")),
        (Selection { ids: vec![3, 1], ..all.clone() }, Ok("ac")),
        (Selection { optional: Optional::Unwanted, ..all.clone() }, Ok("a")),
        (Selection { categories: vec![Category::Default], ..all.clone() }, Ok("b")),
        (groups(&["eu"]), Ok("ac")),
        (groups(&["na", "europa"]), Ok("abc")),
        (
            Selection { ids: vec![4], ..all.clone() },
            Err("--ids 4: no endpoint set has this ID; there are 1, 2, 3"),
        ),
        (
            Selection { categories: vec![Category::Optimize], ..all.clone() },
            Err("--category optimize: no endpoint set has this category; there are allow, default"),
        ),
        (
            groups(&["eu", "ap"]),
            Err("--group ap: no endpoint set is for this group; there are AMSUA01, Europe"),
        ),
        (
            Selection { ids: vec![2], optional: Optional::Unwanted, ..all },
            Err("no endpoint set is in all that was asked for; leave one of the options out"),
        ),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(kept(&selection), expected, "{selection:?}");
    }
}

#[test]
fn default_ports_are_for_sets_without_ports() {
    let default_ports = Some(ports("tcp/443,udp/123").unwrap());
    let selection = Selection { default_ports, ..Selection::default() };
    let document = select(document(), &selection).unwrap();
    let ports: Vec<String> =
        document.endpoint_sets.iter().map(|set| set.ports.to_string()).collect();
    assert_eq!(ports, ["tcp 443", "tcp 443", "tcp 443, udp 123"]);
    let last = document.endpoint_sets.last().unwrap();
    assert_eq!((last.state, last.ports_from.as_str()), (SetState::Enabled, "none"));
    let note = "no ports are given; --default-ports: tcp 443, udp 123";
    assert_eq!(last.notes, [Note::Finding(note.to_owned())]);
    assert_eq!(document.warnings, []);
}

#[test]
fn warnings_of_pages_about_ports_go_with_their_reason() {
    let page = "# Endpoints\n\n- c.example.com\n- d.example.com\n";
    let page = parse("page", page, &Options::default()).unwrap();
    assert_eq!(page.warnings.len(), 1);
    let default_ports = Some(PortSet::tcp(443));
    let selection = Selection { default_ports, ..Selection::default() };
    assert_eq!(select(page, &selection).unwrap().warnings, []);
}

#[test]
fn a_section_that_a_group_takes_away_is_warned_about() {
    let mut all = document();
    all.endpoint_sets.truncate(2);
    all.imported.truncate(2);
    let selection = Selection { groups: vec!["eu".to_owned()], ..Selection::default() };
    let warnings = select(all, &selection).unwrap().warnings;
    let texts: Vec<_> = warnings.iter().map(|w| (w.line, w.text.as_str())).collect();
    assert!(texts.contains(&(3, "nothing of \"B\" is for the group eu")), "{texts:?}");
}

#[test]
fn ports_are_written_in_many_ways() {
    for (text, expected) in [
        ("tcp/443", Ok("tcp 443")),
        ("tcp/80,tcp/443,udp/3478-3481", Ok("tcp 80 443, udp 3478-3481")),
        ("tcp 80 443, udp 123", Ok("tcp 80 443, udp 123")),
        ("TCP:80,443;UDP:123", Ok("tcp 80 443, udp 123")),
        ("", Err("no ports are given; write them as in \"tcp/80,tcp/443,udp/3478-3481\"")),
        ("443", Err("443: say the protocol first, as in \"tcp/443\" or \"tcp 80 443\"")),
        ("443/tcp", Err("443: say the protocol first, as in \"tcp/443\" or \"tcp 80 443\"")),
        (
            "tcp/443,udp",
            Err("udp: no port stands behind this protocol; write one, as in \"udp/443\""),
        ),
        (
            "tcp/any",
            Err(
                "any: neither a protocol (tcp, udp) nor a port from 1 to 65535, nor a range such as 3478-3481",
            ),
        ),
        (
            "tcp/0",
            Err(
                "0: neither a protocol (tcp, udp) nor a port from 1 to 65535, nor a range such as 3478-3481",
            ),
        ),
    ] {
        let read = ports(text).map(|ports| ports.to_string()).map_err(|error| error.to_string());
        assert_eq!(read, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
    }
}
