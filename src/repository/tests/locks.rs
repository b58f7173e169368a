//! Tests that a writer whose lock is taken away, or is not refreshed, commits nothing, regardless of the moment.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::fixture::Restic;
use super::super::*;
use super::meddled::{Change, Meddled};
use super::scene::{Image, MIB, Scene, about, expect_read, objects, put_back, write};

const FIRST: &str = "2026-11-30T02:00:00Z";
const SECOND: &str = "2026-12-01T02:00:00Z";

/// Removes all locks, as `restic unlock --remove-all` does.
fn unlock(place: &dyn Place) {
    for (id, _) in place.list(Kind::Lock).unwrap() {
        place.remove(Object::new(Kind::Lock, id)).unwrap();
    }
}

#[test]
fn writer_whose_lock_is_removed_at_any_moment_commits_no_point_that_a_prune_could_break() {
    let scene = Scene::new();
    let image = Image::new(2 * MIB, &[(0, 2 * MIB)], 2);
    let old_image = Image::new(2 * MIB, &[(0, MIB)], 1);
    let old = scene.point("web", FIRST, &old_image);
    let saved = objects(&scene);
    let mut refused = 0;
    for moment in 1.. {
        let (count, place) = (Arc::new(AtomicUsize::new(0)), scene.restic.place());
        let (counter, inner) = (count.clone(), place.clone());
        let dir = scene.restic.dir.path().to_owned();
        // The packs of the writer are in no index yet, so the prune removes them.
        let repository = Meddled::open(place, move |_| {
            if counter.fetch_add(1, Ordering::SeqCst) == moment {
                unlock(&*inner);
                let pruned = Restic::try_run_in(&dir, &["prune", "--max-unused", "0"]);
                assert!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
            }
            Ok(())
        });
        let writer = SnapshotWriter::begin(&repository, about("web", SECOND), &scene.options).unwrap();
        let written = write(writer, &image);
        let was_removed = count.load(Ordering::SeqCst) > moment;
        scene.restic.run(&["check", "--read-data"]);
        match &written {
            Ok(point) => scene.expect(point, &image),
            Err(error) => assert!(matches!(error, Error::LockLost { .. }), "{error}"),
        }
        let found = scene.repository.uncached_snapshots().unwrap().found;
        assert_eq!(found.len() - 1, usize::from(written.is_ok()), "moment {moment}");
        expect_read(&scene.open(old.0, &old.1).unwrap(), &old_image);
        put_back(&scene, &saved);
        refused += usize::from(written.is_err());
        if !was_removed {
            break;
        }
    }
    // Before the pack of data, that of trees, the index and the snapshot.
    assert_eq!(refused, 4);
}

#[test]
fn writer_that_cannot_refresh_its_lock_commits_no_point() {
    let scene = Scene::new();
    let image = Image::new(MIB, &[(0, MIB)], 9);
    let locks = Arc::new(AtomicUsize::new(0));
    let written = locks.clone();
    let repository = Meddled::open(scene.restic.place(), move |change| match change {
        Change::Put(object) if object.kind == Kind::Lock && written.fetch_add(1, Ordering::SeqCst) > 0 => {
            Err(io::Error::other("the target is gone"))
        }
        _ => Ok(()),
    });
    let timing =
        Timing { refresh: Duration::from_millis(1), give_up: Duration::from_millis(50), ..scene.options.timing };
    let options = WriteOptions { timing, ..scene.options.clone() };
    let mut writer = SnapshotWriter::begin(&repository, about("web", FIRST), &options).unwrap();
    writer.disk::<Error>("disks/vda.raw", &image.disk(), &mut |extents, sink| image.read(extents, sink)).unwrap();
    // After so many attempts, the lock is too old.
    while locks.load(Ordering::SeqCst) < 100 {
        std::thread::yield_now();
    }
    let error = writer.commit(None).unwrap_err();
    assert!(matches!(error, Error::LockLost { .. }) && error.to_string().contains("could not be refreshed"), "{error}");
    assert!(scene.repository.uncached_snapshots().unwrap().found.is_empty());
    assert_eq!(scene.repository.list(Kind::Index).unwrap(), [], "no index names packs that may be pruned");
    assert_eq!(scene.repository.list(Kind::Lock).unwrap(), []);
    scene.restic.run(&["check", "--read-data"]);
}
