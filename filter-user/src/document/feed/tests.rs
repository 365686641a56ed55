// SPDX-License-Identifier: MIT OR Apache-2.0
//! Feeds, plain lists, and several inputs as one document.

use std::{fs, path::Path};

use super::*;
use crate::document::{Options, decode, parse};

const M365: &str = r#"[
  {
    "id": 1,
    "serviceAreaDisplayName": "Mail",
    "urls": ["A.example.com", "*.b.example.com", "a.example.com.", "https://c.example.com/x"],
    "ips": [
      "192.0.2.0/24",
      "192.0.2.9/24",
      "2001:db8::1",
      "d.example.com",
      "192.0.2.0/33"
    ],
    "tcpPorts": "80, 443,50000-50059",
    "udpPorts": "0,123",
    "expressRoute": true, "category": "Optimize", "required": true, "unknown": {}
  },
  { "id": 2, "serviceArea": "Chat", "urls": ["<tenant>.example.com"], "notes": "Old clients",
    "category": "Other", "required": false },
  { "id": 3, "tcpPorts": "443" }
]
"#;

const TAGS: &str = r#"{"changeNumber": 7, "cloud": "Public", "values": [
 {"name": "Front.First", "id": "Front.First", "properties": {"region": "", "systemService": "Front",
  "addressPrefixes": ["192.0.2.0/25", "2001:db8::/48"]}},
 {"name": "Storage.WestEurope", "properties": {"region": "westeurope", "systemService": "",
  "addressPrefixes": ["198.51.100.0/24", "198.51.100.0/24", "a.example.com"]}}
]}
"#;

fn read(text: &str, options: &Options) -> Document {
    parse("feed", text, options).unwrap_or_else(|error| panic!("{error}"))
}

/// All that a document says, a line for each thing.
fn shown(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for set in &document.endpoint_sets {
        let prefixes: Vec<String> = set.prefixes.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "set {}:{}-{} {:?} [{}] {} | {:?} {:?} {:?} {:?} | {} {} | {} from {}",
            set.source,
            set.lines.0,
            set.lines.1,
            set.id,
            set.section,
            set.description,
            set.category.map(|category| category.as_str()),
            set.required.as_option(),
            set.express_route.as_option(),
            set.group,
            set.names.join(" "),
            prefixes.join(" "),
            set.ports,
            set.ports_from.as_str(),
        ));
        for note in &set.notes {
            lines.push(match note {
                Note::Finding(text) => format!("  finding {text}"),
                Note::Remark(text) => format!("  remark {text}"),
            });
        }
    }
    for token in &document.imported {
        lines.push(format!("in {}:{} {} -> {}", token.source, token.line, token.token, token.set));
    }
    for token in &document.left_out {
        lines.push(format!("out {}:{} {} {}", token.source, token.line, token.token, token.why));
    }
    for warning in &document.warnings {
        lines.push(format!("warning {}:{} {}", warning.source, warning.line, warning.text));
    }
    lines
}

fn tags(tags: &[&str]) -> Options {
    Options { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Options::default() }
}

