//! The tests that every kind of restore point must pass; the tests of a kind call [`all`]. Must not depend on a kind,
//! except through [`Kind`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;

use super::{Definition, Entry, Error, FileReader, Intent, Point, PointReader, Store};
use crate::model::{Codec, DomainRef, NewId, PointId, Sample};
use crate::store::fixture::{DOMAIN, Disk, Fixture, run, text};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

pub struct Kind {
    /// An empty store.
    pub store: fn() -> Fixture,
    /// Adds a point with these disks.
    pub make: fn(&Fixture, &[Disk]),
    /// The file that contains all data of the only point.
    pub data: fn(&Fixture, &Point) -> PathBuf,
    /// Format of the stored disks; `None` for their original one.
    pub image: Option<&'static str>,
    /// It can be written, removed and read at random.
    pub is_ours: bool,
    /// Every read is checked, including random ones.
    pub checks_ranges: bool,
    /// A part of it can be checked.
    pub can_sample: bool,
}

impl Kind {
    fn is_one_file(&self, fixture: &Fixture, point: &Point) -> bool {
        (self.data)(fixture, point) == point.location()
    }
}

/// Runs all tests.
pub fn all(kind: &Kind) {
    lists_and_reads_back(kind);
    if kind.is_ours {
        reads_at_random(kind);
        makes_the_newest_point(kind);
    }
    reports_damage(kind);
    abandons_a_hung_target_and_stops_on_a_signal(kind);
    leaves_foreign_files_alone(kind);
    removes_only_our_points(kind);
}

/// A store with one point, and its disks.
fn filled(kind: &Kind) -> (Fixture, Point, Vec<Disk>) {
    let fixture = (kind.store)();
    let disks = fixture.usual_disks();
    (kind.make)(&fixture, &disks);
    let point = fixture.store.points(DOMAIN).unwrap().pop().unwrap();
    (fixture, point, disks)
}

fn open(store: &Store, point: &Point) -> Result<PointReader, Error> {
    store.open(point, &Cancel::default())
}

fn lists_and_reads_back(kind: &Kind) {
    let (fixture, point, disks) = filled(kind);
    assert_eq!(fixture.store.domains().unwrap().names, [DOMAIN]);
    assert_eq!(fixture.store.points(DOMAIN).unwrap(), std::slice::from_ref(&point));
    match kind.is_one_file(&fixture, &point) {
        true => assert_eq!(point.bytes, fs::metadata(point.location()).unwrap().len()),
        false => assert!(point.bytes > 0 && point.location().is_file()),
    }
    let reader = open(&fixture.store, &point).unwrap();
    assert_eq!(reader.manifest().unwrap().is_some(), kind.is_ours);
    for which in [Definition::Live, Definition::Inactive, Definition::Migratable] {
        assert_eq!(reader.definition(which).unwrap().unwrap(), fixture.xml(&disks));
    }
    let mut checked = 0;
    assert!(reader.verify(&mut |bytes| checked += bytes).is_empty() && checked > 0);
    let mut checked = 0;
    let sampled = reader.sample(Sample { percent: 1, seed: 1 }, &mut |bytes| checked += bytes);
    assert_eq!(sampled.is_some(), kind.can_sample);
    if let Some(sampled) = sampled {
        assert!(sampled.damages.is_empty(), "{:?}", sampled.damages);
        assert!(checked > 0 && sampled.read_bytes < sampled.data_bytes, "{sampled:?}");
    }
    let contents = reader.contents().unwrap();
    assert_eq!(contents.domain.name, DOMAIN);

    // Reading everything in order and reading by name return the same bytes.
    let mut all = BTreeMap::new();
    reader
        .each(&mut |entry, contents| {
            all.insert(entry.name.clone(), read(contents)?);
            Ok::<(), Error>(())
        })
        .unwrap();
    let names: BTreeSet<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, contents.lengths.keys().map(String::as_str).filter(|name| *name != "SHA256SUMS").collect());
    let some: BTreeSet<&str> = names.iter().copied().skip(1).collect();
    let mut again = BTreeMap::new();
    reader
        .files(&some, &mut |name, contents| {
            again.insert(name.to_owned(), read(contents)?);
            Ok::<(), Error>(())
        })
        .unwrap();
    assert_eq!(again.keys().map(String::as_str).collect::<BTreeSet<_>>(), some);
    assert!(again.iter().all(|(name, bytes)| all[name] == *bytes));
    assert!(reader.files(&BTreeSet::from(["no/such/file"]), &mut |_, _| Ok::<(), Error>(())).is_err());

    for disk in &disks {
        let saved = contents.disks.iter().find(|saved| saved.target == disk.target).unwrap();
        let bytes = &all[&saved.member];
        let restored = match kind.image {
            Some("raw") => reader.disk(&saved.member).unwrap().extents().iter().map(|extent| extent.length).sum(),
            _ => bytes.len() as u64,
        };
        assert_eq!(contents.lengths[&saved.member], restored);
        assert_eq!(reader.head(&saved.member, 100).unwrap(), bytes[..100]);
        let image = fixture.path("read-back");
        fs::write(&image, bytes).unwrap();
        let format = kind.image.unwrap_or(disk.format.driver());
        run("qemu-img", &["compare", "-f", "raw", "-F", format, text(&disk.raw), text(&image)]);
        assert_eq!(reader.disk(&saved.member).is_ok(), kind.is_ours);
        if kind.is_ours {
            fs::write(&image, "").unwrap();
            expect_whole(&reader, &saved.member, disk, &image);
        }
    }
}

