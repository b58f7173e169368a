//! Owns: memory for bytes: buffers of one size, in large pages where the kernel gives them, and room in vectors. Must not: know what is in
//! them.

use std::io;
use std::ops::Deref;

use memmap2::{Advice, MmapMut};

/// Bytes that are filled from the start.
///
/// A compressor jumps about in its input: with pages of 4 KiB that costs it about a tenth of its time in page walks.
pub struct Buffer {
    map: MmapMut,
    filled: usize,
}

impl Buffer {
    /// Bytes of each. A multiple of 2 MiB: Linux 6.7 and newer put a mapping of such a length where large pages fit.
    pub const SIZE: usize = 4 << 20;

    /// An empty one. Its memory is taken when it is first written to.
    pub fn new() -> io::Result<Buffer> {
        let map = MmapMut::map_anon(Self::SIZE)?;
        // A kernel without large pages refuses; then they are small.
        let _ = map.advise(Advice::HugePage);
        Ok(Buffer { map, filled: 0 })
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Appends as much of the start of `bytes` as fits, and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.map[self.filled..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Replaces what is in it: `write` gets all [`Self::SIZE`] bytes, and says how many from the start count.
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

/// Makes it so many bytes long, whatever they are. Memory that is new is zeros already, and is not written once more.
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
    fn it_takes_what_fits() {
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
