// SPDX-License-Identifier: MIT OR Apache-2.0
//! The upstream resolvers: which is asked, and what becomes of a question that one doesn't
//! answer.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::time::{self, sleep_until};

use super::{
    Resolver,
    count::{Count, Counters},
    exchange::{self, ExchangeError},
    tls,
};
use crate::{
    names::LookupFailure,
    policy::{self, Transport},
};

/// The time for one try at one upstream.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Tries, at most. There is one more than there are upstreams, for a datagram that is lost.
const MOST_TRIES: usize = 4;
/// After this time without an answer the next upstream is asked, too. Most answers out of a
/// resolver's cache take less, and most clients ask again only much later.
const HEDGE: Duration = Duration::from_millis(300);
/// After this time the same upstream is asked again: the datagram may be lost.
const RETRY: Duration = Duration::from_secs(1);
/// How long an upstream that failed comes after those that did not.
pub(super) const HOLD_DOWN: Duration = Duration::from_secs(30);

/// What an upstream says about a question: that there are such records, that there are none, or
/// that there is no such name.
#[derive(Clone, Debug)]
pub(super) struct Response {
    /// The message, with one question, ours. Letters of names may have another case than in the
    /// name that was asked for.
    pub(super) message: Message,
    /// Who said so.
    pub(super) resolver: IpAddr,
}

/// An upstream resolver.
#[derive(Debug)]
pub(super) struct Upstream {
    settings: policy::Upstream,
    way: Way,
    health: Mutex<Health>,
}

/// How it is asked.
#[derive(Debug)]
enum Way {
    Plain,
    Tls(tls::Client),
}

/// How an upstream resolver did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// When it last said something about a name, "no such name" included.
    pub last_success: Option<Instant>,
    /// When it last failed, and how.
    pub last_failure: Option<(Instant, LookupFailure)>,
    /// How bad that failure was.
    severity: Standing,
    /// When it last got a question to see whether it has recovered.
    probed: Option<Instant>,
}

/// The order in which upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Nothing is known against it.
    #[default]
    Well,
    /// It answers, but says nothing about names.
    Complaining,
    /// It doesn't answer. A name that makes resolvers fail, which anybody can have, never puts a
    /// resolver behind one that is dead.
    Silent,
}

/// Why a try brought nothing.
struct Failed {
    failure: LookupFailure,
    severity: Standing,
}

/// A try, by its number, and what it brought.
type Tried<'a> = (usize, &'a Upstream, Result<Message, Failed>);

/// The time that a question has, and how it is shared out.
#[derive(Clone, Copy)]
struct Times {
    deadline: time::Instant,
    hedge: Duration,
    retry: Duration,
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that asks these upstreams, in order of preference. The certificates of those
    /// over TLS are checked against the authorities in a file (PEM), or against those that the
    /// system trusts. What goes wrong is counted.
    ///
    /// # Errors
    ///
    /// Authorities that can't be read, or of which there are none, where one is needed.
    pub fn new(
        upstreams: &[policy::Upstream],
        tls_ca: Option<&Path>,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let mut settings = None;
        let upstream = |upstream: &policy::Upstream| {
            let way = match &upstream.transport {
                Transport::Plain => Way::Plain,
                Transport::Tls(name) => {
                    let shared = match &settings {
                        Some(settings) => Arc::clone(settings),
                        None => Arc::clone(settings.insert(tls::settings(tls_ca)?)),
                    };
                    Way::Tls(tls::Client::new(upstream.server, name, shared, &counters)?)
                }
            };
            Ok(Upstream { settings: upstream.clone(), way, health: Mutex::default() })
        };
        let upstreams: Result<Vec<Upstream>> = upstreams.iter().map(upstream).collect();
        Ok(Self { upstreams: upstreams?, counters })
    }

    /// The upstreams and how they did, in order of preference.
    #[must_use]
    pub fn upstreams(&self) -> Vec<(policy::Upstream, Health)> {
        let each = |upstream: &Upstream| (upstream.settings.clone(), upstream.health());
        self.upstreams.iter().map(each).collect()
    }

