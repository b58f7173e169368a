//! Owns: pipelined reads over all connections, delivered in order. Must not: decide what is read.
//!
//! The ranges are cut into chunks; chunk `n` belongs to connection `n % connections`, which keeps several requests under way
//! and hands finished chunks over in its order. The caller's thread takes them from the connections in turn. The buffers of
//! a connection go round between the two and bound both the requests under way and the memory. Requests are so few and small
//! (28 bytes) that sending one never waits for a server that waits for us; so one thread a connection sends and receives.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use super::Error;
use super::handshake::Export;
use super::reply::{self, Body};
use super::wire::{Cutter, Wire};
use crate::model::Extent;

/// The most bytes of one read, unless the server wants less.
const CHUNK: u64 = 1 << 20;
/// Buffers a connection: four requests under way, and one with the sink.
const BUFFERS: usize = 5;

/// The caller's end of one connection.
struct Lane {
    full: Receiver<Result<Vec<u8>, Error>>,
    free: Sender<Vec<u8>>,
}

/// Reads the ranges over the connections and gives them to the sink, in order.
pub(super) fn all<E: From<Error>>(
    connections: &mut [Wire],
    export: &Export,
    ranges: &[Extent],
    sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    check(ranges, export.size)?;
    let count = connections.len();
    thread::scope(|scope| {
        // However this ends, a thread that waits for its server must not hold it up.
        let cut = OnExit(connections.iter().map(Wire::cutter).collect());
        let mut lanes = Vec::new();
        for (index, wire) in connections.iter_mut().enumerate() {
            let (full, full_end) = mpsc::sync_channel(BUFFERS + 1);
            let (free_end, free) = mpsc::channel();
            for _ in 0..BUFFERS {
                // Its receiver is beside it.
                let _ = free_end.send(Vec::new());
            }
            let mine = chunks(ranges, export).skip(index).step_by(count);
            let work = move || {
                let mut worker = Worker { wire, export, pending: VecDeque::new(), cookie: 0 };
                if let Err(error) = worker.run(mine, &free, &full) {
                    // Without a receiver the caller has given up already.
                    let _ = full.send(Err(error));
                }
            };
            thread::Builder::new().name("nbd-read".to_owned()).spawn_scoped(scope, work).map_err(Error::Thread)?;
            lanes.push(Lane { full: full_end, free: free_end });
        }
        deliver(&lanes, chunks(ranges, export), sink)?;
        cut.keep();
        Ok(())
    })
}

fn check(ranges: &[Extent], size: u64) -> Result<(), Error> {
    let inside = |range: &&Extent| range.offset.checked_add(range.length).is_some_and(|end| end <= size);
    match ranges.iter().find(|range| !inside(range)) {
        Some(&Extent { offset, length }) => Err(Error::Range { offset, length, size }),
        None => Ok(()),
    }
}

/// The ranges, cut to what one request may ask for.
fn chunks(ranges: &[Extent], export: &Export) -> impl Iterator<Item = Extent> {
    let (min, max) = (u64::from(export.min_block), u64::from(export.max_block));
    let most = CHUNK.min(max) / min * min;
    ranges.iter().flat_map(move |range| {
        (0..range.length.div_ceil(most)).map(move |n| {
            let done = n * most;
            Extent { offset: range.offset + done, length: most.min(range.length - done) }
        })
    })
}

fn deliver<E: From<Error>>(
    lanes: &[Lane],
    chunks: impl Iterator<Item = Extent>,
    mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for (lane, chunk) in lanes.iter().cycle().zip(chunks) {
        let buffer = lane.full.recv().map_err(|_| Error::Broken)??;
        sink(chunk.offset, &buffer)?;
        // A connection that has sent its last request takes no more.
        let _ = lane.free.send(buffer);
    }
    Ok(())
}

/// Cuts the connections when it is dropped, unless they are to be kept.
struct OnExit(Vec<Cutter>);

impl OnExit {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        self.0.iter().for_each(Cutter::cut);
    }
}

