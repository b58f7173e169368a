//! Tests archives crafted to keep salvage busy or to fill its memory: the work is proportional to the readable data.

use std::os::unix::fs::FileExt;

use zstd::zstd_safe::CParameter;

use super::super::{place, scan};
use super::*;
use crate::sys::patience::Patience;

/// A frame as the writer creates it.
fn frame(contents: &[u8]) -> Vec<u8> {
    let mut packer = zstd::bulk::Compressor::new(1).unwrap();
    packer.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    packer.compress(contents).unwrap()
}

/// A file of frames, each followed by a gap of unknown length, and its parts.
fn torn(frames: &[Vec<u8>]) -> (Arc<PatientFile>, Parts) {
    let bytes: Vec<u8> = frames.iter().flat_map(|contents| [frame(contents), vec![0x55; 9]].concat()).collect();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let (file, length) = (PatientFile::new(file, &Patience::default()), bytes.len() as u64);
    let found = scan::scan(&file, length, Kind::Zstd, &Cancel::default()).unwrap();
    let (parts, _) = place::place(&file, length, Kind::Zstd, &found);
    (Arc::new(file), parts)
}

#[test]
fn many_gaps_of_unknown_length_are_searched_in_linear_time() {
    // No header is where a gap of any length could end, so each gap is followed by all the others.
    let member = |at: u64| [&[1; BLOCK as usize][..], &header::encode(&format!("m{at}"), 1000, 0)].concat();
    let mut frames: Vec<_> = (0..400).map(member).collect();
    frames[0].drain(..BLOCK as usize);
    let (file, mut parts) = torn(&frames);
    let (mut effort, good) = (Effort::of(&parts), parts.good_bytes());
    let remains = walk_with(&file, Kind::Zstd, &mut parts, &Cancel::default(), &mut effort).unwrap();
    let named = remains.iter().filter(|remains| remains.name.is_some()).count();
    assert_eq!(named, 400, "every member must keep its name");
    // One search may still be running when the budget is spent.
    let most = SPARE + (SPARE_PER_BYTE + 1) * good + (PART + 1) * parts.count() as u64;
    assert!((SPARE..=most).contains(&effort.spent), "{} of {most}", effort.spent);
}

#[test]
fn impossible_gap_length_needs_no_memory() {
    // The next header is where the gap could end if the member had this length.
    let frames = [header::encode("a", 4 << 40, 0), header::encode("b", 0, 0)];
    let (file, mut parts) = torn(&frames);
    walk(&file, Kind::Zstd, &mut parts, &Cancel::default()).unwrap();
    assert!(parts.count() < 20, "{} parts of a file of a few bytes", parts.count());
}
