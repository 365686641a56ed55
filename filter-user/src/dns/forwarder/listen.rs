// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets that clients ask at.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{JoinHandle, spawn_local},
    time::timeout,
};

use super::{Reply, Service, question::Via};
use crate::{dns::count::Count, policy::Upstream};

/// The longest message that is read over UDP: no question comes near it.
const UDP_BUFFER: usize = 4096;
/// The longest question that is read over TCP, in bytes: a name has 255 at most.
const LONGEST_QUESTION: u16 = 4096;
/// What waits for us at most while we are busy, in bytes; the kernel may allow less.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Datagrams that are read in a row before others have their turn.
const IN_A_ROW: usize = 64;
/// TCP connections at once.
const MOST_CONNECTIONS: usize = 256;
/// Those of one client.
const MOST_OF_A_CLIENT: usize = 16;
/// For how long a connection may be silent (RFC 7766, section 6.2.3: a few seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Sockets that are bound to an address of ours, on port 53.
#[derive(Debug)]
pub struct Listener {
    address: IpAddr,
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is not there.
    #[error("{0} is not an address of this gateway")]
    NotOurs(IpAddr),
    /// Somebody else listens there.
    #[error("another program listens at {0}, port 53")]
    Taken(IpAddr),
    /// Not for us.
    #[error("port 53 may not be opened: the capability CAP_NET_BIND_SERVICE is missing")]
    NotAllowed,
    /// Anything else.
    #[error("{0}, port 53, can't be opened: {1}")]
    Io(IpAddr, io::Error),
}

/// The tasks that serve sockets; they end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    by_address: BTreeMap<IpAddr, [JoinHandle<()>; 2]>,
}

// === impl Listener ===

impl Listener {
    /// Opens UDP and TCP at an address.
    ///
    /// # Errors
    ///
    /// The address is not ours, or somebody else has the port.
    pub fn bind(address: IpAddr) -> Result<Self, BindError> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs(address),
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            io::ErrorKind::PermissionDenied => BindError::NotAllowed,
            _ => BindError::Io(address, error),
        };
        let tcp = std::net::TcpListener::bind((address, Upstream::PORT)).map_err(explain)?;
        let udp = std::net::UdpSocket::bind((address, Upstream::PORT)).map_err(explain)?;
        tcp.set_nonblocking(true).map_err(explain)?;
        udp.set_nonblocking(true).map_err(explain)?;
        if let Err(error) = setsockopt(&udp, sockopt::RcvBuf, &RECEIVE_BUFFER) {
            tracing::debug!("the receive buffer of {address} stays as it is: {error}");
        }
        Ok(Self { address, udp, tcp })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

// === impl Tasks ===

impl Tasks {
    /// Serves new sockets, and no longer those whose address is not in the set.
    pub(super) fn change(
        &mut self,
        service: &Rc<Service>,
        new: Vec<Listener>,
        addresses: &BTreeSet<IpAddr>,
    ) {
        self.by_address.retain(|address, tasks| {
            let stays = addresses.contains(address);
            if !stays {
                tasks.iter().for_each(JoinHandle::abort);
            }
            stays
        });
        for Listener { address, udp, tcp } in new {
            let sockets = UdpSocket::from_std(udp)
                .and_then(|udp| TcpListener::from_std(tcp).map(|tcp| (udp, tcp)));
            match sockets {
                Ok((udp, tcp)) => {
                    let udp = spawn_local(serve_udp(Rc::clone(service), Rc::new(udp)));
                    let tcp = spawn_local(serve_tcp(Rc::clone(service), tcp));
                    self.by_address.insert(address, [udp, tcp]);
                }
                Err(error) => tracing::error!("nobody is served at {address}: {error}"),
            }
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.by_address.values().flatten().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(service: Rc<Service>, socket: Rc<UdpSocket>) {
    let mut buffer = [0; UDP_BUFFER];
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!("clients can't be heard: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        for _ in 0..IN_A_ROW {
            // An error is of a response that went before (an ICMP message), or nothing is there.
            let Ok((length, client)) = socket.try_recv_from(&mut buffer) else { break };
            let bytes = buffer.get(..length).unwrap_or_default();
            match service.answer(bytes, client.ip(), Via::Udp) {
                Reply::Now(response) => send(&socket, &response, client),
                Reply::Later(response) => {
                    let socket = Rc::clone(&socket);
                    spawn_local(async move {
                        if let Some(response) = response.await {
                            send(&socket, &response, client);
                        }
                    });
                }
                Reply::Nothing => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A response that can't be sent at once is lost, as datagrams are; the client asks again.
fn send(socket: &UdpSocket, response: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(response, client) {
        tracing::debug!(%client, "a response is lost: {error}");
    }
}

async fn serve_tcp(service: Rc<Service>, listener: TcpListener) {
    let open: Rc<Cell<usize>> = Rc::default();
    let clients: Rc<std::cell::RefCell<BTreeMap<IpAddr, usize>>> = Rc::default();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: what is open goes on, and others may end.
                tracing::warn!("a client can't be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let client = client.ip();
        let of_client = clients.borrow().get(&client).copied().unwrap_or(0);
        if open.get() >= MOST_CONNECTIONS || of_client >= MOST_OF_A_CLIENT {
            service.count(Count::TooManyQuestions);
            continue;
        }
        open.set(open.get() + 1);
        *clients.borrow_mut().entry(client).or_default() += 1;
        let (open, clients, service) = (Rc::clone(&open), Rc::clone(&clients), Rc::clone(&service));
        spawn_local(async move {
            if let Err(error) = serve_stream(&service, stream, client).await {
                tracing::debug!(%client, "a connection ended: {error}");
            }
            open.set(open.get().saturating_sub(1));
            let mut clients = clients.borrow_mut();
            if let Some(count) = clients.get_mut(&client) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    clients.remove(&client);
                }
            }
        });
    }
}

/// Answers the questions of a connection, one after the other (RFC 7766).
async fn serve_stream(
    service: &Rc<Service>,
    mut stream: TcpStream,
    client: IpAddr,
) -> io::Result<()> {
    let silent = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            if length > LONGEST_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            io::Result::Ok(bytes)
        };
        let bytes = match timeout(IDLE_LIMIT, read).await.map_err(silent)? {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let response = match service.answer(&bytes, client, Via::Tcp) {
            Reply::Now(response) => Some(response),
            Reply::Later(response) => response.await,
            Reply::Nothing => None,
        };
        let Some(response) = response else { return Ok(()) };
        let length = u16::try_from(response.len())
            .map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(response);
        timeout(IDLE_LIMIT, stream.write_all(&framed)).await.map_err(silent)??;
    }
}
