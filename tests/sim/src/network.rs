//! Byte streams between hosts: late, stalled, cut, and never out of order, as TCP's are.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use palinurus_coordinator::{Incoming, Listen, Wire};
use palinurus_repository::Result;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chance::Chance;
use crate::world::{self, HostId, World};

/// Bytes on their way in one direction before the writer waits.
const WINDOW: usize = 256 << 10;
/// Before what could not be sent is sent again.
const RESEND: u64 = 200;

#[derive(Debug)]
pub(crate) struct Network {
    chance: Chance,
    pipes: BTreeMap<usize, Pipe>,
    next: usize,
    /// Deliveries by time.
    due: BTreeSet<(u64, usize)>,
    /// Hosts to be run, and when.
    wakes: BTreeSet<(u64, HostId)>,
    ports: Vec<Port>,
    /// Nothing arrives from the first at the second.
    blocked: BTreeSet<(HostId, HostId)>,
    /// Milliseconds that this host's messages may take.
    pub(crate) slow: BTreeMap<HostId, u64>,
}

#[derive(Debug, Default)]
struct Port {
    open: bool,
    /// The host lost its power: nobody is told.
    dark: bool,
    waiting: VecDeque<End>,
    acceptor: Option<Waker>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    from: HostId,
    to: HostId,
    chance: Chance,
    flight: VecDeque<(u64, Piece)>,
    ready: VecDeque<Bytes>,
    queued: usize,
    last: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
    end: Option<Closed>,
    reader_gone: bool,
    writer_gone: bool,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End(Closed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    Ended,
    Reset,
}

impl Network {
    pub(crate) fn new(hosts: usize, chance: Chance) -> Self {
        Self {
            chance,
            pipes: BTreeMap::new(),
            next: 0,
            due: BTreeSet::new(),
            wakes: BTreeSet::new(),
            ports: (0..hosts).map(|_| Port::default()).collect(),
            blocked: BTreeSet::new(),
            slow: BTreeMap::new(),
        }
    }

    /// When something is to be delivered next.
    pub(crate) fn next(&self) -> Option<u64> {
        let due = self.due.first().map(|(at, _)| *at);
        due.into_iter().chain(self.wakes.first().map(|(at, _)| *at)).min()
    }

