//! Frames are found by what they are: whole ones, and how far a damaged one reaches.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::*;
use crate::archive::tests::{self, Fixture};
use crate::archive::{Archive, PIECE};
use crate::model::Codec;
use crate::sys::patience::Patience;

const PACKED: [(Codec, Kind); 2] = [(Codec::Zstd(3), Kind::Zstd), (Codec::Gzip(1), Kind::Gzip)];

fn frames(fixture: &Fixture) -> Vec<Found> {
    let archive = Archive::open(&fixture.path).unwrap();
    archive.pieces().list().iter().map(|piece| Found::Frame(piece.file_offset, piece.entry)).collect()
}

fn scan_of(bytes: &[u8], kind: Kind) -> Vec<Found> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    scan(&PatientFile::new(file, &Patience::default()), bytes.len() as u64, kind).unwrap()
}

#[test]
fn a_damaged_frame_reaches_to_its_neighbour() {
    for (codec, kind) in PACKED {
        // A disk that holds an archive that cannot be compressed any more: in a damaged frame are whole ones.
        let inner = fs::read(&tests::archive(codec, &[("vda", 8 * PIECE)]).path).unwrap();
        let fixture = tests::archive_of(codec, &[("vda", inner)]);
        let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
        assert_eq!(scan_of(&good, kind), whole);
        let Found::Frame(offset, entry) = whole[2] else { unreachable!() };
        let (from, length) = (offset as usize, entry.packed as usize);

        // Of a broken one, the head tells how long it was.
        let mut broken = good.clone();
        broken[from + length - 9] ^= 0x10;
        let mut expected = whole.clone();
        expected[2] = Found::Gap(offset, length as u64, Some(entry.unpacked));
        assert_eq!(scan_of(&broken, kind), expected, "{codec:?}");
    }
}

#[test]
fn what_has_no_head_or_another_length_reaches_to_the_next_whole_frame() {
    for (codec, kind) in PACKED {
        let fixture = tests::archive(codec, &[("vda", 4 * PIECE)]);
        let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
        let Found::Frame(offset, entry) = whole[2] else { unreachable!() };
        let (from, length) = (offset as usize, entry.packed as usize);
        let mut expected = whole.clone();

        // From here on it is not as long as it says: the next frame is where it begins.
        let mut shorter = good.clone();
        shorter.drain(from + length - 30..from + length - 20);
        expected[2] = Found::Gap(offset, length as u64 - 10, None);
        for found in &mut expected[3..] {
            let Found::Frame(at, _) = found else { unreachable!() };
            *at -= 10;
        }
        let found: Vec<_> = scan_of(&shorter, kind);
        assert_eq!(found[3..], expected[3..], "{codec:?}");
        assert!(matches!(found[2], Found::Gap(at, gap, _) if at == offset && gap == length as u64 - 10));

        // Without a head, with a mark that no frame is behind.
        let mut zeros = good.clone();
        zeros[from..from + length].fill(0);
        zeros[from + 40..from + 60].copy_from_slice(&good[from..from + 20]);
        let mut expected = whole.clone();
        expected[2] = Found::Gap(offset, length as u64, None);
        assert_eq!(scan_of(&zeros, kind), expected, "{codec:?}");
        assert_eq!(whole.last().unwrap().end(), whole.iter().map(|found| found.end()).max().unwrap());
    }
}

/// The head of a zstd frame with so many bytes in one segment (RFC 8878, 3.1.1.1).
fn zstd_head(length: u32) -> Vec<u8> {
    [&ZSTD[..], &[0b1010_0100], &length.to_le_bytes()].concat()
}

/// A gzip member of ours of so many bytes, that held so many: without sense between its head and its end.
fn gzip_member(packed: usize, unpacked: u32) -> Vec<u8> {
    let mut bytes = vec![0; packed];
    bytes[..gzip::HEADER].copy_from_slice(&gzip::header(packed as u32));
    bytes[packed - 4..].copy_from_slice(&unpacked.to_le_bytes());
    bytes
}

#[test]
fn absurd_lengths_in_a_head_are_none() {
    let most = MAX_PIECE as u32;
    for (length, expected) in [(0, None), (1, Some(1)), (most, Some(most)), (most + 1, None)] {
        assert_eq!(held(Kind::Zstd, &zstd_head(length)), expected, "{length}");
        let found = entry(Kind::Gzip, &gzip_member(100, length));
        assert_eq!(found.map(|entry| (entry.packed, entry.unpacked)), expected.map(|length| (100, length)));
    }
    assert!(entry(Kind::Gzip, &gzip_member(MOST, 1)).is_some());
    assert!(entry(Kind::Gzip, &gzip_member(MOST + 1, 1)).is_none());
    // Not ours, or cut off.
    assert!(entry(Kind::Gzip, b"x").is_none());
    let mut other = gzip_member(100, 1);
    other[0] ^= 1;
    assert!(entry(Kind::Gzip, &other).is_none());
    assert!(entry(Kind::Gzip, &gzip_member(100, 1)[..99]).is_none());
    assert!(entry(Kind::Zstd, b"x").is_none() && entry(Kind::None, &zstd_head(1)).is_none());
}

#[test]
fn a_window_shows_a_frame_wherever_it_is_moved() {
    let length = 3 * MOST + 12_345;
    let mut bytes = vec![0; length];
    for (number, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        sector[..4].copy_from_slice(&(number as u32).to_le_bytes());
    }
    let file: File = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let file = PatientFile::new(file, &Patience::default());
    let mut window = Window { file: &file, length: length as u64, start: 0, bytes: Vec::new() };
    for at in [0, 1, MOST - 1, MOST, MOST + 7, 5, 2 * MOST + 5, length - MOST, length - MOST + 1, 0, length - 1, length]
    {
        let shown = window.at(at as u64);
        assert!(shown.len() >= MOST.min(length - at) && shown.len() <= 2 * MOST, "{at}");
        assert!(bytes[at..].starts_with(shown), "{at}");
    }
    assert!(window.at(length as u64 + 1).is_empty());
}

#[test]
fn what_the_file_does_not_have_is_zeros() {
    let file = tempfile::tempfile().unwrap();
    let there = CHUNK + SECTOR + 5;
    file.write_all_at(&vec![1; there], 0).unwrap();
    let file = PatientFile::new(file, &Patience::default());
    let mut out = vec![7];
    let length = CHUNK + 3 * SECTOR + 9;
    read_what_can_be(&file, &mut out, length, 0);
    // A sector is read whole, or not.
    let expected = [vec![7], vec![1; CHUNK + SECTOR], vec![0; 2 * SECTOR + 9]].concat();
    assert!(out == expected);
    let mut out = Vec::new();
    read_what_can_be(&file, &mut out, SECTOR, (there - SECTOR) as u64);
    assert!(out == vec![1; SECTOR]);
}

#[test]
fn what_cannot_be_read_is_as_many_zeros() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; SECTOR], 0).unwrap();
    let file = PatientFile::new(file, &Patience::default());
    for rest in [0, 1, SECTOR - 1, SECTOR, SECTOR + 1] {
        let mut out = vec![1];
        read_what_can_be(&file, &mut out, SECTOR + rest, 0);
        assert_eq!(out, [vec![1], vec![7; SECTOR], vec![0; rest]].concat(), "{rest}");
    }
}
