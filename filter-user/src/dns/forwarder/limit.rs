// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many questions a client may ask.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Clients that are remembered. A client whose bucket is full needs none.
const MOST_CLIENTS: usize = 16_384;
/// So many times what one may ask, all hosts of an IPv6 network may ask together.
const HOSTS_OF_A_NETWORK: u32 = 16;

/// A bucket of tokens for each client: as many questions at once as in a second.
#[derive(Debug, Default)]
pub(super) struct ClientLimits {
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it would be full, if nobody asked before.
    full: Instant,
}

/// Whether a question may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Granted,
    Exhausted,
}

// === impl ClientLimits ===

impl ClientLimits {
    /// Takes a token from the bucket of a client, which gets `rate` in a second and holds as many.
    /// A network of IPv6 clients has one as well, for the hosts that change their addresses.
    pub(super) fn take(&mut self, address: IpAddr, rate: u32, now: Instant) -> Allowance {
        let address = address.to_canonical();
        let network = client_of(address);
        // What a host may not ask is not taken from the others.
        let allowance = self.take_of(address, rate, now);
        if allowance == Allowance::Exhausted || network == address {
            return allowance;
        }
        self.take_of(network, rate.saturating_mul(HOSTS_OF_A_NETWORK), now)
    }

    fn take_of(&mut self, client: IpAddr, rate: u32, now: Instant) -> Allowance {
        let token = Duration::from_secs(1) / rate.max(1);
        if !self.buckets.contains_key(&client) && self.buckets.len() >= MOST_CLIENTS {
            self.buckets.retain(|_, bucket| bucket.full > now);
            if self.buckets.len() >= MOST_CLIENTS {
                return Allowance::Exhausted;
            }
        }
        let bucket = self.buckets.entry(client).or_insert(Bucket { full: now });
        let full = bucket.full.max(now) + token;
        if full.saturating_duration_since(now) > Duration::from_secs(1) {
            return Allowance::Exhausted;
        }
        bucket.full = full;
        Allowance::Granted
    }
}

/// An IPv4 address, or an IPv6 network of 64 bits, in which a host has any address that it likes.
pub(super) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(limits: &mut ClientLimits, client: &str, wanted: usize, now: Instant) -> usize {
        let client = client.parse().unwrap();
        (0..wanted).filter(|_| limits.take(client, 100, now) == Allowance::Granted).count()
    }

    #[test]
    fn a_client_has_its_rate_and_the_others_have_theirs() {
        let mut limits = ClientLimits::default();
        let now = Instant::now();
        assert_eq!(granted(&mut limits, "10.0.0.1", 1000, now), 100);
        assert_eq!(granted(&mut limits, "10.0.0.2", 1000, now), 100);
        for host in 1..17 {
            assert_eq!(granted(&mut limits, &format!("fd00::{host:x}"), 1000, now), 100, "{host}");
        }
        assert_eq!(granted(&mut limits, "fd00::99", 60, now), 0, "one network of 64 bits");
        assert_eq!(granted(&mut limits, "fd00:0:0:1::2", 60, now), 60);
        let later = now + Duration::from_millis(500);
        assert_eq!(granted(&mut limits, "10.0.0.1", 1000, later), 50);
        let much_later = now + Duration::from_secs(60);
        assert_eq!(granted(&mut limits, "10.0.0.1", 1000, much_later), 100);
    }

    #[test]
    fn memory_is_bounded_and_idle_clients_make_room() {
        let mut limits = ClientLimits::default();
        let now = Instant::now();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..20_000 {
            let expected = if number < 16_384 { Allowance::Granted } else { Allowance::Exhausted };
            assert_eq!(limits.take(address(number), 100, now), expected, "{number}");
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(limits.take(address(20_001), 100, later), Allowance::Granted);
        assert!(limits.buckets.len() < 10);
    }
}