/// Panics unless reading the disk in order returns the saved contents.
fn expect_whole(reader: &PointReader, member: &str, disk: &Disk, image: &Path) {
    let opened = reader.disk(member).unwrap();
    assert_eq!(opened.size(), disk.size.next_multiple_of(512));
    let file = File::options().write(true).open(image).unwrap();
    file.set_len(disk.size).unwrap();
    let mut next = 0;
    let write = &mut |offset: u64, bytes: &[u8]| {
        assert!(
            offset >= next && opened.extents().iter().any(|extent| extent.offset <= offset && offset < extent.end())
        );
        next = offset + bytes.len() as u64;
        file.write_all_at(bytes, offset).unwrap();
        Ok::<(), Error>(())
    };
    opened.read(write).unwrap();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&disk.raw), text(image)]);
}

/// Name of the member that contains a disk.
fn member(kind: &Kind, disk: &Disk) -> String {
    format!("disks/{}.{}", disk.target, kind.image.unwrap_or_default())
}

fn reads_at_random(kind: &Kind) {
    let (fixture, point, disks) = filled(kind);
    let reader = open(&fixture.store, &point).unwrap();
    for disk in &disks {
        let opened = reader.disk(&member(kind, disk)).unwrap();
        let raw = File::open(&disk.raw).unwrap();
        let places = (1..200_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % disk.size);
        let edges = opened.extents().iter().flat_map(|extent| [extent.offset.saturating_sub(5), extent.end() - 5]);
        for offset in places.chain(edges.collect::<Vec<_>>()) {
            let length = (disk.size - offset).min(64 << 10) as usize;
            let (mut found, mut saved) = (vec![1; length], vec![0; length]);
            opened.read_at(offset, &mut found).unwrap();
            raw.read_exact_at(&mut saved, offset).unwrap();
            assert!(found == saved, "{} at {offset}", disk.target);
        }
        for (offset, length) in [(opened.size(), 1), (opened.size() - 1, 2), (u64::MAX, 1)] {
            assert!(matches!(opened.read_at(offset, &mut vec![0; length]), Err(Error::Range { .. })));
        }
    }
}

/// A clock that was set back a little makes no point that retention would take for an older one. After a larger step,
/// the existing point is the one in the future.
fn makes_the_newest_point(kind: &Kind) {
    let (fixture, point, _) = filled(kind);
    let begin = |back| {
        let at = point.id.time() - TimeDelta::minutes(back);
        let writer = fixture.begin(&at.to_rfc3339(), Codec::None);
        writer.id().time() - at
    };
    assert_eq!(begin(1), TimeDelta::seconds(61));
    assert_eq!(begin(6), TimeDelta::zero());

    // A copy of an older point keeps its time.
    let id = PointId::at(point.id.time() - TimeDelta::minutes(1));
    let intent = Intent { id: NewId::Copied(id), codec: Codec::None, threads: 1, cancel: Cancel::default() };
    let domain = DomainRef { name: DOMAIN.to_owned(), uuid: uuid::Uuid::nil() };
    assert_eq!(fixture.store.begin(&domain, &intent, |_| Ok::<_, Error>(())).unwrap().id(), id);
}

