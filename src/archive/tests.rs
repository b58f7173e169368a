//! Tests whole and damaged archives, and compares them with tar, zstd, gzip, pigz and sha256sum.

mod reading;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use uuid::Uuid;

use super::manifest::{DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, FORMAT, disk_member};
use super::*;
use crate::model::{Codec, Consistency, DomainRef, DomainState, Format, Method, Source};

const CODECS: [Codec; 3] = [Codec::Zstd(3), Codec::Gzip(1), Codec::None];

/// A manifest with these disks.
pub(super) fn manifest(targets: &[&str]) -> Manifest {
    let disk = |target: &&str| DiskEntry {
        target: (*target).to_owned(),
        member: disk_member(target),
        virtual_bytes: 1 << 30,
        read_bytes: 1 << 20,
        source: Source::File("/var/lib/libvirt/images/a b.qcow2".into()),
        format: Format::Qcow2,
        backing: Vec::new(),
        owner: None,
        encrypted: false,
        shrunk: false,
    };
    Manifest {
        format: FORMAT,
        program: "kvmbackup test".to_owned(),
        run_id: Uuid::nil(),
        point: "20261122T020000Z".parse().unwrap(),
        host: "cloud1".to_owned(),
        domain: DomainRef { name: "web 1".to_owned(), uuid: Uuid::nil() },
        state: DomainState::Running,
        method: Method::Snapshot,
        method_reason: None,
        consistency: Consistency::Filesystem,
        quiesce_asked: true,
        frozen_ms: Some(12),
        disks: targets.iter().map(disk).collect(),
        skipped: Vec::new(),
        nvram: None,
        boot: Vec::new(),
        tpm: Vec::new(),
        tpm_missing: None,
        suspect: None,
        not_saved: Vec::new(),
        warnings: Vec::new(),
        hooks: Vec::new(),
        artifacts: Vec::new(),
    }
}

/// Bytes that compress badly; each seed gives different ones.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 60) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// An archive and its members.
pub(super) struct Fixture {
    dir: TempDir,
    pub(super) path: PathBuf,
    pub(super) members: Vec<(String, Vec<u8>)>,
}

