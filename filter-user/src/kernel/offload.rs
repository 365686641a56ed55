// SPDX-License-Identifier: MIT OR Apache-2.0
//! VLAN tags that a NIC takes off before XDP sees the frame, and switching that off.
//!
//! The kernel's ethtool family of generic netlink (Documentation/networking/ethtool-netlink.rst)
//! does it without ioctl. Two messages of it are all that is needed, and no published crate can
//! set features, so that they are written here, over the socket that rtnetlink brings along.

use std::io;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLA_F_NESTED, NLA_TYPE_MASK, NlaBuffer, NlasIterator},
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};

use crate::policy::NicName;

/// The kernel's names of what `ethtool` calls rx-vlan-offload and rx-vlan-stag-hw-parse: tags of
/// 802.1Q and of 802.1ad are taken off.
const FEATURES: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const MESSAGE_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
// linux/genetlink.h
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// linux/ethtool_netlink.h
const MSG_FEATURES_GET: u8 = 11;
const MSG_FEATURES_SET: u8 = 12;
const A_FEATURES_HEADER: u16 = 1;
const A_FEATURES_HW: u16 = 2;
const A_FEATURES_WANTED: u16 = 3;
const A_FEATURES_ACTIVE: u16 = 4;
const A_HEADER_DEV_NAME: u16 = 2;
const A_BITSET_NOMASK: u16 = 1;
const A_BITSET_BITS: u16 = 3;
const A_BITSET_BITS_BIT: u16 = 1;
const A_BITSET_BIT_NAME: u16 = 2;
const A_BITSET_BIT_VALUE: u16 = 3;

/// Where a NIC's VLAN tags are when XDP sees the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// In the frame, as far as this NIC can tell.
    InFrame,
    /// In the frame from now on: these features were on, and are off.
    SwitchedOff(Vec<&'static str>),
    /// Taken off, or perhaps so; and why that can't be changed.
    TakenOff(String),
}

/// The features of a NIC that this is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Features {
    active: Vec<&'static str>,
    changeable: Vec<&'static str>,
}

/// Makes a NIC leave tags in the frame, and reads back whether it does.
#[must_use]
pub fn keep_tags(nic: &NicName) -> Tags {
    try_keep_tags(nic).unwrap_or_else(|error| Tags::TakenOff(format!("{error:#}")))
}

