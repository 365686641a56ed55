// SPDX-License-Identifier: MIT OR Apache-2.0
//! The typed policy: what `gateway.toml` and `policy.d/*.toml` mean.
//!
//! Everything here is pure. Text is parsed once, by [`load`]; past this module no name, prefix,
//! port or choice is a bare string. Only grants exist: what no rule allows is denied.

pub mod import;
pub mod index;
pub mod live;
pub mod load;
pub mod name;
pub mod origin;
pub mod ports;
pub mod render;
pub mod special;
pub mod wildcards;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use filter_common::{
    egress::Side,
    wire::{DEFAULT_CELLS, DEFAULT_FLOWS},
};
use ipnet::IpNet;

pub use self::{
    name::{Fqdn, NamePattern, WildcardPattern},
    origin::Origin,
    ports::{IpProtocol, PortRange, PortRanges},
};

/// A whole configuration directory, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[dns]`.
    pub dns: Dns,
    /// `[management]`: what no policy can shut out.
    pub management: Management,
    /// `[metrics]`: where numbers are given out beside the control socket.
    pub metrics: Metrics,
    /// `[[source]]`, in the order of files and lines; names are unique.
    pub sources: Vec<SourceGroup>,
    /// `[[rule]]`, in the order of files and lines; names are unique.
    pub rules: Vec<Rule>,
    /// `[[inbound]]`, in the order of files and lines; names are unique among themselves.
    pub inbound: Vec<Inbound>,
}

/// `[gateway]`: the NICs and what is done with packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// NICs behind which the clients are; never empty.
    pub inside: Vec<NicName>,
    /// NICs towards the internet; may be empty.
    pub outside: Vec<NicName>,
    /// NICs that are neither, and known to be.
    pub ignore: Vec<NicName>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// What a denied client gets.
    pub deny: DenyAction,
    /// What becomes of connections that a changed policy no longer allows.
    pub on_change: OnChange,
    /// What becomes of the filter when the daemon is told to stop.
    pub on_stop: OnStop,
    /// How large the kernel's tables are made whose size is a matter of choice.
    pub sizes: TableSizes,
    /// Where `[gateway]` stands.
    pub origin: Origin,
}

/// How many entries the tables have that take the kernel's memory whether they are used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Flows that are remembered (`max_flows`), some more than that at most.
    pub flows: u32,
    /// Cells of the matrix of grants and classes of clients (`max_grant_cells`).
    pub grant_cells: u32,
}

/// The name of a network interface: 1 to 15 bytes, no blank, no slash (`dev_valid_name` in the
/// kernel's net/core/dev.c).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicName(String);

/// `xdp_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, and generic with a message where the driver can't.
    #[default]
    Auto,
    /// Native or an error.
    Native,
    /// Generic: every driver can, more slowly.
    Generic,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Verdicts are carried out.
    #[default]
    Enforce,
    /// Everything passes; what enforcing would have done is counted.
    Audit,
}

/// `deny`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyAction {
    /// Denied packets vanish.
    Drop,
    /// Denied clients are told at once.
    #[default]
    Reject,
}

/// `on_change`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// What the policy in force doesn't allow passes no more, whenever it was opened.
    #[default]
    Cut,
    /// Connections that were allowed when they were opened go on until they end.
    Keep,
}

/// `on_stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// The policy stays in force.
    #[default]
    Keep,
    /// The filter is taken off every NIC, and everything passes.
    Detach,
}

/// `[dns]`: how names are looked up, and how clients' questions are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Resolvers for look-ups and for clients' questions, in order of preference.
    pub upstream: Vec<Upstream>,
    /// Certificates (PEM) of the authorities that resolvers over TLS are checked against; `None`:
    /// those that the system trusts.
    pub tls_ca: Option<PathBuf>,
    /// Addresses of the forwarder for clients; empty: no forwarder.
    pub listen: Vec<IpAddr>,
    /// Whether clients' questions to other resolvers are led to the forwarder.
    pub intercept: Interception,
    /// What a client gets for a name that no rule covers.
    pub outside_policy: OutsidePolicy,
    /// The least time that an answer holds, whatever its TTL.
    pub min_ttl: Duration,
    /// The longest time that an answer holds, whatever its TTL.
    pub max_ttl: Duration,
    /// The time by which an address outlives its TTL.
    pub grace: Duration,
    /// The bound on addresses of one name, 1 to 4096.
    pub max_addresses_per_name: u16,
    /// The bound on names that are learned for the wildcards of one rule.
    pub max_names_per_rule: u32,
    /// The bound on addresses of all names together.
    pub max_addresses: u32,
    /// Within this time the addresses of an answer are in force, or the client gets SERVFAIL.
    pub learn_within: Duration,
    /// Questions that one client may ask in a second.
    pub client_rate: u32,
    /// Questions that may wait for their answers at once.
    pub max_questions: u32,
    /// Where `[dns]` stands, if it does.
    pub origin: Option<Origin>,
}