/// An archive with disks of these lengths in bytes.
pub(super) fn archive(codec: Codec, disks: &[(&'static str, usize)]) -> Fixture {
    let noise = |&(target, length): &(&'static str, usize)| (target, noise(length, length as u64));
    archive_of(codec, &disks.iter().map(noise).collect::<Vec<_>>())
}

/// An archive with disks of these contents.
pub(super) fn archive_of(codec: Codec, disks: &[(&str, Vec<u8>)]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let targets: Vec<_> = disks.iter().map(|disk| disk.0).collect();
    let mut members = vec![(MANIFEST.to_owned(), manifest(&targets).to_json().unwrap())];
    for name in [DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML] {
        members.push((name.to_owned(), format!("<domain><name>{name}</name></domain>\n").into_bytes()));
    }
    members.push((format!("nvram/{}_VARS.fd", "Prüf\\ung ".repeat(15)), noise(1000, 9)));
    members.push(("nvram/empty".to_owned(), Vec::new()));
    for (target, bytes) in disks {
        members.push((disk_member(target), bytes.clone()));
    }
    let mut writer = Writer::new(File::create(&path).unwrap(), codec, 2).unwrap();
    for (name, bytes) in &members {
        writer.member(name, bytes.len() as u64).unwrap();
        bytes.chunks(100_003).for_each(|chunk| writer.write(chunk).unwrap());
    }
    let written = writer.finish().unwrap();
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(written.sums.len(), members.len());
    Fixture { dir, path, members }
}

fn sh(dir: &Path, script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn standard_tools_extract_an_archive() {
    for codec in CODECS {
        let fixture = archive(codec, &[("vda", 2 * PIECE + 9001), ("vdb", 512)]);
        let dir = fixture.dir.path();
        match codec {
            Codec::Zstd(_) => {
                sh(dir, "zstd -qt x; mkdir out; tar --zstd -xf x -C out");
                // The manifest, three pieces, the checksums; and the skippable frame of the seek table.
                let listing = sh(dir, "zstd -lv x 2>&1");
                assert!(
                    listing.contains("# Zstandard Frames: 5") && listing.contains("# Skippable Frames: 1"),
                    "{listing}"
                );
            }
            Codec::Gzip(_) => {
                drop(sh(dir, "gzip -t <x; mkdir out; gzip -dc <x | tar -xf - -C out; pigz -dc <x | tar -tf -"))
            }
            Codec::None => drop(sh(dir, "mkdir out; tar -xf x -C out")),
        }
        sh(dir, "cd out; sha256sum --quiet --strict -c SHA256SUMS");
        for (name, bytes) in &fixture.members {
            assert_eq!(&fs::read(dir.join("out").join(name)).unwrap(), bytes, "{codec:?} {name}");
        }
    }
}

#[test]
fn written_archive_is_read_back() {
    for codec in CODECS {
        let fixture = archive(codec, &[("vda", 2 * PIECE + 9001), ("vdb", PIECE), ("vdc", 0)]);
        let archive = Archive::open(&fixture.path).unwrap();
        assert_eq!(archive.manifest().unwrap(), manifest(&["vda", "vdb", "vdc"]));
        let names: Vec<_> = archive.members().unwrap().iter().map(|member| member.name.clone()).collect();
        let written = fixture.members.iter().map(|member| member.0.clone()).chain([SUMS.to_owned()]);
        assert_eq!(names, written.collect::<Vec<_>>());
        for (name, bytes) in &fixture.members {
            let member = archive.member(name).unwrap();
            assert_eq!(&archive.read(member).unwrap(), bytes);
            let mut streamed = Vec::new();
            archive.stream(member, 3).unwrap().read_to_end(&mut streamed).unwrap();
            assert!(&streamed == bytes, "{codec:?} {name}");
        }
        let mut read = 0;
        let mut progress = |bytes| {
            read += bytes;
            ControlFlow::Continue(())
        };
        archive.verify(2, &mut progress).unwrap();
        assert_eq!(read, archive.packed_bytes());
        assert!(matches!(
            archive.read_up_to(archive.member("disks/vda.qcow2").unwrap(), 9),
            Err(Error::TooLarge { .. })
        ));
    }
}

#[test]
fn manifest_is_readable_if_other_frames_are_damaged() {
    for codec in [Codec::Zstd(3), Codec::Gzip(1)] {
        let fixture = archive(codec, &[("vda", PIECE + 9000)]);
        let archive = Archive::open(&fixture.path).unwrap();
        let first = archive.pieces().list()[0].entry;
        assert!(first.packed < 2000 && first.unpacked < 4096);
        let mut bytes = fs::read(&fixture.path).unwrap();
        bytes[first.packed as usize..][..PIECE / 2].fill(0);
        fs::write(&fixture.path, bytes).unwrap();
        assert!(archive.manifest().is_ok() && archive.members().is_err());
    }
}

/// All contents of an archive; `None` if an error reported damage.
fn contents(path: &Path) -> Option<Vec<(String, Vec<u8>)>> {
    let archive = Archive::open(path).ok()?;
    archive.manifest().ok()?;
    let mut all = Vec::new();
    for member in archive.members().ok()? {
        let mut bytes = Vec::new();
        archive.stream(member, 1).ok()?.read_to_end(&mut bytes).ok()?;
        all.push((member.name.clone(), bytes));
    }
    all.pop();
    Some(all)
}

#[test]
fn damage_is_never_read_as_good_data() {
    for codec in CODECS {
        let fixture = archive(codec, &[("vda", 20_000), ("vdb", 9_000)]);
        let good = fs::read(&fixture.path).unwrap();
        let path = fixture.dir.path().join("damaged");
        let check = |what: &str, bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let read = contents(&path);
            let verified =
                Archive::open(&path).is_ok_and(|archive| archive.verify(1, &mut |_| ControlFlow::Continue(())).is_ok());
            // A bit that no decoder checks may change; then the data must be the same.
            assert!(read.as_ref().is_none_or(|read| read == &fixture.members), "{codec:?} {what}");
            assert!(!verified || read.is_some(), "{codec:?} {what}");
            verified
        };
        assert!(check("nothing", &good));
        let step = good.len() / 30 + 1;
        for at in (0..good.len()).step_by(step).chain(0..30).chain(good.len() - 60..good.len()) {
            let mut flipped = good.clone();
            flipped[at] ^= 1 << (at % 8);
            let accepted = check(&format!("bit of byte {at}"), &flipped);
            // Uncompressed, every byte is a header, padding or covered by a digest.
            assert!(!accepted || codec != Codec::None, "flip at {at}");
            if at % 4 == 0 {
                assert!(!check(&format!("cut at {at}"), &good[..at]));
                assert!(!check(&format!("deleted byte {at}"), &[&good[..at], &good[at + 1..]].concat()));
                assert!(!check(&format!("doubled byte {at}"), &[&good[..=at], &good[at..]].concat()));
            }
        }
        assert!(!check("appended", &[good.as_slice(), b"x"].concat()));
        assert!(!check("twice", &[good.as_slice(), &good].concat()));
    }
}

#[test]
fn swapped_intact_frames_are_detected() {
    // Frames of random bytes have the same length, so only the table distinguishes them.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for codec in [Codec::Zstd(1), Codec::Gzip(1)] {
        let mut writer = Writer::new(File::create(&path).unwrap(), codec, 1).unwrap();
        writer.add(MANIFEST, &manifest(&["vda"]).to_json().unwrap()).unwrap();
        for name in [DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML] {
            writer.add(name, b"").unwrap();
        }
        let mut random = vec![0; 5 * PIECE];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        writer.add("disks/vda.qcow2", &random).unwrap();
        writer.finish().unwrap();
        let list = Archive::open(&path).unwrap().pieces().list().to_vec();
        let (a, b) = (list[2], list[3]);
        assert_eq!(a.entry.packed, b.entry.packed);
        let mut bytes = fs::read(&path).unwrap();
        let length = a.entry.packed as usize;
        let (low, high) = bytes.split_at_mut(b.file_offset as usize);
        low[a.file_offset as usize..][..length].swap_with_slice(&mut high[..length]);
        fs::write(&path, bytes).unwrap();
        let damages = Archive::open(&path).unwrap().verify(2, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(damages.len(), 2);
        for (damage, piece) in damages.iter().zip([a, b]) {
            let Error::Member { member, source } = damage else { panic!("{damage:?}") };
            assert_eq!(member, "disks/vda.qcow2");
            assert!(matches!(**source, Error::Frame { offset, .. } if offset == piece.file_offset));
        }
    }
}

#[test]
fn damaged_member_of_plain_tar_fails_before_its_end() {
    let fixture = archive(Codec::None, &[("vda", 2 * PIECE + 9000)]);
    let offset = Archive::open(&fixture.path).unwrap().member("disks/vda.qcow2").unwrap().offset as usize;
    let mut bytes = fs::read(&fixture.path).unwrap();
    bytes[offset] ^= 1;
    fs::write(&fixture.path, bytes).unwrap();
    let archive = Archive::open(&fixture.path).unwrap();
    let mut reader = archive.stream(archive.member("disks/vda.qcow2").unwrap(), 2).unwrap();
    let mut contents = vec![0; 2 * PIECE + 9000];
    assert!(reader.read_exact(&mut contents).is_err());
    assert!(reader.read(&mut contents).is_err());
    let damages = archive.verify(2, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(damages.as_slice(), [Error::Digest { member }] if member == "disks/vda.qcow2"));
}

#[test]
fn absurd_numbers_are_errors() {
    let fixture = archive(Codec::Zstd(1), &[("vda", 100)]);
    let good = fs::read(&fixture.path).unwrap();
    let length = good.len();
    for (at, bytes) in [
        (length - 9, u32::MAX.to_le_bytes()),
        (length - 9, 0_u32.to_le_bytes()),
        (length - 21, u32::MAX.to_le_bytes()),
        (length - 17, u32::MAX.to_le_bytes()),
    ] {
        let mut damaged = good.clone();
        damaged[at..at + 4].copy_from_slice(&bytes);
        fs::write(&fixture.path, damaged).unwrap();
        assert!(matches!(Archive::open(&fixture.path), Err(Error::Table { .. })));
    }
}

#[test]
fn foreign_files_are_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for bytes in [&b""[..], b"hello", &[0; 4096], b"\x1f\x8b\x08\x00abcdefghijklmnop"] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Archive::open(&path), Err(Error::Foreign { .. })));
    }
    let folder = Archive::open(dir.path()).map(drop).unwrap_err();
    assert!(
        matches!(folder, Error::Open { source, .. } if source.to_string() == "it is a directory, not a regular file")
    );
    assert!(matches!(Archive::open(&dir.path().join("y")), Err(Error::Open { .. })));
}

