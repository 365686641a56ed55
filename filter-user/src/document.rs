// SPDX-License-Identifier: MIT OR Apache-2.0
//! A vendor's page as endpoint sets with line numbers; no policy meaning yet.
//!
//! The work goes token by token: everything on the page that looks like a host, an address or a
//! prefix is found first ([`token`]), the page's structure then claims tokens for endpoint sets
//! ([`markdown`], [`table`], [`list`]), and what nobody claimed is left out with a reason
//! ([`prose`]). So no token can get lost between the parts.
//!
//! Everything here is pure: the same bytes give the same document.

mod assemble;
mod broken;
mod decode;

mod endpoints;
mod entities;
mod feed;
mod flat;
mod html;
mod json;
mod lines;
mod list;
mod m365;
mod markdown;
mod merge;
mod plain;
mod plain_list;
mod policy_file;
mod ports;
mod prose;
mod recognise;
pub mod select;
mod service_tags;
mod single;
mod table;
mod template;
mod token;
mod words;

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use serde::Serialize;

pub use self::{
    decode::{InvalidDocument, decode},
    ports::{PortRange, PortSet},
};

/// What one or several inputs say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The inputs, in the order they were given.
    pub sources: Vec<Source>,
    /// The endpoint sets, in the order of the inputs and their lines.
    pub endpoint_sets: Vec<EndpointSet>,
    /// Each token that went into a set, in the order of the page.
    pub imported: Vec<Imported>,
    /// Each token that did not, in the order of the page.
    pub left_out: Vec<LeftOut>,
    /// What a reader has to know about the page, in the order of the page.
    pub warnings: Vec<Warning>,
}

/// An input: a page or a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is called, without directories; `-` for standard input.
    pub name: String,
    /// The kind of input that it was read as.
    pub format: Format,
    /// Its title.
    pub title: Option<String>,
    /// Its own date or version, as it is written there.
    pub date: Option<String>,
    /// The comment at the head of a policy file, line by line.
    pub head: Vec<String>,
}

/// How an input is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The kind of input; recognised by its content where there is none.
    pub format: Option<Format>,
    /// The service tags to take from a file of service tags; no other is read.
    pub tags: Vec<String>,
    /// What stands in for `<tenant>` and its like.
    pub tenant: Option<String>,
}

/// A kind of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// A documentation page: Markdown, a rendered copy of it, or its plain text.
    Page,
    /// What the Microsoft 365 endpoints web service answers.
    M365Json,
    /// A file of Azure service tags.
    ServiceTags,
    /// One name, address or prefix a line.
    List,
    /// A file of policy rules.
    Policy,
}

/// Endpoints that the page lists together and that have the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// The index of its input in [`Document::sources`].
    pub source: usize,
    /// The vendor's number of the set.
    pub id: Option<u32>,
    /// The heading that it stands under.
    pub section: String,
    /// What it is for.
    pub description: String,
    /// The vendor's category.
    pub category: Option<Category>,
    /// Whether the vendor says that it is required.
    pub required: Stated,
    /// Whether it is reachable over ExpressRoute.
    pub express_route: Stated,
    /// The region, tenant unit or cloud that it is for.
    pub group: Option<String>,
    /// Exact names and wildcards, lower case, in the order of the page.
    pub names: Vec<String>,
    /// Prefixes without host bits, in the order of the page.
    pub prefixes: Vec<IpNet>,
    /// The ports.
    pub ports: PortSet,
    /// Where the ports were found.
    pub ports_from: PortsFrom,
    /// Whether it can be used as it stands.
    pub state: SetState,
    /// The first and the last line it came from.
    pub lines: (u32, u32),
    /// Remarks, in the order of the page.
    pub notes: Vec<Note>,
    /// The rule that it was in a policy file.
    pub rule: Option<Box<PolicyRule>>,
}

/// A rule of a policy file, beyond what the endpoint set made of it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRule {
    /// `name`.
    pub name: String,
    /// The comment above it, line by line.
    pub comments: Vec<String>,
    /// `from`: groups of clients; every client where there are none.
    pub from: Vec<String>,
    /// Whether `to` has `self`, the gateway's own addresses.
    pub gateway: Stated,
    /// `icmp`.
    pub icmp: Stated,
    /// `proto`, as it is written there.
    pub protocols: Vec<String>,
    /// `private`.
    pub private: Stated,
    /// `broad`.
    pub broad: Stated,
    /// `note`, with the reason for which the rule is disabled.
    pub note: Option<String>,
}

/// A remark about a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Note {
    /// What was found out about it, in words of ours.
    Finding(String),
    /// What the page says about it, in the vendor's words.
    Remark(String),
}

/// The vendor's category of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Latency matters most.
    Optimize,
    /// Has to be reachable, without inspection if possible.
    Allow,
    /// Ordinary internet traffic.
    Default,
}

/// Something that a page says, denies or doesn't mention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stated {
    /// The page says yes.
    Yes,
    /// The page says no.
    No,
    /// The page doesn't say.
    #[default]
    Unstated,
}

/// Where the ports of a set were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortsFrom {
    /// In the row of the set.
    Row,
    /// In a sentence of the section.
    Section,
    /// In the scheme or the port of the endpoint's own URL.
    Scheme,
    /// In the rows and sections that name the same endpoint.
    SameEndpoint,
    /// Nowhere.
    Nowhere,
}

/// Whether a set can be used as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetState {
    /// It can.
    Enabled,
    /// The page gives no ports for it.
    WithoutPorts,
    /// The policy file has its ports, and has it disabled.
    Disabled,
}

