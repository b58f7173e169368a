//! Tests that snapshots pass the contract tests; also their size, use by restic, and lost parts of the manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::TimeDelta;

use super::super::contract::{Kind, all};
use super::super::{DOMAIN_XML, Point, Store};
use super::{Snapshots, manifest};
use crate::model::{Codec, Failure, PointId};
use crate::repository::{self, About, SnapshotWriter, Timing, WriteOptions};
use crate::store::fixture::{DOMAIN, Disk, Fixture, UUID, run, text};
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

const AT: &str = "2026-11-20T02:00:00Z";

fn make(fixture: &Fixture, disks: &[Disk]) {
    fixture.point(AT, Codec::None, disks);
}

/// The largest pack: the one with the blobs of the disks.
fn data(fixture: &Fixture, _: &Point) -> PathBuf {
    let shards = fs::read_dir(fixture.path("backup/data")).unwrap().map(|shard| shard.unwrap().path());
    let packs = shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|pack| pack.unwrap().path()));
    packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap()
}

fn restic(fixture: &Fixture, arguments: &[&str]) -> String {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-r", text(&fixture.path("backup"))]).args(arguments);
    let output = command.arg("--password-file").arg(fixture.path("password")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

impl Fixture {
    /// Replaces the only restore point by as many of other guests, each guest with its own directories.
    pub fn multiply(&self, guests: usize, points: usize) {
        let location = self.repository();
        let snapshots = Snapshots::new(&location.dir, location.repository.unwrap(), &Patience::default());
        let repository = snapshots.repository().unwrap();
        let (id, snapshot) = repository.uncached_snapshots().unwrap().found.pop().unwrap();
        let path = location.dir.clone();
        let saved = snapshots.open(id, &path, &Cancel::default()).unwrap().manifest().unwrap();
        repository.forget(id).unwrap();
        let timing = Timing { second_look: Duration::from_millis(1), ..Timing::waiting(Duration::ZERO) };
        let cache = self.path("cache");
        let known = snapshots.known(repository).clone();
        let options = WriteOptions { cache, known, threads: 1, blob_size: None, timing, cancel: Cancel::default() };
        for guest in 0..guests {
            let mut manifest = saved.clone();
            manifest.domain.name = format!("guest-{guest}");
            let about = About {
                domain: manifest.domain.name.clone(),
                folder: manifest.domain.name.clone(),
                tags: snapshot.tags[1..].to_vec(),
                time: snapshot.time,
                program: "kvmbackup test".to_owned(),
            };
            let mut writer = SnapshotWriter::begin(repository, about, &options).unwrap();
            let (json, facts) = manifest::split(&manifest).unwrap();
            writer.add("manifest.json", &json).unwrap();
            let (_, first) = writer.commit(Some(facts)).unwrap();
            for day in 1..points {
                let time = first.time + TimeDelta::days(day as i64);
                repository.save(repository::Kind::Snapshot, &repository::Snapshot { time, ..first.clone() }).unwrap();
            }
        }
    }
}

#[test]
fn snapshot_passes_the_contract() {
    all(&Kind {
        store: Fixture::with_repository,
        make,
        data,
        image: Some("raw"),
        is_ours: true,
        checks_ranges: true,
        can_sample: true,
    });
}

#[test]
fn restic_checks_lists_and_restores_a_point() {
    let fixture = Fixture::with_repository();
    let disks = fixture.usual_disks();
    let point = fixture.point(AT, Codec::None, &disks);
    restic(&fixture, &["check", "--read-data"]);
    let listed = restic(&fixture, &["snapshots", "--host", DOMAIN, "--tag", &format!("kvmbackup,uuid:{UUID}")]);
    assert!(listed.contains("2026-11-20") && listed.contains("1 snapshots"), "{listed}");
    let id = point.location().file_name().unwrap().to_str().unwrap();
    restic(&fixture, &["restore", id, "--target", text(&fixture.path("restored"))]);
    let restored = fixture.path("restored").join("web%201");
    for disk in &disks {
        let image = restored.join(format!("disks/{}.raw", disk.target));
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&disk.raw), text(&image)]);
    }
    assert_eq!(fs::read_to_string(restored.join(DOMAIN_XML)).unwrap(), fixture.xml(&disks));
    assert!(restored.join("manifest.json").is_file());
}

