//! Tests finding intact frames and the extent of damaged ones.

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
fn damaged_frame_extends_to_the_next_frame() {
    for (codec, kind) in PACKED {
        // The disk contains an incompressible archive, so there are intact frames inside the damaged frame.
        let inner = fs::read(&tests::archive(codec, &[("vda", 8 * PIECE)]).path).unwrap();
        let fixture = tests::archive_of(codec, &[("vda", inner)]);
        let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
        assert_eq!(scan_of(&good, kind), whole);
        let Found::Frame(offset, entry) = whole[2] else { unreachable!() };
        let (from, length) = (offset as usize, entry.packed as usize);

        // The header of a damaged frame gives its length.
        let mut broken = good.clone();
        broken[from + length - 9] ^= 0x10;
        let mut expected = whole.clone();
        expected[2] = Found::Gap(offset, length as u64, Some(entry.unpacked));
        assert_eq!(scan_of(&broken, kind), expected, "{codec:?}");
    }
}

#[test]
fn frame_without_a_valid_header_extends_to_the_next_intact_frame() {
    for (codec, kind) in PACKED {
        let fixture = tests::archive(codec, &[("vda", 4 * PIECE)]);
        let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
        let Found::Frame(offset, entry) = whole[2] else { unreachable!() };
        let (from, length) = (offset as usize, entry.packed as usize);
        let mut expected = whole.clone();

        // The frame is shorter than its header says; the next frame starts where it does.
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

        // No header, and a magic number without a frame.
        let mut zeros = good.clone();
        zeros[from..from + length].fill(0);
        zeros[from + 40..from + 60].copy_from_slice(&good[from..from + 20]);
        let mut expected = whole.clone();
        expected[2] = Found::Gap(offset, length as u64, None);
        assert_eq!(scan_of(&zeros, kind), expected, "{codec:?}");
        assert_eq!(whole.last().unwrap().end(), whole.iter().map(|found| found.end()).max().unwrap());
    }
}

/// The header of a zstd frame with this content length in one segment (RFC 8878, 3.1.1.1).
fn zstd_head(length: u32) -> Vec<u8> {
    [&ZSTD[..], &[0b1010_0100], &length.to_le_bytes()].concat()
}

/// A gzip member with our header, these lengths and meaningless contents.
fn gzip_member(packed: usize, unpacked: u32) -> Vec<u8> {
    let mut bytes = vec![0; packed];
    bytes[..gzip::HEADER].copy_from_slice(&gzip::header(packed as u32));
    bytes[packed - 4..].copy_from_slice(&unpacked.to_le_bytes());
    bytes
}

#[test]
fn absurd_lengths_in_a_header_are_ignored() {
    let most = MAX_PIECE as u32;
    for (length, expected) in [(0, None), (1, Some(1)), (most, Some(most)), (most + 1, None)] {
        assert_eq!(held(Kind::Zstd, &zstd_head(length)), expected, "{length}");
        let found = entry(Kind::Gzip, &gzip_member(100, length));
        assert_eq!(found.ok().map(|entry| (entry.packed, entry.unpacked)), expected.map(|length| (100, length)));
    }
    assert!(entry(Kind::Gzip, &gzip_member(MOST, 1)).is_ok());
    assert!(entry(Kind::Gzip, &gzip_member(MOST + 1, 1)).is_err());
    // Foreign or truncated.
    assert!(entry(Kind::Gzip, b"x").is_err());
    let mut other = gzip_member(100, 1);
    other[0] ^= 1;
    assert!(entry(Kind::Gzip, &other).is_err());
    assert!(entry(Kind::Gzip, &gzip_member(100, 1)[..99]).is_err());
    assert!(entry(Kind::Zstd, b"x").is_err() && entry(Kind::None, &zstd_head(1)).is_err());
}

/// Nested frame headers: every block of a frame contains the header of the next one.
fn nested_heads(count: usize) -> Vec<u8> {
    let head = zstd_head(MAX_PIECE as u32);
    let block = |is_last: u32| ((head.len() as u32) << 3 | is_last).to_le_bytes();
    let mut bytes = [&head[..], &block(0)[..3]].concat().repeat(count);
    bytes.extend([&head[..], &block(1)[..3], &head, &[0; 4]].concat());
    bytes
}

#[test]
fn nested_frame_headers_are_skipped_in_linear_time() {
    let gzip: Vec<u8> = (0..100_000_u32).flat_map(|at| gzip::header((100_001 - at) * gzip::HEADER as u32)).collect();
    for (kind, mut bytes) in [(Kind::Zstd, nested_heads(100_000)), (Kind::Gzip, gzip)] {
        // The content length of every gzip member.
        bytes.extend(1_000_u32.to_le_bytes());
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let length = bytes.len() as u64;
        let file = PatientFile::new(file, &Patience::default());
        let mut effort = Effort::default();
        let found = scan_with(&file, length, kind, &Cancel::default(), &mut effort).unwrap();
        assert!(found.iter().all(|found| matches!(found, Found::Gap(..))), "{kind:?}");
        // The budget, plus the last candidate.
        let most = SPARE + SPARE_PER_BYTE * length + MAX_PIECE as u64 + length;
        assert!((1..=most).contains(&effort.spent), "{kind:?}: {} of {most}", effort.spent);
    }
}

#[test]
fn intact_frames_after_many_nested_headers_are_found() {
    let fixture = tests::archive(Codec::Zstd(3), &[("vda", 4 * PIECE)]);
    let (good, whole) = (fs::read(&fixture.path).unwrap(), frames(&fixture));
    let before = nested_heads(20_000);
    let found = scan_of(&[&before[..], &good].concat(), Kind::Zstd);
    let frames = found.iter().filter(|found| matches!(found, Found::Frame(..))).count();
    assert_eq!(frames, whole.len());
}

#[test]
fn signal_stops_the_scan() {
    let bytes = nested_heads(1000);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let cancel = Cancel::default();
    cancel.cancel(15);
    let stopped = scan(&PatientFile::new(file, &Patience::default()), bytes.len() as u64, Kind::Zstd, &cancel);
    assert!(matches!(stopped, Err(Error::Read { source, .. }) if source.to_string() == "stopped"));
}

#[test]
fn frame_length_is_computed_from_its_blocks() {
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
fn window_contains_a_whole_frame_at_any_offset() {
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
fn bytes_after_the_end_of_the_file_are_zeros() {
    let file = tempfile::tempfile().unwrap();
    let there = CHUNK + SECTOR + 5;
    file.write_all_at(&vec![1; there], 0).unwrap();
    let file = PatientFile::new(file, &Patience::default());
    let mut out = vec![7];
    let length = CHUNK + 3 * SECTOR + 9;
    read_what_can_be(&file, &mut out, length, 0);
    // A sector is read as a whole or not at all.
    let expected = [vec![7], vec![1; CHUNK + SECTOR], vec![0; 2 * SECTOR + 9]].concat();
    assert!(out == expected);
    let mut out = Vec::new();
    read_what_can_be(&file, &mut out, SECTOR, (there - SECTOR) as u64);
    assert!(out == vec![1; SECTOR]);
}

#[test]
fn unreadable_bytes_are_zeros() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; SECTOR], 0).unwrap();
    let file = PatientFile::new(file, &Patience::default());
    for rest in [0, 1, SECTOR - 1, SECTOR, SECTOR + 1] {
        let mut out = vec![1];
        read_what_can_be(&file, &mut out, SECTOR + rest, 0);
        assert_eq!(out, [vec![1], vec![7; SECTOR], vec![0; rest]].concat(), "{rest}");
    }
}
