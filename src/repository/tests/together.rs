//! Tests concurrent writers, and locks and parents that are removed during a backup.

use std::thread;

use super::super::*;
use super::scene::{Image, MIB, Scene, about, write};
use crate::sys::signals::Cancel;

const FIRST: &str = "2026-11-30T02:00:00Z";
const SECOND: &str = "2026-12-01T02:00:00Z";

#[test]
fn concurrent_writers_make_separate_points() {
    let scene = Scene::new();
    let image = Image::usual();
    let other = WriteOptions { cache: scene.restic.path("other host"), ..scene.options.clone() };
    thread::scope(|scope| {
        let options = [&scene.options, &other, &scene.options];
        let writers: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .zip(options)
            .map(|(domain, options)| {
                let (scene, image) = (&scene, &image);
                scope.spawn(move || {
                    write(SnapshotWriter::begin(&scene.repository, about(domain, FIRST), options).unwrap(), image)
                        .unwrap()
                })
            })
            .collect();
        for writer in writers {
            scene.expect(&writer.join().unwrap(), &image);
        }
    });
    scene.restic.run(&["check", "--read-data"]);
    assert_eq!(scene.repository.list(Kind::Lock).unwrap(), []);
    let before = scene.stored();
    scene.restic.run(&["prune"]);
    assert!(scene.stored() < before, "blobs that were stored twice are removed by a prune");
    scene.restic.run(&["check", "--read-data"]);
}

#[test]
fn writer_whose_lock_was_removed_makes_no_point() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let writer = scene.begin("web", FIRST).unwrap();
    scene.restic.run(&["unlock", "--remove-all"]);
    assert!(matches!(write(writer, &image), Err(Error::LockLost { .. })));
    assert!(scene.repository.uncached_snapshots().unwrap().found.is_empty());
    scene.restic.run(&["check", "--read-data"]);
}

#[test]
fn writer_whose_parent_was_removed_makes_no_point() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let (first, _) = scene.point("web", FIRST, &image);
    let writer = scene.begin("web", SECOND).unwrap();
    assert_eq!(writer.parent(), Some(first));
    // As `restic forget` without `--prune` does; not every version of restic takes an exclusive lock for it.
    scene.repository.remove(Object::new(Kind::Snapshot, first)).unwrap();
    let error = write(writer, &image).unwrap_err();
    assert!(matches!(error, Error::ParentGone { parent, .. } if parent == first) && error.hint().is_some());
    assert!(scene.repository.uncached_snapshots().unwrap().found.is_empty());
    let point = scene.point("web", SECOND, &image);
    scene.expect(&point, &image);
}

#[test]
fn restic_refuses_to_prune_during_a_backup() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let writer = scene.begin("web", FIRST).unwrap();
    assert!(!scene.restic.try_run(&["prune"]).status.success());
    let point = write(writer, &image).unwrap();
    scene.restic.run(&["prune"]);
    scene.expect(&point, &image);
}

#[test]
fn signal_stops_reading() {
    let scene = Scene::new();
    let (id, snapshot) = scene.point("web", FIRST, &Image::usual());
    let catalog = std::sync::Arc::new(Catalog::open(&scene.repository, &scene.options.cache).unwrap());
    let cancel = Cancel::default();
    let reader = SnapshotReader::open(&scene.repository, &catalog, (id, &snapshot), &cancel).unwrap();
    let disk = reader.disk("disks/vda.raw").unwrap();
    cancel.cancel(15);
    let stopped = |error: &Error| matches!(error, Error::Stopped { signal: 15 });
    assert!(reader.verify(&mut |_| ()).iter().all(stopped));
    assert!(disk.read::<Error>(&mut |_, _| Ok(())).is_err_and(|error| stopped(&error)));
    assert!(disk.read_at(0, &mut [0]).is_err_and(|error| stopped(&error)));
}
