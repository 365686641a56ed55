// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions over TLS, with an authority that is made for the test.

use std::{fs, path::PathBuf};

use futures_util::future::join_all;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::*;
use crate::policy::TlsName;

const LIMIT: Duration = Duration::from_secs(2);

/// An authority, and the file with its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What a server with a certificate for this name or address has.
    fn certificate(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::new(&certificate, &key)
    }
}

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// Key and certificate as text.
    pem: (String, String),
}

impl Identity {
    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            pem: (key.serialize_pem(), certificate.pem()),
        }
    }

    fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::new(&certificate, &key)
    }
}

/// What a server does when a question has come.
enum Act {
    /// It sends these messages.
    Say(Vec<Vec<u8>>),
    /// It closes the connection, in the middle of a response if there is one.
    Close(Vec<u8>),
}

/// A server on 127.0.0.1 for as long as the runtime of the test lives.
struct TlsServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl TlsServer {
    /// The closure gets the question and the number of its connection.
    async fn start(
        identity: Identity,
        act: impl Fn(&Message, usize) -> Act + Clone + 'static,
    ) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate], identity.key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let (acceptor, act) = (acceptor.clone(), act.clone());
                tokio::task::spawn_local(async move {
                    // A client that doesn't like the certificate says so and goes away.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    talk(stream, |question| act(question, number)).await;
                });
            }
        });
        Self { address, connections }
    }

    fn upstream(&self, name: TlsName) -> Upstream {
        Upstream { server: self.address, transport: Transport::Tls(name) }
    }

    fn named(&self, text: &str) -> Upstream {
        self.upstream(TlsName::Name(name(text)))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Answers questions until the client goes away.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, act: impl Fn(&Message) -> Act) {
    while let Ok(length) = stream.read_u16().await {
        // They are evened out (RFC 8467).
        assert_eq!(length % 128, 0, "{length}");
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        match act(&Message::from_vec(&bytes).unwrap()) {
            Act::Say(messages) => {
                for message in messages {
                    stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
                    stream.write_all(&message).await.unwrap();
                }
                stream.flush().await.unwrap();
            }
            Act::Close(half) => {
                stream.write_all(&half).await.unwrap();
                stream.flush().await.unwrap();
                return;
            }
        }
    }
}

fn say(question: &Message) -> Act {
    Act::Say(vec![bytes(&with(question, &["8.8.8.8", "2606:4700::1"]))])
}

fn question(text: &str) -> Name {
    to_name(&name(text)).unwrap()
}

async fn ask(resolver: &Resolver, text: &str) -> Result<Response, LookupFailure> {
    resolver.ask(&question(text), RecordType::A, LIMIT).await
}

#[test]
fn one_connection_serves_all_questions() {
    run(async {
        let authority = Authority::new();
        let server =
            TlsServer::start(authority.certificate("dns.example.net"), |question, _| say(question))
                .await;
        let resolver = Resolver::new(
            &[server.named("dns.example.net")],
            Some(&authority.file()),
            Arc::default(),
        )
        .unwrap();
        for number in 0..3 {
            let answer = resolver.lookup(&name(&format!("n{number}.example.com"))).await.unwrap();
            assert_eq!(addresses(&answer), ["8.8.8.8", "2606:4700::1"]);
        }
        assert_eq!(server.connections(), 1);
        assert_eq!(counted(&resolver), []);
    });
}

#[test]
fn a_certificate_may_be_for_the_address() {
    run(async {
        let authority = Authority::new();
        let server =
            TlsServer::start(authority.certificate("127.0.0.1"), |question, _| say(question)).await;
        let upstream = server.upstream(TlsName::Address(server.address.ip()));
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        assert!(ask(&resolver, "a.example.com").await.is_ok());
    });
}

#[test]
fn fifty_questions_share_a_connection_and_are_answered_backwards() {
    run(async {
        let authority = Authority::new();
        let waiting = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let most = std::rc::Rc::clone(&waiting);
        let server =
            TlsServer::start(authority.certificate("dns.example.net"), move |question, _| {
                let mut waiting = waiting.borrow_mut();
                waiting.push(bytes(&with(question, &["8.8.8.8"])));
                match waiting.len() {
                    50 => Act::Say(waiting.drain(..).rev().collect()),
                    _ => Act::Say(Vec::new()),
                }
            })
            .await;
        let resolver = Resolver::new(
            &[server.named("dns.example.net")],
            Some(&authority.file()),
            Arc::default(),
        )
        .unwrap();
        let names: Vec<String> = (0..50).map(|number| format!("n{number}.example.com")).collect();
        let responses = join_all(names.iter().map(|name| ask(&resolver, name))).await;
        for (name, response) in names.iter().zip(responses) {
            let response = response.unwrap().message;
            assert_eq!(response.queries[0].name, question(name));
            assert_eq!(response.answers[0].name, question(name));
        }
        assert_eq!(server.connections(), 1);
        assert!(most.borrow().is_empty());
    });
}

