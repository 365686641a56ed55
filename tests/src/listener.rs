// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that answer whoever reaches them: the other end of a probe.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Namespace;

/// How soon the thread looks whether it should end.
const LOOK: u16 = 20;

/// TCP and UDP servers in a namespace; they end when this is dropped.
///
/// A TCP server answers each connection with one line, `tcp ADDRESS:PORT`, that names the address
/// it was reached at; a UDP server sends each datagram back.
#[derive(Debug)]
pub struct Listeners {
    stop: Arc<AtomicBool>,
    reached: Arc<Mutex<BTreeMap<(Transport, SocketAddr), u64>>>,
    thread: Option<JoinHandle<()>>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

// === impl Listeners ===

impl Listeners {
    /// Listens on TCP ports of every address, and on these UDP addresses. (A UDP server on the
    /// wildcard address would answer from another address than it was asked at.)
    ///
    /// # Errors
    ///
    /// If a port is taken.
    pub fn start(
        namespace: &Namespace,
        tcp: impl IntoIterator<Item = u16>,
        udp: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self> {
        let (tcp, udp): (Vec<_>, Vec<_>) = (tcp.into_iter().collect(), udp.into_iter().collect());
        let (tcp, udp) = namespace.enter(|| -> Result<_> {
            let tcp: Vec<_> = tcp.into_iter().map(listen).collect::<Result<_>>()?;
            let udp: Vec<_> = udp.into_iter().map(bind).collect::<Result<_>>()?;
            Ok((tcp, udp))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let reached = Arc::default();
        let thread = thread::spawn({
            let (stop, reached) = (Arc::clone(&stop), Arc::clone(&reached));
            move || serve(&tcp, &udp, &stop, &reached)
        });
        Ok(Self { stop, reached, thread: Some(thread) })
    }

    /// How often a server was reached: connections, or datagrams.
    #[must_use]
    pub fn reached(&self, transport: Transport, address: SocketAddr) -> u64 {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.get(&(transport, address)).copied().unwrap_or_default()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    // The IPv6 wildcard takes IPv4 as well.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("TCP port {port}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("UDP {address}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn serve(
    tcp: &[TcpListener],
    udp: &[UdpSocket],
    stop: &AtomicBool,
    reached: &Mutex<BTreeMap<(Transport, SocketAddr), u64>>,
) {
    let count = |transport, address| {
        let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
        *reached.entry((transport, address)).or_default() += 1;
    };
    let mut waiting: Vec<_> = tcp
        .iter()
        .map(|listener| listener.as_fd())
        .chain(udp.iter().map(|socket| socket.as_fd()))
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    let mut datagram = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // An interrupted call is like one whose time is over.
        let _ = poll(&mut waiting, PollTimeout::from(LOOK));
        for listener in tcp {
            while let Ok((mut stream, _)) = listener.accept() {
                let Ok(local) = stream.local_addr() else { continue };
                let local = canonical(local);
                count(Transport::Tcp, local);
                // The client may be gone already.
                let _ = stream.write_all(format!("tcp {local}\n").as_bytes());
            }
        }
        for socket in udp {
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                if let Ok(local) = socket.local_addr() {
                    count(Transport::Udp, local);
                }
                let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
            }
        }
    }
}

/// An IPv4 address that a dual-stack socket shows as IPv6, as itself.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// How long a listener may take to see the end of its work; for callers that wait for counts.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(LOOK as u64);
