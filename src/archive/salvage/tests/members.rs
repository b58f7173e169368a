//! What is told of an archive and its members: which are there, how far each can be trusted, and which bytes are lost.

use super::*;
use crate::archive::gzip;

const CODECS: [Codec; 3] = [Codec::Zstd(3), Codec::Gzip(1), Codec::None];
const VDA: &str = "disks/vda.qcow2";

/// The archive under the name that the store gives it, after a change of its bytes.
fn changed(fixture: &Fixture, codec: Codec, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let path = fixture.path.with_file_name(format!("changed{}", ending(codec)));
    let mut bytes = fs::read(&fixture.path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    path
}

/// The archive with zeros in one frame, and that frame's place in the tar stream.
fn without_frame(fixture: &Fixture, codec: Codec, frame: usize) -> (Salvage, Extent) {
    let piece = Archive::open(&fixture.path).unwrap().pieces().list()[frame];
    let (offset, length) = frames(fixture)[frame];
    let path = changed(fixture, codec, |bytes| bytes[offset..offset + length].fill(0));
    let lost = Extent { offset: piece.stream_offset, length: piece.entry.unpacked.into() };
    (Salvage::open(&path).unwrap(), lost)
}

fn named<'a>(salvage: &'a Salvage, name: &str) -> &'a Remains {
    salvage.remains().iter().find(|remains| remains.name.as_deref() == Some(name)).unwrap()
}

fn trusts(salvage: &Salvage) -> Vec<(Option<&str>, Trust)> {
    salvage.remains().iter().map(|remains| (remains.name.as_deref(), salvage.trust(remains))).collect()
}

/// What a range of a member is given as: where, and how many bytes.
fn parts(salvage: &Salvage, remains: &Remains, from: u64, until: u64) -> Vec<(u64, Option<usize>)> {
    let mut parts = Vec::new();
    let Ok(()) = salvage.each_in(remains, Extent { offset: from, length: until - from }, |at, bytes| {
        parts.push((at, bytes.map(<[u8]>::len)));
        Ok::<(), Infallible>(())
    });
    parts
}

#[test]
fn nothing_is_wrong_with_a_good_archive() {
    for codec in CODECS {
        let fixture = tests::archive(codec, &[("vda", 2 * PIECE), ("vdb", 7)]);
        let salvage = Salvage::open(&changed(&fixture, codec, |_| ())).unwrap();
        assert_eq!((salvage.damages(), salvage.missing()), (&[][..], vec![]), "{codec:?}");
        assert_eq!(salvage.manifest(), Some(&tests::manifest(&["vda", "vdb"])));
        let names = fixture.members.iter().map(|(name, _)| name.as_str()).chain([SUMS]);
        assert_eq!(trusts(&salvage), names.map(|name| (Some(name), Trust::Whole)).collect::<Vec<_>>(), "{codec:?}");
        for (name, bytes) in &fixture.members {
            let mut read = vec![1; bytes.len()];
            assert!(salvage.read(named(&salvage, name), 0, &mut read) && read == *bytes, "{codec:?} {name}");
        }
    }
}

#[test]
fn what_no_archive_is_in_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let good = tests::archive(Codec::Zstd(3), &[("vda", 7)]);
    for (name, bytes) in [
        ("x.tar.zst", b"no archive".to_vec()),
        ("x.tar.gz", vec![]),
        ("x.tar", vec![]),
        // Nothing tells how it was compressed.
        ("x.zst", fs::read(&good.path).unwrap()),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        let opened = Salvage::open(&dir.path().join(name)).map(drop);
        assert!(matches!(opened, Err(Error::Foreign { .. })), "{name}: {opened:?}");
    }
}

