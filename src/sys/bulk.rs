//! Writes large amounts of data to a file or block device: with direct I/O if possible, otherwise with regular syncs. Must not
//! replace the final sync: only [`File::sync_all`] after the last write makes a file durable.
//!
//! Direct I/O leaves the page cache to the guests. What a backup writes is not read again soon.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use rustix::fs::OFlags;

use super::writeback::Writeback;

/// Alignment of direct writes in memory, offset and length, in bytes: the largest block size of common disks.
const ALIGN: usize = 4096;
/// Smaller writes go through the page cache, which combines them, because a direct write waits for the disk.
const MIN_DIRECT: usize = 256 << 10;

/// Writes at offsets. If it is dropped without [`Bulk::finish`], a write error may be lost.
pub struct Bulk {
    file: File,
    /// The same file, opened with `O_DIRECT`.
    direct: Option<File>,
    writeback: Writeback,
}

impl Bulk {
    /// Prepares writing to `file`.
    pub fn new(file: &File) -> io::Result<Bulk> {
        Ok(Bulk { file: file.try_clone()?, direct: direct(file), writeback: Writeback::start(file)? })
    }

    /// Writes all bytes. Fastest if offset, length and address are multiples of 4096.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let done = self.write_direct(bytes, offset)?;
        let rest = &bytes[done..];
        self.file.write_all_at(rest, offset + done as u64)?;
        self.writeback.wrote(rest.len() as u64);
        Ok(())
    }

    /// Writes as many of the first bytes as possible with direct I/O, and returns their number.
    fn write_direct(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let whole = bytes.len() - bytes.len() % ALIGN;
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64);
        let Some(direct) = self.direct.as_ref().filter(|_| aligned && whole >= MIN_DIRECT) else { return Ok(0) };
        match direct.write_all_at(&bytes[..whole], offset) {
            Ok(()) => Ok(whole),
            // Some file systems accept the flag but not the write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = None;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for pending syncs and returns their error, if any.
    pub fn finish(self) -> io::Result<()> {
        self.writeback.finish()
    }
}

/// Opens the file again for direct I/O; `None` if its file system or its type does not support that.
fn direct(file: &File) -> Option<File> {
    let kind = file.metadata().ok()?.file_type();
    // For a pipe, the flag has another meaning.
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    // Through its descriptor, because another file may have its name by now.
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
    fn a_pipe_is_never_written_with_direct_io() {
        let (_reader, writer) = io::pipe().unwrap();
        assert!(direct(&File::from(std::os::fd::OwnedFd::from(writer))).is_none());
    }
}
