//! Builds a repository with restore points of random disks.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::super::fixture::Restic;
use super::super::*;
use crate::model::Extent;
use crate::sys::signals::Cancel;

pub const MIB: u64 = 1 << 20;

/// A disk in memory.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub extents: Vec<Extent>,
}

impl Image {
    /// Random bytes in these ranges and zeros elsewhere; a third of the bytes in the ranges are zeros as well.
    pub fn new(size: u64, ranges: &[(u64, u64)], seed: u64) -> Image {
        let mut image = Image { bytes: vec![0; size as usize], extents: Vec::new() };
        for &(offset, length) in ranges {
            image.extents.push(Extent { offset, length });
            image.fill(offset, length, seed ^ offset);
        }
        image
    }

    pub fn usual() -> Image {
        Image::new(40 * MIB + 512, &[(0, MIB + 5), (3 * MIB + 100, 200_000), (30 * MIB, MIB), (40 * MIB, 512)], 1)
    }

    /// Overwrites a range with random bytes.
    pub fn fill(&mut self, offset: u64, length: u64, seed: u64) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for (n, byte) in self.bytes[offset as usize..(offset + length) as usize].iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if n / 70_000 % 3 == 2 { 0 } else { state as u8 };
        }
    }

    pub fn disk(&self) -> Disk {
        Disk { size: self.bytes.len() as u64, extents: self.extents.clone(), changed: None }
    }

    /// Reads the disk in pieces of an odd length.
    pub fn read<E: From<Error>>(&self, extents: &[Extent], sink: &mut Sink<'_, E>) -> Result<(), E> {
        for extent in extents {
            for (n, piece) in self.bytes[extent.offset as usize..extent.end() as usize].chunks(100_001).enumerate() {
                sink(extent.offset + n as u64 * 100_001, piece)?;
            }
        }
        Ok(())
    }
}

pub struct Scene {
    pub restic: Restic,
    pub repository: Repository,
    pub options: WriteOptions,
}

impl Scene {
    pub fn new() -> Scene {
        let restic = Restic::new();
        let repository = Repository::init(restic.place(), Restic::PASSWORD).unwrap();
        let options = options(&restic, &repository);
        Scene { restic, repository, options }
    }

    /// The same, but restic creates the repository.
    pub fn of_restic() -> Scene {
        let restic = Restic::new();
        restic.run(&["init", "--repository-version", "2"]);
        let repository = Repository::open(restic.place(), Restic::PASSWORD).unwrap();
        let options = options(&restic, &repository);
        Scene { restic, repository, options }
    }

    pub fn begin(&self, domain: &str, time: &str) -> Result<SnapshotWriter, Error> {
        SnapshotWriter::begin(&self.repository, about(domain, time), &self.options)
    }

    /// Writes a restore point with the usual files and this disk.
    pub fn point(&self, domain: &str, time: &str, image: &Image) -> (Id, Snapshot) {
        write(self.begin(domain, time).unwrap(), image).unwrap()
    }

    pub fn open(&self, id: Id, snapshot: &Snapshot) -> Result<SnapshotReader, Error> {
        let catalog = Arc::new(Catalog::open(&self.repository, &self.options.cache)?);
        SnapshotReader::open(&self.repository, &catalog, (id, snapshot), &Cancel::default())
    }

    /// Bytes of all objects except the config.
    pub fn stored(&self) -> u64 {
        Kind::ALL.into_iter().skip(1).flat_map(|kind| self.repository.list(kind).unwrap()).map(|(_, size)| size).sum()
    }

    /// Asserts that our reader and restic return the saved contents.
    #[track_caller]
    pub fn expect(&self, (id, snapshot): &(Id, Snapshot), image: &Image) {
        let reader = self.open(*id, snapshot).unwrap();
        expect_read(&reader, image);
        let path = format!("{}/disks/vda.raw", snapshot.paths[0]);
        let dumped = self.restic.try_run(&["dump", &id.to_string(), &path]);
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        assert!(dumped.stdout == image.bytes, "restic returned different bytes");
    }
}