/// One connection at work.
struct Worker<'a> {
    wire: &'a mut Wire,
    export: &'a Export,
    /// Requests under way, in the order of the chunks.
    pending: VecDeque<Pending>,
    cookie: u64,
}

/// A request under way.
struct Pending {
    cookie: u64,
    offset: u64,
    /// As long as was asked for.
    buffer: Vec<u8>,
    /// Bytes of it that have come.
    filled: usize,
    done: bool,
}

impl Worker<'_> {
    /// Reads these chunks; ends early, without an error, when nobody takes them any more.
    fn run(
        &mut self,
        mut chunks: impl Iterator<Item = Extent>,
        free: &Receiver<Vec<u8>>,
        full: &SyncSender<Result<Vec<u8>, Error>>,
    ) -> Result<(), Error> {
        let mut next = chunks.next();
        loop {
            while let Some(chunk) = next {
                let buffer = if self.pending.is_empty() { free.recv().ok() } else { free.try_recv().ok() };
                let Some(buffer) = buffer else { break };
                self.send(chunk, buffer)?;
                next = chunks.next();
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            self.receive()?;
            while self.pending.front().is_some_and(|request| request.done) {
                let ready = self.pending.pop_front().map(|request| Ok(request.buffer));
                if ready.is_some_and(|buffer| full.send(buffer).is_err()) {
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, chunk: Extent, mut buffer: Vec<u8>) -> Result<(), Error> {
        // Where the holes are known, asking for one piece saves the server from looking for them again.
        let flags = if self.export.can_df && self.export.allocation.is_some() { reply::DF } else { 0 };
        let length = chunk.length as u32; // At most CHUNK.
        reply::request(self.wire, flags, reply::READ, self.cookie, (chunk.offset, length))?;
        buffer.resize(length as usize, 0);
        self.pending.push_back(Pending { cookie: self.cookie, offset: chunk.offset, buffer, filled: 0, done: false });
        self.cookie += 1;
        Ok(())
    }

    /// Reads one reply, or one chunk of one, into the buffer of its request.
    fn receive(&mut self) -> Result<(), Error> {
        let wire = &mut *self.wire;
        let chunk = reply::next(wire)?;
        let open = |request: &&mut Pending| request.cookie == chunk.cookie && !request.done;
        let Some(request) = self.pending.iter_mut().find(open) else {
            return Err(wire.protocol("a reply matches no request"));
        };
        match chunk.body {
            Body::Simple if request.filled == 0 => wire.read(request.rest())?,
            Body::Data { offset, length } => match request.next(offset, length) {
                Some(part) => wire.read(part)?,
                None => return Err(wire.protocol("a reply has data that was not asked for")),
            },
            Body::Hole { offset, length } => match request.next(offset, length) {
                Some(part) => part.fill(0),
                None => return Err(wire.protocol("a reply has a hole that was not asked for")),
            },
            Body::None => {}
            Body::Error { source, message } => {
                let (offset, length) = (request.offset, request.buffer.len() as u64);
                let socket = wire.socket().to_owned();
                return Err(Error::Request { socket, what: "read", offset, length, message, source });
            }
            Body::Simple | Body::Status { .. } => {
                return Err(wire.protocol("a reply to a read is of another kind"));
            }
        }
        request.done = chunk.last;
        if request.done && request.filled != request.buffer.len() {
            return Err(wire.protocol("a reply has less data than was asked for"));
        }
        Ok(())
    }
}

impl Pending {
    /// The part of the buffer for these bytes of the disk, which must follow those that came. The protocol lets a server send
    /// its pieces in any order; QEMU sends them in this one, so that a gap or an overlap is always a fault.
    fn next(&mut self, offset: u64, length: u32) -> Option<&mut [u8]> {
        let expected = self.offset + self.filled as u64;
        let end = self.filled.checked_add(length as usize)?;
        let part = self.buffer.get_mut(self.filled..end).filter(|_| offset == expected)?;
        self.filled = end;
        Some(part)
    }

    /// The part of the buffer that has not come.
    fn rest(&mut self) -> &mut [u8] {
        let from = std::mem::replace(&mut self.filled, self.buffer.len());
        &mut self.buffer[from..]
    }
}
