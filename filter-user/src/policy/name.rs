// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names and name patterns.
//!
//! A name that exists is valid: lower case, A-labels, no trailing dot. A pattern matches at label
//! borders only, so that `manage.microsoft.com` never covers `supermanage.microsoft.com`.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A fully qualified domain name: at least two labels of `a-z`, `0-9`, `-` and `_`, each of 1 to
/// 63 characters, 253 in all; lower case, A-labels, no trailing dot. Copies share its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fqdn(Arc<str>);

/// A name with stars.
///
/// Leading labels that are a lone star stand for any number of labels, but at least as many as
/// there are stars. Every other star stands for zero or more characters within its label, and no
/// label is ever empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WildcardPattern(Box<Wildcard>);

/// What stands behind a pointer, so that prefixes, of which there are many more among the
/// destinations of rules, need no room for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Wildcard {
    text: Box<str>,
    /// How many leading labels are a lone star.
    leading_stars: usize,
}

/// A name or a pattern, as written in `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// One name.
    Exact(Fqdn),
    /// All names that match.
    Wildcard(WildcardPattern),
}

/// How much of the name space a pattern covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Every name under a public suffix, private ones included: anybody can register such a name.
    CoversPublicSuffix,
    /// Part of the names under a public suffix, picked by a star in the very label that anybody
    /// can register (`payloadprod*.blob.core.windows.net`).
    OpenToRegistration,
    /// Names under a domain that has one owner.
    Narrow,
}

/// Why a text is no name or no pattern. Each message says what is wrong, then, after a
/// semicolon, how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing at all.
    #[error("the name is empty; write a name such as login.example.com")]
    Empty,
    /// Two dots in a row, or one in front.
    #[error("the name has an empty label; remove the surplus dot")]
    EmptyLabel,
    /// More than 63 characters between two dots.
    #[error("a label has more than 63 characters; shorten it (longer ones don't exist in DNS)")]
    LabelTooLong,
    /// More than 253 characters.
    #[error("the name has more than 253 characters; shorten it (longer ones don't exist in DNS)")]
    TooLong,
    /// A character that no host name has.
    #[error(
        "the name has the character {0:?}; only letters, digits, '-', '_' and '.' can stand in a name"
    )]
    BadCharacter(char),
    /// One label only.
    #[error("the name has no dot; write the full name, with its domain")]
    NoDot,
    /// Neither ASCII nor an international name that IDNA knows.
    #[error("the international name isn't valid; write its A-label form (xn--...)")]
    NotIdna,
    /// The last label is a number, as in an address.
    #[error(
        "the last label is a number, so this is neither a name nor a valid address; correct it"
    )]
    NumericTop,
    /// A star where one name is meant.
    #[error("the name has a star; write one exact name here")]
    StarInName,
    /// A pattern without any star.
    #[error("the pattern has no star; write it as an exact name")]
    NoStar,
    /// `example.*`
    #[error("the last label has a star; write the top-level domain out")]
    StarInLastLabel,
    /// `example.*.ck`
    #[error("there is a star in the public suffix {0}; write the suffix out")]
    StarInPublicSuffix(String),
    /// `a**.example.com`
    #[error("two stars stand side by side; write one")]
    AdjacentStars,
    /// A star in a label that is an A-label, or would become one.
    #[error("a star stands in an international label; put the star into a label of its own")]
    StarInIdnLabel,
}

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// What stands in front of a provider's domain in the public suffixes that lie below it. The list
/// of suffixes can be asked, but not walked, so that these are tried in turn.
const LABELS_OF_SUFFIXES: [&str; 31] = [
    // Microsoft: storage and web sites.
    "blob",
    "blob.core",
    "file",
    "file.core",
    "web",
    "web.core",
    "servicebus",
    "scm",
    // Amazon: storage, functions, machines, balancers.
    "s3",
    "s3.us-east-1",
    "s3.cn-north-1",
    "execute-api",
    "execute-api.us-east-1",
    "lambda-url.us-east-1",
    "auth",
    "auth.us-east-1",
    "compute",
    "elb",
    // Content networks and hosting.
    "cdn",
    "map",
    "prod.global",
    "global",
    "global.ssl",
    "r",
    "members",
    "nodebalancer",
    "ip",
    "static",
    "pages",
    "dyn",
    "home",
];

