// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small language for frames, well-formed or not, for the case tables.
//!
//! A frame is written as its layers from the outside in, with `|` between them:
//!
//! ```text
//! vlan 10 | ip 10.0.10.7 > 203.0.113.9 ttl=3 | tcp 443
//! ```
//!
//! A layer is a name, what it needs, and fields as `key=value` that take the place of what would
//! be computed: lengths, and the number of what the layer carries (`next`). Numbers are decimal or
//! `0x` and hexadecimal. Checksums are zero, as the filter reads none.
//!
//! | layer | fields | |
//! |---|---|---|
//! | `eth [MAC]` | `next` | to this MAC address; without it, one stands in front anyway |
//! | `vlan ID`, `svlan ID` | `next` | an 802.1Q or an 802.1ad tag |
//! | `pppoe` | `kind`, `code`, `next` | a PPPoE session; `kind` is version and type |
//! | `ip A > B`, IPv4 | `version`, `words`, `length`, `id`, `fragment`, `ttl`, `next`, `options` | `words` of the header; `options` in hexadecimal; `fragment=1480` at that offset, with `+` behind it if more follow |
//! | `ip A > B`, IPv6 | `version`, `length`, `ttl`, `next` | |
//! | `hop-by-hop`, `destination` | `length`, `next` | IPv6 options, 8 bytes |
//! | `routing LEFT` | `length`, `next` | a routing header with so many segments left |
//! | `fragment OFFSET[+]` | `next`, `id` | an IPv6 fragment header |
//! | `ah` | `length`, `next` | an authentication header, 24 bytes |
//! | `tcp [FROM >] PORT` | `words`, `flags`, `seq`, `ack` | a SYN without options; `words` of the header; `flags` by their letters, `flags=sa`, `flags=none` |
//! | `udp [FROM >] PORT` | `length` | |
//! | `icmp TYPE [CODE]`, `icmp6 TYPE [CODE]` | `id` | eight bytes; what follows is quoted |
//! | `data COUNT` | | so many zero bytes |
//! | `hex BYTES` | | these bytes |
//!
//! At the end of the frame may stand `keep COUNT`, which cuts it to so many bytes, or
//! `pad COUNT`, which adds zero bytes that no header knows of. A frame that begins with `hex` is
//! nothing but these bytes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The bytes of a frame, from its description.
///
/// # Errors
///
/// The description isn't one; the message names the layer.
pub fn frame(description: &str) -> Result<Vec<u8>> {
    let mut layers: Vec<Layer> = description.split('|').map(Layer::parse).collect::<Result<_>>()?;
    let last = layers.pop_if(|layer| matches!(layer.name.as_str(), "keep" | "pad"));
    let explicit = layers.first().is_some_and(|layer| matches!(layer.name.as_str(), "eth" | "hex"));
    if !explicit {
        layers.insert(0, Layer { name: "eth".to_owned(), ..Layer::default() });
    }
    let mut built = Built::default();
    for mut layer in layers.into_iter().rev() {
        let name = layer.name.clone();
        built = layer
            .build(built)
            .and_then(|built| layer.finish().map(|()| built))
            .with_context(|| format!("the layer `{name}` of `{description}`"))?;
    }
    if let Some(mut layer) = last {
        let count = usize::from(layer.number()?);
        layer.finish()?;
        if layer.name == "pad" {
            built.bytes.resize(built.bytes.len() + count, 0);
        } else {
            ensure!(count < built.bytes.len(), "`{description}` has no byte {count} to cut off");
            built.bytes.truncate(count);
        }
    }
    Ok(built.bytes)
}

/// A layer as it is written; what was used is taken out.
#[derive(Debug, Default)]
struct Layer {
    name: String,
    words: std::collections::VecDeque<String>,
    fields: BTreeMap<String, String>,
}

/// Layers as bytes, and the numbers by which the layer around them names the outermost.
#[derive(Debug, Default)]
struct Built {
    bytes: Vec<u8>,
    ethertype: Option<u16>,
    ppp: Option<u16>,
    protocol: Option<u8>,
}

// === impl Layer ===