    /// Asks for records of any type.
    ///
    /// Upstreams that failed lately come last. Where one doesn't answer soon, the next is asked
    /// as well, and the first answer counts.
    ///
    /// # Errors
    ///
    /// No upstream says anything about the name within the limit.
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        limit: Duration,
    ) -> Result<Response, LookupFailure> {
        let start = time::Instant::now();
        let times = Times {
            deadline: start + limit,
            hedge: HEDGE.min(limit / 4),
            retry: RETRY.min(limit / 2),
        };
        let order = self.order(start.into_std());
        let alone = order.len() == 1;
        let tries = (order.len() + 1).min(MOST_TRIES);
        let mut left: VecDeque<(usize, &Upstream)> =
            order.into_iter().cycle().take(tries).enumerate().collect();
        let mut running = FuturesUnordered::new();
        // Those that are being asked, in the order in which they were.
        let mut asked: Vec<(usize, &Upstream)> = Vec::new();
        let mut failed: Vec<&Upstream> = Vec::new();
        let mut next_start = start;
        let mut failure = None;
        while !running.is_empty() || !left.is_empty() {
            tokio::select! {
                biased;
                Some(tried) = running.next(), if !running.is_empty() => {
                    let (number, upstream, result): Tried<'_> = tried;
                    let at = Instant::now();
                    asked.retain(|(other, _)| *other != number);
                    match result {
                        Ok(message) => {
                            // Those that had more time failed. It may be the same one, where
                            // the first datagram was lost.
                            for (_, slower) in asked.iter().filter(|(other, _)| *other < number) {
                                self.counters.add(Count::Timeout);
                                slower.update(|health| {
                                    health.fail(at, LookupFailure::Timeout, Standing::Silent);
                                });
                            }
                            upstream.update(|health| health.last_success = Some(at));
                            self.counters.answered_after(start.elapsed());
                            let resolver = upstream.server().ip();
                            return Ok(Response { message, resolver });
                        }
                        Err(Failed { failure: found, severity }) => {
                            upstream.update(|health| health.fail(at, found.clone(), severity));
                            // A resolver that says why it failed is worth more than one that is
                            // silent.
                            if matches!(failure, None | Some(LookupFailure::Timeout)) {
                                failure = Some(found);
                            }
                            failed.push(upstream);
                            next_start = at.into();
                        }
                    }
                }
                () = until(next_start), if !left.is_empty() => {
                    let Some((number, upstream)) = left.pop_front() else { continue };
                    let now = time::Instant::now();
                    // What one has said it says again; a second opinion is for silence.
                    let heard = !alone && failed.iter().any(|one| one.is(upstream));
                    if heard || now >= times.deadline {
                        continue;
                    }
                    asked.push((number, upstream));
                    let deadline = times.deadline.min(now + TRY_LIMIT);
                    running.push(self.attempt(number, upstream, name, kind, deadline));
                    let again = left
                        .front()
                        .is_some_and(|(_, next)| asked.iter().any(|(_, one)| one.is(next)));
                    next_start = now + if again { times.retry } else { times.hedge };
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            LookupFailure::Other("no upstream resolver is configured".to_owned())
        }))
    }

    async fn attempt<'a>(
        &self,
        number: usize,
        upstream: &'a Upstream,
        name: &Name,
        kind: RecordType,
        deadline: time::Instant,
    ) -> Tried<'a> {
        let server = upstream.server();
        let result = match &upstream.way {
            Way::Plain => exchange::ask(server, name, kind, deadline, &self.counters).await,
            Way::Tls(client) => client.ask(name, kind, deadline).await,
        };
        let result = match result {
            Ok(message) => judge(message, server.ip(), &self.counters),
            Err(error) => Err(explain(error, &upstream.settings, &self.counters)),
        };
        (number, upstream, result)
    }

    /// The upstreams in order of preference, but those that fail now last: they are still asked
    /// where no other answers. One that failed some time ago gets a single question to prove
    /// itself, and no other until it has.
    pub(super) fn order(&self, now: Instant) -> Vec<&Upstream> {
        let mut sorted: Vec<(Standing, &Upstream)> = Vec::new();
        for upstream in &self.upstreams {
            let mut standing = Standing::Well;
            upstream.update(|health| standing = health.take_standing(now));
            sorted.push((standing, upstream));
        }
        sorted.sort_by_key(|(standing, _)| *standing);
        sorted.into_iter().map(|(_, upstream)| upstream).collect()
    }
}