// === impl Fqdn ===

impl Fqdn {
    /// The name, lower case, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl TryFrom<&str> for Fqdn {
    type Error = InvalidName;

    /// Takes any case, U-labels, and one trailing dot, as DNS software writes them.
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        let name = normalize(text)?;
        if name.contains('*') {
            return Err(InvalidName::StarInName);
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Fqdn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

// === impl WildcardPattern ===

impl WildcardPattern {
    /// The pattern, lower case, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether a name is covered.
    #[must_use]
    pub fn matches(&self, name: &Fqdn) -> bool {
        let mut labels = name.labels().rev();
        for pattern in self.fixed_labels().rev() {
            match labels.next() {
                Some(label) if label_matches(pattern, label) => {}
                _ => return false,
            }
        }
        let below = labels.count();
        if self.0.leading_stars == 0 { below == 0 } else { below >= self.0.leading_stars }
    }

    /// Whether every name that `other` covers is covered by this one too. May say no where a
    /// closer look at stars within labels would find that it is.
    #[must_use]
    pub fn covers(&self, other: &NamePattern) -> bool {
        let other = match other {
            NamePattern::Exact(name) => return self.matches(name),
            NamePattern::Wildcard(other) => other,
        };
        if self == other {
            return true;
        }
        let mut labels = other.fixed_labels().rev();
        for pattern in self.fixed_labels().rev() {
            match labels.next() {
                // A label with a star matches a label with stars only where that is the same
                // text, or where any label will do.
                Some(label) if pattern == label || pattern == "*" => {}
                Some(label) if !label.contains('*') && label_matches(pattern, label) => {}
                _ => return false,
            }
        }
        let below = labels.count() + other.0.leading_stars;
        if self.0.leading_stars == 0 { below == 0 } else { below >= self.0.leading_stars }
    }

    /// How much it covers.
    #[must_use]
    pub fn breadth(&self) -> Breadth {
        if self.covered_suffix().is_some() {
            return Breadth::CoversPublicSuffix;
        }
        match self.registrable_label() {
            Some(label) if label.contains('*') => Breadth::OpenToRegistration,
            _ => Breadth::Narrow,
        }
    }

    /// A public suffix that is covered as a whole, if there is one: the names under it belong to
    /// whoever registers them.
    #[must_use]
    pub fn covered_suffix(&self) -> Option<String> {
        match self.registrable_label() {
            // The stars stand in the suffix itself, as in `*.ck`.
            None | Some("*") => Some(self.public_suffix().to_owned()),
            // `*.c*.uk` covers everything below co.uk.
            Some(label) if label.contains('*') && self.0.leading_stars > 0 => {
                Some(self.public_suffix().to_owned())
            }
            Some(_) => self.suffix_below(),
        }
    }

    /// The public suffix under which it lies.
    #[must_use]
    pub fn public_suffix(&self) -> &str {
        last_labels(&self.0.text, public_suffix_labels(&self.0.text))
    }

    /// The label in front of the public suffix.
    fn registrable_label(&self) -> Option<&str> {
        self.0.text.rsplit('.').nth(public_suffix_labels(&self.0.text))
    }

    /// A public suffix among the names that are covered: `*.windows.net` lies under `net` and is
    /// Microsoft's, and yet holds all of `blob.core.windows.net`.
    fn suffix_below(&self) -> Option<String> {
        if self.0.leading_stars == 0 {
            return None;
        }
        let tail = self.0.text.get(self.0.leading_stars * 2..)?;
        if tail.contains('*') {
            return None;
        }
        LABELS_OF_SUFFIXES.iter().map(|labels| format!("{labels}.{tail}")).find(|candidate| {
            public_suffix_labels(&format!("*.{candidate}")) >= candidate.split('.').count()
        })
    }

    /// The labels behind the leading lone stars.
    fn fixed_labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        // Each leading lone star is one byte and its dot.
        self.0.text.get(self.0.leading_stars * 2..).unwrap_or_default().split('.')
    }
}

impl TryFrom<&str> for WildcardPattern {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        let text = normalize(text)?;
        if !text.contains('*') {
            return Err(InvalidName::NoStar);
        }
        let leading_stars = text.split('.').take_while(|label| *label == "*").count();
        let suffix_labels = public_suffix_labels(&text);
        let suffix = last_labels(&text, suffix_labels);
        // A lone star in front is a matter of breadth, which a rule may ask for.
        let before_suffix = text.split('.').count().saturating_sub(suffix_labels);
        let written_out = before_suffix.max(leading_stars);
        if text.split('.').skip(written_out).any(|label| label.contains('*')) {
            return Err(InvalidName::StarInPublicSuffix(suffix.to_owned()));
        }
        Ok(Self(Box::new(Wildcard { text: text.into(), leading_stars })))
    }
}

