// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of questions that an upstream doesn't answer.

use super::*;
use crate::dns::upstream::HOLD_DOWN;

/// A server that is there and says nothing.
async fn silent() -> Server {
    Server::start(|_, _| Vec::new()).await
}

async fn good() -> Server {
    Server::start(|question, _| vec![bytes(&with(question, &["8.8.8.8"]))]).await
}

async fn failing(code: ResponseCode) -> Server {
    Server::start(move |question, _| vec![bytes(&empty(question, code))]).await
}

fn question(text: &str) -> Name {
    to_name(&name(text)).unwrap()
}

const LIMIT: Duration = Duration::from_secs(4);

#[test]
fn a_dead_upstream_costs_a_moment_once() {
    run(async {
        let (dead, good) = (silent().await, good().await);
        let resolver = plain(&[dead.address, good.address]);
        let start = Instant::now();
        let response = resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await;
        assert_eq!(response.unwrap().message.answers.len(), 1);
        let first = start.elapsed();
        assert!(first < Duration::from_millis(600), "{first:?}");
        let start = Instant::now();
        for number in 0..100 {
            let name = question(&format!("n{number}.example.com"));
            assert!(resolver.ask(&name, RecordType::A, LIMIT).await.is_ok());
        }
        // Had each waited for the dead one, it would be 30 s.
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(dead.asked.load(Ordering::Relaxed), 1);
        assert_eq!(counted(&resolver), [("upstream-timeout", 1)]);
    });
}

#[test]
fn an_upstream_that_recovers_is_asked_again() {
    run(async {
        let (dead, good) = (silent().await, good().await);
        let resolver = plain(&[dead.address, good.address]);
        assert!(resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await.is_ok());
        let order = |at: Instant| -> Vec<SocketAddr> {
            resolver.order(at).iter().map(|upstream| upstream.server()).collect()
        };
        let (well, held_down) = ([dead.address, good.address], [good.address, dead.address]);
        let now = Instant::now();
        assert_eq!(order(now), held_down);
        // A single question finds out for all others.
        assert_eq!(order(now + HOLD_DOWN), well);
        assert_eq!(order(now + HOLD_DOWN), held_down);
        assert_eq!(order(now + 2 * HOLD_DOWN - Duration::from_millis(1)), held_down);
        assert_eq!(order(now + 2 * HOLD_DOWN), well);
    });
}

#[test]
fn whoever_is_dead_comes_after_whoever_complains() {
    run(async {
        let (dead, complaining) = (silent().await, failing(ResponseCode::ServFail).await);
        let resolver = plain(&[dead.address, complaining.address]);
        // Both fail at this name, which anybody may have made so.
        let failure = resolver.ask(&question("broken.example.com"), RecordType::A, LIMIT).await;
        assert_eq!(failure.unwrap_err(), LookupFailure::ServFail);
        let order = resolver.order(Instant::now());
        assert_eq!(order.first().map(|upstream| upstream.server()), Some(complaining.address));
    });
}

#[test]
fn what_says_nothing_about_the_name_is_asked_elsewhere() {
    use ResponseCode::{FormErr, NotImp, Refused, ServFail};
    for (code, count) in [
        (ServFail, "upstream-servfail"),
        (Refused, "upstream-refused"),
        (NotImp, "upstream-servfail"),
        (FormErr, "upstream-servfail"),
    ] {
        run(async {
            let (bad, good) = (failing(code).await, good().await);
            let resolver = plain(&[bad.address, good.address]);
            let start = Instant::now();
            let response = resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await;
            assert_eq!(response.unwrap().resolver, good.address.ip());
            assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
            assert_eq!(counted(&resolver), [(count, 1)]);
        });
    }
}

#[test]
fn a_closed_port_is_passed_over_at_once() {
    run(async {
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let good = good().await;
        let resolver = plain(&[closed, good.address]);
        let start = Instant::now();
        assert!(resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await.is_ok());
        assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
        assert_eq!(counted(&resolver), [("upstream-unreachable", 1)]);
    });
}

