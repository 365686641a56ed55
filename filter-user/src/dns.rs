// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups over the network: the IO half of [`crate::names`].
//!
//! Of hickory only the wire format is used. Its resolver would age answers itself, and hides
//! which records belong to the question and which upstream said what; asking a question takes few
//! lines without it. Each question leaves from a socket of its own (so from a port that the
//! kernel picked at random) with a random id and random letter case, and an answer counts only if
//! all of that comes back from the address that was asked.

mod chain;
mod exchange;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};

use self::exchange::ExchangeError;
use crate::{
    names::{Answer, LookupFailure},
    policy::Fqdn,
};

/// The port that resolvers listen on.
const DNS_PORT: u16 = 53;
/// The time for one try at one upstream.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// The time for a whole look-up; tries get shorter where there are more than fit.
const LOOKUP_LIMIT: Duration = Duration::from_millis(4800);
/// Tries per address family, at least; more upstreams than that are each tried once.
const LEAST_TRIES: usize = 2;
/// Tries per address family, at most.
const MOST_TRIES: usize = 4;
/// How long an upstream that failed comes after those that did not.
const HOLD_DOWN: Duration = Duration::from_secs(30);

/// Asks the upstream resolvers. It keeps no answer.
#[derive(Debug)]
pub struct Resolver {
    upstreams: Mutex<Vec<Upstream>>,
}

/// An upstream resolver and how it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it listens.
    pub server: SocketAddr,
    /// When it last gave a usable answer, "no such name" included.
    pub last_success: Option<Instant>,
    /// When it last failed, and how.
    pub last_failure: Option<(Instant, LookupFailure)>,
}

