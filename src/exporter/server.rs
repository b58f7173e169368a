//! Owns: all peers: who is let in, who has to go, whose turn it is. Must not: know what is answered.

use std::io::{self, PipeReader, PipeWriter};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::connection::{Connection, Next};
use super::{Error, Listener, Site};
use crate::model::Listen;

/// Most connections at once; half of the file descriptors that the process may have, where that is less.
const MOST: usize = 256;
/// Bytes of responses that wait for slow peers, all together.
const PENDING: usize = 16 << 20;
/// A connection may be closed in favour of a new one when it has had this long to send its request.
const GRACE: Duration = Duration::from_millis(50);
/// How long nobody is let in after the system did not let us.
const PAUSE: Duration = Duration::from_millis(200);

/// The server; it serves on the thread that asks it to.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    stopped: PipeReader,
}

/// Ends the server when it is dropped.
#[derive(Debug)]
pub struct Stop {
    _writer: PipeWriter,
}

impl Server {
    /// A server, and what ends it.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn new(listener: Listener) -> Result<(Server, Stop), Error> {
        let (stopped, writer) = io::pipe().map_err(Error::Wait)?;
        Ok((Server { listener, stopped }, Stop { _writer: writer }))
    }

    /// Where it listens.
    pub fn listen(&self) -> &Listen {
        self.listener.listen()
    }

    /// Serves until its [`Stop`] is dropped.
    ///
    /// # Errors
    /// When the system does not let us wait for peers any more.
    pub fn serve(self, site: &Site) -> Result<(), Error> {
        let mut peers = Peers { site, all: Vec::new(), closed_until: None };
        loop {
            let now = Instant::now();
            peers.shed(now);
            let ready = self.wait(&peers, now)?;
            if ready.stop {
                return Ok(());
            }
            let now = Instant::now();
            peers.advance(&ready.peers, now);
            if ready.listener {
                peers.admit(&self.listener, now);
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, peers: &Peers<'_>, now: Instant) -> Result<Ready, Error> {
        let doors =
            if peers.door_opens().is_some_and(|opens| opens > now) { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.listener, doors)];
        fds.extend(peers.all.iter().map(|peer| PollFd::new(peer, peer.interest())));
        let wake =
            peers.all.iter().map(Connection::deadline).chain(peers.door_opens().filter(|opens| *opens > now)).min();
        // One millisecond more, so that what is waited for has come.
        let timeout = wake.map(|wake| wake.saturating_duration_since(now) + Duration::from_millis(1));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // poll(2): more descriptors than the process may have, though we watch few, or no memory. That passes.
            Err(Errno::INVAL | Errno::NOMEM) => {
                std::thread::sleep(PAUSE);
                return Ok(Ready { stop: false, listener: false, peers: Vec::new() });
            }
            Err(error) => return Err(Error::Wait(error.into())),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let (stop, listener) = (ready.next().unwrap_or(false), ready.next().unwrap_or(false));
        Ok(Ready { stop, listener: listener && doors == PollFlags::IN, peers: ready.collect() })
    }
}

/// What there is to do.
struct Ready {
    stop: bool,
    listener: bool,
    /// One for each peer, in their order.
    peers: Vec<bool>,
}

/// All peers, oldest first.
struct Peers<'a> {
    site: &'a Site,
    all: Vec<Connection>,
    closed_until: Option<Instant>,
}

impl Peers<'_> {
    /// Closes connections whose time is over, and the oldest ones while a bound is passed. The system's bound may fall while
    /// we run, and poll(2) refuses more descriptors than it.
    fn shed(&mut self, now: Instant) {
        self.all.retain(|peer| peer.deadline() > now);
        let too_many = self.all.len().saturating_sub(most());
        self.all.drain(..too_many);
        let mut pending: usize = self.all.iter().map(Connection::pending).sum();
        // The newest stays, however much it waits for.
        let newest = self.all.len().saturating_sub(1);
        let mut at = 0;
        self.all.retain(|peer| {
            let goes = pending > PENDING && peer.pending() > 0 && at < newest;
            at += 1;
            pending -= if goes { peer.pending() } else { 0 };
            !goes
        });
    }

    fn advance(&mut self, ready: &[bool], now: Instant) {
        let mut ready = ready.iter();
        let site = self.site;
        self.all.retain_mut(|peer| !ready.next().is_some_and(|ready| *ready) || peer.advance(now, site) == Next::Wait);
    }

    /// When the next peer may be let in; `None` for now. While every place is taken, it is when the oldest peer has had the
    /// time to ask: else a crowd that only connects would close each connection before its request has come.
    fn door_opens(&self) -> Option<Instant> {
        let full = self.all.len() >= most();
        let place = self.all.first().filter(|_| full).map(|oldest| oldest.since() + GRACE);
        place.max(self.closed_until)
    }

    /// Lets in who waits, at most as many as there are places.
    fn admit(&mut self, listener: &Listener, now: Instant) {
        for _ in 0..most() {
            if self.door_opens().is_some_and(|opens| opens > now) {
                return;
            }
            match listener.accept() {
                Ok(accepted) => {
                    self.closed_until = None;
                    if self.all.len() >= most() {
                        self.all.remove(0);
                    }
                    let mut peer = Connection::new(accepted, now);
                    if peer.advance(now, self.site) == Next::Wait {
                        self.all.push(peer);
                    }
                }
                Err(Errno::WOULDBLOCK) => return,
                // accept(2): errors of a peer that has gone already come here, too.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) if !self.all.is_empty() => {
                    self.all.remove(0);
                }
                Err(error) => {
                    if self.closed_until.is_none() {
                        tracing::warn!("connections are not accepted: {error}; trying again");
                    }
                    self.closed_until = Some(now + PAUSE);
                    return;
                }
            }
        }
    }
}

/// Connections there may be. Others of this process need descriptors, too.
fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(MOST).clamp(1, MOST)
}