/// The bytes of all files of the repository.
fn stored(root: &Path) -> u64 {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { stored(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

#[test]
fn unchanged_point_costs_less_than_a_kilobyte() {
    let fixture = Fixture::with_repository();
    let disks = fixture.usual_disks();
    fixture.point(AT, Codec::None, &disks);
    let before = stored(&fixture.path("backup"));
    let next = fixture.point_with("2026-11-21T02:00:00Z", Codec::None, (&disks, &fixture.xml(&disks)), |manifest| {
        manifest.run_id = uuid::Uuid::from_u128(7);
        manifest.frozen_ms = Some(99);
        manifest.warnings = vec![Failure { message: "a warning".to_owned(), hint: None }];
    });
    let cost = stored(&fixture.path("backup")) - before;
    assert!(cost < 1024, "{cost}");
    let manifest = |point: &Point| fixture.store.open(point, &Cancel::default()).unwrap().manifest().unwrap().unwrap();
    let read = manifest(&next);
    assert_eq!((read.run_id, read.frozen_ms, read.point), (uuid::Uuid::from_u128(7), Some(99), next.id));
    assert_eq!(read.warnings.len(), 1);

    // `restic tag` writes the snapshot again, without the fields that it does not know.
    restic(&fixture, &["tag", "--add", "keep"]);
    let points = fixture.store.points(DOMAIN).unwrap();
    assert_eq!(points.iter().map(|point| point.id).collect::<Vec<_>>(), [PointId::at(AT.parse().unwrap()), next.id]);
    let read = manifest(&points[1]);
    assert_eq!((read.point, read.frozen_ms, read.disks.len()), (next.id, None, 2));
}

#[test]
fn points_of_one_second_get_distinct_times_and_a_dropped_writer_leaves_no_lock() {
    let fixture = Fixture::with_repository();
    let disks = fixture.usual_disks();
    let [first, second] = [0, 1].map(|_| fixture.point(AT, Codec::None, &disks));
    assert!(first.id < second.id);
    let mut begun = fixture.begin(AT, Codec::None);
    begun.add("some", b"bytes").unwrap();
    let locks = || fs::read_dir(fixture.path("backup/locks")).unwrap().count();
    assert_eq!(locks(), 1);
    begun.discard().unwrap();
    assert_eq!((locks(), fixture.store.points(DOMAIN).unwrap().len()), (0, 2));
    restic(&fixture, &["check"]);
}

#[test]
fn points_of_two_guests_of_one_name_in_the_same_second_are_both_listed() {
    let fixture = Fixture::with_repository();
    fixture.point(AT, Codec::None, &fixture.usual_disks());
    let location = fixture.repository();
    let snapshots = Snapshots::new(&location.dir, location.repository.unwrap(), &Patience::default());
    let repository = snapshots.repository().unwrap();
    let (_, own) = repository.uncached_snapshots().unwrap().found.pop().unwrap();
    // As another host stores it at the same time.
    let other = uuid::Uuid::from_u128(7);
    let tags = vec![own.tags[0].clone(), format!("uuid:{other}")];
    repository.save(repository::Kind::Snapshot, &repository::Snapshot { tags, ..own.clone() }).unwrap();
    let points = fixture.store.points(DOMAIN).unwrap();
    assert_eq!(points.iter().map(Point::guest).collect::<Vec<_>>(), [Some(other), Some(UUID)]);
    assert_eq!(points[0].id, points[1].id);
    // An interrupted change of protection leaves the same point twice.
    let tags = [own.tags.as_slice(), &["protected".to_owned()]].concat();
    repository.save(repository::Kind::Snapshot, &repository::Snapshot { tags, ..own }).unwrap();
    let points = fixture.store.points(DOMAIN).unwrap();
    assert!(points.len() == 2 && points[1].is_protected() && !points[0].is_protected());
}

#[test]
fn wrong_or_missing_password_is_an_error_with_a_hint() {
    let fixture = Fixture::with_repository();
    for (password, said) in [("wrong", "wrong password"), ("", "cannot read the password")] {
        fs::write(fixture.path("password"), password).unwrap();
        let error = fixture.opened(&Patience::default()).points(DOMAIN).unwrap_err();
        assert!(error.to_string().contains(said) && error.hint().is_some() && !error.is_damage(), "{error}");
    }
    let nowhere = Store::at(&fixture.path("images"), &Patience::default());
    assert!(nowhere.is_err());
}