#[test]
fn endpoint_sets_of_microsoft_365() {
    assert_eq!(
        shown(&read(M365, &Options::default())),
        [
            "set 0:2-16 Some(1) [Mail] Mail | Some(\"optimize\") Some(true) Some(true) None | \
             a.example.com *.b.example.com c.example.com 192.0.2.0/24 2001:db8::1/128 | \
             tcp 80 443 50000-50059, udp 123 from row",
            "  finding c.example.com: the path /x can't be enforced at this layer",
            "in 0:5 a.example.com -> 0",
            "in 0:5 *.b.example.com -> 0",
            "in 0:5 c.example.com -> 0",
            "in 0:7 192.0.2.0/24 -> 0",
            "in 0:9 2001:db8::1/128 -> 0",
            "out 0:5 a.example.com duplicate",
            "out 0:8 192.0.2.0/24 duplicate",
            "out 0:10 d.example.com broken",
            "out 0:11 192.0.2.0/33 broken",
            "out 0:14 0 broken",
            "out 0:17 <tenant>.example.com placeholder",
            "warning 0:10 \"d.example.com\" is left out: an address or a prefix is expected here",
            "warning 0:11 \"192.0.2.0/33\" is left out: the prefix length is invalid",
            "warning 0:14 \"0\" is left out: it is no port",
            "warning 0:17 \"<tenant>.example.com\" is left out: a part of it is to be filled in \
             (see --tenant)",
            "warning 0:18 the category \"Other\" is not known",
            "warning 0:19 ID 3 has neither names nor addresses; it makes no rule",
        ]
    );
    let tenant = Options { tenant: Some("contoso".to_owned()), ..Options::default() };
    let filled = shown(&read(M365, &tenant));
    let set = "set 0:17-18 Some(2) [Chat] Chat: Old clients | None Some(false) None None | \
               contoso.example.com  |  from none";
    assert!(filled.contains(&set.to_owned()), "{filled:#?}");
    let warning = "warning 0:17 no ports are given for contoso.example.com; written disabled";
    assert!(filled.contains(&warning.to_owned()), "{filled:#?}");
}

#[test]
fn service_tags_that_are_asked_for() {
    assert_eq!(
        shown(&read(TAGS, &tags(&["front.first"]))),
        [
            "set 0:2-3 None [Front] Front.First | None None None None |  192.0.2.0/25 \
             2001:db8::/48 |  from none",
            "in 0:3 192.0.2.0/25 -> 0",
            "in 0:3 2001:db8::/48 -> 0",
            "out 0:5 198.51.100.0/24 not-selected",
            "out 0:5 198.51.100.0/24 not-selected",
            "out 0:5 a.example.com not-selected",
            "warning 0:1 no ports are given for service tags; written disabled",
        ]
    );
    let all = read(TAGS, &tags(&["*"]));
    assert_eq!(all.sources[0].title.as_deref(), Some("Azure service tags, cloud Public"));
    assert_eq!(all.sources[0].date.as_deref(), Some("change 7"));
    assert_eq!(
        shown(&all)[1],
        "set 0:4-5 None [Public] Storage.WestEurope | None None None Some(\"westeurope\") |  \
         198.51.100.0/24 |  from none"
    );
    assert_eq!(all.left_out_by_reason(), [(Why::Broken, 1), (Why::Duplicate, 1)].into());
}

#[test]
fn a_plain_list() {
    let list = "# was old.example.com\nA.example.com # mail\n\n192.0.2.7/24\nhttps://b.example.com/x\n\
                b.example.com\na.example.com\nc.example.com:5223\nd..example.com\n";
    assert_eq!(
        shown(&read(list, &Options::default())),
        [
            "set 0:2-7 None [] the list feed | None None None None | a.example.com 192.0.2.0/24 |  \
             from none",
            "set 0:5-5 None [] the list feed | None None None None | b.example.com  | tcp 443 from \
             scheme",
            "  finding b.example.com: the path /x can't be enforced at this layer",
            "set 0:8-8 None [] the list feed | None None None None | c.example.com  | tcp 5223 from \
             scheme",
            "in 0:2 a.example.com -> 0",
            "in 0:4 192.0.2.0/24 -> 0",
            "in 0:5 b.example.com -> 1",
            "in 0:8 c.example.com -> 2",
            "out 0:1 old.example.com comment",
            "out 0:6 b.example.com duplicate",
            "out 0:7 a.example.com duplicate",
            "out 0:9 d..example.com broken",
            "warning 0:2 no ports are given for 192.0.2.0/24, a.example.com; written disabled",
            "warning 0:4 192.0.2.7/24 has host bits set; it is taken as 192.0.2.0/24",
            "warning 0:9 \"d..example.com\" is left out: a label is empty or too long",
        ]
    );
}