impl Layer {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let name = words.next().context("a layer without a name")?.to_owned();
        let mut layer = Self { name, ..Self::default() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    layer.fields.insert(key.to_owned(), value.to_owned());
                }
                None if word == ">" => {}
                None => layer.words.push_back(word.to_owned()),
            }
        }
        Ok(layer)
    }

    /// Fails where something was written that the layer doesn't have.
    fn finish(&self) -> Result<()> {
        let rest = self.words.iter().chain(self.fields.keys()).next();
        rest.map_or(Ok(()), |rest| bail!("`{}` has no `{rest}`", self.name))
    }

    fn word(&mut self) -> Result<String> {
        self.words.pop_front().with_context(|| format!("`{}` needs more words", self.name))
    }

    fn number(&mut self) -> Result<u16> {
        number(&self.word()?)
    }

    fn octet(&mut self) -> Result<u8> {
        Ok(self.number()?.try_into()?)
    }

    fn field(&mut self, key: &str, computed: usize) -> Result<u16> {
        match self.fields.remove(key) {
            Some(value) => number(&value),
            None => Ok(computed.try_into()?),
        }
    }

    fn field_octet(&mut self, key: &str, computed: usize) -> Result<u8> {
        Ok(self.field(key, computed)?.try_into()?)
    }

    /// The number of what the layer carries.
    fn next(&mut self, carried: Option<u16>) -> Result<u16> {
        match self.fields.remove("next") {
            Some(value) => number(&value),
            None => carried.context("what it carries isn't known; say `next=NUMBER`"),
        }
    }

    fn next_protocol(&mut self, inner: &Built) -> Result<u8> {
        Ok(self.next(inner.protocol.map(u16::from))?.try_into()?)
    }

    /// The ports; without a source port, one that clients use.
    fn ports(&mut self) -> Result<Vec<u8>> {
        let first = self.number()?;
        let (from, to) =
            if self.words.is_empty() { (50_000, first) } else { (first, self.number()?) };
        Ok([from.to_be_bytes(), to.to_be_bytes()].concat())
    }

    /// Puts the layer around what it carries.
    fn build(&mut self, inner: Built) -> Result<Built> {
        let carried = inner.bytes.len();
        let mut built = Built::default();
        let mut bytes = match self.name.as_str() {
            "eth" => {
                let to =
                    if self.words.is_empty() { "02:00:00:00:00:01".into() } else { self.word()? };
                let mut bytes = octets(&to.replace(':', ""))?;
                ensure!(bytes.len() == 6, "{to} is no MAC address");
                bytes.extend([0x02, 0, 0, 0, 0, 0x02]);
                bytes.extend(self.next(inner.ethertype)?.to_be_bytes());
                bytes
            }
            "vlan" | "svlan" => {
                built.ethertype = Some(if self.name == "vlan" { 0x8100 } else { 0x88a8 });
                let id = self.number()?;
                [id.to_be_bytes(), self.next(inner.ethertype)?.to_be_bytes()].concat()
            }
            "pppoe" => {
                built.ethertype = Some(0x8864);
                let mut bytes = vec![self.field_octet("kind", 0x11)?, self.field_octet("code", 0)?];
                bytes.extend([0, 1]);
                bytes.extend(self.field("length", carried + 2)?.to_be_bytes());
                bytes.extend(self.next(inner.ppp)?.to_be_bytes());
                bytes
            }
            "ip" => self.ip(&inner, &mut built)?,
            "hop-by-hop" | "destination" => {
                built.protocol = Some(if self.name == "destination" { 60 } else { 0 });
                let next = self.next_protocol(&inner)?;
                // One option of padding.
                vec![next, self.field_octet("length", 0)?, 1, 4, 0, 0, 0, 0]
            }
            "routing" => {
                built.protocol = Some(43);
                let next = self.next_protocol(&inner)?;
                vec![next, self.field_octet("length", 0)?, 4, self.octet()?, 0, 0, 0, 0]
            }
            "fragment" => {
                built.protocol = Some(44);
                let (offset, more) = fragment(&self.word()?)?;
                let [high, low] = (offset | u16::from(more)).to_be_bytes();
                let [id_high, id_low] = self.field("id", 1)?.to_be_bytes();
                vec![self.next_protocol(&inner)?, 0, high, low, 0, 0, id_high, id_low]
            }
            "ah" => {
                built.protocol = Some(51);
                let next = self.next_protocol(&inner)?;
                let mut bytes = vec![next, self.field_octet("length", 4)?];
                bytes.resize(24, 0);
                bytes
            }
            "tcp" => {
                built.protocol = Some(6);
                let mut bytes = self.ports()?;
                let flags = match self.fields.remove("flags") {
                    Some(letters) => tcp_flags(&letters)?,
                    None => 0x02,
                };
                bytes.extend(u32::from(self.field("seq", 1)?).to_be_bytes());
                bytes.extend(u32::from(self.field("ack", 0)?).to_be_bytes());
                bytes.extend([self.field_octet("words", 5)? << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes
            }
            "udp" => {
                built.protocol = Some(17);
                let mut bytes = self.ports()?;
                bytes.extend(self.field("length", carried + 8)?.to_be_bytes());
                bytes.extend([0, 0]);
                bytes
            }
            "icmp" | "icmp6" => {
                built.protocol = Some(if self.name == "icmp" { 1 } else { 58 });
                let kind = self.octet()?;
                let code = if self.words.is_empty() { 0 } else { self.octet()? };
                let [high, low] = self.field("id", 0)?.to_be_bytes();
                vec![kind, code, 0, 0, high, low, 0, 0]
            }
            "data" => vec![0; self.number()?.into()],
            "hex" => octets(&self.words.drain(..).collect::<String>())?,
            other => bail!("there is no layer `{other}`"),
        };
        bytes.extend(inner.bytes);
        built.bytes = bytes;
        Ok(built)
    }

    fn ip(&mut self, inner: &Built, built: &mut Built) -> Result<Vec<u8>> {
        let (source, destination): (IpAddr, IpAddr) =
            (self.word()?.parse()?, self.word()?.parse()?);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (built.ethertype, built.ppp, built.protocol) =
                    (Some(0x0800), Some(0x0021), Some(4));
                self.ipv4(inner, source, destination)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (built.ethertype, built.ppp, built.protocol) =
                    (Some(0x86dd), Some(0x0057), Some(41));
                self.ipv6(inner, source, destination)
            }
            _ => bail!("{source} and {destination} are of different families"),
        }
    }

    fn ipv4(&mut self, inner: &Built, source: Ipv4Addr, destination: Ipv4Addr) -> Result<Vec<u8>> {
        let options = match self.fields.remove("options") {
            Some(options) => octets(&options)?,
            None => Vec::new(),
        };
        let header = 20 + options.len();
        let version_words =
            self.field_octet("version", 4)? << 4 | self.field_octet("words", header.div_ceil(4))?;
        let mut bytes = vec![version_words, 0];
        bytes.extend(self.field("length", header + inner.bytes.len())?.to_be_bytes());
        let (offset, more) = match self.fields.remove("fragment") {
            Some(field) => fragment(&field)?,
            None => (0, false),
        };
        bytes.extend(self.field("id", 1)?.to_be_bytes());
        bytes.extend((offset / 8 + (u16::from(more) << 13)).to_be_bytes());
        bytes.extend([self.field_octet("ttl", 64)?, self.next_protocol(inner)?, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(options);
        Ok(bytes)
    }

    fn ipv6(&mut self, inner: &Built, source: Ipv6Addr, destination: Ipv6Addr) -> Result<Vec<u8>> {
        let mut bytes = vec![self.field_octet("version", 6)? << 4, 0, 0, 0];
        bytes.extend(self.field("length", inner.bytes.len())?.to_be_bytes());
        let next = self.next_protocol(inner)?;
        bytes.extend([next, self.field_octet("ttl", 64)?]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        Ok(bytes)
    }
}

fn number(text: &str) -> Result<u16> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.with_context(|| format!("{text} is no number of 16 bits"))
}

/// The flags of a TCP header by their first letters; `none` for none.
fn tcp_flags(letters: &str) -> Result<u8> {
    if letters == "none" {
        return Ok(0);
    }
    letters.chars().try_fold(0, |flags, letter| {
        Ok(flags
            | match letter {
                'f' => 0x01,
                's' => 0x02,
                'r' => 0x04,
                'p' => 0x08,
                'a' => 0x10,
                'u' => 0x20,
                other => bail!("{other} is no flag of TCP"),
            })
    })
}

/// An offset in bytes, a multiple of 8, and whether more fragments follow.
fn fragment(text: &str) -> Result<(u16, bool)> {
    let (offset, more) = match text.strip_suffix('+') {
        Some(offset) => (number(offset)?, true),
        None => (number(text)?, false),
    };
    ensure!(offset % 8 == 0, "{offset} is no offset of a fragment, which is a multiple of 8");
    Ok((offset, more))
}

fn octets(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes();
    ensure!(digits.len().is_multiple_of(2), "{text} has an odd number of digits");
    let octet = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    let octets: Result<Vec<u8>> = digits.chunks(2).map(octet).collect();
    octets.with_context(|| format!("{text} is no sequence of hexadecimal octets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_bytes() {
        let cases: [(&str, &str); 5] = [
            ("hex 01 02 ff", "0102ff"),
            ("eth next=0x0806 | data 2", "020000000001020000000002 0806 0000"),
            (
                "svlan 5 | vlan 10 | ip 10.0.0.1 > 10.0.0.2 | udp 1 > 53 | hex ab",
                "020000000001020000000002 88a8 0005 8100 000a 0800 \
                 4500001d 00010000 40110000 0a000001 0a000002 00010035 00090000 ab",
            ),
            (
                "ip ::1 > ::2 ttl=255 | fragment 8+ next=17 | data 1 | keep 60",
                "020000000001020000000002 86dd 60000000 0009 2c ff \
                 00000000000000000000000000000001 00000000000000000000000000000002 11000009 0000",
            ),
            (
                "pppoe | ip 1.1.1.1 > 1.1.1.2 options=94040000 fragment=16+ | icmp 8 | pad 1",
                "020000000001020000000002 8864 1100 0001 0022 0021 46000020 00012002 40010000 \
                 01010101 01010102 94040000 0800000000000000 00",
            ),
        ];
        for (description, expected) in cases {
            let expected = octets(&expected.replace(' ', "")).unwrap();
            assert_eq!(frame(description).unwrap(), expected, "{description}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for description in [
            "",
            "ip 10.0.0.1 > ::1 | tcp 80",
            "ip 10.0.0.1 > 10.0.0.2",
            "ip 10.0.0.1 > 10.0.0.2 hops=3 | tcp 80",
            "ip 10.0.0.1 > 10.0.0.2 fragment=3 | tcp 80",
            "tcp 80",
            "hex 123",
            "hex 12 | keep 5",
            "sctp 80",
        ] {
            assert!(frame(description).is_err(), "{description}");
        }
    }
}
