//! Memory for bytes: buffers of a fixed size, in large pages if possible, and room in vectors. Must not know the contents.

use std::io;
use std::ops::Deref;

use memmap2::{Advice, MmapMut};

/// A buffer that is filled from the start.
///
/// With pages of 4 KiB, a compressor spends about a tenth of its time on page walks, because it accesses its input randomly.
pub struct Buffer {
    map: MmapMut,
    filled: usize,
}

impl Buffer {
    /// Bytes per buffer. A multiple of 2 MiB, because Linux 6.7 and later align such mappings for large pages.
    pub const SIZE: usize = 4 << 20;

    /// An empty buffer. The kernel allocates its memory at the first write.
    pub fn new() -> io::Result<Buffer> {
        let map = MmapMut::map_anon(Self::SIZE)?;
        // Fails on a kernel without large pages, where small ones are used.
        let _ = map.advise(Advice::HugePage);
        Ok(Buffer { map, filled: 0 })
    }

    /// Makes it empty.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Appends as many of the first `bytes` as fit, and returns their number.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.map[self.filled..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Replaces the contents. `write` receives all [`Self::SIZE`] bytes and returns how many it filled.
    pub fn replace<E>(&mut self, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        self.filled = 0;
        self.filled = write(&mut self.map)?.min(Self::SIZE);
        Ok(())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.filled]
    }
}

/// Sets the length without regard to the contents. New memory is already zero, so it is not written again.
pub fn room(bytes: &mut Vec<u8>, length: usize) {
    if bytes.capacity() < length {
        *bytes = vec![0; length];
    }
    bytes.resize(length, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_takes_as_much_as_fits() {
        let mut buffer = Buffer::new().unwrap();
        assert_eq!(buffer.append(&vec![1; Buffer::SIZE - 1]), Buffer::SIZE - 1);
        assert_eq!(buffer.append(&[2, 3]), 1);
        assert_eq!((buffer.len(), buffer[Buffer::SIZE - 1]), (Buffer::SIZE, 2));
        buffer.clear();
        assert!(buffer.is_empty());
        buffer.replace(|all| all.first_mut().map(|first| *first = 7).ok_or(()).map(|()| 1)).unwrap();
        assert_eq!(&buffer[..], [7]);
        buffer.replace(|_| Err(())).unwrap_err();
        assert!(buffer.is_empty());
    }
}
