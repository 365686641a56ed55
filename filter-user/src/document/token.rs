// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything on a page that looks like a host, an address or a prefix.
//!
//! The raw text is read, not the rendered one: Markdown takes the stars of two wildcards in one
//! cell for emphasis.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;

use super::{broken, ports::PortSet, template};

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
    /// A part is for the reader to fill in; the text is as on the page.
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
///
/// A `<tenant>` in a name is filled in where the tenant is given.
pub(super) fn scan(text: &str, tenant: Option<&str>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut counted = 0;
    let mut position = 0;
    while let Some(character) = text.get(position..).and_then(|rest| rest.chars().next()) {
        let Some(end) = run_end(text, position) else {
            position += character.len_utf8();
            continue;
        };
        line += newlines(text, counted..position);
        counted = position;
        let run = text.get(position..end).unwrap_or_default();
        if let Some(scheme_end) = run.find("://") {
            let end = url_end(text, position + scheme_end + 3);
            tokens.extend(url(text, position..end, scheme_end, line));
            position = end;
        } else {
            tokens.extend(bare(text, position..end, line, tenant));
            position = end;
        }
    }
    broken::mark(text, &mut tokens);
    tokens
}

fn newlines(text: &str, range: Range<usize>) -> u32 {
    let lines = text.get(range).unwrap_or_default().bytes().filter(|byte| *byte == b'\n').count();
    u32::try_from(lines).unwrap_or(u32::MAX)
}

/// Whether a character may stand in a host, an address or the scheme of a URL.
///
/// Letters of alphabets that are written with blanks between words count; of the others, words
/// run into names without any border ([`foreign_label`]).
pub(super) fn is_run_character(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(character, '.' | '-' | '_' | '*' | ':' | '/')
        || (matches!(character, '\u{c0}'..='\u{587}') && character.is_alphabetic())
}

/// The ideographic full stop and its relatives, which IDNA takes for dots (RFC 3490, 3.1).
fn is_wide_dot(character: char) -> bool {
    matches!(character, '。' | '．' | '｡')
}

/// The end of the run of characters that begins here; `None` where none does.
fn run_end(text: &str, start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let mut end = start + foreign_label(text, start);
    let mut dotted = end > start;
    let mut characters = text.get(end..)?.chars().peekable();
    while let Some(character) = characters.next() {
        let next = characters.peek().copied();
        let inside = match character {
            // An escaped star or dot is the plain one.
            '\\' => next.is_some_and(|next| matches!(next, '*' | '.' | '_' | '-')),
            // Behind a name with dots of its own it ends a sentence.
            wide if is_wide_dot(wide) => {
                end > start && !dotted && next.is_some_and(|next| next.is_ascii_alphanumeric())
            }
            other => is_run_character(other),
        };
        if !inside {
            break;
        }
        dotted |= character == '.';
        end += character.len_utf8();
    }
    (end > start && !rest.is_empty()).then_some(end)
}

/// The length of a label in a script without blanks between words, with a dot behind it.
fn foreign_label(text: &str, start: usize) -> usize {
    let is_foreign = |c: char| c > '\u{587}' && c.is_alphabetic();
    let before = text.get(..start).and_then(|before| before.chars().next_back());
    if before.is_some_and(|c| is_foreign(c) || is_run_character(c)) {
        return 0;
    }
    let rest = text.get(start..).unwrap_or_default();
    let label: usize =
        rest.chars().take(63).take_while(|c| is_foreign(*c)).map(char::len_utf8).sum();
    let mut behind = rest.get(label..).unwrap_or_default().chars();
    let name = behind.next().is_some_and(|c| c == '.')
        && behind.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if name { label } else { 0 }
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
    if host.is_empty() || placeholder || host.starts_with('#') {
        // "https://<tenant>.example.com": the rest is found as a run of its own.
        return None;
    }
    let lower = ascii(host)?;
    Some(match host_kind(&lower) {
        Kind::Name => token(lower, url(Host::Name)),
        Kind::Net(net) => token(net.net.to_string(), url(Host::Net(net))),
        Kind::Dotted if !authority.contains('.') => return None,
        _ => token(host.to_owned(), Kind::Broken),
    })
}

fn bare(text: &str, range: Range<usize>, line: u32, tenant: Option<&str>) -> Option<Token> {
    if let Some(template) = template::around(text, &range) {
        if range.end < template.range.end {
            // The last run of a template stands for all of it.
            return None;
        }
        let whole = text.get(template.range.clone())?.replace('\\', "");
        let filled = tenant.and_then(|tenant| template::for_tenant(text, &template, tenant));
        let range = template.range.clone();
        return match filled {
            Some(name) => named(&name, range, line, Emphasis::Clear),
            None if whole.contains('.') => Some(Token {
                range,
                line,
                text: whole.to_lowercase(),
                kind: Kind::Placeholder,
                capital: Capital::No,
            }),
            None => None,
        };
    }
    let run = text.get(range.clone())?;
    let before = text.get(..range.start)?.chars().next_back();
    let unescaped = run.replace('\\', "").replace(is_wide_dot, ".");
    if let Some(front) = unescaped.trim_end_matches(['.', ',', ':', '/']).strip_suffix(".*")
        && !unescaped.starts_with('*')
        && front.contains(char::is_alphabetic)
    {
        // A star in place of the top-level domain.
        let text = format!("{}.*", front.to_lowercase());
        return Some(Token { range, line, text, kind: Kind::Broken, capital: Capital::No });
    }
    let (trimmed, emphasis) = trim(&unescaped);
    let mut token = named(trimmed, range, line, emphasis)?;
    if before == Some('@') && token.kind == Kind::Name {
        token.kind = Kind::Email;
    }
    Some(token)
}

