// SPDX-License-Identifier: MIT OR Apache-2.0
//! nftables as a judge: the same random policy in both, the same random packets through both.
//!
//! Two labs stand side by side, alike in every address. In one the gateway is filtered by
//! `sluice run`, in the other by nftables. A packet passes where it arrives at another end, or
//! behind every filter of the gateway itself. Verdicts that differ are either listed here, with
//! the reason ([`LISTED`]), or they are a fault of one of the two.

pub mod packets;
pub mod policy;
pub mod world;

use std::{
    cell::Cell,
    collections::BTreeSet,
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::{
    packets::{Kind, Packet, answers, firsts, onward},
    policy::{Case, OWN, SENTINEL_HOSTS, SENTINEL_PORT, SENTINEL_REMOTE},
    world::{Arrival, End, World},
};
use crate::{
    gateway::{Configuration, Gateway},
    model::Random,
};

/// Numbers from here on are of the packets that mark the end of a batch.
const SENTINELS: u16 = 60_000;

/// How long a batch may be under way.
const ARRIVAL: Duration = Duration::from_secs(5);

/// How much longer a packet is waited for of which only one of the worlds has heard.
const STRAGGLER: Duration = Duration::from_millis(300);

/// How many pairs of labs work at a time in [`compare_in_parallel`], and how many policies each
/// takes at a go.
const PAIRS: usize = 2;
const SHARE: u32 = 20;

/// Packets of a policy at most, so that their numbers and ports are enough.
const MOST: u16 = 40_000;

/// A difference that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Which packets it is about.
    pub kind: Kind,
    /// What `sluice` does with them; nftables does the opposite.
    pub sluice: Verdict,
    /// Why.
    pub reason: &'static str,
}

/// Every difference that is meant. Nothing else may differ.
pub const LISTED: [Listed; 3] = [
    Listed {
        kind: Kind::LoneFragment,
        sluice: Verdict::Pass,
        reason: "connection tracking puts packets together before it judges, so that a first \
                 fragment waits there for its rest; sluice judges it by itself",
    },
    Listed {
        kind: Kind::CrossingSyn,
        sluice: Verdict::Drop,
        reason: "connection tracking knows the simultaneous open of RFC 9293, section 3.5; sluice \
                 takes a SYN from outside for a new connection, which only an [[inbound]] rule \
                 opens",
    },
    Listed {
        kind: Kind::UnaskedError,
        sluice: Verdict::Pass,
        reason: "a client may report an error about a packet that the policy would have let come \
                 back, without a flow; connection tracking wants the flow",
    },
];

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived.
    Pass,
    /// It didn't.
    Drop,
}

/// What nftables is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruleset {
    /// The policy.
    Faithful,
    /// The policy without TCP port 443, to see that the comparison notices.
    WithoutHttps,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Policies that were compared.
    pub policies: u32,
    /// Packets that were sent through both.
    pub packets: u32,
    /// Packets that passed in both.
    pub passed: u32,
    /// Packets that were dropped in both.
    pub dropped: u32,
    /// Packets that were judged differently, as [`LISTED`]; how many by each row.
    pub listed: [u32; LISTED.len()],
    /// All other packets, with what is needed to repeat them.
    pub differ: Vec<String>,
}

/// The two labs.
#[derive(Debug)]
pub struct Judge {
    sluice: World,
    nftables: World,
    /// How many policies there were: each has a zone of connections of its own.
    zone: Cell<u16>,
}

/// Compares both as [`Judge::compare`], in as many pairs of labs as share the work: most of the
/// time goes into starts of the daemon. What each share found is told to `progress`.
///
/// # Errors
///
/// As [`Judge::compare`].
pub fn compare_in_parallel(
    first: u64,
    policies: u32,
    packets: u16,
    progress: impl Fn(&Tally) + Sync,
) -> Result<Tally> {
    let shares: Vec<(u64, u32)> = (0..policies.div_ceil(SHARE))
        .map(|share| (first + u64::from(share * SHARE), SHARE.min(policies - share * SHARE)))
        .collect();
    let work = |pair: usize| -> Result<Tally> {
        let judge = Judge::new()?;
        let mut all = Tally::default();
        for (first, policies) in shares.iter().skip(pair).step_by(PAIRS) {
            let tally = judge.compare(*first, *policies, packets)?;
            progress(&tally);
            all.add(tally);
        }
        Ok(all)
    };
    thread::scope(|scope| {
        let pairs: Vec<_> = (0..PAIRS)
            .map(|pair| {
                let work = &work;
                scope.spawn(move || work(pair))
            })
            .collect();
        let mut all = Tally::default();
        for pair in pairs {
            all.add(pair.join().map_err(|_panic| anyhow!("a pair of labs panicked"))??);
        }
        Ok(all)
    })
}

