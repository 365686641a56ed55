// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarder: clients' questions go upstream, and what they get is in force before they get it.
//!
//! It runs on a thread of its own, so that nothing that takes the daemon longer keeps clients
//! waiting. All that it may decide is in [`Settings`]; what it hears from upstream it tells the
//! daemon, and only what the daemon says is in force goes out.

mod cache;
mod draft;
mod limit;
mod listen;
mod question;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::future::{FutureExt as _, LocalBoxFuture, Shared};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::timeout,
};

pub use self::listen::{BindError, Listener};
use self::{
    cache::{AnswerCache, Finished, Key, Learned, Standing},
    draft::Draft,
    limit::{Allowance, ClientLimits},
    question::{ExtendedError, Question, Read, Via, Why},
};
use super::{
    Resolver,
    chain::BrokenChain,
    count::{Count, Counters},
    name::to_name,
};
use crate::{
    names::{Answer, Refusal, Wanted},
    policy::{Dns, Fqdn, OutsidePolicy},
};

/// The time that a question may take. Clients ask again after 5 s (resolv.conf(5), `timeout`).
const QUESTION_LIMIT: Duration = Duration::from_millis(4500);
/// How often the daemon is told that an answer is used again.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// What is in force for less than this is learned anew before it is given to anybody.
const ABOUT_TO_END: Duration = Duration::from_secs(2);

/// What the forwarder goes by.
#[derive(Debug)]
pub struct Settings {
    /// The names that rules cover.
    pub wanted: Arc<Wanted>,
    /// Who is asked.
    pub resolver: Arc<Resolver>,
    /// What a client gets for other names.
    pub outside: OutsidePolicy,
    /// The longest TTL that a client gets: an address holds no longer.
    pub max_ttl: Duration,
    /// Within this time addresses are in force, or the client gets none.
    pub learn_within: Duration,
    /// Questions of a client in a second.
    pub client_rate: u32,
    /// Questions that may wait at once.
    pub max_questions: u32,
}

/// What the forwarder tells the daemon.
#[derive(Debug)]
pub enum Heard {
    /// Addresses that a client is to get once they are in force.
    Answer {
        /// The name that was asked for.
        name: Fqdn,
        /// What the upstream said.
        answer: Answer,
        /// Where the daemon says what is in force.
        reply: oneshot::Sender<Result<InForce, NotInForce>>,
    },
    /// An answer that was given to clients again.
    Again {
        /// The name that was asked for.
        name: Fqdn,
        /// The addresses, with what is left of their TTLs.
        answer: Answer,
        /// To how many.
        hits: u64,
        /// After how many times that all was forgotten: see [`Forwarder::forgotten`].
        since: u64,
    },
}

/// What became of the addresses of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Those that are in force, each with the time until when.
    pub held: BTreeMap<IpAddr, Instant>,
    /// Those that were not learned.
    pub refused: BTreeMap<IpAddr, Refusal>,
}

/// The tables could not be changed; the daemon has said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInForce;

/// The daemon's end of a forwarder. It ends when this is dropped.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Common>,
    commands: mpsc::UnboundedSender<Command>,
    listening: BTreeSet<IpAddr>,
}

/// What both ends see.
#[derive(Debug)]
struct Common {
    settings: RwLock<Arc<Settings>>,
    counters: Arc<Counters>,
    epoch: AtomicU64,
    forgotten: AtomicU64,
}

/// What the daemon wants of the thread.
#[derive(Debug)]
enum Command {
    /// Listen at new addresses, and no longer at those that are not in the set.
    Listen(Vec<Listener>, BTreeSet<IpAddr>),
}

/// The thread's state.
struct Service {
    shared: Arc<Common>,
    heard: mpsc::Sender<Heard>,
    answers: RefCell<AnswerCache>,
    asking: RefCell<HashMap<Key, Asking>>,
    limits: RefCell<ClientLimits>,
    waiting: RefCell<Waiting>,
}