/// Switches features on again that [`keep_tags`] switched off.
///
/// # Errors
///
/// The NIC went away, or the driver refuses.
pub fn restore(nic: &NicName, features: &[&'static str]) -> Result<()> {
    Ethtool::connect()?.set(nic, features, Switch::On)
}

/// Whether a NIC could take tags off and doesn't.
///
/// # Errors
///
/// The NIC isn't there, or can't be asked.
pub fn is_switched_off(nic: &NicName) -> Result<bool> {
    let features = Ethtool::connect()?.get(nic)?;
    Ok(features.changeable.iter().any(|feature| !features.active.contains(feature)))
}

fn try_keep_tags(nic: &NicName) -> Result<Tags> {
    let mut ethtool = Ethtool::connect()?;
    let before = ethtool.get(nic)?;
    if before.active.is_empty() {
        return Ok(Tags::InFrame);
    }
    ethtool.set(nic, &before.active, Switch::Off)?;
    let after = ethtool.get(nic)?;
    if after.active.is_empty() {
        return Ok(Tags::SwitchedOff(before.active));
    }
    let fixed = after.active.iter().all(|feature| !after.changeable.contains(feature));
    let why = if fixed { "its driver can't do without" } else { "its driver left it on" };
    // What could be switched off goes back, as it is of no use alone.
    let changed: Vec<_> =
        before.active.into_iter().filter(|feature| !after.active.contains(feature)).collect();
    ethtool.set(nic, &changed, Switch::On)?;
    Ok(Tags::TakenOff(format!("{}: {why}", after.active.join(", "))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

/// The ethtool family, over a socket in the process's network namespace. The kernel answers while
/// it takes the request, so that nothing here waits.
struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
}

// === impl Ethtool ===

impl Ethtool {
    fn connect() -> Result<Self> {
        let mut socket =
            Socket::new(NETLINK_GENERIC).context("a netlink socket can't be opened")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let mut ethtool = Self { socket, family: GENL_ID_CTRL, sequence: 0 };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
        let reply = ethtool
            .request(CTRL_CMD_GETFAMILY, &name)
            .context("the kernel has no ethtool over netlink")?;
        let id =
            find(&reply, CTRL_ATTR_FAMILY_ID)?.context("the kernel names no ethtool family")?;
        let id = <[u8; 2]>::try_from(id.as_slice()).context("the family's number is malformed")?;
        ethtool.family = u16::from_ne_bytes(id);
        Ok(ethtool)
    }

    fn get(&mut self, nic: &NicName) -> Result<Features> {
        let reply = self
            .request(MSG_FEATURES_GET, &header(nic))
            .with_context(|| format!("the features of {nic} can't be read"))?;
        features(&reply)
    }

    fn set(&mut self, nic: &NicName, features: &[&'static str], switch: Switch) -> Result<()> {
        if features.is_empty() {
            return Ok(());
        }
        let mut payload = header(nic);
        payload.extend(wanted(features, switch));
        self.request(MSG_FEATURES_SET, &payload)
            .with_context(|| format!("the features of {nic} can't be set"))?;
        Ok(())
    }

    /// Sends a request and gives the attributes of the first answer to it; none where there is
    /// only an acknowledgement.
    fn request(&mut self, command: u8, payload: &[u8]) -> Result<Vec<u8>> {
        self.sequence += 1;
        let length = u32::try_from(MESSAGE_HEADER + GENERIC_HEADER + payload.len())?;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend([command, 1, 0, 0]);
        message.extend(payload);
        self.socket.send(&message, 0)?;

        let mut answer = None;
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).context("the kernel doesn't answer")?;
            let mut rest = buffer.as_slice();
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                if kind != NLMSG_ERROR {
                    answer.get_or_insert(body.get(GENERIC_HEADER..).unwrap_or_default().to_vec());
                    continue;
                }
                let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                if code != 0 {
                    let code = Errno::from_raw(code.saturating_neg());
                    return Err(io::Error::from(code).into());
                }
                return Ok(answer.unwrap_or_default());
            }
            if !rest.is_empty() {
                bail!("the kernel's answer is malformed");
            }
        }
    }
}

/// The first message of a buffer: its type, its sequence number, its body, and what follows.
fn split_message(buffer: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*buffer.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*buffer.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*buffer.get(8..)?.first_chunk()?);
    let body = buffer.get(MESSAGE_HEADER..length)?;
    let next = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body, next))
}

// === requests ===

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Names of NICs and features are all that gets in here.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, format!("{value}\0").as_bytes())
}

fn header(nic: &NicName) -> Vec<u8> {
    attribute(A_FEATURES_HEADER | NLA_F_NESTED, &text(A_HEADER_DEV_NAME, nic.as_str()))
}

/// Features that are listed are to have the value that stands beside them; others stay.
fn wanted(features: &[&'static str], switch: Switch) -> Vec<u8> {
    let mut bits = Vec::new();
    for feature in features {
        let mut bit = text(A_BITSET_BIT_NAME, feature);
        if switch == Switch::On {
            bit.extend(attribute(A_BITSET_BIT_VALUE, &[]));
        }
        bits.extend(attribute(A_BITSET_BITS_BIT | NLA_F_NESTED, &bit));
    }
    let bits = attribute(A_BITSET_BITS | NLA_F_NESTED, &bits);
    attribute(A_FEATURES_WANTED | NLA_F_NESTED, &bits)
}

// === answers ===

fn features(reply: &[u8]) -> Result<Features> {
    let set = |kind| -> Result<Vec<&'static str>> {
        match find(reply, kind)? {
            Some(bitset) => bits_set(&bitset),
            None => Ok(Vec::new()),
        }
    };
    Ok(Features { active: set(A_FEATURES_ACTIVE)?, changeable: set(A_FEATURES_HW)? })
}

