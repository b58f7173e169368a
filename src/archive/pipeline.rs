//! Compresses pieces in parallel and writes them in order, in bounded memory. Must not interpret a piece.
//!
//! The caller fills a buffer; a thread pool compresses it in place; one thread writes the results in order and
//! returns the buffers. `threads + 2` buffers limit the memory.
//!
//! Only the writing thread touches the file, including the final sync, so a hung file system blocks no other thread.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::codec::Packer;
use super::kind::Kind;
use super::table::{self, Entry};
use super::{Error, MAX_PIECES};
use crate::model::Codec;
use crate::sys::buffer::Buffer;
use crate::sys::bulk::Bulk;
use crate::sys::patience::{Patience, Task};

/// Limit for buffers and contexts, in bytes.
const MEMORY: usize = 160 << 20;

/// Delivers a piece once it is compressed.
type Packed = Receiver<io::Result<(Buffer, Entry)>>;

/// Result of the writing thread.
type Done = Result<(), Error>;

/// The file being written and its threads. Dropping it unfinished stops them and leaves an incomplete file; a thread
/// that hangs in its file system is abandoned.
pub(super) struct Pipeline {
    codec: Codec,
    pool: ThreadPool,
    /// Idle compression contexts.
    packers: Arc<Mutex<Vec<Packer>>>,
    /// Buffers not allocated yet.
    unmade: usize,
    free: Receiver<Buffer>,
    order: Option<SyncSender<Packed>>,
    /// The writing thread; `None` once it has ended or was abandoned.
    task: Option<Task<Done>>,
    patience: Patience,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    written: AtomicU64,
    abandoned: AtomicBool,
}

impl Pipeline {
    /// Starts writing at the beginning of the file. Up to `threads` threads compress, fewer if the level needs much
    /// memory. A piece that is not written within `patience` is an error.
    pub(super) fn new(file: File, codec: Codec, threads: usize, patience: &Patience) -> Result<Pipeline, Error> {
        let compress = |source| Error::Compress { source };
        let threads = threads.clamp(1, affordable_threads(codec));
        // Creating the first context here reports a bad level at once.
        let packers = Arc::new(Mutex::new(vec![Packer::new(codec).map_err(compress)?]));
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|_| "compress".to_owned())
            // A panic drops the sender of the piece, which the writing thread reports as an error.
            .panic_handler(|_| {})
            .build()
            .map_err(|error| compress(io::Error::other(error)))?;
        let buffers = threads + 2;
        let (order, pieces) = mpsc::sync_channel(buffers);
        let (give_back, free) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let task = patience.start("write", {
            let progress = progress.clone();
            move || write_in_order(file, codec, &pieces, &give_back, &progress)
        });
        let task = Some(task.map_err(|source| Error::Write { source })?);
        let patience = patience.clone();
        Ok(Pipeline { codec, pool, packers, unmade: buffers, free, order: Some(order), task, patience, progress })
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.progress.written.load(Ordering::Relaxed)
    }

    /// An empty buffer to fill with at most [`PIECE`](super::PIECE) bytes; waits until one is free.
    pub(super) fn buffer(&mut self) -> Result<Buffer, Error> {
        let buffer = match self.free.try_recv() {
            Ok(buffer) => Some(buffer),
            Err(_) if self.unmade > 0 => {
                self.unmade -= 1;
                Some(Buffer::new().map_err(|source| Error::Compress { source })?)
            }
            Err(_) => self.patience.receive(&self.free).map_err(|source| self.give_up(source))?,
        };
        let mut buffer = buffer.ok_or_else(|| self.failure())?;
        buffer.clear();
        Ok(buffer)
    }

    /// Queues the next piece, which must not be empty.
    pub(super) fn push(&mut self, mut piece: Buffer) -> Result<(), Error> {
        let (send, packed) = mpsc::sync_channel(1);
        let sent = self.order.as_ref().is_some_and(|order| order.send(packed).is_ok());
        if !sent {
            return Err(self.failure());
        }
        let packers = self.packers.clone();
        let codec = self.codec;
        self.pool.spawn(move || {
            let idle = packers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let result = idle.map_or_else(|| Packer::new(codec), Ok).and_then(|mut packer| {
                let entry = packer.pack(&mut piece)?;
                packers.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
                Ok((piece, entry))
            });
            // The receiver is gone if writing failed; the piece is not needed then.
            let _ = send.send(result);
        });
        Ok(())
    }

    /// Waits until all pieces and the seek table are written and synced. Returns the length in bytes.
    pub(super) fn finish(mut self) -> Result<u64, Error> {
        self.join()?;
        Ok(self.written())
    }

    /// Waits for the writing thread and returns its result.
    fn join(&mut self) -> Done {
        self.order = None;
        let write = |source| Error::Write { source };
        let gone = || write(io::Error::other("the writing thread has already ended"));
        let task = self.task.take().ok_or_else(gone)?;
        task.wait(|| self.written()).map_err(write)?
    }

    /// Abandons the writing thread.
    fn give_up(&mut self, source: io::Error) -> Error {
        self.task = None;
        Error::Write { source }
    }

    /// The error with which the writing thread ended early.
    fn failure(&mut self) -> Error {
        match self.join() {
            Err(error) => error,
            Ok(()) => Error::Write { source: io::Error::other("the writing thread ended too early") },
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.progress.abandoned.store(true, Ordering::Relaxed);
        let _ = self.join();
    }
}