fn options(restic: &Restic, repository: &Repository) -> WriteOptions {
    let timing = Timing { second_look: Duration::from_millis(1), ..Timing::waiting(Duration::ZERO) };
    let cache = restic.path("cache");
    let known = Arc::new(KnownSnapshots::open(repository, &cache));
    WriteOptions { cache, known, threads: 2, blob_size: None, timing, cancel: Cancel::default() }
}

pub fn about(domain: &str, time: &str) -> About {
    About {
        domain: domain.to_owned(),
        folder: domain.to_owned(),
        tags: vec![format!("uuid:{domain}")],
        time: time.parse().unwrap(),
        program: "kvmbackup test".to_owned(),
    }
}

pub fn write(mut writer: SnapshotWriter, image: &Image) -> Result<(Id, Snapshot), Error> {
    writer.add("manifest.json", b"{\"format\":1}\n")?;
    writer.add("domain.xml", b"<domain/>")?;
    writer.add("empty", b"")?;
    writer.add("nvram/web <1>_VARS.fd", &[0; 3000])?;
    writer.disk::<Error>("disks/vda.raw", &image.disk(), &mut |extents, sink| image.read(extents, sink))?;
    writer.commit(Some(serde_json::json!({"run": "a"})))
}

/// Asserts that the restore point contains the usual files and this disk.
#[track_caller]
pub fn expect_read(reader: &SnapshotReader, image: &Image) {
    let lengths: Vec<_> = reader.names().map(|(name, length)| (name.to_owned(), length)).collect();
    let expected = [
        ("disks/vda.raw", image.bytes.len()),
        ("domain.xml", 9),
        ("empty", 0),
        ("manifest.json", 13),
        ("nvram/web <1>_VARS.fd", 3000),
    ];
    assert_eq!(lengths, expected.map(|(name, length)| (name.to_owned(), length as u64)));
    assert_eq!(reader.read("domain.xml").unwrap(), b"<domain/>");
    assert_eq!(reader.read("nvram/web <1>_VARS.fd").unwrap(), [0; 3000]);
    assert_eq!(reader.read("empty").unwrap(), b"");
    let disk = reader.disk("disks/vda.raw").unwrap();
    assert_eq!(disk.size(), image.bytes.len() as u64);
    let (mut all, mut next) = (vec![0; image.bytes.len()], 0);
    disk.read::<Error>(&mut |offset, bytes| {
        let end = offset + bytes.len() as u64;
        assert!(offset >= next && disk.extents().iter().any(|extent| extent.offset <= offset && end <= extent.end()));
        all[offset as usize..end as usize].copy_from_slice(bytes);
        next = end;
        Ok(())
    })
    .unwrap();
    assert!(all == image.bytes, "the bytes differ from the saved ones");
    let mut checked = 0;
    let damages = reader.verify(&mut |bytes| checked += bytes);
    assert!(damages.is_empty() && checked > 0, "{damages:?}");
}

/// The objects of a repository except the config, with their bytes.
pub fn objects(scene: &Scene) -> Vec<(Object, Vec<u8>)> {
    let place = scene.restic.place();
    let of_kind = |kind| {
        let listed = place.list(kind).unwrap().into_iter();
        listed.map(move |(id, _)| Object::new(kind, id)).collect::<Vec<_>>()
    };
    let objects = Kind::ALL.into_iter().skip(1).flat_map(of_kind);
    objects.map(|object| (object, place.read_all(object, 1 << 30).unwrap())).collect()
}

/// Restores saved objects and removes all others.
pub fn put_back(scene: &Scene, saved: &[(Object, Vec<u8>)]) {
    let place = scene.restic.place();
    for (object, _) in objects(scene) {
        if !saved.iter().any(|(kept, _)| *kept == object) {
            place.remove(object).unwrap();
        }
    }
    saved.iter().for_each(|(object, bytes)| place.put(*object, bytes.clone()).unwrap());
}

pub fn read_file(scene: &Scene, path: &str) -> Vec<u8> {
    fs::read(scene.restic.path(path)).unwrap()
}
