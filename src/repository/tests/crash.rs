//! Tests that a process that is killed at any call leaves a repository with every committed restore point, in which
//! restic finds no error.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::fixture::Restic;
use super::super::*;
use super::scene::{Image, MIB, Scene, about, expect_read, objects, put_back, write};

/// A place that fails after some changes, as if the process had been killed before the next one.
#[derive(Debug)]
struct Killed {
    place: Arc<dyn Place>,
    /// Number of changes that are still made.
    left: AtomicUsize,
}

impl Killed {
    fn change(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let lives = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lives.is_ok() { work() } else { Err(io::Error::other("killed")) }
    }
}

impl Place for Killed {
    fn location(&self) -> String {
        self.place.location()
    }

    fn put(&self, object: Object, bytes: Vec<u8>) -> io::Result<()> {
        self.change(|| self.place.put(object, bytes))
    }

    fn read(&self, object: Object, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.place.read(object, range)
    }

    fn size(&self, object: Object) -> io::Result<u64> {
        self.place.size(object)
    }

    fn list(&self, kind: Kind) -> io::Result<Vec<(Id, u64)>> {
        self.place.list(kind)
    }

    fn remove(&self, object: Object) -> io::Result<()> {
        self.change(|| self.place.remove(object))
    }
}

#[test]
fn writer_killed_at_any_change_leaves_a_valid_repository() {
    let scene = Scene::new();
    // More data than fits in one pack.
    let first = Image::new(26 * MIB, &[(0, MIB)], 1);
    let second = Image::new(26 * MIB, &[(0, 26 * MIB)], 2);
    let old = scene.point("web", "2026-11-30T02:00:00Z", &first);
    let saved = objects(&scene);
    let mut made = Vec::new();
    for changes in 0.. {
        let place = Arc::new(Killed { place: scene.restic.place(), left: AtomicUsize::new(changes) });
        let repository = Repository::open(place.clone(), Restic::PASSWORD).unwrap();
        let writer = SnapshotWriter::begin(&repository, about("web", "2026-12-01T02:00:00Z"), &scene.options);
        let written = writer.and_then(|writer| write(writer, &second));
        let was_killed = place.change(|| Ok(())).is_err();
        // The lock remains, as after a kill, but its PID exists: it is that of this test.
        scene.restic.run(&["unlock", "--remove-all"]);
        scene.restic.run(&["check", "--read-data"]);
        let found = scene.repository.uncached_snapshots().unwrap();
        assert!(found.failures.is_empty() && found.found[0] == old);
        // A restore point exists only after its snapshot is stored.
        assert_eq!(found.found.len() - 1, usize::from(written.is_ok()), "after {changes} changes");
        made.push(written.is_ok());
        if let Ok(point) = written {
            scene.expect(&point, &second);
        }
        expect_read(&scene.open(old.0, &old.1).unwrap(), &first);
        put_back(&scene, &saved);
        if !was_killed {
            break;
        }
    }
    // Changes: lock, at least two packs of data, one of trees, index, snapshot, removal of the lock.
    assert!(made.len() > 8 && !made[made.len() - 4] && made[made.len() - 3], "{made:?}");
}

#[test]
fn killed_init_leaves_no_repository_and_can_be_repeated() {
    let restic = Restic::new();
    for changes in 0..2 {
        let place = Arc::new(Killed { place: restic.place(), left: AtomicUsize::new(changes) });
        Repository::init(place, Restic::PASSWORD).unwrap_err();
        assert!(matches!(Repository::open(restic.place(), Restic::PASSWORD), Err(Error::None { .. })));
    }
    // A key is stored. Another password must not add a second one that does not open the repository.
    assert!(matches!(Repository::init(restic.place(), "another"), Err(Error::Password { .. })));
    Repository::init(restic.place(), Restic::PASSWORD).unwrap();
    assert_eq!(restic.place().list(Kind::Key).unwrap().len(), 1);
    restic.run(&["check"]);
}
