//! Links between the members of a cluster: TCP through this process, so that it can be held up, slowed down and torn.
//!
//! Each member advertises an address of ours. Whoever dials it is known by its process (see `dialer`), so every ordered pair of
//! slots has a link of its own, whatever the members speak. Bytes that a link is given while it is cut are held and go on when it heals,
//! as after a partition of the network that is shorter than TCP's patience; a connection that is dialed meanwhile comes about then.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::dialer::dialer;
use crate::target::free_port;

/// Bytes that are passed on at once; a slow link delays each such piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Ports tried when others take ours.
const PORT_TRIES: usize = 5;
/// Out of so many pieces: what [`Link::torn_per_mille`] counts in.
const MILLE: u32 = 1_000;

/// How bytes go from one slot to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    /// Nothing goes.
    pub(crate) cut: bool,
    /// How long each piece is held up.
    pub(crate) delay: Duration,
    /// Of a thousand pieces so many are cut in two, and their connection ends there.
    pub(crate) torn_per_mille: u32,
}

/// All links of a cluster. Dropping it ends every connection.
#[derive(Debug)]
pub(crate) struct Links {
    shared: Arc<Shared>,
    /// Who accepts connections for each slot.
    accepting: Vec<Option<AbortHandle>>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// The process in each slot.
    pids: Mutex<Vec<Option<u32>>>,
    /// From each slot to each.
    links: watch::Sender<Vec<Vec<Link>>>,
    /// Connections that a link has torn.
    torn: AtomicU64,
}

impl Links {
    /// Whole links between so many slots.
    pub(super) fn new(slots: usize) -> Self {
        let links = vec![vec![Link::default(); slots]; slots];
        let shared =
            Shared { pids: Mutex::new(vec![None; slots]), links: watch::Sender::new(links), torn: AtomicU64::new(0) };
        Self { shared: Arc::new(shared), accepting: vec![None; slots], tasks: JoinSet::new() }
    }

    /// An address at which the member in slot `to`, which listens on `port`, is reached through its links. The address that the slot
    /// had before is given up.
    pub(super) fn listen(&mut self, to: usize, port: u16) -> Result<u16> {
        let (listener, dialed) = listener()?;
        let shared = Arc::clone(&self.shared);
        let handle = self.tasks.spawn(async move { accept(&shared, to, port, listener).await });
        if let Some(before) = self.accepting[to].replace(handle) {
            before.abort();
        }
        Ok(dialed)
    }

    /// These processes are in the slots.
    pub(super) fn processes(&self, pids: Vec<Option<u32>>) {
        *self.shared.pids.lock().expect("nothing panics under the lock") = pids;
    }

    /// Changes links, given by their slots.
    pub(crate) fn change(&self, change: impl Fn(usize, usize, &mut Link)) {
        self.shared.links.send_modify(|links| {
            for (from, row) in links.iter_mut().enumerate() {
                for (to, link) in row.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                    change(from, to, link);
                }
            }
        });
    }

    /// Makes all links whole.
    pub(crate) fn heal(&self) {
        self.change(|_, _, link| *link = Link::default());
    }

    /// Connections that were torn up to now.
    pub(crate) fn torn(&self) -> u64 {
        self.shared.torn.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn link(&self, from: usize, to: usize) -> Link {
        self.links.borrow()[from][to]
    }

    /// Waits until the link is not cut.
    async fn open(&self, from: usize, to: usize) {
        let mut links = self.links.subscribe();
        // The sender is ours: it cannot be gone.
        drop(links.wait_for(|links| !links[from][to].cut).await);
    }
}

fn listener() -> Result<(std::net::TcpListener, u16)> {
    let mut tried = Err(anyhow::anyhow!("no port"));
    for _ in 0..PORT_TRIES {
        let port = free_port()?;
        tried = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map(|listener| (listener, port))
            .map_err(Into::into);
        if tried.is_ok() {
            break;
        }
    }
    let (listener, port) = tried.context("listening for peers")?;
    listener.set_nonblocking(true).context("listening for peers")?;
    Ok((listener, port))
}