/// A token that went into a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The index of its input in [`Document::sources`].
    pub source: usize,
    /// The line of the token, from 1.
    pub line: u32,
    /// The name or prefix, as the set holds it.
    pub token: String,
    /// The index of the set in [`Document::endpoint_sets`].
    pub set: usize,
}

/// A token that is in no set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The index of its input in [`Document::sources`].
    pub source: usize,
    /// The line of the token, from 1.
    pub line: u32,
    /// The token; the host where it is a URL.
    pub token: String,
    /// Why it is in no set.
    pub why: Why,
}

/// Why a token is in no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It stands in an HTML comment.
    Comment,
    /// It is the target of a link.
    Link,
    /// It points to documentation or a download.
    Documentation,
    /// It is the name of a file.
    FileName,
    /// It is the name of a product.
    ProductName,
    /// It stands in the page's metadata.
    Metadata,
    /// It stands in a notice about a move to other names.
    MigrationNotice,
    /// It stands in a sentence about inspection or proxies.
    Inspection,
    /// A part of it is for the reader to fill in.
    Placeholder,
    /// It is no valid name, address or prefix.
    Broken,
    /// It is the name of a service tag.
    ServiceTag,
    /// The same set already has it.
    Duplicate,
    /// It is mentioned, not listed.
    Mention,
    /// It is in a set that was not asked for.
    NotSelected,
}

/// Something that a reader has to know about the page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The index of its input in [`Document::sources`].
    pub source: usize,
    /// The line, from 1.
    pub line: u32,
    /// What is the matter.
    pub text: String,
}

/// What warnings begin with that say that a set has no ports.
const NO_PORTS: &str = "no ports are given for ";

/// Reads one input.
///
/// # Errors
///
/// Where it is not what it is read as, or nothing in it is an endpoint.
pub fn parse(name: &str, text: &str, options: &Options) -> Result<Document, InvalidDocument> {
    if let Some(tenant) = &options.tenant
        && !is_label(tenant)
    {
        return Err(InvalidDocument::Tenant);
    }
    recognise::refuse_html(text)?;
    let format = options.format.unwrap_or_else(|| recognise::format(text));
    let mut document = match format {
        Format::Page => assemble::document(text, options),
        Format::M365Json => m365::read(text, options)?,
        Format::ServiceTags => service_tags::read(text, options)?,
        Format::List => plain_list::read(name, text, options),
        Format::Policy => policy_file::read(text, options)?,
    };
    for source in &mut document.sources {
        source.name = name.to_owned();
    }
    if document.endpoint_sets.is_empty() {
        return Err(match format {
            Format::Page => InvalidDocument::NoEndpoints { tokens: document.left_out.len() },
            Format::M365Json | Format::ServiceTags | Format::List | Format::Policy => {
                InvalidDocument::EmptyFeed { tokens: document.left_out.len() }
            }
        });
    }
    Ok(document)
}

/// Whether a text can be a tenant's name: one label of a host name.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

// === impl Document ===

impl Document {
    /// Several documents as one, in their order.
    ///
    /// Sets of different inputs with the same ID become one where their ports, category,
    /// requirement, ExpressRoute and group agree, and are kept apart with a warning where they
    /// don't. Sets without ID become one where they are the same.
    #[must_use]
    pub fn merge(mut documents: Vec<Self>) -> Self {
        match documents.pop() {
            // Its reader has joined what is one.
            Some(only) if documents.is_empty() => only,
            last => merge::merge(documents.into_iter().chain(last).collect()),
        }
    }

    /// How many tokens were left out, by reason.
    #[must_use]
    pub fn left_out_by_reason(&self) -> BTreeMap<Why, usize> {
        let mut counts = BTreeMap::new();
        for token in &self.left_out {
            *counts.entry(token.why).or_insert(0) += 1;
        }
        counts
    }
}

// === impl Format ===

impl Format {
    /// The text in the command line and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "intune-doc",
            Self::M365Json => "m365-json",
            Self::ServiceTags => "service-tags",
            Self::List => "list",
            Self::Policy => "policy",
        }
    }
}

// === impl Category ===

impl Category {
    /// The category that a feed or a person calls so.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        [Self::Optimize, Self::Allow, Self::Default]
            .into_iter()
            .find(|category| category.as_str().eq_ignore_ascii_case(text.trim()))
    }

    /// The text in the command line and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optimize => "optimize",
            Self::Allow => "allow",
            Self::Default => "default",
        }
    }
}

// === impl Stated ===

impl Stated {
    /// `None` where the page doesn't say.
    #[must_use]
    pub fn as_option(self) -> Option<bool> {
        match self {
            Self::Yes => Some(true),
            Self::No => Some(false),
            Self::Unstated => None,
        }
    }
}

// === impl PortsFrom ===

impl PortsFrom {
    /// The text in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Section => "section",
            Self::Scheme => "scheme",
            Self::SameEndpoint => "same-endpoint",
            Self::Nowhere => "none",
        }
    }
}

// === impl Why ===

impl Why {
    /// The stable code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Comment => "comment",
            Self::Link => "link",
            Self::Documentation => "documentation",
            Self::FileName => "file-name",
            Self::ProductName => "product-name",
            Self::Metadata => "metadata",
            Self::MigrationNotice => "migration-notice",
            Self::Inspection => "inspection",
            Self::Placeholder => "placeholder",
            Self::Broken => "broken",
            Self::ServiceTag => "service-tag",
            Self::Duplicate => "duplicate",
            Self::Mention => "mention",
            Self::NotSelected => "not-selected",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
