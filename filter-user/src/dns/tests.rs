// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups against servers on the loopback: a small one that says what a test wants, and
//! dnsmasq.

mod failover;
mod over_tls;
mod raw;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{
        RData, Record,
        rdata::{CNAME, NS},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    names::{NameCache, NameState, Settings, Wanted},
    policy::{self, SpecialPurpose, Transport, Upstream},
};

/// The datagrams that a server sends for a question, in order.
type Respond = fn(&Message) -> Vec<Vec<u8>>;

/// Over which transport a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Udp,
    Tcp,
}

/// A server on 127.0.0.1 for as long as the runtime of the test lives. It sends every datagram
/// that the closure gives, in order.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(respond: impl Fn(&Message, Via) -> Vec<Vec<u8>> + 'static) -> Self {
        let tcp = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = tokio::net::UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 4096];
            loop {
                tokio::select! {
                    received = udp.recv_from(&mut buffer) => {
                        let (length, peer) = received.unwrap();
                        counter.fetch_add(1, Ordering::Relaxed);
                        let question = Message::from_vec(&buffer[..length]).unwrap();
                        for datagram in respond(&question, Via::Udp) {
                            udp.send_to(&datagram, peer).await.unwrap();
                        }
                    }
                    accepted = tcp.accept() => {
                        let mut stream = accepted.unwrap().0;
                        let length = stream.read_u16().await.unwrap();
                        let mut bytes = vec![0; usize::from(length)];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let question = Message::from_vec(&bytes).unwrap();
                        for response in respond(&question, Via::Tcp) {
                            let length = u16::try_from(response.len()).unwrap();
                            stream.write_u16(length).await.unwrap();
                            stream.write_all(&response).await.unwrap();
                        }
                    }
                }
            }
        });
        Self { address, asked }
    }

    fn resolver(&self) -> Resolver {
        plain(&[self.address])
    }
}

/// A resolver that asks these, over UDP and TCP.
fn plain(servers: &[SocketAddr]) -> Resolver {
    let upstream = |server: &SocketAddr| Upstream { server: *server, transport: Transport::Plain };
    let upstreams: Vec<Upstream> = servers.iter().map(upstream).collect();
    Resolver::new(&upstreams, None, Arc::default()).unwrap()
}

/// What was counted, without what was not.
fn counted(resolver: &Resolver) -> Vec<(&'static str, u64)> {
    resolver.counters.all().into_iter().filter(|(_, count)| *count > 0).collect()
}

/// A runtime as the daemon has it: one thread.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