/// Those of [`FEATURES`] that a bitset has set. A list without mask names what is set; with one,
/// each that it names has a value.
fn bits_set(bitset: &[u8]) -> Result<Vec<&'static str>> {
    let list = find(bitset, A_BITSET_NOMASK)?.is_some();
    let mut found = Vec::new();
    for bit in attributes(&find(bitset, A_BITSET_BITS)?.unwrap_or_default())? {
        let is_set = list || find(&bit.1, A_BITSET_BIT_VALUE)?.is_some();
        let name = find(&bit.1, A_BITSET_BIT_NAME)?.unwrap_or_default();
        let known =
            FEATURES.iter().find(|known| name.strip_suffix(b"\0") == Some(known.as_bytes()));
        if is_set {
            found.extend(known);
        }
    }
    Ok(found)
}

fn find(attributes_of: &[u8], kind: u16) -> Result<Option<Vec<u8>>> {
    let found = attributes(attributes_of)?.into_iter().find(|(other, _)| *other == kind);
    Ok(found.map(|(_, value)| value))
}

fn attributes(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>> {
    NlasIterator::new(bytes)
        .map(|attribute| {
            let attribute: NlaBuffer<&[u8]> =
                attribute.context("the kernel's answer has a malformed attribute")?;
            Ok((attribute.kind() & NLA_TYPE_MASK, attribute.value().to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitset(kind: u16, list: bool, names: &[(&str, bool)]) -> Vec<u8> {
        let mut bits = Vec::new();
        for (name, set) in names {
            let mut bit = text(A_BITSET_BIT_NAME, name);
            if *set {
                bit.extend(attribute(A_BITSET_BIT_VALUE, &[]));
            }
            bits.extend(attribute(A_BITSET_BITS_BIT | NLA_F_NESTED, &bit));
        }
        let mut value = if list { attribute(A_BITSET_NOMASK, &[]) } else { Vec::new() };
        value.extend(attribute(A_BITSET_BITS | NLA_F_NESTED, &bits));
        attribute(kind | NLA_F_NESTED, &value)
    }

    #[test]
    fn features_are_read() {
        let [q, ad] = FEATURES;
        let mut reply = header(&NicName::try_from("eth1").unwrap());
        reply.extend(bitset(A_FEATURES_HW, false, &[("rx-gro", true), (q, true), (ad, false)]));
        reply.extend(bitset(A_FEATURES_WANTED, true, &[(q, false)]));
        reply.extend(bitset(
            A_FEATURES_ACTIVE,
            true,
            &[("rx-gro", false), (q, false), (ad, false)],
        ));
        let expected = Features { active: vec![q, ad], changeable: vec![q] };
        assert_eq!(features(&reply).unwrap(), expected);
        assert_eq!(features(&[]).unwrap(), Features::default());
        assert!(features(&reply[..reply.len() - 5]).is_err());
    }

    #[test]
    fn what_is_switched_off_has_no_value() {
        let off = wanted(&FEATURES, Switch::Off);
        let set =
            |bytes: &[u8]| bits_set(&find(bytes, A_FEATURES_WANTED).unwrap().unwrap()).unwrap();
        assert_eq!(set(&off), [""; 0]);
        assert_eq!(set(&wanted(&FEATURES, Switch::On)), FEATURES);
    }

    #[test]
    fn messages_are_taken_apart() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = Vec::from(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(7_u32.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body);
            bytes
        };
        let mut both = message(5, &[1, 2, 3, 4]);
        both.extend(message(6, &[]));
        let (kind, sequence, body, next) = split_message(&both).unwrap();
        assert_eq!((kind, sequence, body), (5, 7, &[1, 2, 3, 4][..]));
        let (kind, _, body, next) = split_message(next).unwrap();
        assert_eq!((kind, body, next), (6, &[][..], &[][..]));
        for length in 0..16 {
            assert_eq!(split_message(&both[..length]), None, "{length}");
        }
    }

    /// Loopback is there without privileges, and has nothing to take off.
    #[test]
    fn the_kernel_is_asked() {
        let nic = NicName::try_from("lo").unwrap();
        assert_eq!(keep_tags(&nic), Tags::InFrame);
        let missing = NicName::try_from("no-such-nic").unwrap();
        let Tags::TakenOff(why) = keep_tags(&missing) else { panic!("it isn't there") };
        assert!(why.contains("the features of no-such-nic can't be read"), "{why}");
    }
}