/// The members of an archive made by the system's tar.
fn foreign_tar(script: &str) -> Result<Vec<Member>, Error> {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), &format!("echo {{}} >manifest.json; : >SHA256SUMS; {script}"));
    Archive::open(&dir.path().join("x.tar"))?.members().map(<[Member]>::to_vec)
}

#[test]
fn dangerous_members_are_refused() {
    let tar = "tar -b1 --format=gnu -cf x.tar";
    assert_eq!(foreign_tar(&format!("{tar} manifest.json SHA256SUMS")).unwrap().len(), 2);
    for script in [
        "ln -s /etc/passwd link; T manifest.json link SHA256SUMS",
        "mkfifo fifo; T manifest.json fifo SHA256SUMS",
        "mkdir dir; T manifest.json dir SHA256SUMS",
        "T -P manifest.json /etc/hostname SHA256SUMS",
        "mkdir a; cd a; tar -b1 -P --format=gnu -cf ../x.tar ../manifest.json ../SHA256SUMS",
        "T --hard-dereference manifest.json manifest.json SHA256SUMS",
        "T SHA256SUMS manifest.json",
        "T manifest.json",
    ] {
        assert!(foreign_tar(&script.replace("T ", &format!("{tar} "))).is_err(), "{script}");
    }
}

#[test]
fn tar_reads_sizes_over_8_gib_and_long_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let name = format!("disks/{}.qcow2", "ä".repeat(110));
    fs::write(&path, header::encode(&name, 9 << 30, 1_795_000_000)).unwrap();
    File::options().write(true).open(&path).unwrap().set_len((9 << 30) + 4096).unwrap();
    let listing = sh(dir.path(), "LC_ALL=C.UTF-8 TZ=UTC tar --quoting-style=literal -tvf x.tar");
    assert!(
        listing.starts_with("-rw------- 0/0      9663676416 2026-11-18") && listing.trim_end().ends_with(&name),
        "{listing}"
    );
}

