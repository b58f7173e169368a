//! Tests damage without a seek table: gaps of unknown length, several in one member, archives inside disks.

mod gaps;
mod members;

use std::fs;
use std::path::{Path, PathBuf};

use super::super::tests::{self, Fixture};
use super::super::{MANIFEST, PIECE};
use super::*;
use crate::model::Codec;

/// Offset and length of the frames, from the intact table.
fn frames(fixture: &Fixture) -> Vec<(usize, usize)> {
    let archive = Archive::open(&fixture.path).unwrap();
    let place = |piece: &super::super::table::Piece| (piece.file_offset as usize, piece.entry.packed as usize);
    archive.pieces().list().iter().map(place).collect()
}

/// A copy of the archive with the store's extension, without its table and with zeros in these ranges.
fn without_table(fixture: &Fixture, codec: Codec, zeros: &[(usize, usize)]) -> PathBuf {
    let path = fixture.path.with_file_name(format!("x{}", ending(codec)));
    let (offset, length) = *frames(fixture).last().unwrap();
    let mut bytes = fs::read(&fixture.path).unwrap();
    bytes.truncate(offset + length);
    for &(from, count) in zeros {
        bytes[from..from + count].fill(0);
    }
    fs::write(&path, bytes).unwrap();
    path
}

fn ending(codec: Codec) -> &'static str {
    match codec {
        Codec::Zstd(_) => ".tar.zst",
        Codec::Gzip(_) => ".tar.gz",
        Codec::None => ".tar",
    }
}

/// Panics unless every byte that is not lost is correct. Returns the number of lost bytes and the incomplete members.
fn held_against(fixture: &Fixture, path: &Path) -> (u64, Vec<String>) {
    let salvage = Salvage::open(path).unwrap();
    assert!(salvage.missing().iter().all(|name| name == MANIFEST), "{:?}", salvage.missing());
    let (mut lost, mut torn) = (0, Vec::new());
    for remains in salvage.remains() {
        lost += remains.lost.iter().map(|lost| lost.length).sum::<u64>();
        let Some(name) = &remains.name else { continue };
        if salvage.trust(remains) != Trust::Whole {
            torn.push(name.clone());
        }
        let Some((_, good)) = fixture.members.iter().find(|(other, _)| other == name) else { continue };
        assert_eq!(remains.length, good.len() as u64);
        let all = Extent { offset: 0, length: remains.length };
        salvage
            .each_in(remains, all, |at, bytes| {
                let at = at as usize;
                assert!(bytes.is_none_or(|bytes| bytes == &good[at..at + bytes.len()]), "{name}: wrong at {at}");
                Ok::<(), Error>(())
            })
            .unwrap();
    }
    (lost, torn)
}

#[test]
fn all_frames_are_placed_without_table_and_manifest() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 2 * PIECE + 9001), ("vdb", PIECE + PIECE / 2)]);
        let frames = frames(&fixture);
        assert_eq!(held_against(&fixture, &without_table(&fixture, codec, &[])), (0, vec![]));
        let path = without_table(&fixture, codec, &[frames[0]]);
        assert_eq!(held_against(&fixture, &path).1, Vec::<String>::new());
        let salvage = Salvage::open(&path).unwrap();
        assert!(salvage.manifest().is_none() && salvage.missing() == [MANIFEST]);
        // The header, or all, of a frame in the middle of a member.
        for zeros in [(frames[2].0, 8), frames[2]] {
            let (lost, torn) = held_against(&fixture, &without_table(&fixture, codec, &[zeros]));
            assert_eq!((lost, torn), (PIECE as u64, vec!["disks/vda.qcow2".to_owned()]), "{codec:?}");
        }
    }
}

#[test]
fn gap_of_several_frames_is_measured_by_the_next_header() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 7 * PIECE + PIECE / 2), ("vdb", PIECE / 4)]);
        let frames = frames(&fixture);
        let gap = (frames[2].0, frames[3].1 + frames[4].1 + frames[2].1);
        let (lost, torn) = held_against(&fixture, &without_table(&fixture, codec, &[gap]));
        assert_eq!((lost, torn), (3 * PIECE as u64, vec!["disks/vda.qcow2".to_owned()]), "{codec:?}");
        // The position of a frame between two such gaps is unknown, so it is lost, not guessed.
        let gaps = [(frames[1 + 1].0, frames[2].1 + frames[3].1), frames[5]];
        let (lost, torn) = held_against(&fixture, &without_table(&fixture, codec, &gaps));
        assert_eq!((lost, torn), (4 * PIECE as u64, vec!["disks/vda.qcow2".to_owned()]), "{codec:?}");
    }
}