fn name(text: &str) -> Fqdn {
    Fqdn::try_from(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An empty response to a question.
fn empty(question: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_query(question.queries[0].clone());
    message
}

/// A response with those of the addresses that the question is about.
fn with(question: &Message, addresses: &[&str]) -> Message {
    let mut message = empty(question, ResponseCode::NoError);
    let owner = question.queries[0].name.clone();
    for text in addresses {
        let data = match text.parse().unwrap() {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        };
        if data.record_type() == question.queries[0].query_type {
            message.add_answer(Record::from_rdata(owner.clone(), 300, data));
        }
    }
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

fn addresses(answer: &Answer) -> Vec<String> {
    answer.records.iter().map(|(address, _)| address.to_string()).collect()
}

#[test]
fn both_families_are_asked_with_edns_and_random_case() {
    run(async {
        let server = Server::start(|question, via| {
            assert_eq!(via, Via::Udp);
            assert_eq!(question.max_payload(), 1232);
            assert!(question.metadata.recursion_desired);
            let asked = question.queries[0].name.to_ascii();
            assert_ne!(asked, asked.to_ascii_lowercase(), "64 letters, all of them small");
            vec![bytes(&with(question, &["8.8.8.8", "2606:4700::1"]))]
        })
        .await;
        let long = format!("{}.{}.example", "a".repeat(32), "b".repeat(32));
        let answer = server.resolver().lookup(&name(&long)).await.unwrap();
        assert_eq!(addresses(&answer), ["8.8.8.8", "2606:4700::1"]);
        assert_eq!(answer.records[0].1, 300);
        assert_eq!(answer.resolver, address("127.0.0.1"));
        assert_eq!(answer.missing, None);
        assert_eq!(server.asked.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn negative_answers_are_told_apart_and_not_asked_again() {
    use ResponseCode::{NXDomain, NoError, NotImp, Refused, ServFail};
    for (code, expected, questions) in [
        (NXDomain, "nxdomain", 2),
        (NoError, "no-data", 2),
        (ServFail, "servfail", 4),
        (Refused, "refused", 4),
        (NotImp, "other", 4),
    ] {
        run(async {
            let respond = move |question: &Message, _| vec![bytes(&empty(question, code))];
            let server = Server::start(respond).await;
            let failure = server.resolver().lookup(&name("a.example.com")).await.unwrap_err();
            assert_eq!(failure.code(), expected);
            assert_eq!(server.asked.load(Ordering::Relaxed), questions, "{expected}");
        });
    }
}

#[test]
fn one_family_is_enough() {
    for (code, missing) in [
        (ResponseCode::NoError, None),
        (ResponseCode::NXDomain, None),
        (ResponseCode::ServFail, Some(LookupFailure::ServFail)),
    ] {
        run(async {
            let server = Server::start(move |question, _| {
                let response = match question.queries[0].query_type {
                    RecordType::A => with(question, &["8.8.8.8"]),
                    _ => empty(question, code),
                };
                vec![bytes(&response)]
            })
            .await;
            let answer = server.resolver().lookup(&name("a.example.com")).await.unwrap();
            assert_eq!(addresses(&answer), ["8.8.8.8"]);
            assert_eq!(answer.missing, missing);
        });
    }
}

#[test]
fn only_the_chain_of_the_answer_section_counts() {
    run(async {
        let server = Server::start(|question, _| {
            let mut message = empty(question, ResponseCode::NoError);
            let asked = question.queries[0].name.clone();
            let alias = Name::from_ascii("alias.example.net.").unwrap();
            let evil = |text: &str| RData::A(text.parse::<Ipv4Addr>().unwrap().into());
            let v6 = RData::AAAA("2606:4700::1".parse::<Ipv6Addr>().unwrap().into());
            message.add_answer(Record::from_rdata(alias.clone(), 1000, evil("8.8.8.8")));
            message.add_answer(Record::from_rdata(alias.clone(), 1000, v6));
            message.add_answer(Record::from_rdata(asked.clone(), 30, RData::CNAME(CNAME(alias))));
            let other = Name::from_ascii("other.example.net.").unwrap();
            message.add_answer(Record::from_rdata(other, 1000, evil("6.6.6.1")));
            message.add_authority(Record::from_rdata(asked.clone(), 1000, evil("6.6.6.2")));
            message.add_additional(Record::from_rdata(asked, 1000, evil("6.6.6.3")));
            vec![bytes(&message)]
        })
        .await;
        let answer = server.resolver().lookup(&name("a.example.com")).await.unwrap();
        let expected = [(address("8.8.8.8"), 30), (address("2606:4700::1"), 30)];
        assert_eq!(answer.records, expected);
        assert_eq!(answer.chain, [name("alias.example.net")]);
    });
}

#[test]
fn forged_datagrams_are_passed_over() {
    run(async {
        let server = Server::start(|question, via| {
            assert_eq!(via, Via::Udp);
            let mut wrong_id = with(question, &["6.6.6.1"]);
            wrong_id.metadata.id ^= 1;
            let mut wrong_name = with(question, &["6.6.6.2"]);
            wrong_name.queries[0].name = Name::from_ascii("b.example.com.").unwrap();
            let mut wrong_type = with(question, &["6.6.6.3"]);
            wrong_type.queries[0].query_type = RecordType::TXT;
            let mut no_question = with(question, &["6.6.6.4"]);
            no_question.queries.clear();
            let mut garbage = bytes(&with(question, &["6.6.6.5"]));
            garbage.truncate(20);
            let mut a_question = with(question, &["6.6.6.6"]);
            a_question.metadata.message_type = MessageType::Query;
            let mut all: Vec<_> = [wrong_id, wrong_name, wrong_type, no_question, a_question]
                .iter()
                .map(bytes)
                .collect();
            // A pointer that points at itself.
            let mut circle = bytes(question)[..12].to_vec();
            circle[2] |= 0x80;
            circle.extend([0xc0, 12, 0, 1, 0, 1]);
            all.extend([garbage, circle, Vec::new(), bytes(&with(question, &["8.8.8.8"]))]);
            all
        })
        .await;
        let answer = server.resolver().lookup(&name("a.example.com")).await.unwrap();
        assert_eq!(addresses(&answer), ["8.8.8.8"]);
    });
}

#[test]
fn truncation_other_case_and_a_flood_lead_to_tcp() {
    let truncated = |question: &Message| {
        let mut message = with(question, &["6.6.6.6"]);
        message.metadata.truncation = true;
        vec![bytes(&message)]
    };
    let other_case = |question: &Message| {
        let mut message = with(question, &["6.6.6.6"]);
        let flip = |byte: &u8| byte ^ if byte.is_ascii_alphabetic() { 0x20 } else { 0 };
        let labels: Vec<Vec<u8>> =
            message.queries[0].name.iter().map(|label| label.iter().map(flip).collect()).collect();
        let mut flipped = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        flipped.set_fqdn(true);
        message.queries[0].name = flipped;
        vec![bytes(&message)]
    };
    let flood = |question: &Message| {
        let mut message = with(question, &["6.6.6.6"]);
        message.metadata.id ^= 1;
        vec![bytes(&message); 20]
    };
    for udp in [truncated as Respond, other_case, flood] {
        run(async {
            let server = Server::start(move |question, via| match via {
                Via::Udp => udp(question),
                Via::Tcp => vec![bytes(&with(question, &["8.8.8.8"]))],
            })
            .await;
            let answer = server.resolver().lookup(&name("a.example.com")).await.unwrap();
            assert_eq!(addresses(&answer), ["8.8.8.8"]);
        });
    }
}

#[test]
fn silence_ends_in_time() {
    run(async {
        let server = Server::start(|_, _| Vec::new()).await;
        let start = Instant::now();
        let failure = server.resolver().lookup(&name("a.example.com")).await.unwrap_err();
        assert_eq!(failure, LookupFailure::Timeout);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(server.asked.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn a_closed_port_is_told_at_once() {
    run(async {
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let start = Instant::now();
        let failure = plain(&[closed]).lookup(&name("a.example.com")).await.unwrap_err();
        assert!(failure.to_string().contains("nothing listens at 127.0.0.1:"), "{failure}");
        assert!(start.elapsed() < Duration::from_secs(1));
        let none = plain(&[]).lookup(&name("a.example.com")).await.unwrap_err();
        assert_eq!(none.to_string(), "no upstream resolver is configured");
    });
}

#[test]
fn a_failing_upstream_is_passed_over() {
    run(async {
        let bad =
            Server::start(|question, _| vec![bytes(&empty(question, ResponseCode::ServFail))])
                .await;
        let good = Server::start(|question, _| vec![bytes(&with(question, &["8.8.8.8"]))]).await;
        let resolver = plain(&[bad.address, good.address]);
        assert!(resolver.lookup(&name("a.example.com")).await.is_ok());
        assert_eq!(bad.asked.load(Ordering::Relaxed), 2);
        // From now on the other one comes first.
        assert!(resolver.lookup(&name("b.example.com")).await.is_ok());
        assert_eq!(bad.asked.load(Ordering::Relaxed), 2);
        let [(_, first), (_, second)] = &resolver.upstreams()[..] else { panic!("two upstreams") };
        assert!(first.last_success.is_none() && first.last_failure.is_some());
        assert!(second.last_success.is_some() && second.last_failure.is_none());
    });
}

#[test]
fn a_server_that_only_refers_is_no_resolver() {
    run(async {
        let server = Server::start(|question, _| {
            let mut message = empty(question, ResponseCode::NoError);
            message.metadata.recursion_available = false;
            let ns = RData::NS(NS(Name::from_ascii("ns.example.com.").unwrap()));
            let zone = Name::from_ascii("example.com.").unwrap();
            message.add_authority(Record::from_rdata(zone, 60, ns));
            vec![bytes(&message)]
        })
        .await;
        let failure = server.resolver().lookup(&name("a.example.com")).await.unwrap_err();
        assert!(failure.to_string().contains("only refers to other servers"), "{failure}");
    });
}

#[test]
fn what_is_told_of_two_failures() {
    use LookupFailure::{NoData, NxDomain, ServFail, Timeout};
    for (first, second, expected) in [
        (NoData, NoData, NoData),
        (NoData, NxDomain, NxDomain),
        (NxDomain, NoData, NxDomain),
        (NoData, ServFail, ServFail),
        (Timeout, NxDomain, Timeout),
        (ServFail, Timeout, ServFail),
    ] {
        assert_eq!(combine(Err(first), Err(second)), Err(expected));
    }
}

/// The loop that a daemon makes of cache and resolver.
#[test]
fn many_names_are_looked_up_a_few_at_a_time() {
    run(async {
        let server = Server::start(|question, _| {
            // One name fails; it must not hold up the others.
            let failing = Name::from_ascii("n7.example.com.").unwrap();
            let response = if question.queries[0].name == failing {
                empty(question, ResponseCode::ServFail)
            } else {
                with(question, &["8.8.8.8", "2606:4700::1"])
            };
            vec![bytes(&response)]
        })
        .await;
        let settings = Settings { max_lookups: 16, ..Settings::from(&policy::Dns::default()) };
        // The cache's clock stands still, so that no name is asked for twice.
        let now = Instant::now();
        let mut cache = NameCache::new(settings, 1);
        let names: BTreeMap<Fqdn, SpecialPurpose> = (0..500)
            .map(|i| (name(&format!("n{i}.example.com")), SpecialPurpose::Refused))
            .collect();
        cache.set_wanted(Arc::new(Wanted::only_exact(&names)), now);
        let resolver = Arc::new(server.resolver());
        let mut running = tokio::task::JoinSet::new();
        let mut most = 0;
        loop {
            for name in cache.due(now) {
                let resolver = Arc::clone(&resolver);
                running.spawn(async move {
                    let result = resolver.lookup(&name).await;
                    (name, result)
                });
            }
            most = most.max(running.len());
            let Some(done) = running.join_next().await else { break };
            let (name, result) = done.unwrap();
            cache.answer(&name, result, now);
        }
        assert_eq!(most, 16);
        assert_eq!(cache.snapshot().addresses.len(), 499);
        let report = cache.report(now);
        let failing: Vec<_> =
            report.names.iter().filter(|name| name.state != NameState::Resolved).collect();
        assert_eq!(failing.len(), 1);
        assert_eq!(failing[0].name, name("n7.example.com"));
        assert!(matches!(failing[0].state, NameState::NeverResolved { code: "servfail", .. }));
    });
}

/// dnsmasq as a child; it ends with the test.
struct Dnsmasq {
    child: Child,
    address: SocketAddr,
}

impl Dnsmasq {
    /// None if there is no dnsmasq.
    fn start(options: &[&str]) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let base = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
        ];
        let directory = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::env::split_paths(&directory).chain(["/usr/sbin".into()]);
        let program = paths.map(|path| path.join("dnsmasq")).find(|path| path.is_file())?;
        let child = Command::new(program)
            .args(base)
            .arg(format!("--port={}", port.port()))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, address: port })
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about that here.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_real_server_is_understood() {
    let options = [
        "--local=/example.com/",
        "--local-ttl=77",
        "--host-record=www.example.com,8.8.8.8,2606:4700::1",
        "--host-record=four.example.com,8.8.4.4",
        "--cname=alias.example.com,middle.example.com",
        "--cname=middle.example.com,www.example.com",
    ];
    let Some(server) = Dnsmasq::start(&options) else {
        println!("skipped: dnsmasq: not installed (Debian: apt-get install dnsmasq-base)");
        return;
    };
    run(async {
        let resolver = plain(&[server.address]);
        let mut answer = resolver.lookup(&name("alias.example.com")).await;
        for _ in 0..50 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = resolver.lookup(&name("alias.example.com")).await;
        }
        let answer = answer.unwrap();
        let expected = [(address("8.8.8.8"), 77), (address("2606:4700::1"), 77)];
        assert_eq!(answer.records, expected);
        assert_eq!(answer.chain, [name("middle.example.com"), name("www.example.com")]);

        let four = resolver.lookup(&name("four.example.com")).await.unwrap();
        assert_eq!((addresses(&four), four.missing), (vec!["8.8.4.4".to_owned()], None));
        let none = resolver.lookup(&name("none.example.com")).await;
        assert_eq!(none, Err(LookupFailure::NxDomain));
        let elsewhere = resolver.lookup(&name("www.example.org")).await;
        assert_eq!(elsewhere, Err(LookupFailure::Refused));
    });
}
