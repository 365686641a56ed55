// SPDX-License-Identifier: MIT OR Apache-2.0
//! One trap of real pages per test, each as a tiny page.

use super::*;

/// A set in one line: ID or section, group, endpoints, ports, where the ports are from.
fn sets(page: &str) -> Vec<String> {
    let sets = assemble::document(page, &Options::default()).endpoint_sets;
    sets.iter()
        .map(|set| {
            let name = set.id.map_or_else(|| set.section.clone(), |id| id.to_string());
            let group = set.group.as_ref().map(|group| format!(" ({group})")).unwrap_or_default();
            let prefixes = set.prefixes.iter().map(ToString::to_string);
            let endpoints: Vec<String> = set.names.iter().cloned().chain(prefixes).collect();
            let (ports, from) = (&set.ports, set.ports_from.as_str());
            format!("{name}{group}: {}: {ports} [{from}]", endpoints.join(" "))
        })
        .collect()
}

fn left_out(page: &str) -> Vec<String> {
    let left_out = assemble::document(page, &Options::default()).left_out;
    left_out.iter().map(|token| format!("{} {} {}", token.line, token.token, token.why)).collect()
}

fn warnings(page: &str) -> Vec<String> {
    let warnings = assemble::document(page, &Options::default()).warnings;
    warnings.iter().map(|warning| format!("{} {}", warning.line, warning.text)).collect()
}

const HEAD: &str = "| ID | Desc | Category | ER | Addresses | Ports |\n|--|--|--|--|--|--|\n";

#[test]
fn a_row_has_all_its_facts() {
    let page = format!(
        "## S\n\n{HEAD}| 163 | Client | Allow<BR>Required | False | `*.A.com`<BR>`b.com`<br>`1.2.3.0/24, 4.3.2.1` | **TCP:** 80, 443 |\n"
    );
    assert_eq!(sets(&page), ["163: *.a.com b.com 1.2.3.0/24 4.3.2.1/32: tcp 80 443 [row]"]);
    let set = assemble::document(&page, &Options::default()).endpoint_sets.remove(0);
    assert_eq!((set.category, set.required), (Some(Category::Allow), Stated::Yes));
    assert_eq!((set.express_route, set.lines), (Stated::No, (5, 5)));
    assert_eq!((set.section.as_str(), set.description.as_str()), ("S", "Client"));
}

#[test]
fn a_row_without_outer_pipes_and_with_an_unpaired_back_tick() {
    let page = format!("{HEAD}181 | Help | Default | False |`a.com`<BR>`b.com | TCP: 443\n");
    assert_eq!(sets(&page), ["181: a.com b.com: tcp 443 [row]"]);
}

#[test]
fn comments_links_and_metadata_grant_nothing() {
    let page = format!(
        "---\nms.date: 1\n---\n{HEAD}| 1 | x | | | [a.com](https://b.com) | TCP 443 |\n\n\
         <!-- old\n\n|FQDN|Service|\n|-|-|\n|c.com|x|\n-->\n"
    );
    assert_eq!(sets(&page), ["1: a.com: tcp 443 [row]"]);
    assert_eq!(left_out(&page), ["2 ms.date metadata", "6 b.com link", "12 c.com comment"]);
}

#[test]
fn a_comment_that_is_never_closed_hides_the_rest() {
    let page = format!("<!-- \n{HEAD}| 1 | x | | | a.com | TCP 443 |\n");
    assert_eq!(sets(&page), [""; 0]);
    assert_eq!(warnings(&page), ["1 this comment is never closed; the rest is left out"]);
}

#[test]
fn migration_notices_and_remarks_are_notes() {
    let page = format!(
        "{HEAD}| 1 | x | | | `a.azureedge.net`<BR>(Starting 2025, azureedge.net domains will migrate to b.com)<br>`c.com`(only for EU customers)<BR> | TCP 443 |\n"
    );
    assert_eq!(sets(&page), ["1: a.azureedge.net c.com: tcp 443 [row]"]);
    assert_eq!(left_out(&page), ["3 azureedge.net migration-notice", "3 b.com migration-notice"]);
    assert_eq!(
        assemble::document(&page, &Options::default()).endpoint_sets[0].notes,
        [
            Note::Remark("Starting 2025, azureedge.net domains will migrate to b.com".to_owned()),
            Note::Remark("c.com: only for EU customers".to_owned())
        ]
    );
}

#[test]
fn region_tables_and_tabs_are_groups() {
    let table = "## S\n\n|Region | CDN | Port |\n|-|-|-|\n|Europe | `a.com` | **TCP:** 443 |\n";
    assert_eq!(sets(table), ["S (Europe): a.com: tcp 443 [row]"]);
    let tabs = "## S\n\nOpen outbound HTTPS/443 traffic.\n\n# [Europe](#tab/europe)\n\n- 'https://a.net'\n\n\
                # [Asia](#tab/asia)\n\n- 'https://b.net'\n\n---\n\n- `c.net`\n";
    assert_eq!(
        sets(tabs),
        [
            "S (Europe): a.net: tcp 443 [section]",
            "S (Asia): b.net: tcp 443 [section]",
            "S: c.net: tcp 443 [section]"
        ]
    );
}

#[test]
fn lists_take_the_ports_of_their_section_only() {
    let page = "## A\n\nAllow these hosts on tcp port 443:\n\n- `a.com` - used by b.com\n\n\
                ## B\n\n- `c.com`\n\n## C\n\n- https://d.com\n- http://e.com:8080/x\n";
    assert_eq!(
        sets(page),
        [
            "A: a.com: tcp 443 [section]",
            "B: c.com:  [none]",
            "C: d.com: tcp 443 [scheme]",
            "C: e.com: tcp 8080 [scheme]"
        ]
    );
    assert_eq!(left_out(page), ["5 b.com mention"]);
    assert_eq!(warnings(page), ["9 no ports are given for c.com; written disabled"]);
}