impl fmt::Display for WildcardPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.text)
    }
}

impl Serialize for WildcardPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

// === impl NamePattern ===

impl NamePattern {
    /// Whether a name is covered.
    #[must_use]
    pub fn matches(&self, name: &Fqdn) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(pattern) => pattern.matches(name),
        }
    }

    /// How much it covers.
    #[must_use]
    pub fn breadth(&self) -> Breadth {
        match self {
            Self::Exact(_) => Breadth::Narrow,
            Self::Wildcard(pattern) => pattern.breadth(),
        }
    }

    /// The text in its one form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) => name.as_str(),
            Self::Wildcard(pattern) => pattern.as_str(),
        }
    }
}

impl TryFrom<&str> for NamePattern {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        if text.contains('*') {
            WildcardPattern::try_from(text).map(Self::Wildcard)
        } else {
            Fqdn::try_from(text).map(Self::Exact)
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for NamePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === helpers ===

/// A valid name in its one form; stars are let through where a pattern may have them.
fn normalize(text: &str) -> Result<String, InvalidName> {
    // IDNA would map or drop some of these (full-width letters, soft hyphens): what is ASCII is
    // judged before, so that the message names the character that was written.
    if let Some(bad) = text.chars().find(|&c| c.is_ascii() && !is_name_character(c)) {
        return Err(InvalidName::BadCharacter(bad));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    let name = if text.is_ascii() && !text.to_ascii_lowercase().contains("xn--") {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_errors| InvalidName::NotIdna)?
    };
    if name.len() > MAX_NAME {
        return Err(InvalidName::TooLong);
    }
    // IDNA maps some characters to ASCII ones.
    if let Some(bad) = name.chars().find(|&c| !is_name_character(c)) {
        return Err(InvalidName::BadCharacter(bad));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(InvalidName::EmptyLabel);
        }
        if label.len() > MAX_LABEL {
            return Err(InvalidName::LabelTooLong);
        }
        if label.contains("**") {
            return Err(InvalidName::AdjacentStars);
        }
        if label.contains('*') && label.starts_with("xn--") {
            return Err(InvalidName::StarInIdnLabel);
        }
    }
    let (_, top) = match name.rsplit_once('.') {
        Some(split) => split,
        None if name.contains('*') => return Err(InvalidName::StarInLastLabel),
        None => return Err(InvalidName::NoDot),
    };
    if top.contains('*') {
        return Err(InvalidName::StarInLastLabel);
    }
    if top.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidName::NumericTop);
    }
    Ok(name)
}

fn is_name_character(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*')
}

/// How many labels of a name are its public suffix, private suffixes included. A star counts as
/// some label that is in no list.
fn public_suffix_labels(text: &str) -> usize {
    let stand_in = text.replace('*', "0-0");
    psl::suffix_str(&stand_in).map_or(1, |suffix| suffix.split('.').count())
}