/// Serves the address of slot `to`; its connections end with it.
async fn accept(shared: &Arc<Shared>, to: usize, port: u16, listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("it does not block");
    let mut connections = JoinSet::new();
    loop {
        let Ok((dialed, theirs)) = listener.accept().await else {
            // Out of files, most likely: some may be free soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let Ok(ours) = dialed.local_addr() else { continue };
        let pids = shared.pids.lock().expect("nothing panics under the lock").clone();
        // Not of this cluster, or gone already.
        let Some(from) = dialer(theirs, ours, &pids) else { continue };
        let shared = Arc::clone(shared);
        connections.spawn(async move { relay(&shared, from, to, dialed, port).await });
    }
}

/// One connection, until either end closes it or a link tears it.
async fn relay(shared: &Shared, from: usize, to: usize, dialed: TcpStream, port: u16) {
    shared.open(from, to).await;
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(reached) = TcpStream::connect(target).await else { return };
    if dialed.set_nodelay(true).and(reached.set_nodelay(true)).is_err() {
        return;
    }
    let ((dialed_in, dialed_out), (reached_in, reached_out)) = (dialed.into_split(), reached.into_split());
    tokio::select! {
        () = pass_on(shared, from, to, dialed_in, reached_out) => {}
        () = pass_on(shared, to, from, reached_in, dialed_out) => {}
    }
}

/// One direction of a connection.
async fn pass_on(shared: &Shared, from: usize, to: usize, mut source: OwnedReadHalf, mut sink: OwnedWriteHalf) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = source.read(&mut piece).await.unwrap_or(0);
        // What came while it is cut is held, an end of the connection too.
        shared.open(from, to).await;
        let link = shared.link(from, to);
        if !link.delay.is_zero() {
            tokio::time::sleep(link.delay).await;
            shared.open(from, to).await;
        }
        let torn = fastrand::u32(..MILLE) < link.torn_per_mille;
        let whole = if torn { read / 2 } else { read };
        let written = sink.write_all(&piece[..whole]).await;
        if torn {
            shared.torn.fetch_add(1, Ordering::Relaxed);
        }
        if read == 0 || torn || written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Links among two slots, of which this very process is slot 0; slot 1 sends back what it is sent.
    async fn echo() -> (Links, u16) {
        let mut links = Links::new(2);
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut source, mut sink) = stream.split();
                    drop(tokio::io::copy(&mut source, &mut sink).await);
                });
            }
        });
        let dialed = links.listen(1, port).unwrap();
        links.processes(vec![Some(std::process::id()), None]);
        (links, dialed)
    }

    async fn answer(stream: &mut TcpStream) -> [u8; 2] {
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn what_a_cut_link_is_given_comes_when_it_heals() {
        let (links, dialed) = echo().await;
        let mut stream = TcpStream::connect(("127.0.0.1", dialed)).await.unwrap();
        stream.write_all(b"ab").await.unwrap();
        assert_eq!(&answer(&mut stream).await, b"ab");
        // One way only: the answer is held.
        links.change(|from, _, link| link.cut = from == 1);
        stream.write_all(b"cd").await.unwrap();
        let mut piece = [0; 2];
        tokio::time::timeout(Duration::from_millis(50), stream.read(&mut piece)).await.unwrap_err();
        links.heal();
        assert_eq!(&answer(&mut stream).await, b"cd");
    }

    #[tokio::test]
    async fn a_torn_link_ends_its_connection_in_the_middle() {
        let (links, dialed) = echo().await;
        links.change(|from, _, link| link.torn_per_mille = if from == 0 { MILLE } else { 0 });
        let mut stream = TcpStream::connect(("127.0.0.1", dialed)).await.unwrap();
        stream.write_all(b"abcd").await.unwrap();
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all).await;
        assert!(read.is_err() || all.len() <= 2, "{all:?}");
        assert_eq!(links.torn(), 1);
    }

    #[tokio::test]
    async fn strangers_are_not_let_in() {
        let (links, dialed) = echo().await;
        links.processes(vec![None, None]);
        let mut stream = TcpStream::connect(("127.0.0.1", dialed)).await.unwrap();
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all).await);
        assert_eq!(all, [0; 0]);
    }
}
