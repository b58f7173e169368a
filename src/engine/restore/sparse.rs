//! Owns: bytes into files, with holes for zeros, and into block devices, with zeros for zeros. Must not: know what the bytes
//! are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender};

use rustix::fs::{FallocateFlags, fallocate};

use crate::sys::writeback::Writeback;

/// Bytes that are looked at together: what is zeros throughout becomes a hole. A block of the usual file systems.
const BLOCK: usize = 4096;
/// Fewer zeros between data are written: a hole would cost more calls and fragments than it saves.
const MIN_HOLE: usize = 32 << 10;
/// Zeros, written where a device cannot be asked for them.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Bytes and where they go.
pub struct Chunk {
    /// In the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Where bytes are written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new file: what is not written reads as zeros.
    NewFile,
    /// A device, which holds whatever it held.
    Device,
}

/// Writes chunks until their sender is gone, and gives the buffers back for reuse.
pub fn drain(file: &File, kind: Kind, chunks: Receiver<Chunk>, spare: SyncSender<Vec<u8>>) -> io::Result<()> {
    let mut writeback = Writeback::start(file)?;
    for Chunk { offset, mut bytes } in chunks {
        write(file, kind, offset, &bytes)?;
        writeback.wrote(bytes.len() as u64);
        bytes.clear();
        // Nobody needs it when the sender is gone or has enough of them.
        let _ = spare.try_send(bytes);
    }
    writeback.finish()
}

/// Writes bytes; into a new file, blocks of zeros only as holes.
pub fn write(file: &File, kind: Kind, offset: u64, bytes: &[u8]) -> io::Result<()> {
    if kind == Kind::Device {
        return file.write_all_at(bytes, offset);
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
            file.write_all_at(&bytes[start..at], offset + start as u64)?;
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
        write(&file, Kind::NewFile, 4096, &bytes).unwrap();
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
        write(&file, Kind::Device, 80_000, &[0; 10_000]).unwrap();
        let mut back = vec![9; 100_000];
        file.read_exact_at(&mut back, 0).unwrap();
        let zeros = |at: usize| (10..60_010).contains(&at) || (80_000..90_000).contains(&at);
        assert!(back.iter().enumerate().all(|(at, &byte)| byte == if zeros(at) { 0 } else { 7 }));
    }
}
