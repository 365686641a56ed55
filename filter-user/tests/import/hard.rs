// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs that are meant to take long, of what makes readers look ahead or back.
//!
//! A release build gets about a MiB of each, and one second per MiB. A build for debugging is some
//! ten times slower, and two tests may share a core: it gets a quarter of the size and 15 seconds
//! per MiB. What isn't linear is far beyond either bound.

use std::{fmt::Write as _, time::Duration};

use crate::binary::Workshop;

const MIB: usize = 1 << 20;

/// How much smaller the inputs are in a build for debugging.
const SHARE: usize = if cfg!(debug_assertions) { 4 } else { 1 };

const SIZE: usize = MIB / SHARE;

const BOUND: Duration =
    if cfg!(debug_assertions) { Duration::from_secs(15) } else { Duration::from_secs(1) };

const HEAD: &str = "| ID | Desc | Category | ER | Addresses | Ports |\n|--|--|--|--|--|--|\n";

#[test]
fn repeated_pieces_take_linear_time() {
    // Each is repeated up to the size.
    const PIECES: [(&str, &str); 56] = [
        ("ends of links", "]("),
        ("starts of links", "["),
        ("nested links", "[a]("),
        ("images", "!["),
        ("starts of tags", "<"),
        ("ends of tags", ">"),
        ("line breaks", "<br>"),
        ("unfinished line breaks", "<br"),
        ("unfinished tags", "<a "),
        ("autolinks", "<https://a.com/"),
        ("pipes", "|"),
        ("lines of pipes", "|\n"),
        ("back-ticks", "`"),
        ("stars", "*"),
        ("stars and dots", "*."),
        ("stars and words", "*a "),
        ("underscores", "_a_"),
        ("quotes", ">"),
        ("nested lists", "- "),
        ("nested numbers", "1. "),
        ("dots", "."),
        ("labels", "a."),
        ("glued hosts", "a.com"),
        ("digits", "1."),
        ("hexadecimal digits", "a:"),
        ("dashes", "-"),
        ("slashes", "/"),
        ("colons", ":"),
        ("parentheses", "("),
        ("hosts in parentheses", "(a.com"),
        ("backslashes", "\\"),
        ("escaped stars", "\\*"),
        ("headings", "# a\n"),
        ("comments", "<!-- a.com -->\n"),
        ("open comments", "<!-- "),
        ("comments in words", "a<!--b-->"),
        ("ends of comments", "-->"),
        ("fences", "```\n"),
        ("fenced lists", "```\na.com\n```\n\n"),
        ("entities", "&nbsp;"),
        ("starts of entities", "&#"),
        ("schemes", "https://"),
        ("glued URLs", "https://a.com"),
        ("placeholders", "<t>.a.com "),
        ("numbered names", "#-a.push.example.com "),
        ("sentences", "a. "),
        ("one sentence", "use a.com and\n"),
        ("ports in one sentence", "on TCP port 443 and "),
        ("port lines", "TCP: 443\n"),
        ("rows of plain text", "1 x False\n"),
        ("bullets of plain text", "  • a.com\n"),
        ("letters of other scripts", "ü"),
        ("hosts of other scripts", "ü.com "),
        ("zero-width blanks", "a\u{200b}."),
        ("small tables", "|Host|Port|\n|-|-|\n|a.com|TCP 1|\n\n"),
        ("opening brackets of JSON", "{\"a\":["),
    ];
    let inputs = PIECES.map(|(name, piece)| (name, piece.repeat(SIZE / piece.len())));
    check(inputs.into_iter());
}