#[test]
fn a_lost_datagram_is_sent_again() {
    run(async {
        let seen = AtomicUsize::new(0);
        let server = Server::start(move |question, _| match seen.fetch_add(1, Ordering::Relaxed) {
            0 => Vec::new(),
            _ => vec![bytes(&with(question, &["8.8.8.8"]))],
        })
        .await;
        let resolver = server.resolver();
        let start = Instant::now();
        assert!(resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await.is_ok());
        assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        let upstreams = resolver.upstreams();
        let [(_, health)] = &upstreams[..] else { panic!("one upstream") };
        assert!(health.last_success.is_some());
    });
}

#[test]
fn the_limit_holds() {
    run(async {
        let (one, other) = (silent().await, silent().await);
        for upstreams in [vec![one.address], vec![one.address, other.address]] {
            let resolver = plain(&upstreams);
            let start = Instant::now();
            let limit = Duration::from_millis(400);
            let failure = resolver.ask(&question("a.example.com"), RecordType::A, limit).await;
            assert_eq!(failure.unwrap_err(), LookupFailure::Timeout);
            assert!(start.elapsed() >= limit);
            assert!(start.elapsed() < limit * 2, "{:?}", start.elapsed());
        }
        // Twice alone; then both, and the first once more.
        let asked = [&one, &other].map(|server| server.asked.load(Ordering::Relaxed));
        assert_eq!(asked, [4, 1]);
    });
}

#[test]
fn any_type_is_asked_for_and_denials_are_statements() {
    run(async {
        let server = Server::start(|question, _| {
            let code = match question.queries[0].query_type {
                RecordType::HTTPS => ResponseCode::NoError,
                _ => ResponseCode::NXDomain,
            };
            vec![bytes(&empty(question, code))]
        })
        .await;
        let resolver = server.resolver();
        for (kind, code) in
            [(RecordType::HTTPS, ResponseCode::NoError), (RecordType::TXT, ResponseCode::NXDomain)]
        {
            let response = resolver.ask(&question("a.example.com"), kind, LIMIT).await.unwrap();
            assert_eq!(response.message.metadata.response_code, code);
            assert_eq!(response.message.queries[0].query_type, kind);
        }
        assert_eq!(server.asked.load(Ordering::Relaxed), 2);
        assert_eq!(counted(&resolver), []);
    });
}

#[test]
fn a_referral_is_no_statement() {
    run(async {
        let lame = Server::start(|question, _| {
            let mut message = empty(question, ResponseCode::NoError);
            message.metadata.recursion_available = false;
            let ns = RData::NS(NS(Name::from_ascii("ns.example.com.").unwrap()));
            let zone = Name::from_ascii("example.com.").unwrap();
            message.add_authority(Record::from_rdata(zone, 60, ns));
            vec![bytes(&message)]
        })
        .await;
        let good = good().await;
        let resolver = plain(&[lame.address, good.address]);
        let response = resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await;
        assert_eq!(response.unwrap().message.answers.len(), 1);
        assert_eq!(counted(&resolver), [("upstream-lame", 1)]);
    });
}

/// The forwarder has a thread of its own.
#[test]
fn a_resolver_is_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    fn sent<T: Send>(_: &T) {}
    let resolver = plain(&[]);
    shared(&resolver);
    let name = question("a.example.com");
    sent(&resolver.ask(&name, RecordType::A, LIMIT));
}

#[test]
fn nobody_is_asked_again_for_what_it_has_said() {
    run(async {
        let (one, other) =
            (failing(ResponseCode::ServFail).await, failing(ResponseCode::Refused).await);
        let resolver = plain(&[one.address, other.address]);
        let failure = resolver.ask(&question("a.example.com"), RecordType::A, LIMIT).await;
        assert_eq!(failure.unwrap_err(), LookupFailure::ServFail);
        let asked = [&one, &other].map(|server| server.asked.load(Ordering::Relaxed));
        assert_eq!(asked, [1, 1]);
    });
}
