// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything on a page that looks like a host, an address or a prefix.
//!
//! The raw text is read, not the rendered one: Markdown takes the stars of two wildcards in one
//! cell for emphasis.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;

use super::ports::PortSet;

/// A run of characters that looks like an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Where it stands.
    pub(super) range: Range<usize>,
    /// The line, from 1.
    pub(super) line: u32,
    /// The host or prefix; as on the page where it is neither.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Whether the host begins with a capital letter on the page.
    pub(super) capital: Capital,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An exact name or a wildcard.
    Name,
    /// A host with a scheme, a port or a path.
    Url(Url),
    /// An address or a prefix.
    Net(Net),
    /// Looks like one of them and is not valid.
    Broken,
    /// A part is for the reader to fill in.
    Placeholder,
    /// `AzureFrontDoor.MicrosoftSecurity`.
    ServiceTag,
    FileName,
    Email,
    /// Has dots, and no known top-level domain: a word in a sentence, a fault in a list.
    Dotted,
}

/// What a URL says besides its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) ports: Option<PortSet>,
    pub(super) path: Option<String>,
    pub(super) host: Host,
}

/// The host of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name,
    Net(Net),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    /// The network, without host bits.
    pub(super) net: IpNet,
    pub(super) host_bits: HostBits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostBits {
    None,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capital {
    Yes,
    No,
}

/// Endings of file names; some of them are top-level domains as well.
const FILE_ENDINGS: [&str; 35] = [
    "md",
    "ps1",
    "psm1",
    "exe",
    "dll",
    "msi",
    "msix",
    "zip",
    "json",
    "xml",
    "csv",
    "txt",
    "pdf",
    "html",
    "htm",
    "yml",
    "yaml",
    "toml",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "svg",
    "cab",
    "bat",
    "cmd",
    "log",
    "sh",
    "py",
    "intunewin",
    "plist",
    "pkg",
    "dmg",
    "aspx",
    "ini",
];

/// Finds the tokens of a text, in order.
pub(super) fn scan(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut position = 0;
    while let Some(character) = text.get(position..).and_then(|rest| rest.chars().next()) {
        if character == '\n' {
            line += 1;
        }
        if !in_run(text, position) {
            position += character.len_utf8();
            continue;
        }
        let end = run_end(text, position);
        let run = text.get(position..end).unwrap_or_default();
        if let Some(scheme_end) = run.find("://") {
            let end = url_end(text, position + scheme_end + 3);
            tokens.extend(url(text, position..end, scheme_end, line));
            position = end;
        } else {
            tokens.extend(bare(text, position..end, line));
            position = end;
        }
    }
    tokens
}

fn in_run(text: &str, position: usize) -> bool {
    let mut rest = text.get(position..).unwrap_or_default().bytes();
    match rest.next() {
        Some(byte) if byte.is_ascii_alphanumeric() || b".-_*:/".contains(&byte) => true,
        // An escaped star or dot is the plain one.
        Some(b'\\') => rest.next().is_some_and(|byte| b"*._-".contains(&byte)),
        _ => false,
    }
}

fn run_end(text: &str, start: usize) -> usize {
    let mut end = start;
    while in_run(text, end) {
        end += 1;
    }
    end
}

fn url_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let stop = |c: char| c.is_whitespace() || !c.is_ascii() || "<>\"'`|()[]{},;\\".contains(c);
    start + rest.find(stop).unwrap_or(rest.len())
}

