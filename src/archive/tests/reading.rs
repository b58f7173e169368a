//! Tests the checks before the first byte is returned, and the limits of reading.

use super::*;
use crate::archive::header::BLOCK;
use crate::archive::salvage::Salvage;
use crate::sys::patience::{Patience, Stalled};

#[test]
fn limits_match_the_format_specification() {
    let format = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    for limit in [
        format!("cut into pieces of {} KiB", FULL_PIECE >> 10),
        format!("no piece of more than {} MiB", MAX_PIECE >> 20),
        format!("{MAX_PIECES} pieces"),
    ] {
        assert!(format.contains(&limit), "{limit}");
    }
    assert_eq!(MAX_SMALL, MAX_PIECE as u64);
}

/// Flips these bits of one byte and opens the archive.
fn flip(fixture: &Fixture, at: u64, bits: u8) -> Archive {
    let mut bytes = fs::read(&fixture.path).unwrap();
    bytes[at as usize] ^= bits;
    fs::write(&fixture.path, bytes).unwrap();
    Archive::open(&fixture.path).unwrap()
}

/// A member of this archive.
fn member(fixture: &Fixture, name: &str) -> Member {
    Archive::open(&fixture.path).unwrap().member(name).unwrap().clone()
}

#[test]
fn manifest_that_is_not_the_first_member_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "echo {} >manifest.json; : >SHA256SUMS; tar -b1 --format=gnu -cf x.tar SHA256SUMS manifest.json");
    let error = Archive::open(&dir.path().join("x.tar")).unwrap().manifest().unwrap_err();
    assert!(matches!(&error, Error::Missing { member } if member == MANIFEST), "{error}");
}

#[test]
fn changed_manifest_of_plain_tar_is_refused() {
    let fixture = archive(Codec::None, &[("vda", 9)]);
    let at = {
        let bytes = fs::read(&fixture.path).unwrap();
        bytes.windows(6).position(|window| window == b"cloud1").unwrap() as u64
    };
    let error = flip(&fixture, at, 1).manifest().unwrap_err();
    assert!(matches!(&error, Error::Digest { member } if member == MANIFEST), "{error}");
}

#[test]
fn small_member_is_checked_against_its_digest() {
    let fixture = archive(Codec::None, &[("vda", 9)]);
    let vda = member(&fixture, "disks/vda.qcow2");
    let archive = flip(&fixture, vda.offset + 8, 0x80);
    assert!(matches!(archive.read(&vda), Err(Error::Digest { member }) if member == vda.name));
    let sums = archive.read(archive.member(SUMS).unwrap()).unwrap();
    assert_eq!(sums.iter().filter(|&&byte| byte == b'\n').count(), archive.members().unwrap().len() - 1);
}

#[test]
fn small_member_length_limit_is_exact() {
    let fixture = archive(Codec::Zstd(3), &[("vda", 9000)]);
    let archive = Archive::open(&fixture.path).unwrap();
    let vda = archive.member("disks/vda.qcow2").unwrap();
    assert_eq!(archive.read_up_to(vda, 9000).unwrap().len(), 9000);
    let error = archive.read_up_to(vda, 8999).unwrap_err();
    assert!(matches!(error, Error::TooLarge { length: 9000, limit: 8999, .. }), "{error}");
}

#[test]
fn pieces_and_seek_table_cover_the_whole_file() {
    for codec in CODECS {
        let fixture = archive(codec, &[("vda", 2 * PIECE)]);
        let archive = Archive::open(&fixture.path).unwrap();
        let pieces = archive.pieces().list();
        let entries: Vec<_> = pieces.iter().map(|piece| piece.entry).collect();
        let index = table::encode(codec.into(), &entries).len() as u64;
        assert_eq!(archive.packed_bytes() + index, fs::metadata(&fixture.path).unwrap().len());
        // The tar stream ends with the checksums, their padding and two blocks.
        let sums = archive.member(SUMS).unwrap();
        assert_eq!(archive.unpacked_bytes(), sums.offset + sums.length.next_multiple_of(BLOCK) + 2 * BLOCK);
    }
}

#[test]
fn member_of_another_archive_is_refused() {
    for codec in CODECS {
        let fixture = archive(codec, &[("vda", 9000)]);
        let archive = Archive::open(&fixture.path).unwrap();
        let end = archive.unpacked_bytes();
        let of = |offset, length| Member { name: SUMS.to_owned(), offset, length };
        for inside in [of(end - 4, 4), of(end, 0)] {
            let mut bytes = Vec::new();
            archive.stream(&inside, 1).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, inside.length);
            assert_eq!(archive.read(&inside).unwrap(), bytes);
        }
        for outside in [of(end - 4, 5), of(end + 1, 0), of(u64::MAX, 1)] {
            assert!(matches!(archive.stream(&outside, 1), Err(Error::Misuse { .. })), "{outside:?}");
            assert!(archive.read(&outside).is_err(), "{outside:?}");
        }
    }
}