// === impl Judge ===

impl Judge {
    /// Makes both labs.
    ///
    /// # Errors
    ///
    /// As [`World::new`].
    pub fn new() -> Result<Self> {
        let judge = Self { sluice: World::new()?, nftables: World::new()?, zone: Cell::new(0) };
        judge.nftables.topology.gateway.set_sysctls(&[
            // The frames' language leaves checksums out, and its numbers don't count bytes.
            ("net/netfilter/nf_conntrack_checksum", "0"),
            ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
            ("net/netfilter/nf_conntrack_tcp_loose", "1"),
        ])?;
        Ok(judge)
    }

    /// Compares both over policies that follow from the seeds `first`, `first + 1` and so on.
    ///
    /// # Errors
    ///
    /// If a policy is refused, or packets that must pass don't.
    pub fn compare(&self, first: u64, policies: u32, packets: u16) -> Result<Tally> {
        let mut tally = Tally::default();
        for seed in (first..).take(usize::try_from(policies)?) {
            let mut random = Random::new(seed);
            let case = Case::random(&mut random);
            let known = tally.differ.len();
            self.policy(&mut tally, (&case, Ruleset::Faithful), packets, &mut random)
                .with_context(|| format!("seed {seed}"))?;
            for difference in tally.differ.iter_mut().skip(known) {
                difference.insert_str(0, &format!("seed {seed}\n"));
            }
        }
        Ok(tally)
    }

    /// Compares both over one policy.
    ///
    /// # Errors
    ///
    /// As [`Judge::compare`].
    pub fn policy(
        &self,
        tally: &mut Tally,
        (case, ruleset): (&Case, Ruleset),
        packets: u16,
        random: &mut Random,
    ) -> Result<()> {
        if packets > MOST {
            bail!("{packets} packets for a policy are more than {MOST}");
        }
        let (gateway, policy) = case.sluice();
        let zone = self.zone.get().checked_add(1).context("no zone is left for this policy")?;
        self.zone.set(zone);
        let faithful = case.nftables(zone);
        let nftables = match ruleset {
            Ruleset::Faithful => faithful,
            Ruleset::WithoutHttps => faithful.replace("    tcp dport 443 accept\n", ""),
        };
        let text = format!("{gateway}\n{policy}\n{nftables}");
        self.nftables.load(&nftables).with_context(|| text.clone())?;
        let configuration = Configuration::new(gateway).policy("judge", policy);
        let mut daemon = Gateway::new(&self.sluice.topology, &configuration)?;
        daemon.start().with_context(|| text.clone())?;
        tally.policies += 1;
        for world in [&self.sluice, &self.nftables] {
            world.observe()?;
        }
        let mut round = Round { judge: self, tally, text: &text, next: 1 };

        let first = firsts(random, case, packets - packets / 4 - packets / 8);
        let passed = round.send(&first)?;
        let answered = answers(random, &passed, packets / 4);
        round.send(&answered)?;
        let more = onward(random, &answered, packets / 8);
        round.send(&more)?;
        // What is left to the number: flows that passed are fewer where the policy allows little.
        let rest = u16::try_from(answered.len() + more.len()).unwrap_or(packets);
        let rest = (packets / 4 + packets / 8).saturating_sub(rest);
        let further = firsts(random, case, rest);
        round.send(&further)?;
        daemon.stop()
    }
}

/// What the packets of a policy have in common.
struct Round<'judge> {
    judge: &'judge Judge,
    tally: &'judge mut Tally,
    text: &'judge str,
    next: u16,
}

// === impl Round ===

