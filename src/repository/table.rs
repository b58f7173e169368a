//! Finds blobs in a sorted file on disk, without loading it. Must not keep more of it in memory than the IDs of packs
//! and index objects.
//!
//! ```text
//! magic ‖ blobs, packs, indexes (u64 each) ‖ records, sorted by ID ‖ IDs of packs ‖ IDs of index objects
//! record: ID (32) ‖ pack, with the kinds in its two highest bits ‖ offset ‖ length ‖ raw length (u32 each, big-endian)
//! ```

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::pack::Entry;
use super::{BlobKind, Id};

/// First bytes of a table.
pub(super) const MAGIC: &[u8; 8] = b"kvmbtab1";
/// Length of the header before the records, in bytes.
pub(super) const HEADER: u64 = 32;
/// Length of a record in bytes.
pub(super) const RECORD: usize = Id::BYTES + 16;

const TREE: u32 = 1 << 31;
const COMPRESSED: u32 = 1 << 30;
/// Maximum number of packs in a table.
pub(super) const MAX_PACKS: usize = COMPRESSED as usize;

/// Number of records that are read at once and searched in memory.
const WINDOW: u64 = 64;
/// Number of interpolation steps before the range is halved instead. IDs are evenly distributed, unless they were
/// chosen.
const GUESSES: u32 = 4;

/// A record as it is stored.
pub(super) type Raw = [u8; RECORD];

/// An open table.
#[derive(Debug)]
pub struct BlobTable {
    file: File,
    blobs: u64,
    packs: Vec<Id>,
    indexes: Vec<Id>,
}

impl BlobTable {
    /// Opens a table.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the file is not a table, or is truncated.
    pub fn open(file: File) -> io::Result<BlobTable> {
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, 0)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the file is not a table of blobs");
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(wrong);
        let (blobs, packs, indexes) = (number(8)?, number(16)?, number(24)?);
        let ids = packs.checked_add(indexes).and_then(|ids| ids.checked_mul(Id::BYTES as u64));
        let start = blobs.checked_mul(RECORD as u64).and_then(|records| records.checked_add(HEADER));
        let (ids, start) = ids.zip(start).ok_or_else(wrong)?;
        if !header.starts_with(MAGIC)
            || ids.checked_add(start) != Some(file.metadata()?.len())
            || packs > MAX_PACKS as u64
        {
            return Err(wrong());
        }
        let mut bytes = vec![0; usize::try_from(ids).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        let mut packs_ids: Vec<Id> =
            bytes.chunks_exact(Id::BYTES).filter_map(|id| id.try_into().ok()).map(Id::from_bytes).collect();
        let indexes = packs_ids.split_off(packs as usize);
        Ok(BlobTable { file, blobs, packs: packs_ids, indexes })
    }

    /// Number of blobs.
    pub fn len(&self) -> u64 {
        self.blobs
    }

    /// Its packs; the records refer to them by their index here.
    pub(super) fn packs(&self) -> &[Id] {
        &self.packs
    }

    /// The index objects that it was built from, sorted.
    pub fn indexes(&self) -> &[Id] {
        &self.indexes
    }

    /// `count` records from `first` on, or fewer at the end.
    pub(super) fn records(&self, first: u64, count: u64) -> io::Result<Vec<u8>> {
        let count = count.min(self.blobs.saturating_sub(first));
        let mut bytes = vec![0; count as usize * RECORD];
        self.file.read_exact_at(&mut bytes, HEADER + first * RECORD as u64)?;
        Ok(bytes)
    }

    /// Pack and position of a blob; `None` if it is not in this table.
    pub fn find(&self, kind: BlobKind, id: &Id) -> io::Result<Option<(Id, Entry)>> {
        let (mut low, mut high) = (0, self.blobs);
        let (mut low_key, mut high_key) = (0, u64::MAX);
        let mut guesses = 0;
        while low < high {
            let guess = if guesses < GUESSES {
                let share = u128::from(key(id.as_bytes()).saturating_sub(low_key)) * u128::from(high - low);
                low + (share / (u128::from(high_key - low_key) + 1)) as u64
            } else {
                low + (high - low) / 2
            };
            guesses += 1;
            let first = guess.saturating_sub(WINDOW / 2).max(low);
            let window = self.records(first, WINDOW.min(high - first))?;
            let (records, _) = window.as_chunks::<RECORD>();
            match search(records, kind, id) {
                Found::Here(record) => return self.decode(record).map(Some),
                Found::NotHere => return Ok(None),
                Found::Before(key) => (high, high_key) = (first, key),
                Found::Behind(key) => (low, low_key) = (first + records.len() as u64, key),
            }
        }
        Ok(None)
    }

    fn decode(&self, record: &Raw) -> io::Result<(Id, Entry)> {
        let (kind, id, entry) = decode(record);
        let [pack, offset, length, raw] = entry;
        let pack_id = self.packs.get((pack & !(TREE | COMPRESSED)) as usize).ok_or_else(no_such_pack)?;
        let raw = (pack & COMPRESSED != 0).then_some(raw);
        Ok((*pack_id, Entry { kind, id, offset, length, raw }))
    }
}

enum Found<'a> {
    Here(&'a Raw),
    NotHere,
    Before(u64),
    Behind(u64),
}

fn search<'a>(records: &'a [Raw], kind: BlobKind, id: &Id) -> Found<'a> {
    let of = |record: &Raw| order(record, kind, id);
    match (records.first(), records.last()) {
        (Some(first), _) if of(first).is_gt() => Found::Before(key(first)),
        (_, Some(last)) if of(last).is_lt() => Found::Behind(key(last)),
        _ => records.binary_search_by(of).map_or(Found::NotHere, |at| Found::Here(&records[at])),
    }
}