#[test]
fn truncated_tar_stream_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let whole = [header::encode(MANIFEST, BLOCK, 0), vec![0; BLOCK as usize]].concat();
    for (length, says) in [(whole.len() - 1, "longer than the archive"), (whole.len(), "truncated")] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Archive::open(&path).unwrap().members().map(drop).unwrap_err();
        assert!(error.to_string().contains(says), "{length}: {error}");
    }
}

#[test]
fn member_named_only_by_the_manifest_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut writer = Writer::new(File::create(&path).unwrap(), Codec::Zstd(3), 1).unwrap();
    writer.add(MANIFEST, &manifest(&["vda"]).to_json().unwrap()).unwrap();
    for name in [DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML] {
        writer.add(name, b"").unwrap();
    }
    writer.finish().unwrap();
    let damages = Archive::open(&path).unwrap().verify(1, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&damages[..], [Error::Missing { member }] if member == "disks/vda.qcow2"), "{damages:?}");
}

#[test]
fn changed_manifest_is_reported_once() {
    let fixture = archive(Codec::None, &[("vda", 9)]);
    let manifest = member(&fixture, MANIFEST);
    let archive = flip(&fixture, manifest.offset + manifest.length - 1, 0x2a);
    let damages = archive.verify(1, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&damages[..], [Error::Digest { member }] if member == MANIFEST), "{damages:?}");
}

#[test]
fn writer_reports_its_progress() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), Codec::None, 1).unwrap();
    writer.add(MANIFEST, b"{}").unwrap();
    writer.member("disks/vda.qcow2", 2 * PIECE as u64).unwrap();
    writer.write(&vec![1; PIECE]).unwrap();
    // The manifest's piece has two blocks; the disk's first piece is full including its header.
    while writer.written() < 2 * BLOCK + PIECE as u64 {
        std::thread::yield_now();
    }
    assert_eq!(writer.written(), 2 * BLOCK + PIECE as u64);
}

#[test]
fn padding_must_be_zeros_to_the_end_of_the_stream() {
    let fixture = archive(Codec::None, &[("vda", 9)]);
    let vda = member(&fixture, "disks/vda.qcow2");
    let end = fs::metadata(&fixture.path).unwrap().len();
    for at in [vda.offset + 9, vda.offset + BLOCK - 1, end - 2 * BLOCK + 1, end - BLOCK, end - 1] {
        let error = flip(&fixture, at, 1).members().map(drop).unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{at}: {error}");
        flip(&fixture, at, 1).members().unwrap();
    }
}

#[test]
fn damage_after_a_damaged_header_is_also_reported() {
    let fixture = archive(Codec::Zstd(3), &[("vda", 4 * PIECE)]);
    let pieces = Archive::open(&fixture.path).unwrap().pieces().list().to_vec();
    let mut bytes = fs::read(&fixture.path).unwrap();
    for piece in [pieces[0], pieces[3]] {
        let middle = piece.file_offset as usize + piece.entry.packed as usize / 2;
        bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
    }
    fs::write(&fixture.path, bytes).unwrap();
    let damages = Archive::open(&fixture.path).unwrap().verify(1, &mut |_| ControlFlow::Continue(())).unwrap_err();
    let is_last = |error: &Error| match error {
        Error::Frame { offset, .. } => *offset == pieces[3].file_offset,
        _ => false,
    };
    assert!(damages.len() > 1 && damages.iter().any(is_last), "{damages:?}");
}

/// Makes every further call on the same mount fail at once, as after a hung call, until the sender is dropped.
fn hang(patience: &Patience) -> std::sync::mpsc::Sender<()> {
    let (release, held) = std::sync::mpsc::channel();
    patience.call(move || held.recv()).unwrap_err();
    release
}

#[test]
fn hung_file_is_not_reported_as_damage() {
    for known in [false, true] {
        let fixture = archive(Codec::Zstd(3), &[("vda", 3 * PIECE)]);
        let patience = Patience::new(std::time::Duration::from_secs(2));
        let opened = Archive::open_patiently(&fixture.path, &patience).unwrap();
        if known {
            opened.members().unwrap();
        }
        let _hanging = hang(&patience);
        let errors = opened.verify(1, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(Stalled::caused(&errors[0]), "{errors:?}");
    }
}

#[test]
fn unread_data_of_a_hung_file_is_not_reported_as_lost() {
    let fixture = archive(Codec::Zstd(3), &[("vda", 3 * PIECE)]);
    let patience = Patience::new(std::time::Duration::from_secs(2));
    let path = fixture.path.with_file_name("x.tar.zst");
    fs::rename(&fixture.path, &path).unwrap();
    let salvage = Salvage::open_patiently(&path, &patience, &Default::default()).unwrap();
    salvage.expect_answers().unwrap();
    let _hanging = hang(&patience);
    // From another piece than the last decoded one, which is cached.
    let [.., disk, _] = salvage.remains() else { panic!("the disk and the checksums are missing") };
    assert!(!salvage.read(disk, disk.length / 2, &mut [0]));
    assert!(Stalled::caused(&salvage.expect_answers().unwrap_err()));
}
