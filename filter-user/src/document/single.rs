// SPDX-License-Identifier: MIT OR Apache-2.0
//! A text that is meant to be exactly one endpoint, as in feeds and plain lists.
//!
//! Unlike on a page, nothing here has to be told from prose, so that names under a top-level
//! domain of one's own are names as well.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{PortSet, Why};

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The name or prefix, as sets hold it.
    pub(super) text: String,
    pub(super) host: Host,
    /// What a scheme or a port beside the host says.
    pub(super) ports: Option<PortSet>,
    /// The path of a URL.
    pub(super) path: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name,
    /// A network without host bits; the second says whether there were some.
    Net(IpNet, HostBits),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostBits {
    None,
    Dropped,
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoEndpoint {
    pub(super) why: Why,
    /// What is wrong, as the end of a sentence.
    pub(super) problem: &'static str,
}

/// The longest that a valid name can be written as, in bytes of UTF-8.
const LONGEST_WRITTEN: usize = 253 * 4;

/// Reads one endpoint: a name, a wildcard, an address, a prefix, a URL, or a host with a port.
pub(super) fn read(text: &str) -> Result<Endpoint, NoEndpoint> {
    let text = text.trim();
    if text.is_empty() {
        return Err(broken("it is empty"));
    }
    if let Some(host) = net(text)? {
        return Ok(endpoint(host, None, ""));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if has_placeholder(authority) {
        return Err(NoEndpoint {
            why: Why::Placeholder,
            problem: "a part of it is to be filled in (see --tenant)",
        });
    }
    if authority.contains('@') {
        return Err(broken("it has a user or is an e-mail address"));
    }
    let (host, port) = split_port(authority)?;
    let host = match (net(host)?, scheme) {
        (Some(_), None) if path.len() > 1 => return Err(broken("the prefix length is invalid")),
        (Some(host), _) => host,
        (None, _) => (name(host)?, Host::Name),
    };
    let ports = match (port, scheme.map(str::to_ascii_lowercase).as_deref()) {
        (Some(port), _) => Some(PortSet::tcp(port)),
        (None, Some("http" | "ws")) => Some(PortSet::tcp(80)),
        (None, Some("https" | "wss")) => Some(PortSet::tcp(443)),
        (None, _) => None,
    };
    Ok(endpoint(host, ports, path))
}

/// Whether a text has a part such as `<tenant>`, `{tenant}` or `[tenant]`.
pub(super) fn has_placeholder(text: &str) -> bool {
    let pair = |open, close| {
        text.split_once(open).is_some_and(|(_, behind): (&str, &str)| behind.contains(close))
    };
    pair('<', '>') || pair('{', '}') || (pair('[', ']') && !text.contains(':'))
}

/// A name or wildcard in its one form: lower case, A-labels, no trailing dot.
///
/// What passes here is a name to the policy as well, which looks at it again.
fn name(text: &str) -> Result<String, NoEndpoint> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    if text.chars().any(|c| c.is_ascii() && !allowed(c)) {
        return Err(broken("it has a character that no name has"));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    // What IDNA does to a text takes longer than reading it.
    if text.len() > LONGEST_WRITTEN {
        return Err(broken("it is too long for a name"));
    }
    let lower = text.to_ascii_lowercase();
    let name = if text.is_ascii() && !lower.contains("xn--") {
        lower
    } else {
        idna::domain_to_ascii(text)
            .map_err(|_errors| broken("it is no valid international name"))?
    };
    if name.len() > 253 || !name.chars().all(allowed) {
        return Err(broken("it is no valid name"));
    }
    let Some((_, top)) = name.rsplit_once('.') else { return Err(broken("it has no dot")) };
    if top.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(broken("it is neither a name nor a valid address"));
    }
    if top.contains('*') {
        return Err(broken("the last label has a star"));
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(broken("a label is empty or too long"));
        }
        if label.contains("**") || (label.contains('*') && label.starts_with("xn--")) {
            return Err(broken("a star stands where none can be"));
        }
        if label.ends_with('-') {
            return Err(broken("a label ends with a dash"));
        }
        // The end of one host and the start of the next.
        if ["com*", "net*", "org*"].contains(&label) {
            return Err(broken("two names are glued together"));
        }
    }
    Ok(name)
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), NoEndpoint> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => return Ok((host, None)),
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or_default()),
            None => return Err(broken("a bracket is never closed")),
        },
        None => match authority.rsplit_once(':') {
            Some(split) => split,
            None => return Ok((authority, None)),
        },
    };
    match port.parse() {
        Ok(0) | Err(_) => Err(broken("it has no valid port behind its colon")),
        Ok(port) => Ok((host, Some(port))),
    }
}