fn url(text: &str, range: Range<usize>, scheme_end: usize, line: u32) -> Option<Token> {
    let run = text.get(range.clone())?;
    let start = run.get(..scheme_end)?.rfind(|c: char| !c.is_ascii_alphanumeric());
    let scheme = run.get(start.map_or(0, |start| start + 1)..scheme_end)?.to_ascii_lowercase();
    let behind = run.get(scheme_end + 3..)?.trim_end_matches(['.', ':', '*', '_', '!', '?']);
    let authority_end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    let (authority, path) = behind.split_at_checked(authority_end)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()),
        None => (authority, None),
    };
    let port = port.or(match scheme.as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    });
    let url = |host| {
        Kind::Url(Url {
            ports: port.filter(|port| *port != 0).map(PortSet::tcp),
            path: (path.len() > 1).then(|| path.to_owned()),
            host,
        })
    };
    let token =
        |text: String, kind| Token { range: range.clone(), line, text, kind, capital: Capital::No };
    let placeholder = text
        .get(range.end..)
        .is_some_and(|rest| path.is_empty() && rest.starts_with(['<', '{', '[']));
    if host.is_empty() || placeholder {
        // "https://<tenant>.example.com": the rest is found as a run of its own.
        return None;
    }
    let lower = host.to_ascii_lowercase();
    Some(match host_kind(&lower) {
        Kind::Name => token(lower, url(Host::Name)),
        Kind::Net(net) => token(net.net.to_string(), url(Host::Net(net))),
        Kind::Dotted if !authority.contains('.') => return None,
        _ => token(host.to_owned(), Kind::Broken),
    })
}

