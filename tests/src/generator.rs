// SPDX-License-Identifier: MIT OR Apache-2.0
//! A steady stream of numbered packets, of which every single one is accounted for.

pub mod live;

use std::{
    fmt,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

use crate::{netns::Namespace, probe};

/// The pause between two looks at the clock.
const TICK: Duration = Duration::from_micros(300);

/// Packets to each destination at one go, at most: after a pause in which the machine did other
/// things, a longer burst could overrun a queue of the kernel, and look like a drop of the filter.
const BURST: u32 = 8;

/// How long the last packets may be under way.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// Bytes of a receiving socket's queue: seconds of the stream.
const QUEUE: usize = 16 << 20;

/// A running stream from a client to two destinations.
#[derive(Debug)]
pub struct Stream {
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    sender: JoinHandle<Result<Sent>>,
    receiver: JoinHandle<[Vec<u16>; 2]>,
}

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// To the destination that the policy allows.
    pub allowed: Tally,
    /// To the destination that the policy denies.
    pub denied: Tally,
    /// How long was sent.
    pub duration: Duration,
}

/// What became of the packets to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that were sent.
    pub sent: u32,
    /// Packets that arrived, each counted once.
    pub received: u32,
    /// The numbers of those that did not arrive, in order.
    pub missing: Vec<u32>,
    /// Packets that arrived again.
    pub duplicates: u32,
}

struct Sent {
    packets: u32,
    duration: Duration,
}

// === impl Stream ===

impl Stream {
    /// Starts to send datagrams from `client`, `rate` a second to each of two UDP addresses that
    /// are received in `internet`.
    ///
    /// # Errors
    ///
    /// If a socket can't be made.
    pub fn start(
        client: &Namespace,
        internet: &Namespace,
        [allowed, denied]: [SocketAddr; 2],
        rate: u32,
    ) -> Result<Self> {
        let receivers =
            internet.enter(|| -> Result<_> { Ok([receiver(allowed)?, receiver(denied)?]) })??;
        let senders =
            client.enter(|| -> Result<_> { Ok([sender(allowed)?, sender(denied)?]) })??;
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_receiving = Arc::new(AtomicBool::new(false));
        Ok(Self {
            sender: thread::spawn({
                let stop = Arc::clone(&stop_sending);
                move || send(&senders, rate, &stop)
            }),
            receiver: thread::spawn({
                let stop = Arc::clone(&stop_receiving);
                move || receive(&receivers, &stop)
            }),
            stop_sending,
            stop_receiving,
        })
    }

    /// Ends the stream, waits for the last packets and counts.
    ///
    /// # Errors
    ///
    /// If a packet could not be sent.
    pub fn finish(self) -> Result<Report> {
        self.stop_sending.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_panic| anyhow!("the sender panicked"))?;
        thread::sleep(UNDER_WAY);
        self.stop_receiving.store(true, Ordering::Relaxed);
        let [allowed, denied] =
            self.receiver.join().map_err(|_panic| anyhow!("the receiver panicked"))?;
        let Sent { packets, duration } = sent?;
        Ok(Report {
            allowed: Tally::new(packets, &allowed),
            denied: Tally::new(packets, &denied),
            duration,
        })
    }
}

fn receiver(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("UDP {address}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).context("the queue of the receiver")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn sender(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((probe::wildcard(to.ip()), 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn send(sockets: &[UdpSocket; 2], rate: u32, stop: &AtomicBool) -> Result<Sent> {
    let begin = Instant::now();
    let mut packets = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        let mut burst = 0;
        while u128::from(packets) < due && burst < BURST {
            for socket in sockets {
                socket.send(&packets.to_be_bytes()).context("a packet of the stream")?;
            }
            packets += 1;
            burst += 1;
        }
        thread::sleep(TICK);
    }
    Ok(Sent { packets, duration: begin.elapsed() })
}

/// Counts how often each number arrives.
fn receive(sockets: &[UdpSocket; 2], stop: &AtomicBool) -> [Vec<u16>; 2] {
    let mut arrived = [Vec::new(), Vec::new()];
    let mut waiting: Vec<_> =
        sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    let mut datagram = [0; 4];
    loop {
        let last = stop.load(Ordering::Relaxed);
        // An interrupted call is like one whose time is over.
        let _ = poll(&mut waiting, PollTimeout::from(10u16));
        for (socket, arrived) in sockets.iter().zip(&mut arrived) {
            while socket.recv(&mut datagram).is_ok() {
                count(arrived, u32::from_be_bytes(datagram));
            }
        }
        if last {
            return arrived;
        }
    }
}

fn count(arrived: &mut Vec<u16>, number: u32) {
    let Ok(index) = usize::try_from(number) else { return };
    if arrived.len() <= index {
        arrived.resize(index + 1, 0);
    }
    if let Some(times) = arrived.get_mut(index) {
        *times = times.saturating_add(1);
    }
}

// === impl Tally ===

impl Tally {
    fn new(sent: u32, arrived: &[u16]) -> Self {
        let mut tally = Self { sent, ..Self::default() };
        for (number, times) in (0..sent).zip(arrived.iter().chain(std::iter::repeat(&0))) {
            match times {
                0 => tally.missing.push(number),
                times => {
                    tally.received += 1;
                    tally.duplicates += u32::from(times - 1);
                }
            }
        }
        tally
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s; allowed: {} sent, {} lost, {} twice; denied: {} sent, {} passed",
            self.duration.as_secs_f64(),
            self.allowed.sent,
            self.allowed.missing.len(),
            self.allowed.duplicates,
            self.denied.sent,
            self.denied.received,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_accounts_for_every_number() {
        let mut arrived = Vec::new();
        for number in [0, 2, 2, 3] {
            count(&mut arrived, number);
        }
        let expected = Tally { sent: 6, received: 3, missing: vec![1, 4, 5], duplicates: 1 };
        assert_eq!(Tally::new(6, &arrived), expected);
    }
}
