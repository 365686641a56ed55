// SPDX-License-Identifier: MIT OR Apache-2.0
//! Endpoint sets as rules.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

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
fn control_characters_of_a_page_reach_no_note() {
    let page = PAGE.replace("|B|", "|B\u{82}|");
    assert!(made(&page).contains("note = \"B \"\n"));
    assert_eq!(loaded(&made(&page)).len(), 6);
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

/// The policies of the catalog: the page that each is made from, and its rules, those that are
/// disabled, its names, its prefixes of either family and its single addresses.
const CATALOG: [(&str, &str, [usize; 6]); 5] = [
    ("intune", "000_693e85154b73bf9b.txt", [38, 1, 144, 88, 3, 0]),
    ("intune-2019", "001_b9e7f7648cb55228.txt", [59, 33, 182, 1, 0, 59]),
    ("intune-sv", "002_a56a8e45c5365127.txt", [28, 1, 109, 50, 0, 0]),
    ("intune-fr", "003_721952b615bf19a8.txt", [26, 1, 119, 50, 0, 0]),
    ("managed-desktop", "004_de47ee2c6f1af602.txt", [9, 8, 241, 0, 0, 0]),
];

fn catalog(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../catalog/{name}.toml"))
}

#[test]
fn the_catalog_is_loaded() {
    for (name, _, [count, without, ..]) in CATALOG {
        let rules = loaded(&fs::read_to_string(catalog(name)).unwrap());
        let disabled = rules.iter().filter(|rule| rule.contains("Disabled")).count();
        assert_eq!((rules.len(), disabled), (count, without), "{name}");
    }
    let rules = loaded(&fs::read_to_string(catalog("intune")).unwrap());
    assert!(rules.contains(&"intune-163 Enabled 80,443/".to_owned()));
    assert!(rules.contains(&"intune-165 Enabled /123".to_owned()));
}

/// With `UPDATE_EXPECTED=1` the catalog is written anew; read the difference before keeping it.
#[test]
fn the_catalog_is_what_the_importer_makes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/seeds");
    if !seeds.is_dir() {
        eprintln!("skipped: catalog-seeds: {} is not there", seeds.display());
        return;
    }
    let mut all = BTreeSet::new();
    for (name, file, [_, _, names, v4, v6, single]) in CATALOG {
        let page = fs::read(seeds.join(file)).unwrap();
        let options = document::Options::default();
        let document = parse(file, &decode(&page).unwrap(), &options).unwrap();
        let prefix = (name != "intune").then(|| name.to_owned());
        let given = prefix.as_ref().map(|prefix| format!(" --prefix {prefix}")).unwrap_or_default();
        let header =
            Header { command: format!("sluice import {file}{given} -o catalog/{name}.toml") };
        let made = policy_file(&document, &Options { prefix, ..Options::default() }, &header);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(catalog(name), &made).unwrap();
        }
        let kept = fs::read_to_string(catalog(name)).unwrap();
        assert!(made == kept, "catalog/{name}.toml is not what the importer makes of {file} today");
        let sets = &document.endpoint_sets;
        let prefixes: BTreeSet<IpNet> =
            sets.iter().flat_map(|set| set.prefixes.iter().copied()).collect();
        let found: BTreeSet<&String> = sets.iter().flat_map(|set| &set.names).collect();
        let whole = |prefix: &&IpNet| prefix.prefix_len() < prefix.max_prefix_len();
        let is_v4 = |prefix: &&IpNet| matches!(prefix, IpNet::V4(_));
        let wide: Vec<&IpNet> = prefixes.iter().filter(whole).collect();
        let found_v4 = wide.iter().copied().filter(is_v4).count();
        assert_eq!(
            (found.len(), found_v4, wide.len() - found_v4, prefixes.len() - wide.len()),
            (names, v4, v6, single),
            "{name}"
        );
        all.extend(prefixes);
    }
    let single = all.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len()).count();
    let v6 = all.iter().filter(|prefix| matches!(prefix, IpNet::V6(_))).count();
    assert_eq!((all.len() - single - v6, v6, single), (92, 3, 59));
}

#[test]
fn what_a_set_has_no_words_for_is_written_again() {
    let file = "# Ours\n\n# first\n#\n# second\n[[rule]]\nname = \"by.hand\"\nfrom = [\"b\", \"a\"]\n\
        to = [\"self\", \"www.example.com\", \"192.0.2.7\", \"*.b.example\"]\ntcp = \"any\"\n\
        udp = [\"53\", 5000, \"5001-5010\"]\nicmp = true\nproto = [\"esp\", 47, 99]\n\
        private = true\nnote = \"a \\\"note\\\"; disabled: not\"\n\n\
        [[rule]]\nname = \"b\"\nfrom = [\"a\"]\nto = [\"*.azureedge.net\"]\nicmp = true\n\
        broad = true\n\n[[rule]]\nname = \"c-1\"\nenabled = false\nto = [\"self\"]\n\
        proto = [\"gre\"]\nnote = \"c; disabled: for now\"\n";
    let rules = |text: &str| -> Vec<RuleText> {
        let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
            [[source]]\nname = \"a\"\nvlan = [1]\n[[source]]\nname = \"b\"\nvlan = [2]\n";
        let files: [(Arc<str>, String); 2] = [
            ("gateway.toml".into(), gateway.to_owned()),
            ("policy.d/made.toml".into(), text.to_owned()),
        ];
        let loaded = load::parse(&files).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let rules = loaded.policy.rules.iter().map(RuleText::from);
        rules
            .map(|mut rule| {
                rule.to.sort();
                rule
            })
            .collect()
    };
    let once = made(file);
    assert_eq!(rules(&once), rules(file), "{once}");
    assert!(once.starts_with("# Ours\n# Made by `sluice import PAGE`\n# 3 "), "{once}");
    assert!(once.contains("\n\n# first\n#\n# second\n[[rule]]\n"), "{once}");
    assert_eq!(made(&once), once);
    let document = parse("PAGE", file, &document::Options::default()).unwrap();
    assert_eq!(groups(&document).into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn rules_of_policy_files_keep_their_names_beside_others() {
    let file = "[[rule]]\nname = \"intune-163\"\nto = [\"a.example.com\"]\ntcp = [443]\n";
    let documents = [("PAGE", PAGE), ("one.toml", file), ("two.toml", file)]
        .map(|(name, text)| parse(name, text, &document::Options::default()).unwrap());
    // Without brackets, as one may write it.
    let file = file.replace("[\"a.example.com\"]", "\"a.example.com\"");
    let other = file.replace("a.example.com", "b.example.com").replace("443", "80");
    let other = parse("three.toml", &other, &document::Options::default()).unwrap();
    let document = Document::merge([documents.to_vec(), vec![other]].concat());
    let text = policy_file(&document, &Options::default(), &Header::default());
    let rules = loaded(&text);
    for rule in [
        "intune-163 Enabled 443/",
        "intune-163-2 Enabled 80/",
        "intune-163-tcp-80-443 Enabled 80,443/",
    ] {
        assert!(rules.iter().any(|one| one == rule), "{rule}: {rules:?}");
    }
    assert_eq!(rules.len(), 8, "{rules:?}");
    assert!(text.contains("# called intune-163 in its file\n"), "{text}");
}