/// Who waits for answers.
#[derive(Debug, Default)]
struct Waiting {
    all: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// A question that is being answered, for all who asked it.
type Asking = Shared<LocalBoxFuture<'static, Rc<Finished>>>;

/// What a client gets.
enum Reply {
    /// This, at once.
    Now(Vec<u8>),
    /// Something, later.
    Later(LocalBoxFuture<'static, Option<Vec<u8>>>),
    /// Nothing.
    Nothing,
}

// === impl Settings ===

impl Settings {
    /// The settings of a policy.
    #[must_use]
    pub fn new(dns: &Dns, wanted: Arc<Wanted>, resolver: Arc<Resolver>) -> Self {
        Self {
            wanted,
            resolver,
            outside: dns.outside_policy,
            max_ttl: dns.max_ttl,
            learn_within: dns.learn_within,
            client_rate: dns.client_rate,
            max_questions: dns.max_questions,
        }
    }
}

// === impl Forwarder ===

impl Forwarder {
    /// Starts the thread. It listens nowhere yet.
    ///
    /// # Errors
    ///
    /// The thread can't be started.
    pub fn start(
        settings: Settings,
        counters: Arc<Counters>,
        heard: mpsc::Sender<Heard>,
    ) -> Result<Self> {
        let shared = Arc::new(Common {
            settings: RwLock::new(Arc::new(settings)),
            counters,
            epoch: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        });
        let (commands, inbox) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("sluice-dns".to_owned())
            .spawn(move || {
                let service = Rc::new(Service::new(of_thread, heard));
                LocalSet::new().block_on(&runtime, service.run(inbox));
            })
            .context("the thread of the forwarder can't be started")?;
        Ok(Self { shared, commands, listening: BTreeSet::new() })
    }

    /// The addresses at which it listens.
    #[must_use]
    pub fn listening(&self) -> &BTreeSet<IpAddr> {
        &self.listening
    }

    /// Takes new settings for questions that come from now on.
    pub fn set_settings(&self, settings: Settings) {
        let mut current = self.shared.settings.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(settings);
    }

    /// Listens at `addresses`: `new` has the sockets of those at which it didn't.
    pub fn listen(&mut self, new: Vec<Listener>, addresses: BTreeSet<IpAddr>) {
        self.listening.clone_from(&addresses);
        self.command(Command::Listen(new, addresses));
    }