/// Compares a record with a blob.
fn order(record: &Raw, kind: BlobKind, id: &Id) -> Ordering {
    record[..Id::BYTES].cmp(id.as_bytes()).then_with(|| decode(record).0.cmp(&kind))
}

/// Replaces the pack number of a record.
pub(super) fn renumber(record: &mut Raw, numbers: &[u32]) -> io::Result<()> {
    let (_, _, [pack, ..]) = decode(record);
    let kinds = TREE | COMPRESSED;
    let number = numbers.get((pack & !kinds) as usize).ok_or_else(no_such_pack)?;
    record[Id::BYTES..Id::BYTES + 4].copy_from_slice(&(number | pack & kinds).to_be_bytes());
    Ok(())
}

fn no_such_pack() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record refers to a pack that is not in the table")
}

/// The first eight bytes of an ID, as a number.
fn key(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The record of a blob in the pack with this number.
pub(super) fn encode(pack: u32, entry: &Entry) -> Raw {
    let mut record = [0; RECORD];
    record[..Id::BYTES].copy_from_slice(entry.id.as_bytes());
    let kind = if entry.kind == BlobKind::Tree { TREE } else { 0 };
    let compressed = if entry.raw.is_some() { COMPRESSED } else { 0 };
    let numbers = [pack | kind | compressed, entry.offset, entry.length, entry.raw.unwrap_or(0)];
    for (place, number) in record[Id::BYTES..].chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    record
}

fn decode(record: &Raw) -> (BlobKind, Id, [u32; 4]) {
    let mut id = [0; Id::BYTES];
    id.copy_from_slice(&record[..Id::BYTES]);
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(record[Id::BYTES..].as_chunks().0) {
        *number = u32::from_be_bytes(*bytes);
    }
    let kind = if numbers[0] & TREE != 0 { BlobKind::Tree } else { BlobKind::Data };
    (kind, Id::from_bytes(id), numbers)
}

#[cfg(test)]
mod tests {
    use super::super::table_writer::{TableWriter, nameless};
    use super::*;

    fn entry(n: u32, kind: BlobKind) -> Entry {
        Entry { kind, id: Id::of(&n.to_le_bytes()), offset: n, length: n + 50, raw: (n.is_multiple_of(3)).then_some(n) }
    }

    fn table(dir: &std::path::Path, entries: &[(Id, Entry)]) -> BlobTable {
        let mut writer = TableWriter::new(dir);
        entries.iter().for_each(|(pack, entry)| writer.add(*pack, entry).unwrap());
        BlobTable::open(writer.finish(nameless(dir).unwrap(), &[], &[Id::of(b"index")]).unwrap()).unwrap()
    }

    #[test]
    fn all_blobs_are_found_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, 2, 63, 64, 65, 5000] {
            let entries: Vec<_> = (0..count).map(|n| (Id::of(&[(n % 7) as u8]), entry(n, BlobKind::Data))).collect();
            let table = table(dir.path(), &entries);
            assert_eq!((table.len(), table.indexes()), (count.into(), &[Id::of(b"index")][..]));
            for (pack, entry) in &entries {
                assert_eq!(table.find(BlobKind::Data, &entry.id).unwrap(), Some((*pack, *entry)));
                assert_eq!(table.find(BlobKind::Tree, &entry.id).unwrap(), None);
            }
            let unknown = (count..count + 2000)
                .map(|n| Id::of(&n.to_le_bytes()))
                .chain([Id::from_bytes([0; 32]), Id::from_bytes([255; 32])]);
            unknown.for_each(|id| assert_eq!(table.find(BlobKind::Data, &id).unwrap(), None));
        }
    }

    #[test]
    fn unevenly_distributed_ids_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let id = |n: u32| {
            let mut id = [0; 32];
            id[28..].copy_from_slice(&n.to_be_bytes());
            Id::from_bytes(id)
        };
        let near = (0..3000).map(|n| (Id::of(b"pack"), Entry { id: id(n * 2), ..entry(n, BlobKind::Tree) }));
        let mut entries: Vec<_> = near.collect();
        entries.push((Id::of(b"pack"), Entry { id: Id::from_bytes([255; 32]), ..entry(1, BlobKind::Tree) }));
        let table = table(dir.path(), &entries);
        for (pack, entry) in &entries {
            assert_eq!(table.find(BlobKind::Tree, &entry.id).unwrap(), Some((*pack, *entry)));
        }
        (0..3000).for_each(|n| assert_eq!(table.find(BlobKind::Tree, &id(n * 2 + 1)).unwrap(), None));
    }

    #[test]
    fn files_that_are_not_tables_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let writer = || {
            let mut writer = TableWriter::new(dir.path());
            writer.add(Id::of(b"pack"), &entry(1, BlobKind::Data)).unwrap();
            writer.finish(nameless(dir.path()).unwrap(), &[], &[]).unwrap()
        };
        for (at, length) in [(0, 112), (8, 112), (15, 112), (16, 112), (23, 112), (100, 111), (100, 113), (100, 10)] {
            let file = writer();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            if length == 112 {
                file.write_all_at(&[byte[0] ^ 0x80], at).unwrap();
            }
            file.set_len(length).unwrap();
            assert!(BlobTable::open(file).is_err(), "{at} {length}");
        }
        let file = writer();
        file.write_all_at(&[9], HEADER + 32).unwrap();
        let wrong = BlobTable::open(file).unwrap().find(BlobKind::Data, &entry(1, BlobKind::Data).id).unwrap_err();
        assert_eq!(wrong.kind(), io::ErrorKind::InvalidData);
    }
}