#[test]
fn what_cannot_be_read() {
    let object = |fields: &str| format!("[\n  {{\"urls\": [], {fields}}}\n]");
    let cases = [
        ("[]".to_owned(), "no endpoints found (0 entries were left out)"),
        (
            M365.get(..200).unwrap_or_default().to_owned(),
            "line 8, column 14: expected '\"' at the end of a string, found the end of the file: was the download cut short?",
        ),
        (
            object("\"id\": \"1\""),
            "line 2, column 22: expected a whole number for `id`, found a string",
        ),
        (
            object("\"id\": -1"),
            "line 2, column 22: expected a whole number for `id`, found the number -1",
        ),
        (
            object("\"required\": 1"),
            "line 2, column 28: expected true or false for `required`, found the number 1",
        ),
        (
            object("\"tcpPorts\": 443"),
            "line 2, column 28: expected a string for `tcpPorts`, found the number 443",
        ),
        (
            object("\"ips\": \"192.0.2.1\""),
            "line 2, column 23: expected an array for `ips`, found a string",
        ),
        (
            object("\"ips\": [1]"),
            "line 2, column 24: expected a string for an item of `ips`, found the number 1",
        ),
        (
            "[{\"id\": 1, \"disposition\": \"Add\"}]".to_owned(),
            "line 1, column 2: this JSON is no list of Microsoft 365 endpoint sets: the item has neither `urls` nor `ips`",
        ),
        (
            "[\"a.example.com\"]".to_owned(),
            "line 1, column 2: expected an object for an endpoint set, found a string",
        ),
        (
            "{\"error\": \"no\"}".to_owned(),
            "line 1, column 1: this JSON is no file of Azure service tags: the object has no field `values`",
        ),
        (
            "{\"values\": {}}".to_owned(),
            "line 1, column 12: expected an array for `values`, found an object",
        ),
        (
            "{\"values\": [{\"name\": \"A\"}]}".to_owned(),
            "line 1, column 13: this service tag has no field `properties`",
        ),
        (
            TAGS.to_owned(),
            "this file has 2 service tags with 5 prefixes; choose with --tags A,B, or take all with --tags '*'",
        ),
        (
            "<!doctype html>\n<p>a.example.com</p>".to_owned(),
            "line 1: this is HTML, not a page's text; take the page's Markdown (on GitHub: \"Raw\"), or save its text",
        ),
    ];
    for (text, expected) in cases {
        let error = parse("feed", &text, &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
    for (tag, expected) in [
        (
            "Front.Frist",
            "--tags Front.Frist: no such service tag among the 2 of this file; near it: Front.First",
        ),
        (
            "front",
            "--tags front: no such service tag among the 2 of this file; near it: Front.First",
        ),
        ("X", "--tags X: no such service tag among the 2 of this file"),
    ] {
        let error = parse("feed", TAGS, &tags(&[tag])).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let tenant = Options { tenant: Some("a.b".to_owned()), ..Options::default() };
    assert!(parse("feed", M365, &tenant).is_err());
}

#[test]
fn the_same_facts_in_any_layout_of_json() {
    let minified = serde_json::from_str::<serde_json::Value>(M365).unwrap().to_string();
    let one = read(&minified, &Options::default());
    let other = read(M365, &Options::default());
    let facts = |document: &Document| -> Vec<EndpointSet> {
        let without_lines = |set: &EndpointSet| EndpointSet { lines: (1, 1), ..set.clone() };
        document.endpoint_sets.iter().map(without_lines).collect()
    };
    assert_eq!(facts(&one), facts(&other));
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(M365.replace('\n', "\r\n").encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    assert_eq!(read(&decode(&utf16).unwrap(), &Options::default()), other);
}

#[test]
fn sets_of_several_inputs() {
    let row = |id: &str, urls: &str, ports: &str| {
        format!("{{{id}\"serviceArea\": \"S\", \"urls\": [{urls}], \"tcpPorts\": \"{ports}\"}}")
    };
    let one = format!(
        "[{},\n{},\n{}]",
        row("\"id\": 1, ", "\"a.example.com\"", "443"),
        row("\"id\": 1, ", "\"e.example.com\"", "443"),
        row("", "\"c.example.com\"", "80")
    );
    let two = format!(
        "[{},\n{},\n{}]",
        row("\"id\": 1, ", "\"b.example.com\", \"a.example.com\"", "443"),
        row("\"id\": 1, ", "\"a.example.com\"", "80"),
        row("", "\"c.example.com\"", "80")
    );
    let list = "d.example.com\n";
    let documents = [("one", one.as_str()), ("two", &two), ("list", list)]
        .map(|(name, text)| parse(name, text, &Options::default()).unwrap());
    assert_eq!(
        shown(&Document::merge(documents.to_vec())),
        [
            "set 0:1-2 Some(1) [S] S | None None None None | a.example.com e.example.com \
             b.example.com  | tcp 443 from row",
            "  finding stands at line 2 too",
            "  finding stands at two:1 too",
            "set 0:3-3 None [S] S | None None None None | c.example.com  | tcp 80 from row",
            "  finding stands at two:3 too",
            "set 1:2-2 Some(1) [S] S | None None None None | a.example.com  | tcp 80 from row",
            "set 2:1-1 None [] the list list | None None None None | d.example.com  |  from none",
            "in 0:1 a.example.com -> 0",
            "in 0:2 e.example.com -> 0",
            "in 0:3 c.example.com -> 1",
            "in 1:1 b.example.com -> 0",
            "in 1:2 a.example.com -> 2",
            "in 2:1 d.example.com -> 3",
            "out 1:1 a.example.com duplicate",
            "out 1:3 c.example.com duplicate",
            "warning 1:2 ID 1 stands at line 1 too, with other ports; both are kept apart",
            "warning 1:2 ID 1 stands at one:1 too, with other ports; both are kept apart",
            "warning 2:1 no ports are given for d.example.com; written disabled",
        ]
    );
}

#[test]
fn the_real_feeds() {
    let feeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/feeds");
    if !feeds.is_dir() {
        eprintln!("skipped: real-feeds: {} is not there", feeds.display());
        return;
    }
    for (file, options, sets, imported) in [
        ("m365-endpoints-worldwide-2025-12.json", Options::default(), 79, 0),
        ("m365-endpoints-worldwide-2024-04.json", Options::default(), 107, 0),
        ("ServiceTags_AzureGovernment_20260706.json", tags(&["*"]), 299, 6589),
        ("ServiceTags_AzureGovernment_20260720.json", tags(&["*"]), 299, 6591),
    ] {
        let text = decode(&fs::read(feeds.join(file)).unwrap()).unwrap();
        let document = parse(file, &text, &options).unwrap();
        let strings: usize = match serde_json::from_str(&text).unwrap() {
            serde_json::Value::Array(sets) => sets
                .iter()
                .flat_map(|set| ["urls", "ips"].map(|key| set[key].as_array().map_or(0, Vec::len)))
                .sum(),
            _ => imported,
        };
        assert_eq!(document.endpoint_sets.len(), sets, "{file}");
        assert_eq!(document.imported.len() + document.left_out.len(), strings, "{file}");
        assert_eq!(document.left_out_by_reason().get(&Why::Broken), None, "{file}");
    }
}

#[test]
fn a_tenant_is_filled_in_where_one_is_asked_for() {
    for (text, expected) in [
        ("<tenant>.sharepoint.example", Some("contoso.sharepoint.example")),
        ("{tenant}-my.sharepoint.example", Some("contoso-my.sharepoint.example")),
        ("${TenantName}.example", Some("contoso.example")),
        ("[your-tenant].example", Some("contoso.example")),
        ("<region>.example", None),
        ("<tenant>.<region>.example", None),
        ("<tenant.example", None),
        ("a.example", None),
    ] {
        assert_eq!(fill(text, Some("contoso")).as_deref(), expected, "{text}");
        assert_eq!(fill(text, None), None, "{text}");
    }
}
