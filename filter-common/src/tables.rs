// SPDX-License-Identifier: MIT OR GPL-2.0
//! Everything that a verdict may look up. The kernel implements it over BPF maps, the host over
//! plain collections.

use crate::{
    address::Number,
    flow::{Clock, Flow},
    index::Found,
    parse::Address,
    wire::{AddressPair, FlowKey, FlowRecord, FragmentKey, Grant, Permit, Selector, SlotSettings},
};

/// The client's class: an interned set of source groups, a column of the (grant, class) matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(pub u32);

impl Class {
    /// The source was not looked up, or can't live behind its NIC. Stored for a prefix, it takes
    /// those sources out of a plausible prefix around them.
    pub const NONE: Self = Self(u32::MAX);
}

/// A row of the (port set, port class) matrix, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet(pub u32);

/// What is done with denied packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped.
    Enforce,
    /// They pass and are counted.
    Audit,
}

/// Whether a judgement leaves traces in flows and fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Enforcing,
    /// It only says what it would be.
    Observing,
}

/// The tables of one slot, seen from one NIC. A missing entry always denies.
pub trait Tables {
    /// A flow that was found.
    type Flow: Flow;

    /// The index of the NIC.
    fn nic(&self) -> u32;

    /// What the slot says of itself.
    fn settings(&self) -> SlotSettings;

    /// Whether flows and fragments are written.
    fn role(&self) -> Role;

    /// The moment.
    fn clock(&self) -> Clock;

    /// The class of a source address that came in with a VLAN id (0: untagged); `None` where the
    /// address can't live behind this NIC.
    fn class(&self, vlan: u16, source: &Address) -> Option<Class>;

    /// The grant of the longest prefix that holds the destination; [`Grant::NONE`] where no prefix
    /// does.
    fn grant(&self, destination: &Address) -> Grant;

    /// Marks the grant that [`Tables::grant`] finds as used. Does nothing where it observes.
    fn mark_used(&self, destination: &Address);

    /// The port set of a grant for a class; `None` where the rules of the grant hold for none of
    /// the class's groups.
    fn port_set(&self, grant: Grant, class: Class) -> Option<PortSet>;

    /// What the port set says of a selector.
    fn permit(&self, ports: PortSet, selector: Selector) -> Permit;

    /// The hosts behind the destination NAT of a service, by the permit that offers it.
    fn service_host(&self, permit: Permit) -> AddressPair;

    /// The flow with this tuple, also one that has expired.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow>;

    /// Whether a flow may have been opened in which what a client sends is an answer ([`Tables::expect_answers`]). Where none
    /// was, only what goes to the gateway's own addresses is looked for among flows.
    fn may_have_answers(&self) -> bool;

    /// A flow is about to be opened in which clients answer: from outside, or over an inside NIC by anybody but one of the
    /// gateway's own addresses. Does nothing where it observes.
    fn expect_answers(&self);

    /// Remembers a flow, in the place of one with the same tuple. Does nothing where it observes.
    fn open_flow(&self, key: &FlowKey, record: &FlowRecord);

    /// Whether a flow is kept though the policy denies it. The local end of the tuple is the
    /// client's, before any NAT.
    fn is_kept(&self, key: &FlowKey) -> bool;

    /// When the first fragment of a packet passed, in ticks.
    fn first_fragment(&self, key: &FragmentKey) -> Option<u64>;

    /// Remembers that a packet's first fragment passed. Does nothing where it observes.
    fn remember_first_fragment(&self, key: &FragmentKey, now: u64);
}

/// What is remembered of a destination.
#[derive(Clone, Copy, Debug)]
pub enum Known<Q> {
    /// What is wanted is granted.
    Permit(Permit),
    /// The grant, which is marked as used where it is no own address.
    Grant(Q, Grant),
    /// Nothing.
    Nothing(Q),
}

/// What answers the most frequent look-ups in less time than the tables. What it says is what the tables
/// say.
pub trait Shortcuts {
    /// The tables themselves.
    type Slot: Tables;

    /// The tables themselves; `None` where they can't be had, which only the kernel's verifier believes in.
    fn tables(&self) -> Option<Self::Slot>;

    /// What is known of a destination before it is looked up.
    type Question: Copy;

    /// The class of a source in frames without a tag, [`Class::NONE`] for one that can't live behind
    /// this NIC. `None` for sources of which more than the class has to be looked at.
    fn known_class(&self, source: Number) -> Option<Class>;

    /// What is remembered of a destination, for a class and a selector. What is found from here on may be remembered
    /// with the question, as long as nothing changes in between.
    fn remembered(&self, destination: Number, wanted: (Class, Selector)) -> Known<Self::Question>;

    /// The permit of a grant that is remembered, but not for what is wanted; [`Permit::DENIED`] also where none of the
    /// grant's rules is for the class.
    fn permit(&self, question: Self::Question, grant: Grant, wanted: (Class, Selector)) -> Permit;

    /// What the index says of a destination. It may not know, and of those that
    /// [mean the host itself, groups, or all](crate::fast_path::is_special) it never does.
    fn indexed(&self, question: Self::Question, destination: Number) -> Found;

    /// Remembers what was found of a destination, or only that there was a packet to it, and the rest when the next
    /// one comes.
    fn remember(
        &self,
        question: Self::Question,
        destination: Number,
        grant: Grant,
        permit: ((Class, Selector), Permit),
    );

    /// Marks a destination as used in the index, as [`Tables::mark_used`] does in the tables.
    fn mark_indexed(&self, destination: Number);

    /// What stands for the tables of sources ([`sources_stamp`](crate::wire::sources_stamp)); 0 where nothing does.
    fn sources_stamp(&self) -> u64;

    /// Whether no sample needs to be sent of a dropped packet, as enough were sent lately.
    fn skips_sample(&self) -> bool;
}

/// Whether no more than the class of a source has to be looked at: it is none that no rule can make
/// right, nor a link-local one.
#[inline(always)]
#[must_use]
pub fn is_plain(source: &Address) -> bool {
    !(source.is_multicast()
        || source.is_broadcast()
        || source.is_loopback()
        || source.is_unspecified()
        || source.is_ipv4_mapped()
        || source.is_link_local())
}