    /// Delivers what is due, and says whom that concerns.
    pub(crate) fn deliver(&mut self, now: u64) -> BTreeSet<HostId> {
        let mut concerned = BTreeSet::new();
        while let Some((at, host)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, host));
            concerned.insert(host);
        }
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            let Some(pipe) = self.pipes.get_mut(&id) else { continue };
            if self.blocked.contains(&(pipe.from, pipe.to)) {
                self.due.insert((now + RESEND, id));
                continue;
            }
            while let Some((_, piece)) = pipe.flight.pop_front_if(|(at, _)| *at <= now) {
                match piece {
                    Piece::Data(bytes) => pipe.ready.push_back(bytes),
                    Piece::End(closed) => pipe.end = Some(closed),
                }
            }
            if let Some((at, _)) = pipe.flight.front() {
                self.due.insert((*at, id));
            }
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
            concerned.insert(pipe.to);
        }
        concerned
    }

    fn delay(&mut self, id: usize, now: u64) -> u64 {
        let Some(pipe) = self.pipes.get_mut(&id) else { return now };
        let slow = self.slow.get(&pipe.from).or(self.slow.get(&pipe.to)).copied().unwrap_or_default();
        let late = if pipe.chance.percent(3) { pipe.chance.below(60) } else { 0 };
        let slow = if slow > 0 { pipe.chance.below(slow) } else { 0 };
        pipe.last = pipe.last.max(now + pipe.chance.between(1, 3) + late + slow);
        pipe.last
    }

    fn send(&mut self, id: usize, piece: Piece) {
        let at = self.delay(id, world::now());
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.flight.push_back((at, piece));
        if pipe.flight.len() == 1 {
            self.due.insert((at, id));
        }
    }

    pub(crate) fn block(&mut self, from: HostId, to: HostId) {
        self.blocked.insert((from, to));
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked.clear();
        self.slow.clear();
    }

    /// Ends every connection between the two as a reset does.
    pub(crate) fn cut(&mut self, one: HostId, other: HostId) {
        let between =
            |pipe: &Pipe| (pipe.from, pipe.to) == (one, other) || (pipe.from, pipe.to) == (other, one);
        let ids: Vec<usize> =
            self.pipes.iter().filter(|(_, pipe)| between(pipe)).map(|(id, _)| *id).collect();
        for id in ids {
            self.break_off(id);
        }
    }

    /// Both ends of that direction find it broken at once.
    fn break_off(&mut self, id: usize) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.flight.clear();
        pipe.end = Some(Closed::Reset);
        pipe.reader_gone = true;
        let (from, to) = (pipe.from, pipe.to);
        for waker in [pipe.reader.take(), pipe.writer.take()].into_iter().flatten() {
            waker.wake();
        }
        let now = world::now();
        self.wakes.extend([(now + 1, from), (now + 1, to)]);
    }

    /// The host's process is there no more. `dark`: nor is the machine, and nobody is told.
    pub(crate) fn down(&mut self, host: HostId, dark: bool) -> Vec<End> {
        let Some(port) = self.ports.get_mut(host) else { return Vec::new() };
        (port.open, port.dark, port.acceptor) = (false, dark, None);
        // To be dropped by the caller, who holds no lock.
        port.waiting.drain(..).collect()
    }

    /// What it had open before is known to nobody there.
    pub(crate) fn up(&mut self, host: HostId) {
        let its = |pipe: &Pipe| pipe.from == host || pipe.to == host;
        let ids: Vec<usize> = self.pipes.iter().filter(|(_, pipe)| its(pipe)).map(|(id, _)| *id).collect();
        for id in ids {
            self.break_off(id);
        }
        if let Some(port) = self.ports.get_mut(host) {
            port.dark = false;
        }
    }

    fn connect(&mut self, world: &Arc<World>, from: HostId, to: HostId) -> Option<End> {
        if !self.ports.get(to).is_some_and(|port| port.open) {
            return None;
        }
        let (there, back) = (self.pipe(from, to), self.pipe(to, from));
        let ours = End { world: world.clone(), host: from, reads: back, writes: there };
        let theirs = End { world: world.clone(), host: to, reads: there, writes: back };
        let port = self.ports.get_mut(to)?;
        port.waiting.push_back(theirs);
        if let Some(acceptor) = port.acceptor.take() {
            acceptor.wake();
        }
        self.wakes.insert((world::now() + 1, to));
        Some(ours)
    }

    fn pipe(&mut self, from: HostId, to: HostId) -> usize {
        let id = self.next;
        self.next += 1;
        let pipe = Pipe {
            from,
            to,
            chance: self.chance.named(&format!("{id}")),
            flight: VecDeque::new(),
            ready: VecDeque::new(),
            queued: 0,
            last: 0,
            reader: None,
            writer: None,
            end: None,
            reader_gone: false,
            writer_gone: false,
        };
        self.pipes.insert(id, pipe);
        id
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    world: Arc<World>,
    host: HostId,
    reads: usize,
    writes: usize,
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection is broken")
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut network = self.world.network();
        let Some(pipe) = network.pipes.get_mut(&self.reads) else { return Poll::Ready(Err(broken())) };
        let Some(first) = pipe.ready.front_mut() else {
            return match pipe.end {
                Some(Closed::Ended) => Poll::Ready(Ok(())),
                Some(Closed::Reset) => Poll::Ready(Err(broken())),
                None => {
                    pipe.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let take = first.len().min(into.remaining());
        into.put_slice(&first[..take]);
        first.advance(take);
        if first.is_empty() {
            pipe.ready.pop_front();
        }
        pipe.queued -= take;
        let from = pipe.from;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
            network.wakes.insert((world::now() + 1, from));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut network = self.world.network();
        let Some(pipe) = network.pipes.get_mut(&self.writes) else { return Poll::Ready(Err(broken())) };
        if pipe.reader_gone || pipe.end.is_some() {
            return Poll::Ready(Err(broken()));
        }
        if pipe.queued >= WINDOW {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let take = bytes.len().min(WINDOW - pipe.queued);
        pipe.queued += take;
        network.send(self.writes, Piece::Data(Bytes::copy_from_slice(&bytes[..take])));
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.world.network().close(self.writes, Closed::Ended);
        Poll::Ready(Ok(()))
    }
}

impl Network {
    fn close(&mut self, id: usize, closed: Closed) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if !pipe.writer_gone {
            pipe.writer_gone = true;
            self.send(id, Piece::End(closed));
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut network = self.world.network();
        if network.ports.get(self.host).is_some_and(|port| port.dark) {
            return;
        }
        network.close(self.writes, Closed::Ended);
        let Some(pipe) = network.pipes.get_mut(&self.reads) else { return };
        pipe.reader_gone = true;
        pipe.ready.clear();
        let (from, writer) = (pipe.from, pipe.writer.take());
        if let Some(writer) = writer {
            writer.wake();
            network.wakes.insert((world::now() + 1, from));
        }
        for id in [self.reads, self.writes] {
            if network.pipes.get(&id).is_some_and(|pipe| pipe.reader_gone && pipe.writer_gone) {
                network.pipes.remove(&id);
            }
        }
    }
}

/// A coordinator's port.
#[derive(Debug)]
pub(crate) struct SimListen {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
}

impl Listen for SimListen {
    fn listen(&self, _: &str) -> Result<(SocketAddr, Incoming)> {
        let (world, host) = (self.world.clone(), self.host);
        if let Some(port) = world.network().ports.get_mut(host) {
            port.open = true;
        }
        let accept = futures::stream::poll_fn(move |cx| {
            let mut network = world.network();
            let Some(port) = network.ports.get_mut(host) else { return Poll::Ready(None) };
            match port.waiting.pop_front() {
                Some(end) => Poll::Ready(Some(Ok(Wire::new(end)))),
                None => {
                    port.acceptor = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        Ok((address(self.host), accept.boxed()))
    }
}

pub(crate) fn address(host: HostId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, host as u8 + 1), 7410))
}

fn host_of(address: &str) -> Option<HostId> {
    let ip: Ipv4Addr = address.split(':').next()?.parse().ok()?;
    usize::from(ip.octets()[3]).checked_sub(1)
}

/// Dials by address, until that host answers or refuses.
pub(crate) async fn dial(world: Arc<World>, from: HostId, address: String) -> io::Result<End> {
    let to = host_of(&address).ok_or_else(|| io::Error::other(format!("no host has {address}")))?;
    loop {
        world::pause(2).await;
        if let Some(answer) = knock(&world, from, to) {
            return answer;
        }
        world::pause(1000).await;
    }
}

/// None while nothing gets through.
fn knock(world: &Arc<World>, from: HostId, to: HostId) -> Option<io::Result<End>> {
    let mut network = world.network();
    let cut = network.blocked.contains(&(from, to)) || network.blocked.contains(&(to, from));
    if cut || network.ports.get(to).is_some_and(|port| port.dark) {
        return None;
    }
    let end = network.connect(world, from, to);
    Some(end.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens")))
}