#[test]
fn who_can_not_prove_the_name_is_not_asked() {
    let authority = Authority::new();
    let other = Authority::new();
    let cases = [
        (authority.certificate("dns.example.org"), "its certificate is for another name"),
        (authority.certificate("*.example.org"), "its certificate is for another name"),
        (authority.certificate("127.0.0.1"), "its certificate is for another name"),
        (other.certificate("dns.example.net"), "signed by no authority that is trusted here"),
        (Identity::self_signed("dns.example.net"), "signed by no authority that is trusted here"),
    ];
    for (identity, expected) in cases {
        run(async {
            let server = TlsServer::start(identity, |_, _| panic!("a question came")).await;
            let upstream = server.named("dns.example.net");
            let resolver =
                Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
            let failure = ask(&resolver, "a.example.com").await.unwrap_err();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert!(failure.to_string().starts_with("tls://127.0.0.1:"), "{failure}");
            assert_eq!(counted(&resolver), [("tls-failed", 2)]);
        });
    }
}

#[test]
fn nothing_is_asked_in_plain_text() {
    run(async {
        let plain = Server::start(|_, _| panic!("a question came")).await;
        let udp = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let authority = Authority::new();
        // There is UDP alone at one of them, and plain text at the other.
        for server in [udp.local_addr().unwrap(), plain.address] {
            let transport = Transport::Tls(TlsName::Name(name("dns.example.net")));
            let upstream = Upstream { server, transport };
            let resolver =
                Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
            assert!(ask(&resolver, "a.example.com").await.is_err());
        }
        assert_eq!(plain.asked.load(Ordering::Relaxed), 0);
        let nothing = udp.try_recv(&mut [0; 512]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_connection_that_breaks_off_is_made_anew() {
    run(async {
        let authority = Authority::new();
        // The first one ends behind half a length, the second in the middle of a message.
        let server =
            TlsServer::start(authority.certificate("dns.example.net"), |question, connection| {
                match connection {
                    0 => Act::Close(vec![0]),
                    2 => Act::Close(vec![0, 200, 1, 2, 3]),
                    _ => say(question),
                }
            })
            .await;
        let upstream = server.named("dns.example.net");
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        assert!(ask(&resolver, "a.example.com").await.is_ok());
        assert_eq!((server.connections(), counted(&resolver)), (2, vec![]));
    });
    run(async {
        let authority = Authority::new();
        let server = TlsServer::start(authority.certificate("dns.example.net"), |_, _| {
            Act::Close(vec![0, 200, 1, 2, 3])
        })
        .await;
        let upstream = server.named("dns.example.net");
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        let failure = ask(&resolver, "a.example.com").await.unwrap_err();
        assert!(failure.to_string().contains("the server closed the connection"), "{failure}");
        // Two tries, each with one connection more.
        assert_eq!((server.connections(), counted(&resolver)), (4, vec![("tls-failed", 2)]));
    });
}

#[test]
fn a_server_that_stops_answering_is_connected_to_anew() {
    run(async {
        let authority = Authority::new();
        let server =
            TlsServer::start(authority.certificate("dns.example.net"), |question, connection| {
                match connection {
                    0 => Act::Say(Vec::new()),
                    _ => say(question),
                }
            })
            .await;
        let upstream = server.named("dns.example.net");
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        assert_eq!(ask(&resolver, "a.example.com").await.unwrap_err(), LookupFailure::Timeout);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(ask(&resolver, "b.example.com").await.is_ok());
        assert_eq!(server.connections(), 2);
    });
}

#[test]
fn what_answers_nothing_is_passed_over() {
    run(async {
        let authority = Authority::new();
        let server = TlsServer::start(authority.certificate("dns.example.net"), |question, _| {
            let mut unasked = with(question, &["6.6.6.6"]);
            unasked.metadata.id ^= 1;
            Act::Say(vec![bytes(&unasked), Vec::new(), bytes(&with(question, &["8.8.8.8"]))])
        })
        .await;
        let upstream = server.named("dns.example.net");
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        let response = ask(&resolver, "a.example.com").await.unwrap();
        assert_eq!(response.message.answers.len(), 1);
        assert_eq!(counted(&resolver), [("wrong-id", 2)]);
    });
    run(async {
        let authority = Authority::new();
        let server = TlsServer::start(authority.certificate("dns.example.net"), |question, _| {
            let mut message = with(question, &["6.6.6.6"]);
            message.queries[0].name = Name::from_ascii("b.example.com.").unwrap();
            Act::Say(vec![bytes(&message)])
        })
        .await;
        let upstream = server.named("dns.example.net");
        let resolver = Resolver::new(&[upstream], Some(&authority.file()), Arc::default()).unwrap();
        let failure = ask(&resolver, "a.example.com").await.unwrap_err();
        assert!(failure.to_string().contains("it answers another question"), "{failure}");
        assert_eq!(counted(&resolver), [("wrong-question", 2)]);
    });
}

#[test]
fn failover_between_servers_over_tls() {
    run(async {
        let authority = Authority::new();
        let wrong =
            TlsServer::start(Identity::self_signed("a.example.net"), |question, _| say(question))
                .await;
        let right =
            TlsServer::start(authority.certificate("b.example.net"), |question, _| say(question))
                .await;
        let upstreams = [wrong.named("a.example.net"), right.named("b.example.net")];
        let resolver = Resolver::new(&upstreams, Some(&authority.file()), Arc::default()).unwrap();
        for number in 0..10 {
            assert!(ask(&resolver, &format!("n{number}.example.com")).await.is_ok());
        }
        assert_eq!((wrong.connections(), right.connections()), (1, 1));
    });
}

#[test]
fn authorities_that_can_not_be_read_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream {
        server: SocketAddr::from((Ipv4Addr::LOCALHOST, 853)),
        transport: Transport::Tls(TlsName::Name(name("dns.example.net"))),
    };
    let write = |text: &str| fs::write(folder.path().join("ca.pem"), text).unwrap();
    let error = |upstreams: &[Upstream]| {
        let result = Resolver::new(upstreams, Some(&folder.path().join("ca.pem")), Arc::default());
        result.err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    let missing = error(std::slice::from_ref(&upstream));
    assert!(missing.starts_with("can't read /"), "{missing}");
    assert!(missing.contains("[dns] tls_ca has to name a file with certificates"), "{missing}");
    write("nonsense\n");
    let empty = error(std::slice::from_ref(&upstream));
    assert!(empty.starts_with("there is no certificate in /"), "{empty}");
    write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let broken = error(std::slice::from_ref(&upstream));
    assert!(broken.contains("ca.pem has a certificate that can't be used"), "{broken}");
    write("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    let no_pem = error(std::slice::from_ref(&upstream));
    assert!(no_pem.contains("ca.pem can't be read as PEM"), "{no_pem}");
    // Where nobody is asked over TLS, nobody needs them.
    assert_eq!(error(&[Upstream { transport: Transport::Plain, ..upstream }]), "");
}

/// unbound as a child; it ends with the test.
struct Unbound {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Unbound {
    /// None if there is no unbound.
    fn start(identity: &Identity) -> Option<Self> {
        let directory = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::env::split_paths(&directory).chain(["/usr/sbin".into()]);
        let program = paths.map(|path| path.join("unbound")).find(|path| path.is_file())?;
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (key, pem) = &identity.pem;
        fs::write(path("key.pem"), key).unwrap();
        fs::write(path("server.pem"), pem).unwrap();
        let port = address.port();
        let configuration = format!(
            "server:\n interface: 127.0.0.1@{port}\n tls-port: {port}\n tls-service-key: {key:?}\n \
             tls-service-pem: {pem:?}\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n \
             directory: {folder:?}\n do-daemonize: no\n use-syslog: no\n num-threads: 1\n \
             module-config: \"iterator\"\n local-zone: \"example.com.\" static\n \
             local-data: \"www.example.com. 77 IN A 8.8.8.8\"\n \
             local-data: \"www.example.com. 77 IN AAAA 2606:4700::1\"\n\
             remote-control:\n control-enable: no\n",
            key = path("key.pem"),
            pem = path("server.pem"),
            folder = folder.path(),
        );
        fs::write(path("unbound.conf"), configuration).unwrap();
        let child = Command::new(program)
            .args(["-d", "-p", "-c", &path("unbound.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, address, _folder: folder })
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about that here.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_real_server_is_understood_over_tls() {
    let authority = Authority::new();
    let Some(server) = Unbound::start(&authority.certificate("dns.example.net")) else {
        println!("skipped: unbound: not installed (Debian: apt-get install unbound)");
        return;
    };
    run(async {
        let upstream = |text: &str| Upstream {
            server: server.address,
            transport: Transport::Tls(TlsName::Name(name(text))),
        };
        let made = |text: &str| {
            Resolver::new(&[upstream(text)], Some(&authority.file()), Arc::default()).unwrap()
        };
        let mut answer = Err(LookupFailure::Timeout);
        for _ in 0..100 {
            answer = made("dns.example.net").lookup(&name("www.example.com")).await;
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let expected = [(address("8.8.8.8"), 77), (address("2606:4700::1"), 77)];
        assert_eq!(answer.unwrap().records, expected);
        let resolver = made("dns.example.net");
        let names: Vec<Fqdn> = (0..100).map(|i| name(&format!("n{i}.example.com"))).collect();
        let answers = join_all(names.iter().map(|name| resolver.lookup(name))).await;
        assert!(answers.iter().all(|answer| *answer == Err(LookupFailure::NxDomain)));
        assert_eq!(counted(&resolver), []);
        let failure = made("dns.example.org").lookup(&name("www.example.com")).await.unwrap_err();
        assert!(failure.to_string().contains("for another name"), "{failure}");
    });
}