#[test]
fn writer_refuses_calls_out_of_order() {
    let file = || tempfile::tempfile().unwrap();
    let mut writer = Writer::new(file(), Codec::None, 1).unwrap();
    assert!(writer.member("domain.xml", 1).is_err());
    writer.member(MANIFEST, 2).unwrap();
    assert!(writer.write(b"123").is_err());
    assert!(writer.member("domain.xml", 1).is_err());
    let mut writer = Writer::new(file(), Codec::Zstd(3), 1).unwrap();
    writer.add(MANIFEST, b"{}").unwrap();
    for bad in [MANIFEST, SUMS, "../x", "/x"] {
        assert!(writer.add(bad, b"").is_err());
    }
    writer.add("x", b"").unwrap();
    assert!(writer.add("x", b"").is_err());
    assert!(Writer::new(file(), Codec::Gzip(99), 1).is_err());
    assert!(Writer::new(file(), Codec::None, 1).unwrap().finish().is_err());
}

#[test]
fn full_disk_is_reported_to_the_caller() {
    for codec in CODECS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = Writer::new(full, codec, 2).unwrap();
        writer.add(MANIFEST, b"{}").unwrap();
        writer.member("disks/vda.qcow2", u64::MAX >> 2).unwrap();
        let mut bytes = vec![0; 1 << 20];
        File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        // The error arrives once the limit of pieces in flight is reached.
        let error = (0..100).find_map(|_| writer.write(&bytes).err()).unwrap();
        let Error::Write { source } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert!(error.hint().is_some());
    }
}

#[test]
fn legacy_archives_are_read() {
    use super::script::{Role, ScriptArchive};
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        "mkdir 2016-05-01; cd 2016-05-01; for f in vm vm-inactive vm-migratable; do echo $f >$f.xml; done; \
         head -c 3000000 /dev/urandom >vm-inactive.qcow2; cd ..; \
         tar -cf - 2016-05-01/vm*.xml 2016-05-01/vm-inactive.qcow2 | pigz >vm.tar.gz; \
         head -c 2000000 vm.tar.gz >cut; (cat vm.tar.gz | head -c 1000000; printf x; tail -c +1000002 vm.tar.gz) >flip",
    );
    let seed = ScriptArchive::open(&dir.path().join("vm.tar.gz"), "vm").unwrap();
    assert_eq!(seed.date().unwrap().to_string(), "2016-05-01");
    let roles: Vec<_> = seed.members().unwrap().into_iter().map(|member| (member.role, member.length)).collect();
    assert_eq!(roles, [(Role::Inactive, 12), (Role::Migratable, 14), (Role::Live, 3), (Role::Image, 3_000_000)]);
    let image = fs::read(dir.path().join("2016-05-01/vm-inactive.qcow2")).unwrap();
    let mut found = BTreeMap::new();
    seed.each(|member, contents| {
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes)?;
        found.insert(member.name.clone(), bytes);
        Ok(())
    })
    .unwrap();
    assert!(found.len() == 4 && found["2016-05-01/vm-inactive.qcow2"] == image);
    for damaged in ["cut", "flip"] {
        let seed = ScriptArchive::open(&dir.path().join(damaged), "vm").unwrap();
        assert_eq!(seed.date().unwrap().to_string(), "2016-05-01");
        assert!(matches!(seed.members(), Err(Error::Script { .. })));
        assert!(seed.each(|_, _| Ok(())).is_err());
    }
}