impl Round<'_> {
    /// Sends packets through both, those of one end after those of another, and counts; those
    /// that passed in both are returned.
    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Packet>> {
        let mut passed = Vec::new();
        for end in End::ALL {
            let batch: Vec<(u16, &Packet)> =
                (self.next..).zip(packets.iter().filter(|packet| packet.end == end)).collect();
            if batch.is_empty() {
                continue;
            }
            self.next = self.next.saturating_add(u16::try_from(batch.len())?);
            let verdicts = self.batch(end, &batch)?;
            for ((_, packet), verdicts) in batch.iter().zip(verdicts) {
                if self.count(packet, verdicts) == Some(Verdict::Pass) {
                    passed.push((*packet).clone());
                }
            }
        }
        Ok(passed)
    }

    fn batch(&self, end: End, batch: &[(u16, &Packet)]) -> Result<Vec<[Verdict; 2]>> {
        let worlds = [&self.judge.sluice, &self.judge.nftables];
        let mut arrived = [BTreeSet::new(), BTreeSet::new()];
        for (world, arrived) in worlds.iter().zip(&mut arrived) {
            for (marker, packet) in batch {
                world.send(end, &packet.description, *marker)?;
            }
            *arrived = finish(world, end)?;
        }
        let deadline = Instant::now() + STRAGGLER;
        let asks_gateway = batch.iter().any(|(_, packet)| OWN.contains(&packet.destination));
        loop {
            let mut verdicts = Vec::new();
            let mut own = [Default::default(), Default::default()];
            if asks_gateway {
                for (world, own) in worlds.iter().zip(&mut own) {
                    *own = world.arrived_at_gateway()?;
                }
            }
            for (marker, packet) in batch {
                let Packet { source, destination, .. } = **packet;
                let through = Arrival { marker: *marker, source, destination };
                let verdict = |arrived: &BTreeSet<Arrival>, [four, six]: &[BTreeSet<u16>; 2]| {
                    let own = if source.is_ipv4() { four } else { six };
                    let here = OWN.contains(&destination) && own.contains(marker);
                    if here || arrived.contains(&through) { Verdict::Pass } else { Verdict::Drop }
                };
                let [sluice, nftables] = &arrived;
                let [own_sluice, own_nftables] = &own;
                verdicts.push([verdict(sluice, own_sluice), verdict(nftables, own_nftables)]);
            }
            let settled = batch.iter().zip(&verdicts).all(|((_, packet), [sluice, nftables])| {
                sluice == nftables || listed(packet, *sluice).is_some()
            });
            if settled || Instant::now() >= deadline {
                return Ok(verdicts);
            }
            thread::sleep(Duration::from_millis(20));
            for (world, arrived) in worlds.iter().zip(&mut arrived) {
                arrived.extend(world.arrived_at_ends()?);
            }
        }
    }

    /// Counts a packet; its verdict if both agree.
    fn count(&mut self, packet: &Packet, [sluice, nftables]: [Verdict; 2]) -> Option<Verdict> {
        self.tally.packets += 1;
        if sluice == nftables {
            match sluice {
                Verdict::Pass => self.tally.passed += 1,
                Verdict::Drop => self.tally.dropped += 1,
            }
            return Some(sluice);
        }
        if let Some(count) = listed(packet, sluice).and_then(|row| self.tally.listed.get_mut(row)) {
            *count += 1;
        } else {
            let (policy, Packet { end, kind, description, .. }) = (self.text, packet);
            self.tally.differ.push(format!(
                "{policy}\n{kind:?} from {end:?}: `{description}`: sluice {sluice:?}, nftables \
                 {nftables:?}\n"
            ));
        }
        None
    }
}

/// The row of [`LISTED`] for a packet on which nftables disagrees with `sluice`.
fn listed(packet: &Packet, sluice: Verdict) -> Option<usize> {
    LISTED.iter().position(|listed| listed.kind == packet.kind && listed.sluice == sluice)
}

/// Sends packets that pass everywhere after those of a batch, and waits until they arrive: what
/// was sent before them has arrived then, or never will.
fn finish(world: &World, end: End) -> Result<BTreeSet<Arrival>> {
    let [first, second] = SENTINEL_HOSTS;
    let (source, to) = match end {
        End::First => (first, [second, SENTINEL_REMOTE]),
        End::Second => (second, [first, SENTINEL_REMOTE]),
        End::Internet => (SENTINEL_REMOTE, [first, second]),
    };
    for (marker, to) in (SENTINELS..).zip(to) {
        world.send(end, &format!("ip {source} > {to} | udp 9999 > {SENTINEL_PORT}"), marker)?;
    }
    let deadline = Instant::now() + ARRIVAL;
    let mut arrived = BTreeSet::new();
    loop {
        arrived.extend(world.arrived_at_ends()?);
        let missing = (SENTINELS..)
            .zip(to)
            .find(|(marker, to)| {
                let sentinel = Arrival { marker: *marker, source, destination: *to };
                !arrived.contains(&sentinel)
            })
            .map(|(_, to)| to);
        let Some(missing) = missing else { return Ok(arrived) };
        if Instant::now() >= deadline {
            bail!("a packet from {source} to {missing}, which is allowed, doesn't arrive");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

// === impl Tally ===

impl Tally {
    /// Adds what another comparison found.
    fn add(&mut self, other: Self) {
        self.policies += other.policies;
        self.packets += other.packets;
        self.passed += other.passed;
        self.dropped += other.dropped;
        for (sum, count) in self.listed.iter_mut().zip(other.listed) {
            *sum += count;
        }
        self.differ.extend(other.differ);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: u32 = self.listed.iter().sum();
        let Self { policies, packets, passed, dropped, differ, .. } = self;
        write!(
            f,
            "{policies} policies, {packets} packets, {passed} passed in both, {dropped} dropped in \
             both, {listed} differ as listed, {} differ",
            differ.len()
        )
    }
}
