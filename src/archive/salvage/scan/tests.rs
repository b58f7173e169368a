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
    scan(&PatientFile::new(file, &Patience::default()), bytes.len() as u64, kind, &Cancel::default()).unwrap()
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
        assert_eq!(found.ok().map(|entry| (entry.packed, entry.unpacked)), expected.map(|length| (100, length)));
    }
    assert!(entry(Kind::Gzip, &gzip_member(MOST, 1)).is_ok());
    assert!(entry(Kind::Gzip, &gzip_member(MOST + 1, 1)).is_err());
    // Not ours, or cut off.
    assert!(entry(Kind::Gzip, b"x").is_err());
    let mut other = gzip_member(100, 1);
    other[0] ^= 1;
    assert!(entry(Kind::Gzip, &other).is_err());
    assert!(entry(Kind::Gzip, &gzip_member(100, 1)[..99]).is_err());
    assert!(entry(Kind::Zstd, b"x").is_err() && entry(Kind::None, &zstd_head(1)).is_err());
}

/// Heads of frames, each of which is followed by blocks to the end: every block holds the head of the next frame.
fn nested_heads(count: usize) -> Vec<u8> {
    let head = zstd_head(MAX_PIECE as u32);
    let block = |is_last: u32| ((head.len() as u32) << 3 | is_last).to_le_bytes();
    let mut bytes = [&head[..], &block(0)[..3]].concat().repeat(count);
    bytes.extend([&head[..], &block(1)[..3], &head, &[0; 4]].concat());
    bytes
}

#[test]
fn very_many_heads_in_one_another_are_passed_over_in_linear_time() {
    let gzip: Vec<u8> = (0..100_000_u32).flat_map(|at| gzip::header((100_001 - at) * gzip::HEADER as u32)).collect();
    for (kind, mut bytes) in [(Kind::Zstd, nested_heads(100_000)), (Kind::Gzip, gzip)] {
        // The length of what each gzip member held.
        bytes.extend(1_000_u32.to_le_bytes());
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let length = bytes.len() as u64;
        let file = PatientFile::new(file, &Patience::default());
        let mut effort = Effort::default();
        let found = scan_with(&file, length, kind, &Cancel::default(), &mut effort).unwrap();
        assert!(found.iter().all(|found| matches!(found, Found::Gap(..))), "{kind:?}");
        // What is over when the last one begins.
        let most = SPARE + SPARE_PER_BYTE * length + MAX_PIECE as u64 + length;
        assert!((1..=most).contains(&effort.spent), "{kind:?}: {} of {most}", effort.spent);
    }
}

#[test]
fn whole_frames_behind_very_many_heads_are_found() {
    let fixture = tests::archive(Codec::Zstd(3), &[("vda", 4 * PIECE)]);
    let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
    let before = nested_heads(20_000);
    let found = scan_of(&[&before[..], &good].concat(), Kind::Zstd);
    let frames = found.iter().filter(|found| matches!(found, Found::Frame(..))).count();
    assert_eq!(frames, whole.len());
}

#[test]
fn a_signal_ends_the_search() {
    let bytes = nested_heads(1000);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let cancel = Cancel::default();
    cancel.cancel(15);
    let stopped = scan(&PatientFile::new(file, &Patience::default()), bytes.len() as u64, Kind::Zstd, &cancel);
    assert!(matches!(stopped, Err(Error::Read { source, .. }) if source.to_string() == "stopped"));
}

#[test]
fn the_blocks_of_a_frame_tell_how_long_it_is() {
    for (codec, length) in [(Codec::Zstd(1), 1), (Codec::Zstd(3), 300_000), (Codec::Zstd(19), MAX_PIECE / 8)] {
        for byte in [0, 1, 251] {
            let contents: Vec<u8> = (0..length).map(|at| (at * at * byte % 256) as u8).collect();
            let Codec::Zstd(level) = codec else { unreachable!() };
            let mut packer = zstd::bulk::Compressor::new(level).unwrap();
            packer.include_checksum(true).unwrap();
            let mut packed = packer.compress(&contents).unwrap();
            let whole = packed.len();
            assert_eq!(zstd_length(&packed[..whole - 1]), Err(whole - 1));
            packed.extend([0; 100]);
            assert_eq!(zstd_length(&packed), Ok(whole), "{codec:?} {length}");
            assert_eq!(zstd_safe::find_frame_compressed_size(&packed).unwrap(), whole);
        }
    }
    assert_eq!((zstd_length(b"x"), zstd_length(&zstd_head(1))), (Err(0), Err(9)));
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