#[test]
fn sentences_about_inspection_and_proxies_are_notes() {
    let page = "## A\n\nSSL inspection isn't supported for '\\*.a.com'. Proxies use HTTP (80).\n\n\
                - Needs proxy access to b.com and c.com.\n\nInspection is off for:\n\n- d.com\n\n\
                ## B\n\nAllow on tcp port 443:\n\n- *.a.com\n";
    assert_eq!(sets(page), ["B: *.a.com: tcp 443 [section]"]);
    assert_eq!(
        left_out(page),
        ["3 *.a.com inspection", "5 b.com inspection", "5 c.com inspection", "9 d.com inspection"]
    );
    assert_eq!(
        assemble::document(page, &Options::default()).endpoint_sets[0].notes,
        [Note::Remark("SSL inspection isn't supported for '*.a.com'.".to_owned())]
    );
}

#[test]
fn consolidated_lists_take_the_ports_of_the_same_endpoint() {
    let page = format!(
        "{HEAD}| 1 | x | | | *.a.com, 1.2.3.0/24 | TCP 443 |\n| 2 | y | | | *.a.com | TCP 80 |\n\
         | 3 | z | | | time.b.com | UDP 123 |\n\n\
         ## All\n\n```\n*.a.com\nx.a.com\ntime.b.com\n1.2.3.0/24\n```\n"
    );
    assert_eq!(
        sets(&page)[3..],
        [
            "All: *.a.com: tcp 80 443 [same-endpoint]",
            "All: x.a.com:  [none]",
            "All: time.b.com: udp 123 [same-endpoint]",
            "All: 1.2.3.0/24: tcp 443 [same-endpoint]",
        ]
    );
    let notes = &assemble::document(&page, &Options::default()).endpoint_sets[3].notes;
    let text = "*.a.com: all ports of tcp 443 at line 3, tcp 80 at line 4";
    assert_eq!(notes[1], Note::Finding(text.to_owned()));
}

#[test]
fn the_same_id_twice() {
    let page = format!(
        "{HEAD}| 1 | x | | | a.com | TCP 443 |\n| 1 | x | | | a.com, b.com | TCP 443 |\n\
         | 1 | x | | | c.com | UDP 443 |\n"
    );
    assert_eq!(sets(&page), ["1: a.com b.com: tcp 443 [row]", "1: c.com: udp 443 [row]"]);
    assert_eq!(left_out(&page), ["4 a.com duplicate"]);
    assert_eq!(
        warnings(&page),
        ["5 ID 1 stands at line 3 too, with other ports; both are kept apart"]
    );
}

#[test]
fn a_row_with_ports_and_no_address_grants_nothing() {
    let page = format!("{HEAD}| 1 | x | | | | TCP 443 |\n| 2 | Outlook.com | | | a.com | |\n");
    assert_eq!(sets(&page), ["2: a.com:  [none]"]);
    assert_eq!(left_out(&page), ["4 outlook.com product-name"]);
    assert_eq!(warnings(&page)[0], "3 the row has ports and no usable address; it grants nothing");
}

#[test]
fn numbers_in_links_are_no_ports() {
    let page = "Service | URLs | Source\n--- | --- | ---\n\
                A | \\*.a.com<br>b.com | [Windows 8 list](https://c.com/help/443/http-8)\n";
    assert_eq!(sets(page), [": *.a.com b.com:  [none]"]);
}

#[test]
fn what_cannot_be_used_is_reported_with_its_line() {
    let page = format!(
        "{HEAD}| 1 | x | | | `<tenant>.a.com`<br>`* .b.com`<br>`c.com*.d.com`<br>1.2.3.4/40<br>e.com<br>1.2.3.4/24 | 443 |\n"
    );
    assert_eq!(sets(&page), ["1: e.com 1.2.3.0/24: tcp 443 [row]"]);
    assert_eq!(
        left_out(&page),
        [
            "3 <tenant>.a.com placeholder",
            "3 .b.com broken",
            "3 c.com*.d.com broken",
            "3 1.2.3.4/40 broken"
        ]
    );
    assert!(
        warnings(&page)
            .contains(&"3 1.2.3.4/24 has host bits set; it is taken as 1.2.3.0/24".to_owned())
    );
}

#[test]
fn commands_and_file_names_are_no_endpoints() {
    let page = "## S\n\n```powershell\n.\\psexec.exe -i a.com\n```\n\n|Cloud|Command|\n|-|-|\n\
                |Public|`.\\Test-It.ps1`|\n\n- `winget show [Id]`\n";
    assert_eq!(sets(page), [""; 0]);
    assert_eq!(
        left_out(page),
        ["4 psexec.exe file-name", "4 a.com mention", "9 Test-It.ps1 file-name"]
    );
    assert!(matches!(
        parse("PAGE", page, &Options::default()),
        Err(InvalidDocument::NoEndpoints { tokens: 3 })
    ));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "([|`*<>\\[\\](){}#:/. \n-]|<br>|<!--|-->|[a-c0-9é。]{1,3}|\\.com|https://|TCP|443){0,60}") {
        let document = assemble::document(&text, &Options::default());
        for token in &document.imported {
            proptest::prop_assert!(token.set < document.endpoint_sets.len());
        }
    }
}