// === impl Upstream ===

impl Upstream {
    fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where it listens.
    pub(super) fn server(&self) -> SocketAddr {
        self.settings.server
    }

    fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

// === impl Health ===

impl Health {
    fn fail(&mut self, at: Instant, failure: LookupFailure, severity: Standing) {
        self.last_failure = Some((at, failure));
        self.severity = severity;
    }

    /// How it stands. Where it was held down for long enough, it is held down again for others
    /// than the one who asks here.
    fn take_standing(&mut self, now: Instant) -> Standing {
        let Some((failed, _)) = self.last_failure else { return Standing::Well };
        if self.last_success.is_some_and(|success| success >= failed) {
            return Standing::Well;
        }
        let since = self.probed.map_or(failed, |probed| probed.max(failed));
        if now.saturating_duration_since(since) < HOLD_DOWN {
            return self.severity;
        }
        self.probed = Some(now);
        Standing::Well
    }
}

// === helpers ===

/// Whether a response says something about the name.
fn judge(message: Message, resolver: IpAddr, counters: &Counters) -> Result<Message, Failed> {
    let (failure, count) = match message.metadata.response_code {
        ResponseCode::NXDomain => return Ok(message),
        ResponseCode::NoError if !is_referral(&message) => return Ok(message),
        ResponseCode::NoError => {
            let what = format!(
                "{resolver} only refers to other servers; name a recursive resolver in [dns] \
                 upstream"
            );
            (LookupFailure::Other(what), Count::Lame)
        }
        ResponseCode::ServFail => (LookupFailure::ServFail, Count::ServFail),
        ResponseCode::Refused => (LookupFailure::Refused, Count::Refused),
        other => {
            (LookupFailure::Other(format!("the resolver answered \"{other}\"")), Count::ServFail)
        }
    };
    counters.add(count);
    Err(Failed { failure, severity: Standing::Complaining })
}

/// "Ask them instead" is no statement about the name.
fn is_referral(message: &Message) -> bool {
    message.answers.is_empty()
        && !message.metadata.recursion_available
        && message.authorities.iter().any(|record| record.record_type() == RecordType::NS)
}

fn explain(error: ExchangeError, upstream: &policy::Upstream, counters: &Counters) -> Failed {
    let (failure, severity, count) = match error {
        ExchangeError::Timeout => (LookupFailure::Timeout, Standing::Silent, Some(Count::Timeout)),
        // It was counted when it came in.
        ExchangeError::Unreadable(why) => {
            let what = format!("{upstream} sent a message that can't be read: {why}");
            (LookupFailure::Other(what), Standing::Complaining, None)
        }
        ExchangeError::Io(error) => {
            let what = match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    format!("nothing listens at {upstream} (connection refused)")
                }
                _ => format!("{upstream} can't be reached: {error}"),
            };
            (LookupFailure::Other(what), Standing::Silent, Some(Count::Unreachable))
        }
        ExchangeError::Tls(why) => {
            let what = format!("{upstream} can't be asked over TLS: {why}");
            (LookupFailure::Other(what), Standing::Silent, Some(Count::TlsFailed))
        }
    };
    if let Some(count) = count {
        counters.add(count);
    }
    Failed { failure, severity }
}

/// Waits until then. The runtime's timers go by whole milliseconds, and one whose time has come
/// still waits for the next: ten times as long as an answer takes from nearby.
async fn until(then: time::Instant) {
    if then > time::Instant::now() {
        sleep_until(then).await;
    }
}
