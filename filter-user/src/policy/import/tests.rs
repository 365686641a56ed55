// SPDX-License-Identifier: MIT OR Apache-2.0
//! Endpoint sets as rules.

use std::{fs, path::Path, sync::Arc};

use super::*;
use crate::{
    document::{self, decode, parse},
    policy::load,
};

const PAGE: &str = "# Network endpoints for Microsoft Intune\n\n## Requirements for apps\n\n\
    |ID|Desc|Category|Addresses|Ports|\n|-|-|-|-|-|\n\
    |163|A \"client\"|Allow<br>Required|*.manage.example.com, 192.0.2.0/24|TCP: 80, 443|\n\
    |7|B|Default|*.azureedge.net, a.azureedge.net|TCP: 443, UDP: 3478-3481|\n\n\
    |Region|CDN|Port|\n|-|-|-|\n|Europe|c.example.com|443|\n\n\
    - d.example.com\n- https://e.example.com\n";

fn made(page: &str) -> String {
    let document = parse("PAGE", page, &document::Options::default()).unwrap();
    let header = Header { command: "sluice import PAGE".to_owned() };
    policy_file(&document, &Options::default(), &header)
}

/// The rules as the loader sees them: name, whether enabled, ports.
fn loaded(policy: &str) -> Vec<String> {
    let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";
    let files: [(Arc<str>, String); 2] = [
        ("gateway.toml".into(), gateway.to_owned()),
        ("policy.d/made.toml".into(), policy.to_owned()),
    ];
    let loaded = load::parse(&files).unwrap_or_else(|errors| panic!("{errors}"));
    loaded
        .policy
        .rules
        .iter()
        .map(|rule| format!("{} {:?} {}/{}", rule.name, rule.state, rule.ports.tcp, rule.ports.udp))
        .collect()
}

#[test]
fn what_is_made_is_loaded() {
    assert_eq!(
        loaded(&made(PAGE)),
        [
            "intune-163 Enabled 80,443/",
            "intune-7 Enabled 443/3478-3481",
            "intune-7-broad Disabled 443/3478-3481",
            "intune-apps-europe Enabled 443/",
            "intune-apps-no-ports Disabled /",
            "intune-apps-tcp-443 Enabled 443/",
        ]
    );
}

#[test]
fn names_are_short_and_unique() {
    let mut page = String::new();
    for _ in 0..3 {
        page.push_str(&format!("## {}\n\n- https://a.example.com\n\n", "Long heading ".repeat(20)));
    }
    let rules = loaded(&made(&page));
    assert_eq!(rules.len(), 3);
    assert!(rules[0].starts_with("long-heading-long-heading-long-heading-"));
}

#[test]
fn names_of_rules_by_the_kind_of_input() {
    let m365 = r#"[{"id": 1, "serviceArea": "A", "urls": ["a.example.com"], "tcpPorts": "443"},
        {"serviceArea": "Mail", "urls": ["b.example.com"], "tcpPorts": "25"}]"#;
    let tags = r#"{"cloud": "Public", "values": [{"name": "AzureFrontDoor.MicrosoftSecurity",
        "properties": {"addressPrefixes": ["192.0.2.0/24"]}}]}"#;
    let list = "c.example.com\nhttps://d.example.com\n";
    let options = document::Options { tags: vec!["*".to_owned()], ..Default::default() };
    let documents = [("m365.json", m365), ("tags.json", tags), ("own names.txt", list)]
        .map(|(name, text)| parse(name, text, &options).unwrap());
    let document = Document::merge(documents.to_vec());
    let header = Header { command: "sluice import".to_owned() };
    let names = |prefix: Option<&str>| {
        let options = Options { prefix: prefix.map(str::to_owned), ..Options::default() };
        loaded(&policy_file(&document, &options, &header))
    };
    assert_eq!(
        names(None),
        [
            "m365-1 Enabled 443/",
            "m365-mail Enabled 25/",
            "azurefrontdoor-microsoftsecurity Disabled /",
            "own-names-no-ports Disabled /",
            "own-names-tcp-443 Enabled 443/",
        ]
    );
    assert_eq!(names(Some("x"))[2], "x-azurefrontdoor-microsoftsecurity Disabled /");
    let text = policy_file(&document, &Options::default(), &header);
    assert!(text.contains("# own names.txt:1: no ports are given for c.example.com"), "{text}");
    assert!(text.contains("# m365.json, line 1 · A · "), "{text}");
}

#[test]
fn broad_patterns_are_granted_where_that_is_asked_for() {
    let document = parse("PAGE", PAGE, &document::Options::default()).unwrap();
    let options = Options { broad: BroadNames::Allowed, ..Options::default() };
    let text = policy_file(&document, &options, &Header { command: "c".to_owned() });
    assert!(loaded(&text).contains(&"intune-7-broad Enabled 443/3478-3481".to_owned()));
    assert_eq!(text.matches("broad = true").count(), 1);
}

#[test]
fn many_sets_of_one_name_are_numbered() {
    let mut taken = Taken::default();
    let names: Vec<String> = (0..50_000).map(|_| taken.unique("a-2")).collect();
    assert_eq!(taken.unique("a"), "a");
    assert_eq!(taken.unique("a"), "a-3");
    assert_eq!((names[0].as_str(), names[49_999].as_str()), ("a-2", "a-2-50000"));
}

#[test]
fn the_catalog_is_loaded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog/intune.toml");
    let rules = loaded(&fs::read_to_string(file).unwrap());
    assert!(rules.contains(&"intune-163 Enabled 80,443/".to_owned()));
    assert!(rules.contains(&"intune-165 Enabled /123".to_owned()));
    let disabled = rules.iter().filter(|rule| rule.contains("Disabled")).count();
    assert_eq!((rules.len(), disabled), (38, 1));
}

#[test]
fn the_catalog_is_what_the_importer_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = "000_693e85154b73bf9b.txt";
    let seeds = root.join("../shared/seeds");
    if !seeds.is_dir() {
        eprintln!("skipped: catalog-seeds: {} is not there", seeds.display());
        return;
    }
    let page = fs::read(seeds.join(file)).unwrap();
    let document = parse(file, &decode(&page).unwrap(), &document::Options::default()).unwrap();
    let header = Header { command: format!("sluice import {file} -o catalog/intune.toml") };
    let made = policy_file(&document, &Options::default(), &header);
    let kept = fs::read_to_string(root.join("catalog/intune.toml")).unwrap();
    assert!(made == kept, "catalog/intune.toml is not what the importer makes of {file} today");
    assert_eq!(loaded(&kept).len(), document.endpoint_sets.len());
    let prefixes: BTreeSet<IpNet> =
        document.endpoint_sets.iter().flat_map(|set| set.prefixes.clone()).collect();
    let v4 = prefixes.iter().filter(|prefix| matches!(prefix, IpNet::V4(_))).count();
    assert_eq!((v4, prefixes.len() - v4), (88, 3));
}
