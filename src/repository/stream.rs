//! Streams the contents of a file from its blobs in order, decoded on several cores in bounded memory. Must not
//! interpret the contents.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Receiver};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::fetch::{Fetcher, Segment};
use super::{BlobKind, Error, Id};
use crate::sys::host;
use crate::sys::signals::Cancel;

/// Receives an offset and the bytes there.
type Sink<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// A blob of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
    /// ID of the blob.
    pub id: Id,
}

/// Offsets in the file of the blobs of one segment, in order.
type Offsets = Vec<u64>;
type Reading = Receiver<Vec<Result<Vec<u8>, Error>>>;

/// Reads blobs ahead of their consumer.
pub struct BlobStream<'a> {
    fetcher: &'a Fetcher,
    cancel: &'a Cancel,
    pool: ThreadPool,
    queue: VecDeque<(Offsets, Reading)>,
    /// The segment that is being collected and is not read yet.
    gathered: Option<(Offsets, Segment)>,
}

impl<'a> BlobStream<'a> {
    /// A stream that stops when `cancel` receives a signal.
    pub fn new(fetcher: &'a Fetcher, cancel: &'a Cancel) -> Result<BlobStream<'a>, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(host::cores())
            .thread_name(|_| "decode".to_owned())
            .panic_handler(|_| {});
        let pool = pool.build().map_err(|error| fetcher.repository().system(io::Error::other(error)))?;
        Ok(BlobStream { fetcher, cancel, pool, queue: VecDeque::new(), gathered: None })
    }

    /// Passes the contents of all pieces to `sink`, in order.
    ///
    /// # Errors
    /// Those of `sink`; the first damage; [`Error::Stopped`].
    pub fn copy<E: From<Error>>(
        mut self,
        pieces: impl Iterator<Item = Piece>,
        sink: &mut Sink<'_, E>,
    ) -> Result<(), E> {
        for piece in pieces {
            let (pack, entry) = self.fetcher.locate(BlobKind::Data, piece.id)?;
            if let Some((offsets, segment)) = &mut self.gathered
                && segment.extend(pack, entry)
            {
                offsets.push(piece.offset);
                continue;
            }
            let next = (vec![piece.offset], Segment::new(pack, entry));
            self.send(Some(next));
            self.drain(2 * self.pool.current_num_threads(), sink)?;
        }
        self.send(None);
        self.drain(0, sink)
    }

    /// Starts to read the collected segment, and collects `next`.
    fn send(&mut self, next: Option<(Offsets, Segment)>) {
        let Some((offsets, segment)) = std::mem::replace(&mut self.gathered, next) else { return };
        let (done, reading) = mpsc::sync_channel(1);
        let fetcher = self.fetcher.clone();
        // The receiver no longer exists if an earlier blob failed.
        self.pool.spawn(move || drop(done.send(fetcher.read(&segment))));
        self.queue.push_back((offsets, reading));
    }

    fn drain<E: From<Error>>(&mut self, left: usize, sink: &mut Sink<'_, E>) -> Result<(), E> {
        while self.queue.len() > left {
            let Some((offsets, reading)) = self.queue.pop_front() else { break };
            let ended = || self.fetcher.repository().system(io::Error::other("a decoding thread panicked"));
            let blobs = reading.recv().map_err(|_| ended())?;
            for (offset, blob) in offsets.into_iter().zip(blobs) {
                if let Some(signal) = self.cancel.signal() {
                    return Err(Error::Stopped { signal }.into());
                }
                sink(offset, &blob?)?;
            }
        }
        Ok(())
    }
}