#[test]
fn each_damage_is_told_once() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 2 * PIECE)]);
        let (offset, length) = frames(&fixture)[2];
        let damage = |salvage: &Salvage| -> Vec<(u64, u64)> {
            salvage.damages().iter().map(|damage| (damage.offset, damage.length)).collect()
        };
        assert_eq!(damage(&without_frame(&fixture, codec, 2).0), [(offset as u64, length as u64)], "{codec:?}");
        let size = fs::metadata(&fixture.path).unwrap().len();
        let last = frames(&fixture).last().copied().unwrap();
        let table = (last.0 + last.1) as u64;
        let cut_off = Salvage::open(&without_table(&fixture, codec, &[])).unwrap();
        assert_eq!(damage(&cut_off), [(table, 0)], "{codec:?}");
        // Of the second frame, the length in the table, and the checksum.
        let head = if codec == Codec::Gzip(1) { gzip::EMPTY_HEAD } else { 8 };
        for field in [0, 8] {
            let path = changed(&fixture, codec, |bytes| bytes[table as usize + head + 12 + field] ^= 1);
            assert_eq!(damage(&Salvage::open(&path).unwrap()), [(table, size - table)], "{codec:?} {field}");
        }
    }
    // Without frames, only the tar stream as a whole can be wrong.
    let fixture = tests::archive(Codec::None, &[("vda", 7)]);
    let path = changed(&fixture, Codec::None, |bytes| bytes.truncate(bytes.len() - 1));
    let length = fs::metadata(&path).unwrap().len();
    let damages = Salvage::open(&path).unwrap().damages().to_vec();
    assert_eq!(damages, [Damage { offset: 0, length, what: "no complete tar stream" }]);
}

#[test]
fn members_that_something_speaks_of_are_missed() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", PIECE), ("vdb", 7)]);
        // The headers of both disks: the second one's is behind the first one's contents.
        let last = frames(&fixture).len() - 1;
        let (salvage, _) = without_frame(&fixture, codec, last);
        assert_eq!(salvage.missing(), [SUMS], "{codec:?}");
        assert!(salvage.manifest().is_some());
        // The checksums name what the manifest does not.
        let (salvage, _) = without_frame(&fixture, codec, 1);
        assert!(salvage.missing().contains(&"nvram/empty".to_owned()), "{:?}", salvage.missing());
        assert!(!salvage.missing().contains(&"disks/vdb.qcow2".to_owned()), "{:?}", salvage.missing());
        // Without them, the manifest does.
        let (first, second) = (frames(&fixture)[1], frames(&fixture)[last]);
        let path = changed(&fixture, codec, |bytes| {
            bytes[first.0..first.0 + first.1].fill(0);
            bytes[second.0..second.0 + second.1].fill(0);
        });
        let missing = Salvage::open(&path).unwrap().missing();
        assert!(missing.contains(&"domain.xml".to_owned()) && !missing.contains(&"nvram/empty".to_owned()));
    }
}

#[test]
fn a_member_is_read_around_what_is_lost_of_it() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 4 * PIECE)]);
        let good = &fixture.members.iter().find(|(name, _)| name == VDA).unwrap().1;
        let (salvage, lost) = without_frame(&fixture, codec, 3);
        let vda = named(&salvage, VDA);
        assert_eq!(salvage.trust(vda), Trust::Torn);
        let lost = Extent { offset: lost.offset - vda.offset, length: lost.length };
        assert_eq!(vda.lost, [lost]);
        // The first piece also holds what is before the member.
        let (piece, end) = (PIECE as u64, good.len() as u64);
        let first = lost.offset - piece;
        assert_eq!(
            parts(&salvage, vda, 0, u64::MAX),
            [
                (0, Some(first as usize)),
                (first, Some(PIECE)),
                (lost.offset, None),
                (lost.end(), Some(PIECE)),
                (lost.end() + piece, Some((end - lost.end() - piece) as usize))
            ]
        );
        assert_eq!(parts(&salvage, vda, lost.offset - 1, lost.offset), [(lost.offset - 1, Some(1))]);
        assert_eq!(parts(&salvage, vda, lost.offset, lost.offset + 1), [(lost.offset, None)]);
        assert_eq!(parts(&salvage, vda, lost.end() - 1, lost.end()), [(lost.end() - 1, None)]);
        assert_eq!(parts(&salvage, vda, lost.end(), lost.end() + 1), [(lost.end(), Some(1))]);
        assert_eq!(parts(&salvage, vda, end, end + 1), []);
        assert_eq!(parts(&salvage, vda, 5, 5), []);
        for (from, until, whole) in [
            (0, lost.offset, true),
            (first - 3, lost.offset, true),
            (lost.offset - 3, lost.offset + 1, false),
            (lost.offset + 5, lost.offset + 9, false),
            (lost.end() - 1, end, false),
            (lost.end(), end, true),
            (lost.end() + 7, lost.end() + 8, true),
            (lost.end(), end + 1, false),
            (end, end + 1, false),
        ] {
            let mut out = vec![0; (until - from) as usize];
            assert_eq!(salvage.read(vda, from, &mut out), whole, "{codec:?} {from} to {until}");
            assert!(!whole || out == good[from as usize..until as usize], "{codec:?} {from} to {until}");
        }
    }
}