/// Threads that fit in [`MEMORY`]: each needs a context, the piece it compresses and a buffer for the result. Two
/// more pieces are being filled and written, and one more buffer gathers the output.
fn affordable_threads(codec: Codec) -> usize {
    (MEMORY - 3 * Buffer::SIZE) / (2 * Buffer::SIZE + Packer::context_bytes(codec))
}

fn write_in_order(
    file: File,
    codec: Codec,
    pieces: &Receiver<Packed>,
    give_back: &Sender<Buffer>,
    progress: &Progress,
) -> Done {
    let write = |source| Error::Write { source };
    let mut output = Output::new(&file).map_err(write)?;
    let mut entries = Vec::new();
    for packed in pieces {
        if progress.abandoned.load(Ordering::Relaxed) {
            break;
        }
        let (piece, entry) = packed
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a compressing thread has ended")))
            .map_err(|source| Error::Compress { source })?;
        if entries.len() == MAX_PIECES {
            return Err(Error::TooManyPieces);
        }
        output.append(&piece).map_err(write)?;
        entries.push(entry);
        progress.written.fetch_add(piece.len() as u64, Ordering::Relaxed);
        // The receiver is gone if the caller needs no more buffers.
        let _ = give_back.send(piece);
    }
    if progress.abandoned.load(Ordering::Relaxed) {
        return Ok(());
    }
    let table = table::encode(Kind::from(codec), &entries);
    output.append(&table).map_err(write)?;
    progress.written.fetch_add(table.len() as u64, Ordering::Relaxed);
    output.finish().map_err(write)?;
    file.sync_all().map_err(write)
}

/// Writes a file from its start in whole buffers.
struct Output {
    bulk: Bulk,
    buffer: Buffer,
    /// File offset of the buffer.
    offset: u64,
}

impl Output {
    fn new(file: &File) -> io::Result<Output> {
        Ok(Output { bulk: Bulk::new(file)?, buffer: Buffer::new()?, offset: 0 })
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.buffer.append(bytes)..];
            if self.buffer.len() == Buffer::SIZE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bulk.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.bulk.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_bounds_the_threads() {
        assert_eq!(affordable_threads(Codec::Zstd(3)), 16);
        assert_eq!(affordable_threads(Codec::Gzip(6)), 16);
        assert_eq!(affordable_threads(Codec::Zstd(19)), 2);
    }

    #[test]
    fn dropping_stops_the_threads() {
        let file = tempfile::tempfile().unwrap();
        let mut pipeline = Pipeline::new(file, Codec::Zstd(1), 2, &Patience::default()).unwrap();
        let progress = Arc::downgrade(&pipeline.progress);
        for _ in 0..10 {
            let mut piece = pipeline.buffer().unwrap();
            piece.append(&[7; super::super::PIECE]);
            pipeline.push(piece).unwrap();
        }
        drop(pipeline);
        assert!(progress.upgrade().is_none(), "a thread is still running");
    }

    #[test]
    fn buffer_waits_until_one_is_free() {
        let patience = Patience::new(std::time::Duration::from_millis(20));
        let mut pipeline = Pipeline::new(tempfile::tempfile().unwrap(), Codec::None, 2, &patience).unwrap();
        let held: Vec<_> = (0..2 + 2).map(|_| pipeline.buffer().unwrap()).collect();
        assert!(pipeline.buffer().is_err());
        drop(held);
    }

    #[test]
    fn the_file_is_written_in_whole_buffers() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::new(&file).unwrap();
        let length = || file.metadata().unwrap().len();
        output.append(&[1; Buffer::SIZE - 1]).unwrap();
        assert_eq!(length(), 0);
        output.append(&[2; 2]).unwrap();
        assert_eq!(length(), Buffer::SIZE as u64);
        output.append(&[3; 7]).unwrap();
        assert_eq!(length(), Buffer::SIZE as u64);
        output.finish().unwrap();
        assert_eq!(length(), Buffer::SIZE as u64 + 8);
    }
}