#[test]
fn large_tables_take_linear_time() {
    let rows = |row: &dyn Fn(usize) -> String| {
        let mut text = HEAD.to_owned();
        for index in 0.. {
            if text.len() >= SIZE || index >= 30_000 / SHARE {
                break;
            }
            text.push_str(&row(index));
        }
        text
    };
    let port = |index: usize| index % 60_000 + 1;
    let row_of = |cell: String| format!("{HEAD}| 1 | x | | | {cell} | TCP 443 |\n");
    let many = |piece: &dyn Fn(usize) -> String| (0..60_000 / SHARE).map(piece).collect::<String>();
    check(
        [
            (
                "one ID, each row with other ports",
                rows(&|i| format!("| 1 | x | Default | False | a{i}.com | TCP {} |\n", port(i))),
            ),
            (
                "one ID, each row with another host",
                rows(&|i| format!("| 1 | x | Default | False | a{i}.com | TCP 443 |\n")),
            ),
            (
                "one host, each row with other ports",
                rows(&|i| format!("| {i} | x | | | a.com | TCP {} |\n", port(i))),
            ),
            (
                "one host in a table and in many lists",
                rows(&|i| match i {
                    i if i < 8_000 / SHARE => {
                        format!("| {i} | x | | | a.com | TCP {} |\n", port(i))
                    }
                    _ => format!("\n## {i}\n\n- a.com\n"),
                }),
            ),
            (
                "ranges that overlap",
                rows(&|i| format!("| {i} | x | | | a{i}.com | TCP {}-65535 |\n", port(i))),
            ),
            ("one row of hosts", row_of(many(&|i| format!("`a{i}.com`<br>")))),
            ("one row of hosts and blanks", row_of(many(&|i| format!("a{i}.com ")))),
            ("one row of hosts and remarks", row_of(many(&|i| format!("a{i}.com(only x)<br>")))),
            (
                "one row of notices",
                row_of(many(&|i| format!("a{i}.com(will migrate to b.com)<br>"))),
            ),
            (
                "one row of host bits",
                row_of(many(&|i| format!("20.{}.{}.1/24 ", i / 256, i % 256))),
            ),
            ("one row of cells", row_of(many(&|i| format!("a{i}.com|")))),
            (
                "one row of ranges",
                row_of("#-c.push.example.com # is 0 to 50<br>".repeat(20_000 / SHARE)),
            ),
            (
                "many rows of ranges",
                rows(&|i| {
                    format!("| {i} | x | | | #-c{i}.example.com<br># is 0 to 1000 | TCP 1 |\n")
                }),
            ),
            (
                "a port cell",
                format!(
                    "{HEAD}| 1 | x | | | a.com | TCP {} |\n",
                    many(&|i| format!("{}, ", port(i * 2)))
                ),
            ),
            (
                "notes on one host",
                (0..40_000 / SHARE).fold(
                    "|Host|Notes|Port|\n|-|-|-|\n".to_owned(),
                    |mut text, i| {
                        let _ = writeln!(text, "|a.com|n{i}|TCP 443|");
                        text
                    },
                ),
            ),
            (
                "regions",
                (0..40_000 / SHARE).fold(
                    "|Region|CDN|Port|\n|-|-|-|\n".to_owned(),
                    |mut text, i| {
                        let _ = writeln!(text, "|R{i}|a{i}.com|TCP 443|");
                        text
                    },
                ),
            ),
            (
                "a wide table",
                format!(
                    "{}|\n{}|\n{}",
                    "|a".repeat(1000),
                    "|-".repeat(1000),
                    "|x\n".repeat(SIZE / 3)
                ),
            ),
        ]
        .into_iter(),
    );
}

