//! Tests reports on an archive and its members: which exist, how far each can be trusted, and which bytes are lost.

use super::*;
use crate::archive::gzip;

const CODECS: [Codec; 3] = [Codec::Zstd(3), Codec::Gzip(1), Codec::None];
const VDA: &str = "disks/vda.qcow2";

/// A modified copy of the archive with the store's extension.
fn changed(fixture: &Fixture, codec: Codec, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let path = fixture.path.with_file_name(format!("changed{}", ending(codec)));
    let mut bytes = fs::read(&fixture.path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    path
}

/// The archive with zeros in one frame, and the range of that frame in the tar stream.
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

/// The pieces in which a range is delivered: offset and length.
fn parts(salvage: &Salvage, remains: &Remains, from: u64, until: u64) -> Vec<(u64, Option<usize>)> {
    let mut parts = Vec::new();
    let Ok(()) = salvage.each_in(remains, Extent { offset: from, length: until - from }, |at, bytes| {
        parts.push((at, bytes.map(<[u8]>::len)));
        Ok::<(), Infallible>(())
    });
    parts
}

#[test]
fn intact_archive_has_no_damage() {
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
fn file_without_an_archive_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let good = tests::archive(Codec::Zstd(3), &[("vda", 7)]);
    for (name, bytes) in [
        ("x.tar.zst", b"no archive".to_vec()),
        ("x.tar.gz", vec![]),
        ("x.tar", vec![]),
        // The extension does not name the codec.
        ("x.zst", fs::read(&good.path).unwrap()),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        let opened = Salvage::open(&dir.path().join(name)).map(drop);
        assert!(matches!(opened, Err(Error::Foreign { .. })), "{name}: {opened:?}");
    }
}

#[test]
fn each_damage_is_reported_once() {
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
        // Length and checksum of the second frame in the table.
        let head = if codec == Codec::Gzip(1) { gzip::EMPTY_HEAD } else { 8 };
        for field in [0, 8] {
            let path = changed(&fixture, codec, |bytes| bytes[table as usize + head + 12 + field] ^= 1);
            assert_eq!(damage(&Salvage::open(&path).unwrap()), [(table, size - table)], "{codec:?} {field}");
        }
    }
    // Without frames, only the tar stream as a whole can be damaged.
    let fixture = tests::archive(Codec::None, &[("vda", 7)]);
    let path = changed(&fixture, Codec::None, |bytes| bytes.truncate(bytes.len() - 1));
    let length = fs::metadata(&path).unwrap().len();
    let damages = Salvage::open(&path).unwrap().damages().to_vec();
    assert_eq!(damages, [Damage { offset: 0, length, what: "no complete tar stream" }]);
}

#[test]
fn members_named_by_checksums_or_manifest_are_reported_missing() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", PIECE), ("vdb", 7)]);
        // The header of the second disk is after the contents of the first.
        let last = frames(&fixture).len() - 1;
        let (salvage, _) = without_frame(&fixture, codec, last);
        assert_eq!(salvage.missing(), [SUMS], "{codec:?}");
        assert!(salvage.manifest().is_some());
        // The checksums name members that the manifest does not.
        let (salvage, _) = without_frame(&fixture, codec, 1);
        assert!(salvage.missing().contains(&"nvram/empty".to_owned()), "{:?}", salvage.missing());
        assert!(!salvage.missing().contains(&"disks/vdb.qcow2".to_owned()), "{:?}", salvage.missing());
        // Without the checksums, the manifest names the missing ones.
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
fn member_is_read_around_its_lost_ranges() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = tests::archive(codec, &[("vda", 4 * PIECE)]);
        let good = &fixture.members.iter().find(|(name, _)| name == VDA).unwrap().1;
        let (salvage, lost) = without_frame(&fixture, codec, 3);
        let vda = named(&salvage, VDA);
        assert_eq!(salvage.trust(vda), Trust::Torn);
        let lost = Extent { offset: lost.offset - vda.offset, length: lost.length };
        assert_eq!(vda.lost, [lost]);
        // The first piece also contains what precedes the member.
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
fn data_that_becomes_unreadable_after_opening_is_lost() {
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
fn only_digests_confirm_members_of_plain_tar() {
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
    // Data after an invalid header has no name.
    let nameless = changed(&fixture, Codec::None, |bytes| bytes[vda.offset as usize - 512 + 148] ^= 1);
    assert_eq!(differing(&nameless), [(None, Trust::Unchecked), (some(SUMS), Trust::Unchecked)]);
    // Zeros there do not end the stream. With a long name the second header has the length.
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
    // Truncated in the last line; the other lines are still valid.
    let cut = changed(&fixture, Codec::None, |bytes| bytes.truncate((sums.offset + sums.length) as usize - 3));
    assert_eq!(differing(&cut), [(some("disks/vdb.qcow2"), Trust::Unchecked), (some(SUMS), Trust::Torn)]);
}

#[test]
fn large_or_torn_member_is_not_read_into_memory() {
    let at_most = vec![0; MAX_SMALL as usize];
    let fixture = tests::archive_of(Codec::Zstd(1), &[("vda", [&at_most[..], &[0]].concat()), ("vdb", at_most)]);
    let salvage = Salvage::open(&changed(&fixture, Codec::Zstd(1), |_| ())).unwrap();
    assert!(salvage.small(VDA).is_none());
    assert!(salvage.small("disks/vdb.qcow2").is_some_and(|bytes| bytes.len() as u64 == MAX_SMALL));
    let fixture = tests::archive(Codec::Zstd(1), &[("vda", 3 * PIECE)]);
    let (salvage, _) = without_frame(&fixture, Codec::Zstd(1), 2);
    assert!(salvage.small(VDA).is_none());
}