#[test]
fn archive_inside_a_disk_is_not_mistaken_for_the_archive() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let inner = tests::archive(Codec::None, &[("vda", PIECE + PIECE / 4)]);
        let disk = [vec![1; 3 * PIECE + PIECE / 4], fs::read(&inner.path).unwrap(), vec![2; PIECE]].concat();
        let fixture = tests::archive_of(codec, &[("vda", disk), ("vdb", vec![3; 100])]);
        let frames = frames(&fixture);
        // One frame, and two in one gap; the headers of the inner archive follow.
        for gap in [frames[2], (frames[2].0, frames[2].1 + frames[3].1), frames[4]] {
            let (_, torn) = held_against(&fixture, &without_table(&fixture, codec, &[gap]));
            assert_eq!(torn, ["disks/vda.qcow2"], "{codec:?} {gap:?}");
        }
    }
}

/// The archive with its table and with zeros in these frames.
fn zeroed(fixture: &Fixture, codec: Codec, zeros: &[usize]) -> Salvage {
    let path = fixture.path.with_file_name(format!("y{}", ending(codec)));
    let mut bytes = fs::read(&fixture.path).unwrap();
    let frames = frames(fixture);
    zeros.iter().for_each(|&frame| bytes[frames[frame].0..][..frames[frame].1].fill(0));
    fs::write(&path, bytes).unwrap();
    Salvage::open(&path).unwrap()
}

#[test]
fn disk_without_its_tar_header_is_named_if_unambiguous() {
    let noise = |length: u64, seed: u8| (0..length).map(|at| (at >> 7) as u8 ^ (at % 251) as u8 ^ seed).collect();
    let disks: [(&str, Vec<u8>); 2] = [("vda", noise(5 << 16, 1)), ("vdb", noise(4 << 16, 2))];
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive_of(codec, &disks);
        let second = {
            let archive = Archive::open(&fixture.path).unwrap();
            archive.pieces().index_at(archive.member("disks/vdb.qcow2").unwrap().offset - 1)
        };
        let sums = frames(&fixture).len() - 1;
        // The lost frames, the disk that is named, and whether its start is known.
        for (zeros, named) in [
            (vec![1], Some(("disks/vda.qcow2", false))),
            (vec![second], Some(("disks/vdb.qcow2", true))),
            (vec![second, second + 1], Some(("disks/vdb.qcow2", true))),
            ((1..=second).collect(), Some(("disks/vdb.qcow2", false))),
            (vec![0, 1], Some(("disks/vda.qcow2", false))),
            // The first of two lost ranges may belong to the member before the disk.
            (vec![1, second], None),
            // The order of the members is unknown.
            (vec![1, sums], None),
        ] {
            let salvage = zeroed(&fixture, codec, &zeros);
            let whole =
                |remains: &&Remains| remains.name.as_deref() != Some("manifest.json") && !remains.lost.is_empty();
            let remains = salvage.remains().iter().rfind(whole).unwrap();
            let found = remains.name.as_deref().map(|name| (name, remains.is_placed));
            assert_eq!(found, named, "{codec:?} {zeros:?}: {:?}", salvage.remains());
            let Some((name, is_placed)) = named else { continue };
            let (_, good) = fixture.members.iter().find(|(other, _)| other == name).unwrap();
            assert!(!salvage.missing().contains(&name.to_owned()));
            assert!(!is_placed || remains.length == good.len() as u64, "{codec:?} {zeros:?}");
            // Offsets counted from the end are correct.
            let (all, mut bytes) = (Extent { offset: 0, length: remains.length }, 0);
            let each = |at: u64, piece: Option<&[u8]>| {
                let Some(piece) = piece else { return Ok(()) };
                let from = good.len() - (remains.length - at) as usize;
                assert!(piece == &good[from..from + piece.len()], "{codec:?} {zeros:?}: wrong at {at}");
                bytes += piece.len();
                Ok::<(), Error>(())
            };
            salvage.each_in(remains, all, each).unwrap();
            assert!(bytes > PIECE / 4, "{codec:?} {zeros:?}");
        }
    }
}

#[test]
fn order_of_members_is_not_trusted_in_an_uncompressed_archive() {
    let fixture = tests::archive_of(Codec::None, &[("vda", vec![7; 2 << 16])]);
    let header = Archive::open(&fixture.path).unwrap().member("disks/vda.qcow2").unwrap().offset as usize - 512;
    let path = fixture.path.with_file_name("x.tar");
    let mut bytes = fs::read(&fixture.path).unwrap();
    bytes[header..header + 512].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let salvage = Salvage::open(&path).unwrap();
    assert!(salvage.remains().iter().all(|remains| remains.name.as_deref() != Some("disks/vda.qcow2")));
    assert!(salvage.remains().iter().any(|remains| remains.name.is_none()), "{:?}", salvage.remains());
}