/// A resolver that is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// Where it listens.
    pub server: SocketAddr,
    /// How it is asked.
    pub transport: Transport,
}

/// How a resolver is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Over UDP, and over TCP where that doesn't do.
    Plain,
    /// Over TLS (RFC 7858).
    Tls(TlsName),
}

/// What the certificate of a resolver has to be for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsName {
    /// A name.
    Name(Fqdn),
    /// Its address.
    Address(IpAddr),
}

/// `intercept`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interception {
    /// Questions to other resolvers are judged as any packet.
    #[default]
    Off,
    /// They are led to the forwarder, wherever they go.
    On,
}

/// `outside_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutsidePolicy {
    /// REFUSED, and nothing goes upstream: DNS would be a tunnel.
    #[default]
    Refuse,
    /// The answer. Nothing is learned from it.
    Answer,
}

/// `[management]`: packets to the gateway's own addresses that always pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Management {
    /// NICs, inside or outside, from which they pass; empty: from each inside NIC, and from no
    /// outside one.
    pub nics: Vec<NicName>,
    /// Sources from which they pass, much less than the whole internet; empty: no guard.
    pub from: Vec<IpNet>,
    /// The guarded TCP ports.
    pub tcp: PortRanges,
    /// The guarded UDP ports.
    pub udp: PortRanges,
    /// Where `[management]` stands, if it does.
    pub origin: Option<Origin>,
}

/// `[metrics]`: addresses at which everything that is counted may be read by whoever the rules let reach
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where; nowhere if empty.
    pub listen: Vec<SocketAddr>,
}

/// The name of a rule, a service or a source group: 1 to 63 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// `[[source]]`: a group of clients. Fields are ANDed, the entries of a list ORed; at least one
/// field is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceGroup {
    /// Its unique name.
    pub name: Label,
    /// Prefixes the client's address is in; empty: any.
    pub cidr: Vec<IpNet>,
    /// The inside NICs its packets enter; empty: any.
    pub interface: Vec<NicName>,
    /// The (outermost) VLAN ids its packets carry, 1 to 4094; empty: any, also none.
    pub vlan: BTreeSet<u16>,
    /// Where it stands.
    pub origin: Origin,
}

/// `[[rule]]`: who may reach what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its unique name.
    pub name: Label,
    /// The clients it holds for.
    pub from: Clients,
    /// The destinations, never empty, each with the line of the rule's file that it stands on.
    pub to: Vec<(Destination, u32)>,
    /// What is allowed there.
    pub ports: Ports,
    /// Whether it takes part.
    pub state: RuleState,
    /// `note`.
    pub note: Option<String>,
    /// Whether special-purpose addresses may be learned for its names (`private = true`).
    pub private: SpecialPurpose,
    /// Where it stands.
    pub origin: Origin,
}

/// Whether a rule takes part (`enabled`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleState {
    /// It does.
    #[default]
    Enabled,
    /// It is kept in the file, and grants nothing.
    Disabled,
}

/// Whether private, loopback, link-local and other special-purpose addresses are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialPurpose {
    /// Never (the safe default: no rebinding).
    #[default]
    Refused,
    /// This rule's names may have them.
    Allowed,
}

/// `from` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Every plausible client, also one that is in no group.
    Any,
    /// The members of these groups; never empty, and each is defined.
    Groups(BTreeSet<Label>),
}

/// A member of `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// Whatever addresses the name has.
    Name(NamePattern),
    /// An address or a prefix, without host bits.
    Prefix(IpNet),
    /// The gateway's own addresses (`self`).
    SelfAddresses,
}

/// What a rule allows at its destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// TCP destination ports.
    pub tcp: PortRanges,
    /// UDP destination ports.
    pub udp: PortRanges,
    /// Whether ICMP and ICMPv6 echo requests pass.
    pub echo: Echo,
    /// Other IP protocols.
    pub protocols: BTreeSet<IpProtocol>,
}

/// `icmp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Echo {
    /// No echo requests.
    #[default]
    Denied,
    /// Echo requests pass.
    Allowed,
}

/// `[[inbound]]`: a service that the gateway or a host behind it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its unique name.
    pub name: Label,
    /// Who may use it; never empty.
    pub from: Vec<IpNet>,
    /// Its addresses as seen from outside; never empty.
    pub to: Vec<Destination>,
    /// The host behind a destination NAT.
    pub host: Option<IpAddr>,
    /// What is offered.
    pub ports: Ports,
    /// `note`.
    pub note: Option<String>,
    /// Where it stands.
    pub origin: Origin,
}

// === impl Rule ===

impl Rule {
    /// Where something of it stands, by its line: there may be a million destinations, so that each
    /// has no more than that.
    #[must_use]
    pub fn at_line(&self, line: u32) -> Origin {
        Origin { file: self.origin.file.clone(), line }
    }
}

// === impl TableSizes ===

