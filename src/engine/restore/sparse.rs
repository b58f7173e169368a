//! Writes bytes to files, with holes for zeros, and to block devices, with zeros written. Must not interpret the
//! bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use rustix::fs::{FallocateFlags, fallocate};

use crate::sys::buffer::Buffer;
use crate::sys::bulk::Bulk;
use crate::sys::patience::{Patience, Task};
use crate::sys::patient_file::PatientFile;

/// Unit of zero detection, in bytes: the block size of common file systems.
const BLOCK: usize = 4096;
/// Shorter runs of zeros between data are written: a hole would cost more calls and fragments than it saves.
const MIN_HOLE: usize = 32 << 10;
/// Written to devices that cannot zero a range themselves.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// Bytes zeroed by one call: a few seconds even on a slow device.
const ZERO_STEP: u64 = 256 << 20;

/// Number of buffers in use.
const BUFFERS: usize = 6;

/// The kind of destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new file: unwritten ranges read as zeros.
    NewFile,
    /// A device, which contains old data.
    Device,
}

struct Chunk {
    offset: u64,
    bytes: Buffer,
}

/// A file or device with its own writing thread; consecutive bytes are gathered into buffers. Only that thread
/// touches the file, so a hung file system blocks no other thread. If dropped before [`Output::finish`], it writes
/// what it has received and waits for that.
pub struct Output {
    full: Option<SyncSender<Chunk>>,
    empty: Receiver<Buffer>,
    /// Buffers not allocated yet.
    unmade: usize,
    current: Option<Chunk>,
    /// `None` once the thread has ended or was abandoned.
    task: Option<Task<io::Result<()>>>,
    written: Arc<AtomicU64>,
    patience: Patience,
}

impl Output {
    /// Starts the thread; writes nothing yet.
    pub fn start(file: &PatientFile, kind: Kind) -> io::Result<Output> {
        // Large enough for all buffers, so that sending never blocks.
        let (full, chunks) = mpsc::sync_channel(BUFFERS);
        let (give_back, empty) = mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let task = file.start("write", {
            let written = written.clone();
            move |file| drain(file, kind, &chunks, &give_back, &written)
        })?;
        let patience = file.patience().clone();
        Ok(Output { full: Some(full), empty, unmade: BUFFERS, current: None, task: Some(task), written, patience })
    }

    /// Writes bytes at this offset. Fails with the error of the thread if that has ended.
    pub fn take(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let fits =
                |chunk: &Chunk| chunk.offset + chunk.bytes.len() as u64 == offset && chunk.bytes.len() < Buffer::SIZE;
            if !self.current.as_ref().is_some_and(fits) {
                self.flush()?;
                self.current = Some(Chunk { offset, bytes: self.buffer()? });
            }
            let count = self.current.as_mut().map_or(0, |chunk| chunk.bytes.append(bytes));
            offset += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// A stream that writes from this offset on.
    pub fn at(&mut self, offset: u64) -> impl io::Write + '_ {
        Stream { output: self, offset }
    }

