// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rtnetlink says of the host: NICs, addresses, routes, and which XDP program is where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{
            InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkXdp,
            Prop,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use tokio::time::timeout;

use crate::policy::NicName;

/// How long the kernel may take to tell everything; a full routing table takes it a few seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to rtnetlink in the process's network namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
}

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// The NICs by name.
    pub nics: BTreeMap<NicName, Nic>,
    /// The addresses of all NICs, without loopback's.
    pub own: BTreeSet<IpAddr>,
    /// The same addresses, by the kernel's index of the NIC.
    pub addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// Addresses that the host takes in without owning them: broadcast and anycast.
    pub closed: BTreeSet<IpAddr>,
    /// The prefixes that are routed to each NIC, by the kernel's index.
    pub routes: BTreeMap<u32, BTreeSet<IpNet>>,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The kernel's index.
    pub index: u32,
    /// What its frames begin with.
    pub layer: LinkLayer,
    /// The device that it stands on, by the kernel's index: the NIC of a VLAN or macvlan.
    pub lower: Option<u32>,
    /// The bridge or bond that it is a port of, by the kernel's index.
    pub controller: Option<u32>,
    /// What that is.
    pub controller_kind: Controller,
    /// Its alternative names, which may be longer than a name.
    pub alternatives: Vec<String>,
    /// Whether it is up.
    pub state: NicState,
    /// The XDP program that is attached by the driver.
    pub native_program: Option<u32>,
    /// The XDP program that is attached by the network stack.
    pub generic_program: Option<u32>,
}

/// What a NIC is a port of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Nothing.
    None,
    /// A bridge.
    Bridge,
    /// A bond or a team.
    Bond,
    /// A VRF, which only chooses a routing table.
    Routing,
    /// Another thing, as a switch of Open vSwitch.
    Other,
}

/// What frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// The loopback device.
    Loopback,
    /// Anything else (PPP, WireGuard, tun).
    Other,
}

/// Administrative state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicState {
    /// Up.
    Up,
    /// Down.
    Down,
}

// === impl Netlink ===

impl Netlink {
    /// Opens a socket and serves it in a task of its own.
    ///
    /// # Errors
    ///
    /// There are no sockets left.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("a netlink socket can't be opened")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Reads NICs, addresses and routes; over a new socket where the old one is broken.
    ///
    /// # Errors
    ///
    /// The kernel doesn't answer.
    pub async fn read(&mut self) -> Result<HostState> {
        match self.try_read().await {
            Ok(host) => Ok(host),
            Err(error) => {
                tracing::debug!("netlink is tried again over a new socket: {error:#}");
                *self = Self::connect()?;
                self.try_read().await
            }
        }
    }

    async fn try_read(&self) -> Result<HostState> {
        timeout(ANSWER, self.dump()).await.context("the kernel doesn't answer over netlink")?
    }

    async fn dump(&self) -> Result<HostState> {
        let mut host = HostState::default();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.context("NICs can't be listed")? {
            let mut name = None;
            let mut nic = Nic {
                index: link.header.index,
                layer: match link.header.link_layer_type {
                    LinkLayerType::Ether => LinkLayer::Ethernet,
                    LinkLayerType::Loopback => LinkLayer::Loopback,
                    _ => LinkLayer::Other,
                },
                state: if link.header.flags.contains(LinkFlags::Up) {
                    NicState::Up
                } else {
                    NicState::Down
                },
                lower: None,
                controller: None,
                controller_kind: Controller::None,
                alternatives: Vec::new(),
                native_program: None,
                generic_program: None,
            };
            let mut link_index = None;
            let mut stacked = Stacked::No;
            let mut port_kind = None;
            let mut elsewhere = false;
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = NicName::try_from(text.as_str()).ok(),
                    LinkAttribute::Xdp(attributes) => read_xdp(&attributes, &mut nic),
                    LinkAttribute::Link(index) => link_index = Some(index),
                    LinkAttribute::Controller(index) => nic.controller = Some(index),
                    LinkAttribute::LinkInfo(infos) => {
                        if infos.iter().any(is_stacked) {
                            stacked = Stacked::Yes;
                        }
                        port_kind = infos.iter().find_map(controller_kind);
                    }
                    LinkAttribute::PropList(names) => {
                        nic.alternatives.extend(names.into_iter().filter_map(|name| match name {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        }));
                    }
                    // The index below is then one of another namespace.
                    LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                    _ => {}
                }
            }
            // For a veth, the index is its peer's, which is no device below it.
            if nic.controller.is_some() {
                nic.controller_kind = port_kind.unwrap_or(Controller::Other);
            }
            if stacked == Stacked::Yes && !elsewhere {
                nic.lower = link_index;
            }
            if let Some(name) = name {
                host.nics.insert(name, nic);
            }
        }

        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("addresses can't be listed")? {
            let mut local = None;
            let mut address = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(ip),
                    AddressAttribute::Address(ip) => address = Some(ip),
                    _ => {}
                }
            }
            // On a point-to-point link `Address` is the peer's, and `Local` ours.
            if let Some(own) = local.or(address)
                && !own.is_loopback()
            {
                host.own.insert(own);
                host.addresses.entry(message.header.index).or_default().insert(own);
            }
        }

        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let mut routes = self.handle.route().get(request).execute();
            while let Some(route) = routes.try_next().await.context("routes can't be listed")? {
                match route.header.kind {
                    RouteType::Unicast => add_route(&mut host, &route),
                    RouteType::Broadcast | RouteType::Anycast => {
                        host.closed.extend(destination(&route));
                    }
                    _ => {}
                }
            }
        }
        Ok(host)
    }
}

fn read_xdp(attributes: &[LinkXdp], nic: &mut Nic) {
    let mut only = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::DrvProgId(id) => nic.native_program = Some(*id),
            LinkXdp::SkbProgId(id) => nic.generic_program = Some(*id),
            LinkXdp::ProgId(id) => only = Some(*id),
            _ => {}
        }
    }
    // Kernels tell the mode's own attribute since 4.19; the plain one stays for hardware modes.
    if nic.native_program.is_none() && nic.generic_program.is_none() {
        nic.native_program = only;
    }
}

/// Whether a device only tells frames of the device below it apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stacked {
    Yes,
    No,
}

fn controller_kind(info: &LinkInfo) -> Option<Controller> {
    match info {
        LinkInfo::PortKind(kind) => Some(match kind {
            InfoPortKind::Bridge => Controller::Bridge,
            InfoPortKind::Bond | InfoPortKind::Team => Controller::Bond,
            InfoPortKind::Vrf => Controller::Routing,
            _ => Controller::Other,
        }),
        _ => None,
    }
}

fn is_stacked(info: &LinkInfo) -> bool {
    matches!(info, LinkInfo::Kind(InfoKind::Vlan | InfoKind::MacVlan))
}

/// The address that a route leads to; `None` for a default route.
fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn add_route(host: &mut HostState, route: &RouteMessage) {
    let destination = destination(route).unwrap_or(match route.header.address_family {
        AddressFamily::Inet => IpAddr::from([0_u8; 4]),
        _ => IpAddr::from([0_u8; 16]),
    });
    let mut interfaces = BTreeSet::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => {
                interfaces.insert(*index);
            }
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    if let Ok(prefix) = IpNet::new(destination, route.header.destination_prefix_length) {
        for interface in interfaces {
            host.routes.entry(interface).or_default().insert(prefix.trunc());
        }
    }
}