fn bare(text: &str, range: Range<usize>, line: u32) -> Option<Token> {
    let run = text.get(range.clone())?;
    let unescaped = run.replace('\\', "");
    let (trimmed, emphasis) = trim(&unescaped);
    let before = text.get(..range.start)?.chars().next_back();
    let after = text.get(range.end..)?.chars().next();
    let token = |text: &str, kind| {
        let capital = if text.starts_with(|c: char| c.is_ascii_uppercase()) {
            Capital::Yes
        } else {
            Capital::No
        };
        let text = match kind {
            Kind::FileName | Kind::ServiceTag | Kind::Dotted => text.to_owned(),
            _ => text.to_ascii_lowercase(),
        };
        Some(Token { range: range.clone(), line, text, kind, capital })
    };
    if let Some(net) = net(trimmed) {
        return token(&net.net.to_string(), Kind::Net(net));
    }
    if looks_like_address(trimmed) {
        return token(trimmed, Kind::Broken);
    }
    let end = trimmed.find(['/', ':']).unwrap_or(trimmed.len());
    let (host, behind) = trimmed.split_at_checked(end)?;
    if !host.contains('.') || !host.contains(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    // Two hosts with a slash between, or prefixes and hosts in one run, are told apart by nobody.
    let (host, kind) = match host_kind(&host.to_ascii_lowercase()) {
        Kind::Name => (host, Kind::Name),
        Kind::Net(_) | Kind::Url(_) => (trimmed, Kind::Broken),
        kind => (host, kind),
    };
    let last = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let labels = host.split('.').filter(|label| !label.is_empty()).count();
    if FILE_ENDINGS.contains(&last.as_str())
        && (labels == 2 || host_kind(&host.to_ascii_lowercase()) != Kind::Name)
    {
        return token(host.trim_start_matches('.'), Kind::FileName);
    }
    if kind == Kind::Dotted {
        return token(host, if is_service_tag(host) { Kind::ServiceTag } else { kind });
    }
    match before {
        Some('@') => return token(host, Kind::Email),
        Some('#') if host.starts_with('-') => {
            return token(&format!("#{host}"), Kind::Placeholder);
        }
        Some('>' | '}' | ']') if host.starts_with(['.', '-']) => {
            if let Some(filler) = filler(text, range.start) {
                return token(&format!("{filler}{host}"), Kind::Placeholder);
            }
        }
        _ => {}
    }
    let host = host.trim_start_matches('-');
    let glued = |c: Option<char>| c.is_some_and(|c| ('\u{c0}'..'\u{370}').contains(&c));
    if glued(before) || glued(after) || emphasis == Emphasis::Unclear {
        return token(host, Kind::Broken);
    }
    let Some(sign) = behind.chars().next().filter(|_| kind == Kind::Name) else {
        return token(host, kind);
    };
    let rest = behind.get(1..).unwrap_or_default();
    let url = |ports, path| Kind::Url(Url { ports, path, host: Host::Name });
    match sign {
        ':' => match rest.parse::<u16>() {
            Ok(port) if port != 0 => token(host, url(Some(PortSet::tcp(port)), None)),
            _ => token(trimmed, Kind::Broken),
        },
        _ if rest.split('/').next().is_some_and(|first| host_kind(first) == Kind::Name) => {
            token(trimmed, Kind::Broken)
        }
        _ => token(host, url(None, Some(behind.to_owned()).filter(|path| path.len() > 1))),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Emphasis {
    Clear,
    /// A star at the end that may be emphasis or a wildcard.
    Unclear,
}

/// A run without the punctuation and the emphasis around it.
fn trim(run: &str) -> (&str, Emphasis) {
    let run = run.trim_end_matches(['.', ',', ':', '/', '-', '_']);
    let body = run.trim_end_matches('*');
    let stars = run.len() - body.len();
    let body = body.trim_end_matches(['.', ',', ':', '/', '-', '_']);
    let opened = run.len() - run.trim_start_matches('*').len();
    let body = body.trim_start_matches(['/', ':', '_']);
    if stars == 0 {
        // A pair of stars in front is the start of bold text, unless it is a wildcard's label.
        return match body.strip_prefix("**") {
            Some(bold) if !bold.starts_with('.') => (bold, Emphasis::Clear),
            _ => (body, Emphasis::Clear),
        };
    }
    match body.get(stars..) {
        Some(rest) if opened >= stars && !rest.starts_with('.') => (rest, Emphasis::Clear),
        _ if opened == 0 => (body, Emphasis::Clear),
        _ => (body, Emphasis::Unclear),
    }
}

/// The `<tenant>` in front of a position, unless it is a line break's tag.
fn filler(text: &str, end: usize) -> Option<&str> {
    let before = text.get(..end)?;
    let close = before.chars().next_back()?;
    let open = match close {
        '>' => '<',
        '}' => '{',
        _ => '[',
    };
    // A filler is short; looking no further keeps the scan linear.
    let start = before.char_indices().rev().take(48).find(|(_, c)| *c == open)?.0;
    let filler = before.get(start..)?;
    let word = filler.trim_matches(['<', '>', '{', '}', '[', ']', '\\', '/', ' ']);
    let tag = ["br", "p", "b", "i", "a", "em", "td", "tr", "li", "ul", "code", "span", "strong"]
        .iter()
        .any(|tag| word.eq_ignore_ascii_case(tag));
    let placeholder = !tag && word.len() <= 40 && word.chars().any(char::is_alphanumeric);
    placeholder.then_some(filler)
}

fn net(text: &str) -> Option<Net> {
    if let Ok(net) = text.parse::<IpNet>() {
        let host_bits = if net.trunc() == net { HostBits::None } else { HostBits::Dropped };
        return Some(Net { net: net.trunc(), host_bits });
    }
    let address = text.parse::<IpAddr>().ok()?;
    // "::" alone is punctuation.
    (text.len() > 2).then(|| Net { net: IpNet::from(address), host_bits: HostBits::None })
}

/// Four numbers with dots, or a run of hexadecimal digits with a double colon and a length.
fn looks_like_address(text: &str) -> bool {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let mut parts = 0;
    let numbers = address.split('.').all(|part| {
        parts += 1;
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    });
    let six = address.matches(':').count() >= 2
        && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        && length.is_some();
    (numbers && (parts == 4 || (parts > 1 && length.is_some()))) || six
}

/// What a lower-case text with dots is.
fn host_kind(text: &str) -> Kind {
    if let Some(net) = net(text) {
        return Kind::Net(net);
    }
    let name = text.trim_start_matches('-');
    let Some((_, last)) = name.rsplit_once('.') else { return Kind::Dotted };
    if !psl::suffix(last.as_bytes()).is_some_and(|suffix| suffix.is_known()) {
        return Kind::Dotted;
    }
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b))
            && !label.contains("**")
            // "com*" inside a name is the end of one host and the start of the next.
            && !["com*", "net*", "org*"].contains(&label)
    };
    if text.len() > 253 || !name.split('.').all(valid) {
        return Kind::Broken;
    }
    Kind::Name
}

