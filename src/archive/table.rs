//! Owns: the index at the end of an archive: where each piece lies and the checksum it must have. Must not: decode pieces.
//!
//! The bytes are those of the zstd seekable format
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>), with
//! checksums. A gzip archive has the same entries and footer, inside empty gzip members.

use std::io;

use super::kind::Kind;
use super::{Error, MAX_PIECE, MAX_PIECES, PIECE, gzip};
use crate::sys::patient_file::PatientFile;

/// Magic number of the skippable frame, and of the footer's end.
const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;

/// The descriptor: entries have checksums.
const DESCRIPTOR: u8 = 0x80;

const ENTRY: usize = 12;
const FOOTER: usize = 9;

/// Bytes of the first piece of an uncompressed archive: enough for a manifest, so that listing reads little.
const FIRST_PLAIN: usize = 64 << 10;

/// What the table says of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes in the file.
    pub packed: u32,
    /// Bytes of the tar stream.
    pub unpacked: u32,
    /// Low 32 bits of the XXH64 of the contents (zstd), or their CRC-32 (gzip).
    pub check: u32,
}

/// One piece and where it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Of its first byte, in the file.
    pub file_offset: u64,
    /// Of its first byte, in the tar stream.
    pub stream_offset: u64,
    /// Lengths and checksum.
    pub entry: Entry,
}

/// The bytes that end an archive with these pieces.
pub(super) fn encode(kind: Kind, entries: &[Entry]) -> Vec<u8> {
    let mut table = Vec::with_capacity(8 + entries.len() * ENTRY + FOOTER);
    for entry in entries {
        for field in [entry.packed, entry.unpacked, entry.check] {
            table.extend_from_slice(&field.to_le_bytes());
        }
    }
    let mut footer = [0; FOOTER];
    // The writer and the reader hold the number under `MAX_PIECES`.
    footer[..4].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    footer[4] = DESCRIPTOR;
    footer[5..].copy_from_slice(&SEEKABLE.to_le_bytes());
    match kind {
        Kind::Zstd => {
            table.extend_from_slice(&footer);
            let length = (table.len() as u32).to_le_bytes();
            [SKIPPABLE.to_le_bytes().as_slice(), &length, &table].concat()
        }
        Kind::Gzip => {
            let mut members: Vec<u8> = table.chunks(gzip::MAX_TABLE).flat_map(gzip::table_member).collect();
            members.extend(gzip::table_member(&footer));
            members
        }
        Kind::None => Vec::new(),
    }
}

/// The length of [`encode`]'s result.
fn encoded_len(kind: Kind, pieces: usize) -> usize {
    let entries = pieces * ENTRY;
    match kind {
        Kind::Zstd => 8 + entries + FOOTER,
        Kind::Gzip => entries + entries.div_ceil(gzip::MAX_TABLE) * gzip::EMPTY + FOOTER + gzip::EMPTY,
        Kind::None => 0,
    }
}

/// Reads the index of a file of `length` bytes, and checks that it speaks of every byte of it.
pub(super) fn read(file: &PatientFile, length: u64, kind: Kind) -> Result<Vec<Piece>, Error> {
    if kind == Kind::None {
        return plain(length);
    }
    let damaged = |what| Error::Table { what };
    let tail = |bytes: usize| {
        let offset = length.checked_sub(bytes as u64).ok_or(damaged("the archive is truncated"))?;
        let mut tail = Vec::new();
        match file.read_exact(&mut tail, bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("the archive is truncated")),
            Err(source) => Err(Error::Read { offset, source }),
            Ok(()) => Ok(tail),
        }
    };

    let after = if kind == Kind::Gzip { gzip::EMPTY - gzip::EMPTY_HEAD } else { 0 };
    let footer = tail(FOOTER + after)?;
    let count = count(&footer).map_err(damaged)?;
    let table = tail(encoded_len(kind, count))?;
    let entries = entries(kind, &table, count);
    // Whatever else may be in the bytes around the entries, it is not what a writer puts there.
    if encode(kind, &entries) != table {
        return Err(damaged("its bytes are not well-formed"));
    }
    let pieces = place(&entries)?;
    match pieces.last() {
        Some(last) if last.file_offset + u64::from(last.entry.packed) + table.len() as u64 == length => Ok(pieces),
        _ => Err(damaged("its lengths do not add up to the length of the file")),
    }
}