    /// What was in force may be so no longer: it is learned anew before anybody gets it. To be called
    /// *before* anything is taken out of force that isn't over.
    pub fn distrust(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets all answers, also those that are on their way.
    pub fn forget(&self) {
        self.shared.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    /// How often all answers were forgotten.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.shared.forgotten.load(Ordering::SeqCst)
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("the forwarder's thread has ended; restart the daemon");
        }
    }
}

// === impl Service ===

impl Service {
    fn new(shared: Arc<Common>, heard: mpsc::Sender<Heard>) -> Self {
        Self {
            shared,
            heard,
            answers: RefCell::default(),
            asking: RefCell::default(),
            limits: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    async fn run(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut listeners = listen::Tasks::default();
        while let Some(Command::Listen(new, addresses)) = inbox.recv().await {
            listeners.change(&self, new, &addresses);
        }
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.shared.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, what: Count) {
        self.shared.counters.add(what);
    }

    /// Answers a message of a client.
    fn answer(self: &Rc<Self>, bytes: &[u8], client: IpAddr, via: Via) -> Reply {
        self.count(Count::Questions);
        let now = Instant::now();
        let settings = self.settings();
        // Reading costs, too: a client whose tokens are used up gets the header back at most.
        if self.limits.borrow_mut().take(client, settings.client_rate, now) == Allowance::Exhausted
        {
            self.count(Count::RateLimited);
            return question::refused(bytes).map_or(Reply::Nothing, Reply::Now);
        }
        let question = match Question::read(bytes, via) {
            Read::Question(question) => question,
            Read::Refused(why, response) => {
                self.count(match why {
                    Why::Malformed => Count::MalformedQuestion,
                    Why::NotSupported => Count::NotSupported,
                });
                return Reply::Now(response);
            }
            Read::Ignored => {
                self.count(Count::MalformedQuestion);
                return Reply::Nothing;
            }
        };
        let Question { name, kind, asked } = question;
        let refuse = |what, code, error| {
            self.count(what);
            asked.response(code, &[], &[], Some(error)).map_or(Reply::Nothing, Reply::Now)
        };
        let not_listed = (Count::NotListed, ResponseCode::Refused, ExtendedError::Blocked);
        let Some(name) = name else {
            let (what, code, error) = not_listed;
            return refuse(what, code, error);
        };
        let standing = match (settings.wanted.covers(&name), settings.outside) {
            (true, _) => Standing::Covered,
            (false, OutsidePolicy::Answer) => Standing::Outside,
            (false, OutsidePolicy::Refuse) => {
                let (what, code, error) = not_listed;
                return refuse(what, code, error);
            }
        };
        let key = Key::new(name, kind, standing);
        if let Some(finished) = self.known(&key, now) {
            self.count(Count::CacheHits);
            let (answers, authorities) = finished.aged(now);
            let response = asked.response(finished.code, &answers, &authorities, finished.error);
            return response.map_or(Reply::Nothing, Reply::Now);
        }
        let Some(waits) = Waits::begin(self, client, settings.max_questions) else {
            return refuse(Count::TooManyQuestions, ResponseCode::ServFail, ExtendedError::Other);
        };
        let asking = self.ask(&key, kind, &settings);
        Reply::Later(Box::pin(async move {
            let finished = asking.await;
            drop(waits);
            let (answers, authorities) = finished.aged(Instant::now());
            asked.response(finished.code, &answers, &authorities, finished.error)
        }))
    }

    /// An answer that is still good, and all of whose addresses are surely in force.
    fn known(&self, key: &Key, now: Instant) -> Option<Rc<Finished>> {
        let forgotten = self.shared.forgotten.load(Ordering::SeqCst);
        let finished = Rc::clone(self.answers.borrow().get(key, forgotten, now)?);
        let Some(learned) = &finished.learned else { return Some(finished) };
        if learned.epoch != self.shared.epoch.load(Ordering::SeqCst)
            || learned.until <= now + ABOUT_TO_END
        {
            return None;
        }
        learned.hits.set(learned.hits.get().saturating_add(1));
        if now.saturating_duration_since(learned.told.get()) >= TELL_INTERVAL
            && let Some(answer) = finished.addresses(now)
        {
            let name = key.name.clone();
            let again =
                Heard::Again { name, answer, hits: learned.hits.get(), since: finished.since };
            // Where the daemon is busy it is told with the next question.
            if self.heard.try_send(again).is_ok() {
                learned.told.set(now);
                learned.hits.set(0);
            }
        }
        Some(finished)
    }

    /// Asks upstream, or waits with those who asked the same before.
    fn ask(self: &Rc<Self>, key: &Key, kind: RecordType, settings: &Arc<Settings>) -> Asking {
        if let Some(asking) = self.asking.borrow().get(key) {
            self.count(Count::Joined);
            return asking.clone();
        }
        let service = Rc::clone(self);
        let settings = Arc::clone(settings);
        let asked = key.clone();
        let asking = async move {
            let now = Instant::now();
            let forgotten = service.shared.forgotten.load(Ordering::SeqCst);
            let good = service.answers.borrow().get(&asked, forgotten, now).map(Rc::clone);
            let finished = match good {
                // It is good but for its addresses, which may not be in force.
                Some(finished) => service.learn_again(&asked, &finished, &settings).await,
                None => service.resolve(&asked, kind, &settings).await,
            };
            let finished = Rc::new(finished);
            service.count(match finished.error {
                None => Count::Answered,
                Some(_) => Count::Failed,
            });
            if finished.error.is_none() {
                let kept = Rc::clone(&finished);
                service.answers.borrow_mut().put(asked.clone(), kept, Instant::now());
            }
            service.asking.borrow_mut().remove(&asked);
            finished
        };
        let asking = asking.boxed_local().shared();
        self.asking.borrow_mut().insert(key.clone(), asking.clone());
        // It goes on for the others, whoever of them gives up.
        tokio::task::spawn_local(asking.clone());
        asking
    }

    async fn resolve(&self, key: &Key, kind: RecordType, settings: &Settings) -> Finished {
        let since = self.shared.forgotten.load(Ordering::SeqCst);
        let failed = |error| Finished::failed(ResponseCode::ServFail, error);
        let Ok(name) = to_name(&key.name) else { return failed(ExtendedError::Other) };
        let response = match settings.resolver.ask(&name, kind, QUESTION_LIMIT).await {
            Ok(response) => response,
            Err(failure) => {
                self.count(Count::UpstreamFailed);
                tracing::debug!(name = %key.name, "not answered: {failure}");
                return failed(ExtendedError::NoReachableAuthority);
            }
        };
        let made = Instant::now();
        let counters = &self.shared.counters;
        let drafted = Draft::new(&name, kind, &response, settings.max_ttl, counters);
        let draft = match drafted {
            Ok(draft) => draft,
            Err(broken) => {
                self.count(match &broken {
                    BrokenChain::Loop(_) => Count::AliasLoop,
                    BrokenChain::TooLong => Count::AliasTooLong,
                    BrokenChain::Forked(_) => Count::AliasForked,
                    BrokenChain::NotAName(_) => Count::AliasNotAName,
                });
                tracing::debug!(name = %key.name, "not answered: {broken}");
                return failed(ExtendedError::Other);
            }
        };
        let ends = made + Duration::from_secs(draft.ttl.into());
        let Draft { code, answers, authorities, addresses, .. } = draft;
        let finished =
            Finished { code, answers, authorities, error: None, made, ends, since, learned: None };
        if key.standing == Standing::Covered && !addresses.records.is_empty() {
            self.learn(key, addresses, finished, settings).await
        } else {
            finished
        }
    }

    /// Learns the addresses of an answer once more.
    async fn learn_again(&self, key: &Key, finished: &Finished, settings: &Settings) -> Finished {
        let now = Instant::now();
        let (answers, authorities) = finished.aged(now);
        let again = Finished {
            code: finished.code,
            answers,
            authorities,
            error: finished.error,
            made: now,
            ends: finished.ends,
            since: finished.since,
            learned: None,
        };
        match finished.addresses(now) {
            Some(addresses) => self.learn(key, addresses, again, settings).await,
            None => again,
        }
    }

    /// Has addresses put in force, and leaves those in the answer that are.
    async fn learn(
        &self,
        key: &Key,
        answer: Answer,
        mut finished: Finished,
        settings: &Settings,
    ) -> Finished {
        let failed = |error| Finished::failed(ResponseCode::ServFail, error);
        // What is taken out of force from here on makes it worthless.
        let epoch = self.shared.epoch.load(Ordering::SeqCst);
        let (reply, learned) = oneshot::channel();
        let heard = Heard::Answer { name: key.name.clone(), answer: answer.clone(), reply };
        let exchange = async {
            self.heard.send(heard).await.ok()?;
            learned.await.ok()
        };
        let InForce { held, refused } = match timeout(settings.learn_within, exchange).await {
            Ok(Some(Ok(in_force))) => in_force,
            Ok(Some(Err(NotInForce)) | None) => {
                self.count(Count::NotInForce);
                return failed(ExtendedError::Other);
            }
            Err(_) => {
                self.count(Count::LearnTimeout);
                return failed(ExtendedError::Other);
            }
        };
        for (address, refusal) in &refused {
            self.count(match refusal {
                Refusal::SpecialPurpose(_) => Count::SpecialPurpose,
                Refusal::Own => Count::Own,
                Refusal::NameFull => Count::NameFull,
                Refusal::RuleFull => Count::RuleFull,
                Refusal::CacheFull => Count::CacheFull,
                Refusal::NotWanted => Count::NotWanted,
            });
            tracing::debug!(name = %key.name, %address, "not learned: {refusal}");
        }
        let Some(until) = held.values().min().copied() else {
            return failed(ExtendedError::Filtered);
        };
        finished.answers.retain(|record| {
            super::chain::address(&record.data).is_none_or(|address| held.contains_key(&address))
        });
        let records = answer.records.into_iter().filter(|(address, _)| held.contains_key(address));
        finished.learned = Some(Learned {
            answer: Answer { records: records.collect(), ..answer },
            until,
            epoch,
            hits: Cell::new(0),
            told: Cell::new(Instant::now()),
        });
        finished
    }
}

/// A client that waits, counted for as long as it does.
struct Waits {
    service: Rc<Service>,
    client: IpAddr,
}

impl Waits {
    /// Lets a client wait, if there is room for it: one alone has an eighth of all.
    fn begin(service: &Rc<Service>, address: IpAddr, most: u32) -> Option<Self> {
        let client = limit::client_of(address);
        let mut waiting = service.waiting.borrow_mut();
        let of_client = waiting.by_client.get(&client).copied().unwrap_or(0);
        if waiting.all >= most || of_client >= most.div_ceil(8) {
            return None;
        }
        waiting.all += 1;
        *waiting.by_client.entry(client).or_default() += 1;
        Some(Self { service: Rc::clone(service), client })
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut waiting = self.service.waiting.borrow_mut();
        waiting.all = waiting.all.saturating_sub(1);
        if let Some(of_client) = waiting.by_client.get_mut(&self.client) {
            *of_client = of_client.saturating_sub(1);
            if *of_client == 0 {
                waiting.by_client.remove(&self.client);
            }
        }
    }
}
