//! Entry points for archives of kvmbackup and of the legacy script. Must not create valid archives.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use kvmbackup::archive::salvage::Salvage;
use kvmbackup::archive::script::ScriptArchive;
use kvmbackup::archive::{Archive, Error, Manifest};
use kvmbackup::model::Extent;
use kvmbackup::qcow2::Torn;

use super::folder;

/// Bytes of one tar block.
const BLOCK: usize = 512;

/// Lists, reads and verifies an archive. The first byte selects the meaning of the rest: the file, the file with corrected
/// checksums in its tar headers (which a fuzzer cannot guess), or a manifest.
pub fn archive(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => read_both(rest),
        1 => read_both(&with_checksums(rest)),
        _ => drop(Manifest::from_json(rest).map(|manifest| manifest.to_json())),
    }
}

/// Reads the bytes as an intact and as a damaged archive. The file's extension depends on the compression.
fn read_both(bytes: &[u8]) {
    let ending = match bytes {
        [0x28, ..] => "tar.zst",
        [0x1f, ..] => "tar.gz",
        _ => "tar",
    };
    let path = folder().join("archive").with_extension(ending);
    std::fs::write(&path, bytes).unwrap();
    drop(read(&path));
    drop(salvage(&path));
}

/// Checks that every byte of a member is either read once or lost.
fn salvage(path: &Path) -> Result<(), Error> {
    let salvage = Salvage::open(path)?;
    for remains in salvage.remains() {
        remains.name.iter().for_each(|name| expect_inside(name));
        assert!(remains.lost.windows(2).all(|pair| pair[0].end() < pair[1].offset));
        let _ = salvage.trust(remains);
        let lost: u64 = remains.lost.iter().map(|lost| lost.length).sum();
        let mut given = 0;
        let all = Extent { offset: 0, length: remains.length };
        salvage.each_in(remains, all, |_, bytes| {
            given += bytes.map_or(0, |bytes| bytes.len() as u64);
            Ok::<(), Error>(())
        })?;
        assert_eq!(given + lost, remains.length, "{remains:?}");
        let torn = Torn::map(remains.length, Some(1 << 30), |offset, out| salvage.read(remains, offset, out));
        if let Some(torn) = torn {
            assert!(torn.placed.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.offset));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<(), Error> {
    let archive = Archive::open(path)?;
    drop(archive.manifest());
    drop(archive.verify(1, &mut |_| ControlFlow::Continue(())));
    for member in archive.members()? {
        expect_inside(&member.name);
        drop(archive.read(member));
        if let Ok(mut stream) = archive.stream(member, 1) {
            let mut contents = Vec::new();
            if stream.read_to_end(&mut contents).is_ok() {
                assert_eq!(contents.len() as u64, member.length);
            }
        }
    }
    Ok(())
}

/// Checks that a name does not lead out of the directory in which the archive is unpacked.
fn expect_inside(name: &str) {
    let is_inside = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    assert!(!name.is_empty() && Path::new(name).components().all(is_inside), "{name:?}");
}

/// Corrects the checksum of every block that looks like a header.
fn with_checksums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

/// Reads an archive of the legacy script. The first byte selects whether the rest is the file, or a tar stream to compress.
pub fn seed(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let path = folder().join("seed");
    let bytes = match kind % 2 {
        0 => rest.to_vec(),
        _ => {
            let mut packer = GzEncoder::new(Vec::new(), Compression::none());
            packer.write_all(&with_checksums(rest)).unwrap();
            packer.finish().unwrap()
        }
    };
    std::fs::write(&path, bytes).unwrap();
    let Ok(seed) = ScriptArchive::open(&path, "web") else { return };
    drop(seed.date());
    drop(seed.members());
    let mut buffer = [0; 4096];
    drop(seed.each(|member, contents| {
        expect_inside(&member.name);
        // Sparse members may claim any length, so stop after 1 MiB.
        let mut left = 1 << 20;
        while left > 0 {
            match contents.read(&mut buffer)? {
                0 => break,
                count => left -= count.min(left),
            }
        }
        Ok(())
    }));
}