fn last_labels(text: &str, count: usize) -> &str {
    let start = text.rmatch_indices('.').nth(count.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    text.get(start..).unwrap_or(text)
}

/// Whether a label matches a pattern in which each star stands for zero or more characters.
fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut label) = label.strip_prefix(head) else { return false };
    let mut rest = rest;
    // Taking the first place that fits is enough: whatever a later place allows, the next star
    // allows from the first one too.
    while let Some((piece, after)) = rest.split_once('*') {
        let Some(at) = label.find(piece) else { return false };
        label = label.get(at + piece.len()..).unwrap_or_default();
        rest = after;
    }
    label.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_one_form() {
        let cases = [
            ("login.example.com", "login.example.com"),
            ("LOGIN.Example.COM", "login.example.com"),
            ("login.example.com.", "login.example.com"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("r3---sn-a.example.com", "r3---sn-a.example.com"),
            ("-a.example.com", "-a.example.com"),
            ("1.example", "1.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("login。example。com", "login.example.com"),
        ];
        for (text, expected) in cases {
            let name = Fqdn::try_from(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(name.as_str(), expected, "{text}");
            assert_eq!(Fqdn::try_from(name.as_str()), Ok(name.clone()), "stable: {text}");
        }
    }

    #[test]
    fn what_is_no_name() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "a.".repeat(124));
        let cases = [
            ("", InvalidName::Empty),
            (".", InvalidName::Empty),
            ("a..example", InvalidName::EmptyLabel),
            (".example.com", InvalidName::EmptyLabel),
            ("example.com..", InvalidName::EmptyLabel),
            (&*long_label, InvalidName::LabelTooLong),
            (&*long_name, InvalidName::TooLong),
            ("a b.example", InvalidName::BadCharacter(' ')),
            ("example.com:443", InvalidName::BadCharacter(':')),
            ("https://example.com", InvalidName::BadCharacter(':')),
            ("example.com/path", InvalidName::BadCharacter('/')),
            ("<tenant>.onmicrosoft.com", InvalidName::BadCharacter('<')),
            ("a\0.example", InvalidName::BadCharacter('\0')),
            ("localhost", InvalidName::NoDot),
            ("localhost.", InvalidName::NoDot),
            ("xn--\u{fc}.example", InvalidName::NotIdna),
            ("xn--zzzzzzzzzz99.example", InvalidName::NotIdna),
            ("10.0.0.256", InvalidName::NumericTop),
            ("*.example.com", InvalidName::StarInName),
        ];
        for (text, expected) in cases {
            assert_eq!(Fqdn::try_from(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        let cases = [
            ("*", InvalidName::StarInLastLabel),
            ("*.*", InvalidName::StarInLastLabel),
            ("example.*", InvalidName::StarInLastLabel),
            ("www.example.c*", InvalidName::StarInLastLabel),
            ("a.*.ck", InvalidName::StarInPublicSuffix("*.ck".to_owned())),
            ("*.a*.ck", InvalidName::StarInPublicSuffix("a*.ck".to_owned())),
            ("a**.example.com", InvalidName::AdjacentStars),
            ("**.example.com", InvalidName::AdjacentStars),
            ("*bücher.example", InvalidName::StarInIdnLabel),
            ("xn--*.example.com", InvalidName::NotIdna),
            ("*..example.com", InvalidName::EmptyLabel),
            (".*.example.com", InvalidName::EmptyLabel),
            ("example.com", InvalidName::NoStar),
            ("*.example.com:443", InvalidName::BadCharacter(':')),
            ("*.256", InvalidName::NumericTop),
        ];
        for (text, expected) in cases {
            assert_eq!(WildcardPattern::try_from(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn what_patterns_cover() {
        // Pattern, names that it covers, names that it doesn't.
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "*.manage.microsoft.com",
                &[
                    "a.manage.microsoft.com",
                    "a.b.c.manage.microsoft.com",
                    "_x.manage.microsoft.com",
                ],
                &[
                    "manage.microsoft.com",
                    "supermanage.microsoft.com",
                    "a.supermanage.microsoft.com",
                    "a.manage.microsoft.com.evil.example",
                    "manage.microsoft.com.evil.example",
                    "microsoft.com",
                    "a.manage.microsoft.comx",
                ],
            ),
            (
                "autodiscover.*.onmicrosoft.com",
                &["autodiscover.contoso.onmicrosoft.com"],
                &[
                    "autodiscover.onmicrosoft.com",
                    "autodiscover.a.b.onmicrosoft.com",
                    "x.autodiscover.contoso.onmicrosoft.com",
                    "contoso.onmicrosoft.com",
                    "autodiscover.contoso.onmicrosoft.com.evil.example",
                ],
            ),
            (
                "*cdn.onenote.net",
                &["cdn.onenote.net", "site-cdn.onenote.net"],
                &["a.cdn.onenote.net", "cdn.b.onenote.net", "cdnx.onenote.net", "onenote.net"],
            ),
            (
                "payloadprod*.blob.core.windows.net",
                &["payloadprod.blob.core.windows.net", "payloadprod01.blob.core.windows.net"],
                &[
                    "payloadpro.blob.core.windows.net",
                    "xpayloadprod1.blob.core.windows.net",
                    "a.payloadprod1.blob.core.windows.net",
                    "payloadprod.1.blob.core.windows.net",
                ],
            ),
            (
                "*.*.example.com",
                &["a.b.example.com", "a.b.c.example.com"],
                &["a.example.com", "example.com", "a.b.example.org"],
            ),
            (
                "*.*.*.example.com",
                &["a.b.c.example.com", "a.b.c.d.example.com"],
                &["a.b.example.com"],
            ),
            (
                "*.eu*.example.com",
                &["a.eu.example.com", "a.b.eu1.example.com"],
                &["eu.example.com", "a.xeu.example.com", "a.b.example.com"],
            ),
            (
                "a*b*c.example.com",
                &["abc.example.com", "axbxc.example.com", "abbcc.example.com", "abcbc.example.com"],
                &["ac.example.com", "abcx.example.com", "acb.example.com", "ab.c.example.com"],
            ),
            (
                "aa*aa.example.com",
                &["aaaa.example.com", "aaaaa.example.com"],
                &["aa.example.com", "aaa.example.com"],
            ),
            (
                "*-*.example.com",
                &["-.example.com", "a-b.example.com", "a-b-c.example.com"],
                &["ab.example.com", "x.a-b.example.com"],
            ),
            (
                "*.BÜCHER.example.com",
                &["a.xn--bcher-kva.example.com", "a.bücher.example.com"],
                &["a.bucher.example.com"],
            ),
            (
                "a.*.*.example.com",
                &["a.b.c.example.com"],
                &["a.b.example.com", "a.b.c.d.example.com"],
            ),
        ];
        for (text, covered, others) in cases {
            let pattern = WildcardPattern::try_from(*text).unwrap();
            for name in *covered {
                assert!(pattern.matches(&Fqdn::try_from(*name).unwrap()), "{text} covers {name}");
            }
            for name in *others {
                assert!(!pattern.matches(&Fqdn::try_from(*name).unwrap()), "{text} not {name}");
            }
        }
    }

    #[test]
    fn breadth_of_patterns() {
        use Breadth::{CoversPublicSuffix, Narrow, OpenToRegistration};
        let cases = [
            ("*.com", CoversPublicSuffix),
            ("*.*.com", CoversPublicSuffix),
            ("*.co.uk", CoversPublicSuffix),
            ("*.uk", CoversPublicSuffix),
            ("*.ck", CoversPublicSuffix),
            ("*.*.ck", CoversPublicSuffix),
            ("www.*.uk", CoversPublicSuffix),
            ("*.c*.uk", CoversPublicSuffix),
            ("*.azureedge.net", CoversPublicSuffix),
            ("*.servicebus.windows.net", CoversPublicSuffix),
            ("*.blob.core.windows.net", CoversPublicSuffix),
            ("*.lan", CoversPublicSuffix),
            ("*.windows.net", CoversPublicSuffix),
            ("*.core.windows.net", CoversPublicSuffix),
            ("*.*.windows.net", CoversPublicSuffix),
            ("*.amazonaws.com", CoversPublicSuffix),
            ("*.us-east-1.amazonaws.com", CoversPublicSuffix),
            ("*.on.aws", CoversPublicSuffix),
            ("*.amazonaws.com.cn", CoversPublicSuffix),
            ("*.cloudflare.net", CoversPublicSuffix),
            ("*.fastly.net", CoversPublicSuffix),
            ("*.linode.com", CoversPublicSuffix),
            ("*.microsoft.com", Narrow),
            ("*.office.com", Narrow),
            ("www.windows.net", Narrow),
            ("*.account.blob.core.windows.net", Narrow),
            ("payloadprod*.blob.core.windows.net", OpenToRegistration),
            ("*cdn.com", OpenToRegistration),
            ("*.example.com", Narrow),
            ("*.*.example.co.uk", Narrow),
            ("*.example.azureedge.net", Narrow),
            ("*cdn.onenote.net", Narrow),
            ("autodiscover.*.onmicrosoft.com", Narrow),
            ("example.com", Narrow),
        ];
        for (text, expected) in cases {
            let pattern = NamePattern::try_from(text).unwrap();
            assert_eq!(pattern.breadth(), expected, "{text}");
        }
    }

    #[test]
    fn patterns_in_patterns() {
        let cases = [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "*.a.example.com", true),
            ("*.example.com", "*.*.example.com", true),
            ("*.*.example.com", "*.example.com", false),
            ("*.example.com", "a*.example.com", true),
            ("a*.example.com", "ab*.example.com", false),
            ("a.*.example.com", "a.b*.example.com", true),
            ("a.*.example.com", "*.b.example.com", false),
            ("*.example.com", "*.example.org", false),
            ("*.example.com", "*.example.com", true),
        ];
        for (wide, narrow, expected) in cases {
            let pattern = WildcardPattern::try_from(wide).unwrap();
            let other = NamePattern::try_from(narrow).unwrap();
            assert_eq!(pattern.covers(&other), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn every_message_says_how_to_mend_it() {
        for error in [InvalidName::Empty, InvalidName::BadCharacter(';'), InvalidName::NoDot] {
            assert_eq!(error.to_string().split("; ").count(), 2, "{error}");
        }
    }

    /// Stars by trying every length.
    fn naive(pattern: &[u8], label: &[u8]) -> bool {
        match pattern {
            [] => label.is_empty(),
            [b'*', rest @ ..] => (0..=label.len()).any(|skip| naive(rest, &label[skip..])),
            [byte, rest @ ..] => label.first() == Some(byte) && naive(rest, &label[1..]),
        }
    }

    proptest! {
        #[test]
        fn stars_within_a_label(pattern in "[ab*]{1,6}", label in "[ab]{1,7}") {
            prop_assert_eq!(
                label_matches(&pattern, &label),
                naive(pattern.as_bytes(), label.as_bytes())
            );
        }

        /// A pattern that covers another matches whatever that one matches.
        #[test]
        fn covering_is_sound(
            wide in "((\\*|[ab]\\*?|\\*[ab])\\.){1,3}x\\.com",
            narrow in "((\\*|[ab]\\*?|\\*[ab])\\.){1,3}x\\.com",
            name in "([ab]{1,2}\\.){1,4}x\\.com",
        ) {
            let name = Fqdn::try_from(&*name).unwrap();
            let (Ok(wide), Ok(narrow)) =
                (WildcardPattern::try_from(&*wide), NamePattern::try_from(&*narrow))
            else {
                return Ok(());
            };
            if wide.covers(&narrow) && narrow.matches(&name) {
                prop_assert!(wide.matches(&name), "{} {} {}", wide, narrow, name);
            }
        }
    }
}