#[test]
fn large_pages_and_feeds_take_linear_time() {
    let many = |count: usize, piece: &dyn Fn(usize) -> String| {
        (0..count / SHARE).map(piece).collect::<String>()
    };
    let port = |index: usize| index % 60_000 + 1;
    let rows = many(15_000, &|i| format!("|{i}|x|||a{i}.com|TCP 443|\n"));
    check(
        [
            ("one line of hosts", many(100_000, &|i| format!("a{i}.com "))),
            ("one item of hosts", format!("Allow TCP 443:\n\n- {}", many(90_000, &|i| format!("a{i}.com, ")))),
            ("one sentence of hosts", format!("Use {} now.", many(90_000, &|i| format!("a{i}.com, ")))),
            ("front matter", format!("---\n{}", "title: a.com\n".repeat(SIZE / 13))),
            ("back-ticks that grow", (1..1_400).map(|count| format!("{} ", "`".repeat(count))).collect()),
            ("lists that nest", many(1_000, &|i| format!("{}- a.com\n", "  ".repeat(i)))),
            ("tabs", many(30_000, &|i| format!("# [R{i}](#tab/r{i})\n\n- a{i}.com\n\n"))),
            (
                "sections about inspection",
                many(15_000, &|i| format!("## {i}\n\nSSL inspection is off for a{i}.com.\n\n- b{i}.com\n\n")),
            ),
            (
                "sentences about inspection of one name",
                many(10_000, &|i| format!("SSL inspection {i} is off for a.com.\n\n"))
                    + &many(20_000, &|i| format!("- http://a.com:{}\n", port(i))),
            ),
            (
                "sentences about inspection of many names",
                many(10_000, &|i| format!("SSL inspection is off for a{i}.com.\n\n"))
                    + &many(20_000, &|i| format!("- http://a{i}.com:{}\n", port(i))),
            ),
            (
                "sentences with ports",
                many(25_000, &|i| format!("On TCP port {}:\n\n- a.com\n\n", port(i))),
            ),
            (
                "references",
                many(15_000, &|i| format!("[a][{i}] ")) + "\n\n" + &many(20_000, &|i| format!("[{i}]: https://a{i}.com/x\n")),
            ),
            (
                "a consolidated list",
                format!("{HEAD}{rows}\n## All\n\n```\n{}```\n", many(30_000, &|i| format!("a{i}.com\n"))),
            ),
            (
                "a consolidated list of deep names",
                format!(
                    "{HEAD}{}\n## All\n\n```\n{}```\n",
                    many(1_500, &|i| format!("|{i}|x|||{}x{i}.com|TCP 443|\n", "a.".repeat(100))),
                    many(1_500, &|i| format!("{}x{i}.com\n", "a.".repeat(100)))
                ),
            ),
            (
                "rows of plain text",
                "ID Desc Category ER Addresses Ports\n".to_owned()
                    + &many(20_000, &|i| format!("{i} x Default\nRequired\nFalse a{i}.com\nTCP: 443\n")),
            ),
            (
                "one row of plain text",
                format!(
                    "ID Desc Category ER Addresses Ports\n1 x Default\nRequired\nFalse {}TCP: 443\n",
                    many(90_000, &|i| format!("a{i}.com\n"))
                ),
            ),
            (
                "tenant units",
                format!("ASU Storage CDN Port\n{}x.com\nTCP: 443\n", many(90_000, &|i| format!("AMSUA{i:05}\n"))),
            ),
            ("a list of names", many(60_000, &|i| format!("a{i}.example.com\n"))),
            ("a list of prefixes", many(65_536, &|i| format!("20.{}.{}.0/24\n", i / 256, i % 256))),
            ("a list of one name", "a.com\n".repeat(SIZE / 6)),
            (
                "sets of the web service with one ID",
                format!(
                    "[{{\"id\":1}}{}]",
                    many(20_000, &|i| format!(",{{\"id\":1,\"urls\":[\"a{i}.com\"],\"tcpPorts\":\"{}\"}}", port(i)))
                ),
            ),
            ("deep JSON", format!("[{{\"id\":1,\"urls\":{}", "[".repeat(SIZE))),
            ("escapes of JSON", format!("[\"{}\"]", "\\u0061".repeat(SIZE / 6))),
            (
                "service tags with one name",
                format!(
                    "{{\"changeNumber\":1,\"cloud\":\"Public\",\"values\":[{}null]}}",
                    many(10_000, &|_| "{\"name\":\"A\",\"id\":\"A\",\"properties\":{\"addressPrefixes\":[\"20.0.0.0/24\"]}},".to_owned())
                ),
            ),
        ]
        .into_iter(),
    );
}

/// Runs each input; prints the longest times, and fails for those that took too long.
fn check(inputs: impl Iterator<Item = (&'static str, String)>) {
    let mut slow = Vec::new();
    let mut times = Vec::new();
    for (name, text) in inputs {
        let workshop = Workshop::of(text.as_bytes());
        // What is larger than a MiB may take longer in proportion.
        let kib = u32::try_from(text.len().max(SIZE).div_ceil(1024)).unwrap();
        let bound = BOUND * kib / 1024;
        let mut longest = Duration::ZERO;
        for more in [["--json"].as_slice(), &[]] {
            let run = workshop.import_within(more, bound);
            longest = longest.max(run.time);
            if !matches!(run.code, Some(0 | 1)) {
                let head: String = run.stderr.chars().take(200).collect();
                let end = run.code.map_or("ended".to_owned(), |code| format!("exit {code}"));
                slow.push(format!("{name}: {end} after {:.1?}: {head}", run.time));
                break;
            }
        }
        times.push((longest, name));
    }
    times.sort();
    let shown: Vec<String> =
        times.iter().rev().take(8).map(|(time, name)| format!("{time:.2?} {name}")).collect();
    println!(
        "{} inputs, most of {} KiB; the longest took {}",
        times.len(),
        SIZE / 1024,
        shown.join(", ")
    );
    assert!(
        slow.is_empty(),
        "{} of {} within {BOUND:?} per MiB:\n{}",
        slow.len(),
        times.len(),
        slow.join("\n")
    );
}