impl Default for TableSizes {
    fn default() -> Self {
        Self { flows: DEFAULT_FLOWS, grant_cells: DEFAULT_CELLS }
    }
}

// === impl Policy ===

impl Policy {
    /// The rules that take part, in order.
    pub fn enabled_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.state == RuleState::Enabled)
    }

    /// The exact names that the daemon has to look up, each with whether any rule that names it
    /// lets it have special-purpose addresses.
    #[must_use]
    pub fn exact_names(&self) -> BTreeMap<Fqdn, SpecialPurpose> {
        let mut names = BTreeMap::new();
        for rule in self.enabled_rules() {
            for (destination, _) in &rule.to {
                if let Destination::Name(NamePattern::Exact(name)) = destination {
                    let entry = names.entry(name.clone()).or_insert(SpecialPurpose::Refused);
                    if rule.private == SpecialPurpose::Allowed {
                        *entry = SpecialPurpose::Allowed;
                    }
                }
            }
        }
        names
    }
}

// === impl Dns ===

impl Default for Dns {
    /// Without upstream and forwarder.
    fn default() -> Self {
        Self {
            upstream: Vec::new(),
            tls_ca: None,
            listen: Vec::new(),
            intercept: Interception::default(),
            outside_policy: OutsidePolicy::default(),
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(600),
            max_addresses_per_name: 128,
            max_names_per_rule: 20_000,
            max_addresses: 100_000,
            learn_within: Duration::from_millis(250),
            client_rate: 300,
            max_questions: 4096,
            origin: None,
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// The port of DNS over UDP and TCP (RFC 1035, section 4.2).
    pub const PORT: u16 = 53;
    /// The port of DNS over TLS (RFC 7858, section 3.1).
    pub const TLS_PORT: u16 = 853;

    /// A resolver on the usual port, asked over UDP and TCP.
    #[must_use]
    pub fn plain(address: IpAddr) -> Self {
        Self { server: SocketAddr::new(address, Self::PORT), transport: Transport::Plain }
    }
}

impl fmt::Display for Upstream {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = match self.transport {
            Transport::Plain => Self::PORT,
            Transport::Tls(_) => Self::TLS_PORT,
        };
        if let Transport::Tls(_) = self.transport {
            f.write_str("tls://")?;
        }
        match (self.server, &self.transport) {
            (server, _) if server.port() != usual => write!(f, "{server}")?,
            // After a scheme an address with colons stands in brackets (RFC 3986, section 3.2.2).
            (SocketAddr::V6(server), Transport::Tls(_)) => write!(f, "[{}]", server.ip())?,
            (server, _) => write!(f, "{}", server.ip())?,
        }
        match &self.transport {
            Transport::Tls(TlsName::Name(name)) => write!(f, "#{name}"),
            Transport::Tls(TlsName::Address(_)) | Transport::Plain => Ok(()),
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// The NICs that are filtered, those inside first, each with its side.
    pub fn nics(&self) -> impl Iterator<Item = (&NicName, Side)> {
        let inside = self.inside.iter().map(|nic| (nic, Side::Inside));
        inside.chain(self.outside.iter().map(|nic| (nic, Side::Outside)))
    }

    /// The side that a NIC is on, if it is filtered.
    #[must_use]
    pub fn side(&self, nic: &NicName) -> Option<Side> {
        self.nics().find(|(name, _)| *name == nic).map(|(_, side)| side)
    }
}

// === impl NicName ===

impl NicName {
    /// The name as the kernel knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no NIC name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a NIC name has 1 to 15 characters, no blank, no '/' and no ':'")]
pub struct InvalidNicName;

impl TryFrom<&str> for NicName {
    type Error = InvalidNicName;

    fn try_from(text: &str) -> Result<Self, InvalidNicName> {
        let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." {
            return Err(InvalidNicName);
        }
        if !text.bytes().all(printable) {
            return Err(InvalidNicName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Label ===

impl Label {
    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text can't name a rule, a service or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 letters, digits, '-', '_' or '.'")]
pub struct InvalidLabel;

impl TryFrom<&str> for Label {
    type Error = InvalidLabel;

    fn try_from(text: &str) -> Result<Self, InvalidLabel> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > 63 || !text.bytes().all(allowed) {
            return Err(InvalidLabel);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Destination ===

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => pattern.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::SelfAddresses => f.write_str("self"),
        }
    }
}

// === impl Ports ===

impl Ports {
    /// Whether nothing at all is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty()
            && self.udp.is_empty()
            && self.echo == Echo::Denied
            && self.protocols.is_empty()
    }

    /// Whether all that others allow is allowed.
    #[must_use]
    pub fn allow(&self, others: &Self) -> bool {
        self.tcp.contain(&others.tcp)
            && self.udp.contain(&others.udp)
            && (self.echo == Echo::Allowed || others.echo == Echo::Denied)
            && self.protocols.is_superset(&others.protocols)
    }
}
