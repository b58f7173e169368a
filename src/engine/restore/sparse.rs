//! Owns: bytes into files, with holes for zeros, and into block devices, with zeros for zeros. Must not: know what the bytes
//! are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, SyncSender};

use rustix::fs::{FallocateFlags, fallocate};

use crate::sys::buffer::Buffer;
use crate::sys::bulk::Bulk;

/// Bytes that are looked at together: what is zeros throughout becomes a hole. A block of the usual file systems.
const BLOCK: usize = 4096;
/// Fewer zeros between data are written: a hole would cost more calls and fragments than it saves.
const MIN_HOLE: usize = 32 << 10;
/// Zeros, written where a device cannot be asked for them.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Buffers on their way to the disk, or back.
const IN_FLIGHT: usize = 4;

/// Bytes and where they go in the file.
struct Chunk {
    offset: u64,
    bytes: Buffer,
}

/// Takes bytes for another thread to write; what lies in a row is gathered.
pub struct Gather {
    full: SyncSender<Chunk>,
    empty: Receiver<Buffer>,
    current: Option<Chunk>,
}

/// Writes what was gathered.
pub struct Drain {
    full: Receiver<Chunk>,
    empty: SyncSender<Buffer>,
}

/// The two ends.
pub fn pipe() -> (Gather, Drain) {
    let (full, to_write) = mpsc::sync_channel(IN_FLIGHT);
    let (spare, empty) = mpsc::sync_channel(IN_FLIGHT);
    (Gather { full, empty, current: None }, Drain { full: to_write, empty: spare })
}

impl Gather {
    /// Takes bytes that go to this offset. Fails when the writer has ended, whose error says why.
    pub fn take(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let fits =
                |chunk: &Chunk| chunk.offset + chunk.bytes.len() as u64 == offset && chunk.bytes.len() < Buffer::SIZE;
            if !self.current.as_ref().is_some_and(fits) {
                self.flush()?;
                let mut buffer = self.empty.try_recv().map_or_else(|_| Buffer::new(), Ok)?;
                buffer.clear();
                self.current = Some(Chunk { offset, bytes: buffer });
            }
            let count = self.current.as_mut().map_or(0, |chunk| chunk.bytes.append(bytes));
            offset += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Sends off what is left.
    pub fn flush(&mut self) -> io::Result<()> {
        let gone = |_| io::ErrorKind::BrokenPipe.into();
        self.current.take().map_or(Ok(()), |chunk| self.full.send(chunk).map_err(gone))
    }
}

/// Where bytes are written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new file: what is not written reads as zeros.
    NewFile,
    /// A device, which holds whatever it held.
    Device,
}

impl Drain {
    /// Writes until the other end is gone.
    pub fn run(self, file: &File, kind: Kind) -> io::Result<()> {
        let mut bulk = Bulk::new(file)?;
        for Chunk { offset, bytes } in self.full {
            write(&mut bulk, kind, offset, &bytes)?;
            // Nobody needs it when the other end is gone or has enough of them.
            let _ = self.empty.try_send(bytes);
        }
        bulk.finish()
    }
}

/// Writes bytes; into a new file, blocks of zeros only as holes.
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

/// Length of the blocks at the start that are all zeros, or that all are not.
fn run(bytes: &[u8], zeros: bool) -> usize {
    let blocks = bytes.chunks(BLOCK).take_while(|block| (**block == ZEROS[..block.len()]) == zeros);
    blocks.map(<[u8]>::len).sum()
}

/// Makes a range of a device zeros. Discarding would not be enough: what is read afterwards is the device's choice.
pub fn zero(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    // Of a block device, both read as zeros afterwards or fail: `blkdev_fallocate` in Linux's `block/fops.c`.
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
    fn zeros_are_holes_and_all_else_is_written() {
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
    fn a_device_gets_its_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 100_000], 0).unwrap();
        zero(&file, 10, 60_000).unwrap();
        write(&mut Bulk::new(&file).unwrap(), Kind::Device, 80_000, &[0; 10_000]).unwrap();
        let mut back = vec![9; 100_000];
        file.read_exact_at(&mut back, 0).unwrap();
        let zeros = |at: usize| (10..60_010).contains(&at) || (80_000..90_000).contains(&at);
        assert!(back.iter().enumerate().all(|(at, &byte)| byte == if zeros(at) { 0 } else { 7 }));
    }
}