fn net(text: &str) -> Result<Option<(String, Host)>, NoEndpoint> {
    let (net, host_bits) = if let Ok(net) = text.parse::<IpNet>() {
        let kept = net.trunc() == net;
        (net.trunc(), if kept { HostBits::None } else { HostBits::Dropped })
    } else if let Ok(address) = text.parse::<IpAddr>() {
        (IpNet::from(address), HostBits::None)
    } else {
        return Ok(None);
    };
    if let IpAddr::V6(address) = net.addr()
        && net.prefix_len() >= 96
        && address.to_ipv4_mapped().is_some()
    {
        return Err(broken("it is an IPv4-mapped address, which no packet has"));
    }
    Ok(Some((net.to_string(), Host::Net(net, host_bits))))
}

fn endpoint((text, host): (String, Host), ports: Option<PortSet>, path: &str) -> Endpoint {
    let path = (path.len() > 1).then(|| path.to_owned());
    Endpoint { text, host, ports, path }
}

fn broken(problem: &'static str) -> NoEndpoint {
    NoEndpoint { why: Why::Broken, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, expected) in [
            ("A.Example.COM.", "a.example.com"),
            ("*.example.com", "*.example.com"),
            ("payload*.blob.example.net", "payload*.blob.example.net"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("host.corp", "host.corp"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24 (host bits)"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("https://a.example/x/y", "a.example tcp 443 /x/y"),
            ("http://a.example/", "a.example tcp 80"),
            ("https://a.example:8443", "a.example tcp 8443"),
            ("a.example:5223", "a.example tcp 5223"),
            ("192.0.2.7:853", "192.0.2.7/32 tcp 853"),
            ("https://[2001:db8::1]:8443/", "2001:db8::1/128 tcp 8443"),
            ("a.example/x", "a.example /x"),
            ("ftp://a.example", "a.example"),
        ] {
            let read = read(text).unwrap_or_else(|error| panic!("{text}: {}", error.problem));
            let mut shown = read.text;
            if let Host::Net(_, HostBits::Dropped) = read.host {
                shown.push_str(" (host bits)");
            }
            shown.extend(read.ports.map(|ports| format!(" {ports}")));
            shown.extend(read.path.map(|path| format!(" {path}")));
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint() {
        for (text, why) in [
            ("", Why::Broken),
            ("localhost", Why::Broken),
            ("a..example", Why::Broken),
            ("a b.example", Why::Broken),
            ("* .a.example", Why::Broken),
            ("a.com*.b.com", Why::Broken),
            ("a**.example.com", Why::Broken),
            ("example.*", Why::Broken),
            ("192.0.2.300", Why::Broken),
            ("192.0.2.0/33", Why::Broken),
            ("192.0.2/24", Why::Broken),
            ("2001:db8::1::/64", Why::Broken),
            ("::ffff:192.0.2.1", Why::Broken),
            ("user@a.example", Why::Broken),
            ("a.example:0", Why::Broken),
            ("a.example:http", Why::Broken),
            ("<tenant>.example.com", Why::Placeholder),
            ("https://{tenant}-my.example.com/x", Why::Placeholder),
            ("[tenant].example.com", Why::Placeholder),
            ("[2001:db8::1", Why::Broken),
        ] {
            assert_eq!(read(text).map_err(|error| error.why), Err(why), "{text}");
        }
    }
}