/// The token that a run without its markup is.
fn named(trimmed: &str, range: Range<usize>, line: u32, emphasis: Emphasis) -> Option<Token> {
    let token = |text: &str, kind| {
        let capital = if text.starts_with(char::is_uppercase) { Capital::Yes } else { Capital::No };
        let text = match kind {
            Kind::FileName | Kind::ServiceTag | Kind::Dotted => text.to_owned(),
            _ => text.to_lowercase(),
        };
        Some(Token { range: range.clone(), line, text, kind, capital })
    };
    if let Some(net) = net(trimmed) {
        return token(&net.net.to_string(), Kind::Net(net));
    }
    if looks_like_address(trimmed) {
        return token(trimmed, Kind::Broken);
    }
    // Two addresses in one, or a range of them.
    let digits = trimmed.chars().all(|c| c.is_ascii_digit() || "./-:".contains(c));
    if digits && trimmed.matches('.').count() > 3 {
        return token(trimmed, Kind::Broken);
    }
    let end = trimmed.find(['/', ':']).unwrap_or(trimmed.len());
    let (host, behind) = trimmed.split_at_checked(end)?;
    if !host.contains('.') || !host.contains(char::is_alphabetic) {
        return None;
    }
    let Some(lower) = ascii(host) else { return token(host, Kind::Broken) };
    // Two hosts with a slash between, or prefixes and hosts in one run, are told apart by nobody.
    let (host, kind) = match host_kind(&lower) {
        Kind::Name => (host, Kind::Name),
        Kind::Net(_) | Kind::Url(_) => (trimmed, Kind::Broken),
        kind => (host, kind),
    };
    let last = lower.rsplit('.').next().unwrap_or_default();
    let labels = host.split('.').filter(|label| !label.is_empty()).count();
    if FILE_ENDINGS.contains(&last) && (labels == 2 || kind != Kind::Name) {
        return token(host.trim_start_matches('.'), Kind::FileName);
    }
    if kind == Kind::Dotted {
        return token(host, if is_service_tag(host) { Kind::ServiceTag } else { kind });
    }
    if emphasis == Emphasis::Unclear || kind != Kind::Name {
        return token(host, Kind::Broken);
    }
    let capital = token(host, Kind::Name)?.capital;
    let name = lower.trim_start_matches('-');
    let url = |ports, path| {
        let kind = Kind::Url(Url { ports, path, host: Host::Name });
        Some(Token { capital, ..token(name, kind)? })
    };
    let Some(sign) = behind.chars().next() else {
        return Some(Token { capital, ..token(name, kind)? });
    };
    let rest = behind.get(1..).unwrap_or_default();
    match sign {
        ':' => match rest.split('/').next().unwrap_or_default().parse::<u16>() {
            Ok(port) if port != 0 => {
                let path = rest.find('/').and_then(|slash| rest.get(slash..));
                url(Some(PortSet::tcp(port)), path.filter(|path| path.len() > 1).map(str::to_owned))
            }
            _ => token(trimmed, Kind::Broken),
        },
        _ if rest.split('/').next().is_some_and(|first| host_kind(first) == Kind::Name) => {
            token(trimmed, Kind::Broken)
        }
        _ => url(None, Some(behind.to_owned()).filter(|path| path.len() > 1)),
    }
}

/// A name in lower case, with A-labels (RFC 5890, 2.3.2.1); `None` where it has none.
fn ascii(name: &str) -> Option<String> {
    if name.is_ascii() {
        return Some(name.to_ascii_lowercase());
    }
    // What a star stands for has no A-label.
    let star = name.split('.').any(|label| label.contains('*') && !label.is_ascii());
    if star || name.len() > 1000 {
        return None;
    }
    let stars = name.rfind('*').map_or(0, |star| star + 1);
    let (front, behind) = name.split_at_checked(stars)?;
    let behind = idna::domain_to_ascii(behind.trim_start_matches('.')).ok()?;
    let dot = if stars > 0 { "." } else { "" };
    Some(format!("{}{dot}{behind}", front.to_ascii_lowercase()))
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

fn net(text: &str) -> Option<Net> {
    // "010.0.0.0" is 8.0.0.0 to some readers.
    text.split('/').next()?.parse::<IpAddr>().ok()?;
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

/// Whether a lower-case text is a name that an endpoint can have.
pub(super) fn is_name(text: &str) -> bool {
    host_kind(text) == Kind::Name
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
        let found: Vec<(String, &str)> = scan(text, None)
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
                ("xn--bcher-kva.example.com", "name"),
                ("-x-.com", "broken"),
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
