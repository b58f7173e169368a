//! Owns: one peer, from its first byte to the close. Must not: block, or know of other peers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::request::{self, Head};
use super::response::{Response, Status};
use super::site::Site;
use crate::model::Listen;

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a response may take to go.
const RESPONSE: Duration = Duration::from_secs(10);
/// How long what comes behind the request is thrown away. A socket that is closed with bytes unread resets the connection,
/// and with it the response that the peer has not read yet (RFC 9112, 9.6).
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes taken from one peer before the next has its turn.
const CHUNK: usize = 16 << 10;

/// A peer.
pub(super) struct Connection {
    socket: OwnedFd,
    /// Where it has connected to.
    at: Listen,
    state: State,
    since: Instant,
    deadline: Instant,
}

enum State {
    Reading(Vec<u8>),
    Writing { bytes: Vec<u8>, sent: usize },
    Draining,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    Close,
}

impl Connection {
    /// A peer that has just been accepted; its socket does not block.
    pub fn new((socket, at): (OwnedFd, Listen), now: Instant) -> Connection {
        Connection { socket, at, state: State::Reading(Vec::new()), since: now, deadline: now + REQUEST }
    }

    /// When it was accepted.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When it is closed, whatever its state.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Bytes that wait for the peer.
    pub fn pending(&self) -> usize {
        match &self.state {
            State::Writing { bytes, .. } => bytes.len(),
            State::Reading(_) | State::Draining => 0,
        }
    }

    /// What to wait for.
    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Writing { .. } => PollFlags::OUT,
            State::Reading(_) | State::Draining => PollFlags::IN,
        }
    }

    /// Does what can be done now.
    pub fn advance(&mut self, now: Instant, site: &Site) -> Next {
        let done = match &mut self.state {
            State::Reading(_) => self.read(now, site),
            State::Writing { .. } => self.write(now),
            State::Draining => self.drain(),
        };
        match done {
            Ok(next) => next,
            Err(Errno::WOULDBLOCK | Errno::INTR) => Next::Wait,
            Err(_) => Next::Close,
        }
    }

    fn read(&mut self, now: Instant, site: &Site) -> Result<Next, Errno> {
        let State::Reading(bytes) = &mut self.state else { return Ok(Next::Close) };
        let mut chunk = [0; request::LONGEST_HEAD];
        let room = request::LONGEST_HEAD - bytes.len();
        let (_, count) = rustix::net::recv(&self.socket, &mut chunk[..room], RecvFlags::empty())?;
        if count == 0 {
            return Ok(Next::Close);
        }
        bytes.extend(&chunk[..count]);
        let response = match request::head(bytes) {
            Head::Unfinished => return Ok(Next::Wait),
            Head::TooLong => {
                Response::text(Status::HeaderTooLarge, "the head of a request has at most 8 KiB").bytes(true)
            }
            Head::Bad => Response::text(Status::BadRequest, "this is no request of HTTP/1.1").bytes(true),
            Head::Whole(request) => site.answer(&request, &self.at).bytes(request.method != "HEAD"),
        };
        self.state = State::Writing { bytes: response, sent: 0 };
        self.deadline = now + RESPONSE;
        self.write(now)
    }

    fn write(&mut self, now: Instant) -> Result<Next, Errno> {
        let State::Writing { bytes, sent } = &mut self.state else { return Ok(Next::Close) };
        while *sent < bytes.len() {
            *sent += rustix::net::send(&self.socket, &bytes[*sent..], SendFlags::NOSIGNAL)?;
        }
        rustix::net::shutdown(&self.socket, Shutdown::Write)?;
        self.state = State::Draining;
        self.deadline = now + DRAIN;
        Ok(Next::Wait)
    }

    fn drain(&mut self) -> Result<Next, Errno> {
        let (_, count) = rustix::net::recv(&self.socket, &mut [0; CHUNK], RecvFlags::empty())?;
        Ok(if count == 0 { Next::Close } else { Next::Wait })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
