//! Reads over all connections with several requests in flight, and delivers the data in order. Must not decide what is read.
//!
//! The ranges are split into chunks. Chunk `n` belongs to connection `n % connections`. Each connection has one thread that
//! delivers its chunks in order, and the caller's thread takes them from the connections in turn. A fixed set of buffers per
//! connection limits both the requests in flight and the memory. One thread can both send and receive, because requests are
//! so few and small (28 bytes) that sending never blocks on a server that itself waits for us to read.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use super::Error;
use super::handshake::Export;
use super::reply::{self, Body};
use super::wire::{Cutter, Wire};
use crate::model::Extent;

/// Bytes per read, unless the server has a lower limit.
const CHUNK: u64 = 1 << 20;
/// Buffers per connection: four for requests in flight, one for the sink.
const BUFFERS: usize = 5;

/// The caller's end of one connection.
struct Lane {
    full: Receiver<Result<Vec<u8>, Error>>,
    free: Sender<Vec<u8>>,
}

pub(super) fn all<E: From<Error>>(
    connections: &mut [Wire],
    export: &Export,
    ranges: &[Extent],
    sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    check(ranges, export.size)?;
    let count = connections.len();
    thread::scope(|scope| {
        // On an error or panic, wake up threads that wait for their server.
        let cut = OnExit(connections.iter().map(Wire::cutter).collect());
        let mut lanes = Vec::new();
        for (index, wire) in connections.iter_mut().enumerate() {
            let (full, full_end) = mpsc::sync_channel(BUFFERS + 1);
            let (free_end, free) = mpsc::channel();
            for _ in 0..BUFFERS {
                // Cannot fail: the receiver still exists.
                let _ = free_end.send(Vec::new());
            }
            let mine = chunks(ranges, export).skip(index).step_by(count);
            let work = move || {
                let mut worker = Worker { wire, export, pending: VecDeque::new(), cookie: 0 };
                if let Err(error) = worker.run(mine, &free, &full) {
                    // If the receiver is gone, the caller has already failed.
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

/// The ranges, split into the size of one request.
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
        // Fails after the last request of a connection, which needs no more buffers.
        let _ = lane.free.send(buffer);
    }
    Ok(())
}

/// Closes the connections when dropped, unless [`OnExit::keep`] is called.
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

/// The thread of one connection.
struct Worker<'a> {
    wire: &'a mut Wire,
    export: &'a Export,
    /// Requests in flight, in the order of the chunks.
    pending: VecDeque<Pending>,
    cookie: u64,
}

/// A request in flight.
struct Pending {
    cookie: u64,
    offset: u64,
    /// Has the requested length.
    buffer: Vec<u8>,
    /// Bytes received so far.
    filled: usize,
    done: bool,
}

impl Worker<'_> {
    /// Reads these chunks. Returns early without an error if the receiver is gone.
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
        // The holes are already known. Without fragments, the server does not have to find them again.
        let flags = if self.export.can_df && self.export.context.is_some() { reply::DF } else { 0 };
        let length = chunk.length as u32; // At most CHUNK.
        reply::request(self.wire, flags, reply::READ, self.cookie, (chunk.offset, length))?;
        buffer.resize(length as usize, 0);
        self.pending.push_back(Pending { cookie: self.cookie, offset: chunk.offset, buffer, filled: 0, done: false });
        self.cookie += 1;
        Ok(())
    }

    /// Reads one reply or chunk into the buffer of its request.
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
                None => return Err(wire.protocol("a reply has data that was not requested")),
            },
            Body::Hole { offset, length } => match request.next(offset, length) {
                Some(part) => part.fill(0),
                None => return Err(wire.protocol("a reply has a hole that was not requested")),
            },
            Body::None => {}
            Body::Error { source, message } => {
                let (offset, length) = (request.offset, request.buffer.len() as u64);
                let socket = wire.socket().to_owned();
                return Err(Error::Request { socket, what: "read", offset, length, message, source });
            }
            Body::Simple | Body::Status { .. } => {
                return Err(wire.protocol("a read request got another kind of reply"));
            }
        }
        request.done = chunk.last;
        if request.done && request.filled != request.buffer.len() {
            return Err(wire.protocol("a reply has less data than requested"));
        }
        Ok(())
    }
}

impl Pending {
    /// The part of the buffer for these bytes of the disk, which must follow the previous ones. The protocol allows any
    /// order, but QEMU sends chunks in ascending order, so a gap or an overlap is always an error.
    fn next(&mut self, offset: u64, length: u32) -> Option<&mut [u8]> {
        let expected = self.offset + self.filled as u64;
        let end = self.filled.checked_add(length as usize)?;
        let part = self.buffer.get_mut(self.filled..end).filter(|_| offset == expected)?;
        self.filled = end;
        Some(part)
    }

    /// The part of the buffer that is not filled yet.
    fn rest(&mut self) -> &mut [u8] {
        let from = std::mem::replace(&mut self.filled, self.buffer.len());
        &mut self.buffer[from..]
    }
}
