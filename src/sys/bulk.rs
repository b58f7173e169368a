//! Owns: writing much data to a file or block device: past the page cache where it can be, else synced while it is still being
//! written. Must not: stand for the sync at the end: only [`File::sync_all`] after the last write makes a file durable.
//!
//! The page cache is the guests': what a backup writes is not read again soon, and would push out what they need.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use rustix::fs::OFlags;

use super::writeback::Writeback;

/// What direct writes are aligned to: in memory, in the file, in length. The largest block of a usual disk.
const ALIGN: usize = 4096;
/// Fewer bytes are left to the page cache, which gathers them: a direct write waits for the disk.
const MIN_DIRECT: usize = 256 << 10;

/// Writes at offsets; dropped before [`Bulk::finish`], an error of the disk may be lost.
pub struct Bulk {
    file: File,
    /// The same file, opened with `O_DIRECT`.
    direct: Option<File>,
    writeback: Writeback,
}

impl Bulk {
    /// Writes nothing yet.
    pub fn new(file: &File) -> io::Result<Bulk> {
        Ok(Bulk { file: file.try_clone()?, direct: direct(file), writeback: Writeback::start(file)? })
    }

    /// Writes all of it. Best at an offset, of a length, and from an address that are multiples of 4096.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let done = self.write_direct(bytes, offset)?;
        let rest = &bytes[done..];
        self.file.write_all_at(rest, offset + done as u64)?;
        self.writeback.wrote(rest.len() as u64);
        Ok(())
    }

    /// Writes as much from the start as can be written past the cache; how much that was.
    fn write_direct(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let whole = bytes.len() - bytes.len() % ALIGN;
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64);
        let Some(direct) = self.direct.as_ref().filter(|_| aligned && whole >= MIN_DIRECT) else { return Ok(0) };
        match direct.write_all_at(&bytes[..whole], offset) {
            Ok(()) => Ok(whole),
            // Some file systems take the flag, and not the write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = None;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the syncs that are under way, and tells what went wrong with any.
    pub fn finish(self) -> io::Result<()> {
        self.writeback.finish()
    }
}

/// The file opened again; `None` where its file system does not have that, and for what is no file or block device.
fn direct(file: &File) -> Option<File> {
    let kind = file.metadata().ok()?.file_type();
    // Of a pipe, the flag means something else.
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    // By its descriptor: its name may be another file's by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::buffer::Buffer;

    #[test]
    fn every_offset_and_length_is_written() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut bulk = Bulk::new(&file).unwrap();
        let mut buffer = Buffer::new().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        buffer.append(&bytes);
        let mut expected = vec![0; 3_000_000];
        for (start, end, offset) in
            [(0, 524_288, 0), (0, 1_000_000, 524_288), (4096, 600_000, 1_527_808), (1, 600_000, 2_300_003)]
        {
            bulk.write_at(&buffer[start..end], offset as u64).unwrap();
            expected[offset..][..end - start].copy_from_slice(&bytes[start..end]);
        }
        bulk.finish().unwrap();
        file.set_len(3_000_000).unwrap();
        assert!(std::fs::read(path).unwrap() == expected);
    }

    #[test]
    fn a_pipe_is_never_written_past_a_cache() {
        let (_reader, writer) = io::pipe().unwrap();
        assert!(direct(&File::from(std::os::fd::OwnedFd::from(writer))).is_none());
    }
}
