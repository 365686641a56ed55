// SPDX-License-Identifier: MIT OR Apache-2.0
//! Word from rtnetlink that NICs, addresses or routes changed; not what changed.
//!
//! Whoever is told reads everything anew. So nothing that the kernel dropped because its buffer was
//! full can be missed for good: that something was dropped is word enough.

use std::{io, time::Duration};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::sleep,
};

/// What is listened to. Routes over nexthop objects change without a message about the route.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Nexthop,
];
/// How long after a failure the next socket is tried.
const RECONNECT: Duration = Duration::from_secs(1);

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Something changed, or the kernel had to drop the word of it.
    Change,
    /// The socket is of no more use.
    Broken,
}

/// Opens a socket, in the process's network namespace, and serves it in a task of its own. What
/// is received stands for any number of changes since it was last received; it never ends before
/// the receiver does.
///
/// # Errors
///
/// The socket can't be opened now. Once it was, a broken one is replaced.
pub fn changes() -> Result<Receiver<()>> {
    let socket = open().context("changes of NICs, addresses and routes can't be followed")?;
    // One that waits to be received stands for all.
    let (bell, receiver) = channel(1);
    tokio::spawn(serve(socket, bell));
    Ok(receiver)
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind_auto()?;
    for group in GROUPS {
        socket.socket_ref().add_membership(group as u32)?;
    }
    Ok(socket)
}

async fn serve(mut socket: TokioSocket, bell: Sender<()>) {
    // Messages are not looked into; what doesn't fit is cut off by the kernel.
    let mut buffer = Vec::with_capacity(64);
    loop {
        buffer.clear();
        let result = socket.recv(&mut buffer).await;
        match heard(&result) {
            Heard::Change => {}
            Heard::Broken => {
                tracing::warn!(
                    "the netlink socket that tells of changes is broken, and is opened anew: {}",
                    result.err().map(|error| error.to_string()).unwrap_or_default()
                );
                socket = reopen().await;
            }
        }
        // After a broken socket too: what happened meanwhile was told to nobody.
        match bell.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Closed(())) => return,
        }
    }
}

async fn reopen() -> TokioSocket {
    loop {
        sleep(RECONNECT).await;
        match open() {
            Ok(socket) => return socket,
            Err(error) => tracing::error!("no netlink socket can be opened: {error}"),
        }
    }
}

fn heard(result: &io::Result<()>) -> Heard {
    match result {
        Ok(()) => Heard::Change,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // The buffer was full: something changed, and the socket goes on.
            Some(Errno::ENOBUFS) => Heard::Change,
            _ => Heard::Broken,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_message_is_a_change() {
        assert_eq!(heard(&Ok(())), Heard::Change);
        for (code, expected) in [(Errno::ENOBUFS, Heard::Change), (Errno::EBADF, Heard::Broken)] {
            let error = io::Error::from_raw_os_error(code as i32);
            assert_eq!(heard(&Err(error)), expected, "{code}");
        }
    }

    #[tokio::test]
    async fn it_ends_with_its_receiver() {
        let (bell, receiver) = channel(1);
        // A socket that isn't bound to a group hears nothing, but the kernel answers on it.
        let socket = TokioSocket::new(NETLINK_ROUTE).unwrap();
        let no_such_request: [u8; 16] = [16, 0, 0, 0, 0xff, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        socket.send(&no_such_request).await.unwrap();
        drop(receiver);
        tokio::time::timeout(Duration::from_secs(5), serve(socket, bell)).await.unwrap();
    }
}