#[test]
fn what_breaks_after_it_was_opened_is_lost_then() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 4 * PIECE)]);
        let path = changed(&fixture, codec, |_| ());
        let salvage = Salvage::open(&path).unwrap();
        let vda = named(&salvage, VDA);
        let start = Archive::open(&path).unwrap().pieces().list()[3].stream_offset - vda.offset;
        let (offset, length) = frames(&fixture)[3];
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset..offset + length].fill(0);
        fs::write(&path, bytes).unwrap();
        let piece = PIECE as u64;
        assert_eq!(
            parts(&salvage, vda, start - 1, start + piece + 1),
            [(start - 1, Some(1)), (start, None), (start + piece, Some(1))]
        );
        assert_eq!(parts(&salvage, vda, start + 9, start + piece), [(start + 9, None)]);
        assert!(!salvage.read(vda, start, &mut [0]));
        assert_eq!(salvage.trust(vda), Trust::Torn);
    }
}

#[test]
fn of_plain_tar_only_digests_tell_what_is_right() {
    let fixture = tests::archive(Codec::None, &[("vda", 9000), ("vdb", 7)]);
    let place = |name: &str| Archive::open(&fixture.path).unwrap().member(name).unwrap().clone();
    let (vda, sums) = (place(VDA), place(SUMS));
    let differing = |path: &Path| -> Vec<(Option<String>, Trust)> {
        let salvage = Salvage::open(path).unwrap();
        let trusts = trusts(&salvage).into_iter().filter(|(_, trust)| *trust != Trust::Whole);
        trusts.map(|(name, trust)| (name.map(str::to_owned), trust)).collect()
    };
    let some = |name: &str| Some(name.to_owned());

    let wrong = changed(&fixture, Codec::None, |bytes| bytes[vda.offset as usize] ^= 1);
    assert_eq!(differing(&wrong), [(some(VDA), Trust::Wrong), (some(SUMS), Trust::Unchecked)]);
    // A header that is none: what is behind it has no name.
    let nameless = changed(&fixture, Codec::None, |bytes| bytes[vda.offset as usize - 512 + 148] ^= 1);
    assert_eq!(differing(&nameless), [(None, Trust::Unchecked), (some(SUMS), Trust::Unchecked)]);
    // Zeros there are not the end of all. With a long name it is the second header that has the length.
    let zeros = changed(&fixture, Codec::None, |bytes| bytes[vda.offset as usize - 512..][..512].fill(0));
    assert_eq!(differing(&zeros), [(None, Trust::Unchecked), (some(SUMS), Trust::Unchecked)]);
    let long = fixture.members.iter().find(|(name, _)| name.len() > 100).unwrap();
    let long = place(&long.0);
    let nameless = changed(&fixture, Codec::None, |bytes| bytes[long.offset as usize - 512 + 148] ^= 1);
    assert_eq!(differing(&nameless), [(None, Trust::Unchecked), (some(SUMS), Trust::Unchecked)]);
    // The line of one member.
    let line = {
        let lines = Archive::open(&fixture.path).unwrap().read(&sums).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        sums.offset as usize + lines.find(VDA).unwrap() - 4
    };
    let unlisted = changed(&fixture, Codec::None, |bytes| bytes[line] = b'x');
    assert_eq!(differing(&unlisted), [(some(VDA), Trust::Unchecked), (some(SUMS), Trust::Unchecked)]);
    // Cut off in the last line: the others stand for themselves.
    let cut = changed(&fixture, Codec::None, |bytes| bytes.truncate((sums.offset + sums.length) as usize - 3));
    assert_eq!(differing(&cut), [(some("disks/vdb.qcow2"), Trust::Unchecked), (some(SUMS), Trust::Torn)]);
}

#[test]
fn a_member_that_is_large_or_torn_is_not_read_at_once() {
    let at_most = vec![0; MAX_SMALL as usize];
    let fixture = tests::archive_of(Codec::Zstd(1), &[("vda", [&at_most[..], &[0]].concat()), ("vdb", at_most)]);
    let salvage = Salvage::open(&changed(&fixture, Codec::Zstd(1), |_| ())).unwrap();
    assert!(salvage.small(VDA).is_none());
    assert!(salvage.small("disks/vdb.qcow2").is_some_and(|bytes| bytes.len() as u64 == MAX_SMALL));
    let fixture = tests::archive(Codec::Zstd(1), &[("vda", 3 * PIECE)]);
    let (salvage, _) = without_frame(&fixture, Codec::Zstd(1), 2);
    assert!(salvage.small(VDA).is_none());
}
