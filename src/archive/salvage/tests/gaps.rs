//! Tests gaps whose length is known only from the data after them: a long name, the end of the tar stream, a member
//! that starts in the gap.

use super::*;

#[test]
fn gap_is_measured_by_a_following_long_name() {
    let long = "v".repeat(100);
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let disk = |pieces: usize| (0..pieces * PIECE).map(|at| (at >> 9) as u8).collect::<Vec<_>>();
        let fixture = tests::archive_of(codec, &[("vda", disk(5)), (&long, disk(1))]);
        let frames = frames(&fixture);
        let gap = (frames[2].0, frames[2].1 + frames[3].1);
        let (lost, torn) = held_against(&fixture, &without_table(&fixture, codec, &[gap]));
        assert_eq!((lost, torn), (2 * PIECE as u64, vec!["disks/vda.qcow2".to_owned()]), "{codec:?}");
    }
}

#[test]
fn gap_in_the_checksums_is_measured_by_the_end_of_the_tar_stream() {
    let targets: Vec<_> = (0..1000).map(|number| format!("{number:0200}")).collect();
    let disks: Vec<_> = targets.iter().map(|target| (target.as_str(), vec![1])).collect();
    let fixture = tests::archive_of(Codec::Zstd(3), &disks);
    let sums = {
        let archive = Archive::open(&fixture.path).unwrap();
        archive.pieces().index_at(archive.member(SUMS).unwrap().offset)
    };
    let frames = frames(&fixture);
    assert_eq!(frames.len(), sums + 3, "the checksums must span three pieces");
    let salvage = Salvage::open(&without_table(&fixture, Codec::Zstd(3), &[frames[sums + 1]])).unwrap();
    let remains = salvage.remains().last().unwrap();
    assert_eq!(remains.name.as_deref(), Some(SUMS));
    // Its header is one block of its first piece.
    assert_eq!(remains.lost, [Extent { offset: PIECE as u64 - 512, length: PIECE as u64 }]);
}

#[test]
fn gap_right_after_a_member_is_not_part_of_it() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let disk = |length: usize, seed: u8| (0..length).map(|at| (at >> 9) as u8 ^ seed).collect::<Vec<_>>();
        // A length that puts the next header at the start of a piece.
        let (length, next) = {
            let trial = tests::archive_of(codec, &[("vda", disk(4 * PIECE, 0))]);
            let archive = Archive::open(&trial.path).unwrap();
            let vda = archive.member("disks/vda.qcow2").unwrap().offset;
            let next = archive.pieces().index_at(vda) + 3;
            ((archive.pieces().list()[next].stream_offset - vda) as usize, next)
        };
        let fixture = tests::archive_of(codec, &[("vda", disk(length, 1)), ("vdb", disk(3 * PIECE, 2))]);
        let salvage = Salvage::open(&without_table(&fixture, codec, &[frames(&fixture)[next]])).unwrap();
        let of = |name: &str| salvage.remains().iter().find(|remains| remains.name.as_deref() == Some(name));
        let vda = of("disks/vda.qcow2").unwrap();
        assert_eq!((vda.length, salvage.trust(vda)), (length as u64, Trust::Whole), "{codec:?}");
        let vdb = of("disks/vdb.qcow2").unwrap();
        let lost: u64 = vdb.lost.iter().map(|lost| lost.length).sum();
        assert_eq!((vdb.length, lost), (3 * PIECE as u64, PIECE as u64 - 512), "{codec:?}");
    }
}