    /// Waits until all is written.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.join()
    }

    /// Returns an empty buffer; waits until one is free.
    fn buffer(&mut self) -> io::Result<Buffer> {
        let buffer = match self.empty.try_recv() {
            Ok(buffer) => Some(buffer),
            Err(_) if self.unmade > 0 => {
                self.unmade -= 1;
                Some(Buffer::new()?)
            }
            Err(_) => self.patience.receive(&self.empty).inspect_err(|_| self.task = None)?,
        };
        let mut buffer = buffer.map_or_else(|| Err(self.failure()), Ok)?;
        buffer.clear();
        Ok(buffer)
    }

    /// Passes the current buffer to the thread.
    fn flush(&mut self) -> io::Result<()> {
        let Some(chunk) = self.current.take() else { return Ok(()) };
        let sent = self.full.as_ref().is_some_and(|full| full.send(chunk).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    fn join(&mut self) -> io::Result<()> {
        self.full = None;
        let task = self.task.take().ok_or_else(|| io::Error::other("the writing thread has already ended"))?;
        task.wait(|| self.written.load(Ordering::Relaxed))?
    }

    /// The error with which the thread ended early.
    fn failure(&mut self) -> io::Error {
        self.join().err().unwrap_or_else(|| io::Error::other("the writing thread ended too early"))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Writes until the sender is dropped.
fn drain(
    file: &File,
    kind: Kind,
    chunks: &Receiver<Chunk>,
    give_back: &Sender<Buffer>,
    written: &AtomicU64,
) -> io::Result<()> {
    let mut bulk = Bulk::new(file)?;
    for Chunk { offset, bytes } in chunks {
        write(&mut bulk, kind, offset, &bytes)?;
        written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // The buffer is not needed if the receiver is gone.
        let _ = give_back.send(bytes);
    }
    bulk.finish()
}

struct Stream<'a> {
    output: &'a mut Output,
    offset: u64,
}

impl io::Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.take(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes bytes; in a new file, blocks of zeros become holes.
pub fn write(bulk: &mut Bulk, kind: Kind, offset: u64, bytes: &[u8]) -> io::Result<()> {
    if kind == Kind::Device {
        return bulk.write_at(bytes, offset);
    }
    let mut at = 0;
    while at < bytes.len() {
        at += run(&bytes[at..], true);
        let start = at;
        loop {
            at += run(&bytes[at..], false);
            let zeros = run(&bytes[at..], true);
            if zeros >= MIN_HOLE || at + zeros == bytes.len() {
                break;
            }
            at += zeros;
        }
        if start < at {
            bulk.write_at(&bytes[start..at], offset + start as u64)?;
        }
    }
    Ok(())
}

/// Length of the leading blocks that are all zeros, or of those that are not.
fn run(bytes: &[u8], zeros: bool) -> usize {
    let blocks = bytes.chunks(BLOCK).take_while(|block| (**block == ZEROS[..block.len()]) == zeros);
    blocks.map(<[u8]>::len).sum()
}

/// Zeroes a range of a device in steps; each step counts as progress.
pub fn zero(file: &PatientFile, mut offset: u64, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let (at, now) = (offset, length.min(ZERO_STEP));
        file.with(move |file| zero_at_once(file, at, now))?;
        offset += now;
        length -= now;
    }
    Ok(())
}

/// Discarding is not enough: a device may return any data for discarded blocks.
fn zero_at_once(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    // On a block device both modes guarantee zeros or fail: `blkdev_fallocate` in Linux's `block/fops.c`.
    for mode in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
        if fallocate(file, mode | FallocateFlags::KEEP_SIZE, offset, length).is_ok() {
            return Ok(());
        }
    }
    while length > 0 {
        let now = length.min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..now as usize], offset)?;
        offset += now;
        length -= now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_holes_and_data_is_written() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        let mut bytes = vec![0; 4 << 20];
        bytes[5] = 1;
        bytes[1_000_000] = 2;
        let last = bytes.len() - 1;
        bytes[last] = 3;
        write(&mut Bulk::new(&file).unwrap(), Kind::NewFile, 4096, &bytes).unwrap();
        let mut back = vec![9; bytes.len()];
        file.read_exact_at(&mut back, 4096).unwrap();
        assert!(back == bytes);
        assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
    }

    #[test]
    fn zeros_are_written_to_a_device() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 100_000], 0).unwrap();
        zero(&PatientFile::new(file.try_clone().unwrap(), &Patience::default()), 10, 60_000).unwrap();
        write(&mut Bulk::new(&file).unwrap(), Kind::Device, 80_000, &[0; 10_000]).unwrap();
        let mut back = vec![9; 100_000];
        file.read_exact_at(&mut back, 0).unwrap();
        let zeros = |at: usize| (10..60_010).contains(&at) || (80_000..90_000).contains(&at);
        assert!(back.iter().enumerate().all(|(at, &byte)| byte == if zeros(at) { 0 } else { 7 }));
    }
}