fn reports_damage(kind: &Kind) {
    let (fixture, point, disks) = filled(kind);
    let data = (kind.data)(&fixture, &point);
    let good = fs::read(&data).unwrap();
    let contents = || {
        let (mut all, reader) = (BTreeMap::new(), open(&fixture.store, &point).unwrap());
        let read_one = &mut |entry: &Entry, contents: &mut FileReader<'_>| {
            all.insert(entry.name.clone(), read(contents)?);
            Ok::<(), Error>(())
        };
        reader.each(read_one).unwrap();
        all
    };
    let saved = contents();
    let sound = |bytes: &[u8]| {
        fs::write(&data, bytes).unwrap();
        let damages = match open(&fixture.store, &point) {
            Ok(reader) => reader.verify(&mut |_| ()),
            Err(error) => vec![error],
        };
        assert!(damages.iter().all(|error| error.is_damage() && !error.is_stall()), "{damages:?}");
        let all = Sample { percent: 100, seed: 1 };
        if let Some(sampled) = open(&fixture.store, &point).ok().and_then(|reader| reader.sample(all, &mut |_| ())) {
            assert_eq!(sampled.damages.is_empty(), damages.is_empty(), "{:?} {damages:?}", sampled.damages);
            assert!(
                sampled.damages.iter().all(|error| error.is_damage() && !error.is_stall()),
                "{:?}",
                sampled.damages
            );
        }
        damages.is_empty()
    };
    assert!(sound(&good));
    for at in (0..good.len()).step_by(good.len() / 40).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        // Some bits of gzip headers have no meaning; then the contents must be the saved ones.
        if sound(&bad) {
            assert!(contents() == saved, "changed at {at}");
        } else if kind.checks_ranges {
            let _ = open(&fixture.store, &point).map(|reader| expect_nothing_wrong(kind, &reader, &disks));
        }
    }
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        let is_sound = sound(&good[..length]);
        // The end of a pack only repeats the index, so losing it damages no point.
        let may_be_sound = !kind.is_one_file(&fixture, &point);
        assert!(!is_sound || may_be_sound && contents() == saved, "cut off at {length}");
    }
    fs::write(&data, &good).unwrap();
    fs::remove_file(point.location()).unwrap();
    // What describes a point may be cached.
    let read = |reader: PointReader| reader.disk(&member(kind, &disks[0])).map(drop);
    let missing = open(&fixture.store, &point).and_then(read).unwrap_err();
    assert!(missing.is_missing() && !missing.is_damage());
}

/// Random reads of a damaged point must be correct or fail.
fn expect_nothing_wrong(kind: &Kind, reader: &PointReader, disks: &[Disk]) {
    for disk in disks {
        let Ok(opened) = reader.disk(&member(kind, disk)) else { continue };
        let raw = File::open(&disk.raw).unwrap();
        for extent in opened.extents() {
            let length = extent.length.min(4096) as usize;
            let (mut found, mut saved) = (vec![1; length], vec![0; length]);
            if opened.read_at(extent.offset, &mut found).is_ok() {
                raw.read_exact_at(&mut saved, extent.offset).unwrap();
                assert!(found == saved, "{} at {}", disk.target, extent.offset);
            }
        }
    }
}

fn abandons_a_hung_target_and_stops_on_a_signal(kind: &Kind) {
    let (fixture, point, _) = filled(kind);
    let hung = fixture.opened(&Patience::new(Duration::ZERO));
    let error = open(&hung, &point).map(drop).unwrap_err();
    assert!(error.is_stall() && !error.is_damage(), "{error:?}");
    assert!(hung.points(DOMAIN).unwrap_err().is_stall());

    let cancel = Cancel::default();
    let reader = fixture.store.open(&point, &cancel).unwrap();
    cancel.cancel(15);
    let stopped = |error: &Error| matches!(error, Error::Stopped { signal: 15 });
    assert!(reader.verify(&mut |_| ()).iter().all(stopped));
    let sampled = reader.sample(Sample { percent: 50, seed: 1 }, &mut |_| ());
    assert_eq!(sampled.is_some(), kind.can_sample);
    assert!(sampled.is_none_or(|sampled| sampled.damages.len() == 1 && sampled.damages.iter().all(stopped)));
    assert!(reader.each(&mut |_, contents| read(contents).map(drop)).is_err_and(|error| stopped(&error)));
}

fn leaves_foreign_files_alone(kind: &Kind) {
    let (fixture, point, _) = filled(kind);
    let folder = point.location().parent().unwrap();
    for name in ["notes.txt", "other-20260101T000000Z.tar.zst", "lost.tar.gz.old", ".hidden"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    fs::create_dir(folder.join(format!("{DOMAIN}-20260101T000000Z.tar.zst"))).unwrap();
    symlink(point.location(), folder.join(format!("{DOMAIN}.tar.gz.7"))).unwrap();
    fs::create_dir(fixture.path("backup/lost+found")).unwrap();
    File::create(fixture.path("backup/file")).unwrap().write_all(b"x").unwrap();
    assert_eq!(fixture.store.domains().unwrap().names, [DOMAIN]);
    assert_eq!(fixture.store.points(DOMAIN).unwrap(), [point]);
}

fn removes_only_our_points(kind: &Kind) {
    let (fixture, point, _) = filled(kind);
    assert_eq!(point.kept_because().is_none(), kind.is_ours);
    let removed = fixture.store.remove(&point);
    assert_eq!(removed.is_ok(), kind.is_ours);
    assert_eq!(fixture.store.points(DOMAIN).unwrap().is_empty(), kind.is_ours);
    assert_eq!(fixture.store.remove(&point).is_ok(), kind.is_ours, "removing a missing point is not an error");
}

fn read(contents: &mut FileReader<'_>) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 300_000]);
    loop {
        match contents.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
