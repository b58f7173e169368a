//! Encodes and parses packs: sealed blobs one after another, a sealed header that lists them, and the length of the
//! header. Must not choose the contents of a pack, or where it is stored.

use std::io;

use super::crypto::{Key, OVERHEAD};
use super::{BlobKind, Id};

/// The position of a blob in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Kind of the blob.
    pub kind: BlobKind,
    /// SHA-256 of its contents.
    pub id: Id,
    /// Offset of its first byte in the pack.
    pub offset: u32,
    /// Length in the pack in bytes, sealed.
    pub length: u32,
    /// Length of its contents in bytes, if they are compressed.
    pub raw: Option<u32>,
}

impl Entry {
    /// Length of its contents in bytes.
    pub fn raw_length(&self) -> u32 {
        self.raw.unwrap_or(self.length.saturating_sub(OVERHEAD as u32))
    }

    fn header_bytes(&self) -> usize {
        let lengths = if self.raw.is_some() { 8 } else { 4 };
        1 + lengths + Id::BYTES
    }
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct Pack {
    kind: BlobKind,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// A pack with its header.
#[derive(Debug)]
pub struct Finished {
    /// Its stored bytes.
    pub bytes: Vec<u8>,
    /// Its blobs.
    pub entries: Vec<Entry>,
}

impl Pack {
    /// An empty pack for blobs of one kind, because restic reports mixed packs as damage.
    pub fn new(kind: BlobKind) -> Pack {
        Pack { kind, bytes: Vec::new(), entries: Vec::new() }
    }

    /// Appends a sealed blob.
    ///
    /// # Errors
    /// If the lengths do not fit the format.
    pub fn add(&mut self, id: Id, sealed: &[u8], raw: Option<u32>) -> io::Result<()> {
        let [offset, length] = [self.bytes.len(), sealed.len()].map(u32::try_from);
        let (offset, length) = (offset.map_err(io::Error::other)?, length.map_err(io::Error::other)?);
        offset.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        self.entries.push(Entry { kind: self.kind, id, offset, length, raw });
        self.bytes.extend_from_slice(sealed);
        Ok(())
    }

    /// Total length of its blobs in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Number of blobs.
    pub fn blobs(&self) -> usize {
        self.entries.len()
    }

    /// Appends the header.
    pub fn finish(mut self, key: &Key) -> io::Result<Finished> {
        let mut header = Vec::with_capacity(self.entries.iter().map(Entry::header_bytes).sum());
        for entry in &self.entries {
            let compressed = u8::from(entry.raw.is_some()) << 1;
            header.push(compressed | u8::from(entry.kind == BlobKind::Tree));
            header.extend_from_slice(&entry.length.to_le_bytes());
            header.extend(entry.raw.into_iter().flat_map(u32::to_le_bytes));
            header.extend_from_slice(entry.id.as_bytes());
        }
        let sealed = key.seal(&header)?;
        self.bytes.extend_from_slice(&sealed);
        self.bytes.extend_from_slice(&u32::try_from(sealed.len()).map_err(io::Error::other)?.to_le_bytes());
        Ok(Finished { bytes: self.bytes, entries: self.entries })
    }
}

#[cfg(test)]
pub mod header;

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::super::{Kind, Object, Repository};
    use super::header::{parse, read_header};
    use super::*;

    fn stored(repository: &Repository, bytes: &[u8]) -> Id {
        let id = Id::of(bytes);
        repository.put(Object::new(Kind::Pack, id), bytes.to_vec()).unwrap();
        id
    }

    #[test]
    fn headers_round_trip_and_any_damage_is_detected() {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let mut pack = Pack::new(BlobKind::Tree);
        pack.add(Id::of(b"a"), &[1; 100], Some(1000)).unwrap();
        pack.add(Id::of(b"b"), &[2; 50], None).unwrap();
        assert_eq!((pack.len(), pack.blobs()), (150, 2));
        let finished = pack.finish(repository.key()).unwrap();
        assert_eq!(read_header(&repository, stored(&repository, &finished.bytes)).unwrap(), finished.entries);
        assert_eq!(
            finished.entries[1],
            Entry { kind: BlobKind::Tree, id: Id::of(b"b"), offset: 100, length: 50, raw: None }
        );
        assert_eq!(finished.entries.iter().map(Entry::raw_length).collect::<Vec<_>>(), [1000, 18]);

        let end = finished.bytes.len();
        for at in 150..end {
            let mut bad = finished.bytes.clone();
            bad[at] ^= 0x80;
            assert!(read_header(&repository, stored(&repository, &bad)).unwrap_err().is_damage());
        }
        for length in [0, 3, 4, 150, end - 1] {
            assert!(read_header(&repository, stored(&repository, &finished.bytes[..length])).unwrap_err().is_damage());
        }
        let longer = [&[0; 10], finished.bytes.as_slice()].concat();
        assert!(read_header(&repository, stored(&repository, &longer)).unwrap_err().is_damage());
    }

    #[test]
    fn malformed_headers_are_refused() {
        let entry = |kind: u8, length: u32| [&[kind][..], &length.to_le_bytes(), &[0; 32]].concat();
        assert_eq!(parse(&entry(0, 7), 7).unwrap().len(), 1);
        for (header, end) in [
            (entry(4, 7), 7),
            (entry(0, 7), 8),
            (entry(2, 7), 7),
            ([entry(0, u32::MAX), entry(0, 1)].concat(), 0),
            (entry(0, 7)[..36].to_vec(), 7),
        ] {
            parse(&header, end).unwrap_err();
        }
    }
}