/// Whether the index begins with these bytes. That of a zstd archive must be here to its end.
pub(super) fn starts(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Zstd => {
            let length = bytes.get(4..8).map_or(0, |length| le(length) as usize);
            le(bytes) == SKIPPABLE
                && length >= FOOTER
                && bytes.get(4 + length..8 + length).is_some_and(|end| le(end) == SEEKABLE)
        }
        Kind::Gzip => gzip::is_table(bytes),
        Kind::None => false,
    }
}

/// Whether the index may begin with these bytes, of which there may be few.
pub(super) fn may_start(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Zstd => le(bytes) == SKIPPABLE,
        _ => starts(kind, bytes),
    }
}

/// The entries of an index that is damaged somewhere, if its end is there: to be held against the frames.
pub(super) fn salvage(file: &PatientFile, length: u64, kind: Kind) -> Option<Vec<Entry>> {
    let after = if kind == Kind::Gzip { gzip::EMPTY - gzip::EMPTY_HEAD } else { 0 };
    let tail = |bytes: usize| {
        let mut tail = Vec::new();
        file.read_exact(&mut tail, bytes, length.checked_sub(bytes as u64)?).ok().map(|()| tail)
    };
    let footer = tail(FOOTER + after)?;
    let count = count(&footer).ok()?;
    Some(entries(kind, &tail(encoded_len(kind, count))?, count))
}

/// How many entries there are, by the footer.
fn count(footer: &[u8]) -> Result<usize, &'static str> {
    if footer[4] != DESCRIPTOR || le(&footer[5..9]) != SEEKABLE {
        return Err("missing; the archive may be truncated");
    }
    match le(footer) as usize {
        count @ 1..=MAX_PIECES => Ok(count),
        _ => Err("the number of frames is absurd"),
    }
}

/// The entries in the bytes of a table that has the right length.
fn entries(kind: Kind, table: &[u8], count: usize) -> Vec<Entry> {
    let parse = |entry: &[u8]| Entry { packed: le(&entry[..4]), unpacked: le(&entry[4..8]), check: le(&entry[8..12]) };
    match kind {
        Kind::Zstd => table[8..8 + count * ENTRY].chunks_exact(ENTRY).map(parse).collect(),
        Kind::Gzip => table
            .chunks(gzip::EMPTY + gzip::MAX_TABLE)
            .flat_map(|member| member[gzip::EMPTY_HEAD..].chunks_exact(ENTRY))
            .take(count)
            .map(parse)
            .collect(),
        Kind::None => Vec::new(),
    }
}

/// Where the pieces lie, one behind the other.
fn place(entries: &[Entry]) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::with_capacity(entries.len());
    let (mut file_offset, mut stream_offset) = (0, 0);
    for &entry in entries {
        // What a piece may grow by when it cannot be compressed is far under this.
        let sane = |length: u32, most: usize| length > 0 && length as usize <= most;
        if !sane(entry.packed, MAX_PIECE + MAX_PIECE / 16) || !sane(entry.unpacked, MAX_PIECE) {
            return Err(Error::Table { what: "the length of a frame is absurd" });
        }
        pieces.push(Piece { file_offset, stream_offset, entry });
        // At most `MAX_PIECES` times 17 MiB: cannot overflow.
        file_offset += u64::from(entry.packed);
        stream_offset += u64::from(entry.unpacked);
    }
    Ok(pieces)
}

/// An uncompressed archive has no table; pieces are cut where it suits the reader.
pub(super) fn plain(length: u64) -> Result<Vec<Piece>, Error> {
    if length / PIECE as u64 >= MAX_PIECES as u64 {
        return Err(Error::TooManyPieces);
    }
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < length {
        let most = if offset == 0 { FIRST_PLAIN } else { PIECE };
        // At most `PIECE`, which fits.
        let piece = (length - offset).min(most as u64) as u32;
        let entry = Entry { packed: piece, unpacked: piece, check: 0 };
        pieces.push(Piece { file_offset: offset, stream_offset: offset, entry });
        offset += u64::from(piece);
    }
    Ok(pieces)
}