/// Two or more words in camel case with dots between.
fn is_service_tag(text: &str) -> bool {
    text.split('.').all(|part| {
        part.len() > 2
            && part.starts_with(|c: char| c.is_ascii_uppercase())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let found: Vec<(String, &str)> = scan(text)
            .into_iter()
            .map(|token| {
                let kind = match token.kind {
                    Kind::Name => "name",
                    Kind::Url(Url { path: Some(_), .. }) => "url with path",
                    Kind::Url(_) => "url",
                    Kind::Net(Net { host_bits: HostBits::Dropped, .. }) => "host bits",
                    Kind::Net(_) => "net",
                    Kind::Broken => "broken",
                    Kind::Placeholder => "placeholder",
                    Kind::ServiceTag => "tag",
                    Kind::FileName => "file",
                    Kind::Email => "email",
                    Kind::Dotted => "dotted",
                };
                (token.text, kind)
            })
            .collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(text, kind)| (&**text, *kind)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn names_and_wildcards() {
        check(
            "`*.A.com`<BR> `b.com`<br>c.com.",
            &[("*.a.com", "name"), ("b.com", "name"), ("c.com", "name")],
        );
        check(
            r"'\*.manage.microsoft.com', '\*.dm.microsoft.com'",
            &[("*.manage.microsoft.com", "name"), ("*.dm.microsoft.com", "name")],
        );
        check(
            "**a.example.com** *b.example.com* ***.c.com**: **d.com",
            &[
                ("a.example.com", "name"),
                ("b.example.com", "name"),
                ("*.c.com", "name"),
                ("d.com", "name"),
            ],
        );
        check(
            "访问manage.microsoft.com。payloadprod*.blob.core.windows.net",
            &[("manage.microsoft.com", "name"), ("payloadprod*.blob.core.windows.net", "name")],
        );
        check("e.g. **TCP:** 80, 443 and 4.5 or and/or Outlook", &[("e.g", "dotted")]);
    }

    #[test]
    fn urls() {
        check(
            "'https://a.azure.net' http://b.com/x/y, c.com:8443 d.com/ e.com/f",
            &[
                ("a.azure.net", "url"),
                ("b.com", "url with path"),
                ("c.com", "url"),
                ("d.com", "name"),
                ("e.com", "url with path"),
            ],
        );
    }

    #[test]
    fn addresses_and_prefixes() {
        check(
            "`1.2.3.0/24,4.3.2.1/30` 8.8.8.8 2620:1ec:4a::/47 2001:db8::1.",
            &[
                ("1.2.3.0/24", "net"),
                ("4.3.2.0/30", "host bits"),
                ("8.8.8.8/32", "net"),
                ("2620:1ec:4a::/47", "net"),
                ("2001:db8::1/128", "net"),
            ],
        );
        check(
            "1.2.3.400 1.2.3.0/33 1.2.3/24 2620::1::/48",
            &[
                ("1.2.3.400", "broken"),
                ("1.2.3.0/33", "broken"),
                ("1.2.3/24", "broken"),
                ("2620::1::/48", "broken"),
            ],
        );
    }

    #[test]
    fn what_is_no_endpoint() {
        check(
            "* .a.com *.a.com*.b.com a.com/b.com bücher.example.com -x-.com",
            &[
                (".a.com", "broken"),
                ("*.a.com*.b.com", "broken"),
                ("a.com/b.com", "broken"),
                ("cher.example.com", "broken"),
                ("x-.com", "broken"),
            ],
        );
        check(
            "<tenant>.onmicrosoft.com <br>.a.com #-courier.push.apple.com x@contoso.com",
            &[
                ("<tenant>.onmicrosoft.com", "placeholder"),
                (".a.com", "broken"),
                ("#-courier.push.apple.com", "placeholder"),
                ("contoso.com", "email"),
            ],
        );
        check(
            r"`.\Test-It.ps1` AzureFrontDoor.MicrosoftSecurity ../a/manage-gms.md",
            &[("Test-It.ps1", "file"), ("AzureFrontDoor.MicrosoftSecurity", "tag")],
        );
    }
}