/// What one address family of a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Half {
    addresses: Vec<(IpAddr, u32)>,
    chain: Vec<Fqdn>,
    resolver: IpAddr,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that asks these upstreams on port 53, in order of preference.
    #[must_use]
    pub fn new(upstreams: &[IpAddr]) -> Self {
        Self::with_ports(upstreams.iter().map(|address| SocketAddr::new(*address, DNS_PORT)))
    }

    /// A resolver that asks upstreams on ports of their own.
    #[must_use]
    pub fn with_ports(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let upstream = |server| Upstream { server, last_success: None, last_failure: None };
        Self { upstreams: Mutex::new(servers.into_iter().map(upstream).collect()) }
    }

    /// Asks for the addresses of a name, of both families at once. It takes less than 5 s.
    ///
    /// # Errors
    ///
    /// Neither family has an address. Where only one failed, the other is the answer.
    pub async fn lookup(&self, name: &Fqdn) -> Result<Answer, LookupFailure> {
        let question = to_name(name)?;
        let (v4, v6) = tokio::join!(
            self.lookup_family(&question, RecordType::A),
            self.lookup_family(&question, RecordType::AAAA),
        );
        combine(v4, v6)
    }

    /// The upstreams and how they did, in order of preference.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Upstream> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn lookup_family(
        &self,
        question: &Name,
        family: RecordType,
    ) -> Result<Half, LookupFailure> {
        let servers = by_health(&self.upstreams(), Instant::now());
        let tries = servers.len().clamp(LEAST_TRIES, MOST_TRIES);
        let share = LOOKUP_LIMIT / u32::try_from(tries).unwrap_or(u32::MAX);
        let limit = share.min(TRY_LIMIT);
        let mut failure = None;
        for server in servers.iter().cycle().take(tries) {
            let result = match exchange::ask(*server, question, family, limit).await {
                Ok(message) => read(&message, question, family, server.ip()),
                Err(error) => Err(explain(error, *server)),
            };
            self.record(*server, &result);
            match result {
                Ok(half) => return Ok(half),
                Err(found @ (LookupFailure::NxDomain | LookupFailure::NoData)) => {
                    return Err(found);
                }
                // A resolver that says why it failed is worth more than one that is silent.
                Err(found) => {
                    if matches!(failure, None | Some(LookupFailure::Timeout)) {
                        failure = Some(found);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            LookupFailure::Other("no upstream resolver is configured".to_owned())
        }))
    }

    fn record(&self, server: SocketAddr, result: &Result<Half, LookupFailure>) {
        let now = Instant::now();
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(upstream) = upstreams.iter_mut().find(|upstream| upstream.server == server) else {
            return;
        };
        match result {
            Ok(_) | Err(LookupFailure::NxDomain | LookupFailure::NoData) => {
                upstream.last_success = Some(now);
            }
            Err(failure) => upstream.last_failure = Some((now, failure.clone())),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// Whether it failed lately and gave no answer since.
    fn is_failing(&self, now: Instant) -> bool {
        self.last_failure.as_ref().is_some_and(|(at, _)| {
            now.saturating_duration_since(*at) < HOLD_DOWN
                && self.last_success.is_none_or(|success| success < *at)
        })
    }
}

/// The servers in order of preference, but those that fail now last: they are still asked where
/// no other answers.
fn by_health(upstreams: &[Upstream], now: Instant) -> Vec<SocketAddr> {
    let mut sorted: Vec<&Upstream> = upstreams.iter().collect();
    sorted.sort_by_key(|upstream| upstream.is_failing(now));
    sorted.into_iter().map(|upstream| upstream.server).collect()
}

fn to_name(name: &Fqdn) -> Result<Name, LookupFailure> {
    let labels = name.as_str().split('.').map(str::as_bytes);
    let mut name = Name::from_labels(labels)
        .map_err(|error| LookupFailure::Other(format!("the name can't be asked for: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

/// What a response that belongs to the question says.
fn read(
    message: &Message,
    question: &Name,
    family: RecordType,
    resolver: IpAddr,
) -> Result<Half, LookupFailure> {
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err(LookupFailure::NxDomain),
        ResponseCode::ServFail => return Err(LookupFailure::ServFail),
        ResponseCode::Refused => return Err(LookupFailure::Refused),
        other => return Err(LookupFailure::Other(format!("the resolver answered \"{other}\""))),
    }
    let followed = chain::follow(question, family, &message.answers)
        .map_err(|error| LookupFailure::Other(error.to_string()))?;
    if !followed.addresses.is_empty() {
        let chain::Followed { addresses, chain } = followed;
        return Ok(Half { addresses, chain, resolver });
    }
    // "Ask them instead" is no statement about the name.
    let refers = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
    if refers && !message.metadata.recursion_available {
        return Err(LookupFailure::Other(format!(
            "{resolver} only refers to other servers; name a recursive resolver in [dns] upstream"
        )));
    }
    Err(LookupFailure::NoData)
}

fn explain(error: ExchangeError, server: SocketAddr) -> LookupFailure {
    match error {
        ExchangeError::Timeout => LookupFailure::Timeout,
        ExchangeError::Unreadable(why) => {
            LookupFailure::Other(format!("{server} sent a message that can't be read: {why}"))
        }
        ExchangeError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            LookupFailure::Other(format!("nothing listens at {server} (connection refused)"))
        }
        ExchangeError::Io(error) => {
            LookupFailure::Other(format!("{server} can't be reached: {error}"))
        }
    }
}

/// Both families together: what one has counts, whatever became of the other.
fn combine(
    v4: Result<Half, LookupFailure>,
    v6: Result<Half, LookupFailure>,
) -> Result<Answer, LookupFailure> {
    match (v4, v6) {
        (Ok(mut first), Ok(second)) => {
            first.addresses.extend(second.addresses);
            // The families nearly always share their aliases; what only the second has is
            // appended, so that no alias that brought an address in is missing.
            for alias in second.chain {
                if !first.chain.contains(&alias) {
                    first.chain.push(alias);
                }
            }
            Ok(first.into_answer(None))
        }
        // Some servers deny the name where they should deny the family.
        (Ok(half), Err(failure)) | (Err(failure), Ok(half)) => {
            Ok(half.into_answer((!is_lasting(&failure)).then_some(failure)))
        }
        // Of two failures the one that may pass is told: the name may well have addresses.
        (Err(LookupFailure::NoData), Err(other)) => Err(other),
        (Err(LookupFailure::NxDomain), Err(other)) if !is_lasting(&other) => Err(other),
        (Err(first), Err(_second)) => Err(first),
    }
}

/// Whether a failure is a statement about the name rather than about the resolver.
fn is_lasting(failure: &LookupFailure) -> bool {
    matches!(failure, LookupFailure::NxDomain | LookupFailure::NoData)
}

// === impl Half ===

impl Half {
    fn into_answer(self, missing: Option<LookupFailure>) -> Answer {
        let Self { addresses, chain, resolver } = self;
        Answer { records: addresses, chain, resolver, missing }
    }
}