/// The first four bytes as a little-endian number.
pub(super) fn le(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).rev().fold(0, |number, &byte| (number << 8) + u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::patience::Patience;

    #[test]
    fn tables_round_trip_at_every_member_boundary() {
        for kind in [Kind::Zstd, Kind::Gzip] {
            for count in [1, 2, 5459, 5460, 5461, 11_000] {
                let entries: Vec<_> =
                    (1..=count).map(|n| Entry { packed: n, unpacked: n + 1, check: n ^ 0xfeed }).collect();
                let table = encode(kind, &entries);
                assert_eq!(table.len(), encoded_len(kind, entries.len()));
                assert_eq!(super::entries(kind, &table, entries.len()), entries);
            }
        }
    }

    const ENTRIES: [Entry; 2] =
        [Entry { packed: 5, unpacked: 7, check: 9 }, Entry { packed: 1, unpacked: 2, check: 3 }];

    /// A file of six bytes of frames and this table.
    fn file(table: &[u8]) -> (PatientFile, u64) {
        let file = tempfile::tempfile().unwrap();
        let bytes = [&[0; 6], table].concat();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        (PatientFile::new(file, &Patience::default()), bytes.len() as u64)
    }

    #[test]
    fn what_is_wrong_with_a_table_is_told() {
        for kind in [Kind::Zstd, Kind::Gzip] {
            let good = encode(kind, &ENTRIES);
            let footer = good.len() - FOOTER - if kind == Kind::Gzip { gzip::EMPTY - gzip::EMPTY_HEAD } else { 0 };
            let (whole, length) = file(&good);
            let pieces = read(&whole, length, kind).unwrap();
            let places: Vec<_> = pieces.iter().map(|piece| (piece.file_offset, piece.stream_offset)).collect();
            assert_eq!(places, [(0, 0), (5, 7)]);
            assert_eq!(salvage(&whole, length, kind).unwrap(), ENTRIES);

            let most = MAX_PIECES as u32;
            for (at, bytes, says) in [
                (footer + 4, 0_u32.to_le_bytes(), "missing"),
                (footer + 5, [0; 4], "missing"),
                (footer, 0_u32.to_le_bytes(), "absurd"),
                (footer, (most + 1).to_le_bytes(), "absurd"),
                (footer, most.to_le_bytes(), "truncated"),
            ] {
                let mut table = good.clone();
                // Of the descriptor, only its own byte.
                let count = if at == footer + 4 { 1 } else { 4 };
                table[at..at + count].copy_from_slice(&bytes[..count]);
                let (damaged, length) = file(&table);
                let error = read(&damaged, length, kind).unwrap_err();
                assert!(matches!(error, Error::Table { what } if what.contains(says)), "{kind:?} {at}: {error}");
                assert!(salvage(&damaged, length, kind).is_none(), "{kind:?} {at}");
            }
            // The file has become shorter than it was said to be.
            let error = read(&whole, length + 1, kind).unwrap_err();
            assert!(matches!(error, Error::Table { what } if what.contains("truncated")), "{error}");
        }
        let unreadable = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let error = read(&PatientFile::new(unreadable, &Patience::default()), 1000, Kind::Zstd).unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error}");
    }

    #[test]
    fn a_table_is_known_by_both_its_ends() {
        let good = encode(Kind::Zstd, &ENTRIES);
        assert!(starts(Kind::Zstd, &good));
        let [mut first, mut last] = [good.clone(), good.clone()];
        first[0] ^= 1;
        *last.last_mut().unwrap() ^= 1;
        // As short as none can be.
        let short = [SKIPPABLE, FOOTER as u32 - 1, 0, SEEKABLE].map(u32::to_le_bytes).concat();
        for bad in [&first, &last, &good[..good.len() - 1], &good[..6], &[], &short] {
            assert!(!starts(Kind::Zstd, bad), "{bad:?}");
        }
        assert!(starts(Kind::Gzip, &encode(Kind::Gzip, &ENTRIES)) && !starts(Kind::None, &good));
    }

    #[test]
    fn frames_are_as_long_as_they_may_be() {
        let is_sane = |packed: usize, unpacked: usize| {
            place(&[Entry { packed: packed as u32, unpacked: unpacked as u32, check: 0 }]).is_ok()
        };
        let (packed, unpacked) = (17 << 20, 16 << 20);
        assert!(is_sane(1, 1) && is_sane(packed, unpacked));
        assert!(!is_sane(0, 1) && !is_sane(1, 0) && !is_sane(packed + 1, 1) && !is_sane(1, unpacked + 1));
    }

    #[test]
    fn the_first_piece_of_plain_tar_is_short() {
        let lengths =
            |length| -> Vec<u64> { plain(length).unwrap().iter().map(|piece| piece.entry.unpacked.into()).collect() };
        let (first, piece) = (FIRST_PLAIN as u64, PIECE as u64);
        assert_eq!(lengths(0), [0_u64; 0]);
        assert_eq!(lengths(first), [first]);
        assert_eq!(lengths(first + 2 * piece + 1), [first, piece, piece, 1]);
        assert!(matches!(plain(MAX_PIECES as u64 * piece), Err(Error::TooManyPieces)));
    }
}
